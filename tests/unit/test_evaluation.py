"""An evaluation of known answers: the truth scores well, an error is counted, baselines run beside it."""

import numpy as np
import pytest

from backend.contract.errors import MaquetteError
from backend.contract.frames import look_at
from backend.contract.meshes import MeshData
from backend.data.shards import pack_cube
from backend.evaluation import cupid, metrics
from backend.evaluation.baselines import Bank, Baselines, embed, load_bank, save_bank
from backend.evaluation.views import TestView as View
from backend.rendering.views import render_view
from backend.systems.cupid.occupancy_mesh import mesh_from_occupancy

INTRINSICS = np.array([[1.3, 0, 0.5], [0, 1.3, 0.5], [0, 0, 1.0]])


def voxels(height: int = 20) -> np.ndarray:
    occupancy = np.zeros((32, 32, 32), bool)
    occupancy[8:24, 12:20, 6 : 6 + height] = True
    occupancy[8:12, 12:20, 6:28] = True
    return occupancy


def view(angle: float = 0.4) -> View:
    occupancy = voxels()
    vertices, faces = mesh_from_occupancy(occupancy)
    camera = look_at(np.array([1.5 * np.cos(angle), 1.5 * np.sin(angle), 0.8]), np.zeros(3))
    colors = np.tile([[0.6, 0.3, 0.2]], (len(vertices), 1))
    shown = render_view(vertices, faces, camera, INTRINSICS, (96, 96), colors)
    rgba = np.dstack([shown.color, shown.alpha])
    points = metrics.surface_points(vertices, faces, 2000)
    return View("box", 0, np.rint(rgba * 255).astype(np.uint8), INTRINSICS, camera, occupancy, points, points)


def mesh() -> MeshData:
    vertices, faces = mesh_from_occupancy(voxels())
    colors = np.tile(np.array([[153, 76, 51, 255]], np.uint8), (len(vertices), 1))
    return MeshData(vertices, faces.astype(np.int32), colors=colors)


def bank() -> Bank:
    cameras = [view(angle).world_to_camera for angle in (0.4, 1.4, 2.4)]
    embeddings = [embed(view(angle).rgba) for angle in (0.4, 1.4, 2.4)]
    return Bank(
        np.stack(embeddings), np.stack(cameras), np.stack([INTRINSICS] * 3), np.array([0, 0, 1]),
        np.stack([pack_cube(voxels()), pack_cube(voxels(10))]),
    )  # fmt: skip


def test_the_truth_scores_well_and_the_report_is_complete():
    def answer(item: View) -> cupid.Answer:
        return mesh(), item.world_to_camera, item.intrinsics

    report = cupid.evaluate([view()], answer, Baselines(bank()))
    summary = report["summary"]
    assert summary["mask_iou"] > 0.95 and summary["rotation_error_deg_median"] < 0.1 and summary["psnr"] > 25
    assert summary["focal_error_median"] == 0 and summary["chamfer_full"] < 0.02 and summary["count"] == 1
    wanted = {"mask_iou", "psnr", "ssim", "rotation_error_deg_median", "rotation_error_sym_deg_median",
              "focal_error_median", "chamfer_visible", "fscore_01", "fscore_05", "chamfer_full", "seconds_median",
              "peak_mib", "count"}  # fmt: skip
    for found in (summary, *report["baselines"].values()):
        assert wanted <= set(found)
    assert set(report["baselines"]) == {"nearest", "mean_shape"} and len(report["objects"]) == 1


def test_failures_and_missing_cameras_get_the_worst_score():
    def fail(item: View) -> cupid.Answer:
        raise MaquetteError("bad_input", "No object took shape.")

    entry = cupid.evaluate([view()], fail, None)["objects"][0]
    assert entry["error"] and entry["mask_iou"] == 0 and entry["rotation_error_deg"] == 180
    blind = cupid.score(view(), mesh(), None, None)
    assert blind["psnr"] == 0 and blind["chamfer_full"] < 0.02


def test_nearest_finds_the_same_picture_and_the_bank_is_kept(tmp_path):
    save_bank(bank(), tmp_path / "bank.safetensors")
    stored = load_bank(tmp_path / "bank.safetensors")
    assert stored is not None and load_bank(tmp_path / "none.safetensors") is None
    guess = Baselines(stored).answer("nearest", view(1.4).rgba)
    assert np.allclose(guess.world_to_camera, view(1.4).world_to_camera)


def test_nothing_to_evaluate_is_explained(tmp_path):
    with pytest.raises(MaquetteError, match="--assets or --shards"):
        cupid.main(["cupid", "--out", str(tmp_path / "report.json")])
    with pytest.raises(MaquetteError, match="index.json"):
        cupid.main(["cupid", "--shards", str(tmp_path), "--out", str(tmp_path / "report.json")])

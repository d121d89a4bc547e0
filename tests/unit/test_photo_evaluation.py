"""backend.evaluation.photos: a perfect answer scores perfectly, a turned camera shows in the right number."""

from __future__ import annotations

import numpy as np
import pytest

from backend.contract.errors import MaquetteError
from backend.contract.frames import look_at
from backend.contract.meshes import MeshData
from backend.evaluation.metrics import surface_points, up_rotation
from backend.evaluation.photos import PhotoAnswer, Subject, View, evaluate, relative_error, score
from backend.rendering.views import render_mesh
from tests.fakes.cube_system import box_mesh

SIZE = 48
INTRINSICS = np.array([[1.3, 0, 0.5], [0, 1.3, 0.5], [0, 0, 1.0]])
EYES = ([1.5, -2.0, 0.8], [2.0, 1.4, 0.5], [-1.6, 1.2, 1.0])


SIDES = (0.45, 0.23, 0.3)  # no side lies on a border of voxels


def subject() -> Subject:
    """A box of three different sides, seen three times."""
    mesh = box_mesh(SIDES)
    points = surface_points(mesh.vertices, mesh.faces, 20_000)
    occupancy = np.zeros((32, 32, 32), bool)
    occupancy[tuple(np.floor((points + 0.5) * 32).astype(int).clip(0, 31).T)] = True
    views = []
    for eye in EYES:
        camera = look_at(np.array(eye), np.zeros(3))
        seen = render_mesh(mesh, camera, INTRINSICS, (SIZE, SIZE))
        views.append(View(np.rint(np.dstack([seen.color, seen.alpha]) * 255).astype(np.uint8), camera))
    return Subject("box", tuple(views), occupancy, points[:4000])


def truth(views, mesh: MeshData | None = None, turn: float = 0.0) -> PhotoAnswer:
    """The right cameras, all but the first turned about the up axis by `turn` radians."""
    cameras = []
    for number, view in enumerate(views):
        camera = view.world_to_camera.copy()
        camera[:3, :3] = camera[:3, :3] @ up_rotation(turn if number else 0.0)
        cameras.append((camera, INTRINSICS))
    return PhotoAnswer(mesh or box_mesh(SIDES), tuple(cameras), (True,) * len(cameras))


def test_a_perfect_answer_scores_perfectly() -> None:
    found = subject()
    entry = score(found, found.views, truth(found.views))
    # 4,000 points do not fall into every voxel of the surface.
    assert entry["voxel_iou"] > 0.8 and entry["mask_iou"] > 0.97 and entry["chamfer_full"] < 0.02
    assert entry["rotation_error_sym_deg"] < 1e-3 and entry["relative_error_deg"] < 1e-3 and entry["trusted"] == 1.0


def test_a_turn_between_the_cameras_is_a_relative_error() -> None:
    found = subject()
    answer = truth(found.views, turn=np.radians(30))
    assert score(found, found.views, answer)["relative_error_deg"] == pytest.approx(30, abs=1e-3)
    every = np.radians([0.0, 30.0])  # an object that looks the same after that turn
    assert relative_error(found.views, answer.cameras, every) == pytest.approx(0, abs=1e-3)
    assert relative_error(found.views[:1], answer.cameras[:1], every) is None
    assert relative_error(found.views[:2], (answer.cameras[0], None), every) == 180.0


def test_more_photos_are_compared_with_fewer_and_failures_count() -> None:
    flat = box_mesh((0.45, 0.02, 0.3))

    def answer(views):
        if len(views) == 2:
            raise MaquetteError("bad_input", "No object took shape.")
        return truth(views, None if len(views) == 3 else flat)

    report = evaluate(iter([subject(), subject()]), answer, 3)
    summary = report["summary"]
    assert summary["better_shape_share"] == 1.0 and summary["3"]["voxel_iou"] > summary["1"]["voxel_iou"]
    assert summary["2"]["relative_error_deg_median"] == 180.0 and summary["1"]["relative_error_deg_median"] is None
    assert summary["3"]["count"] == 2 and report["objects"][1]["error"] == "No object took shape."

"""A photo with something in front of the object: what is hidden is unknown, completed, coloured from what is seen."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from backend.contract.frames import look_at
from backend.contract.meshes import MeshData, mesh_from_bytes
from backend.formats.images import encode_png
from backend.geometry.pose import Camera
from backend.rendering.views import render_mesh
from backend.systems.cupid.object_stage import fit_to_photo
from backend.systems.cupid.photo import Photo, prepare_image
from backend.systems.cupid.photo_texture import textured_mesh
from backend.systems.cupid.pipeline import CupidSystem
from backend.systems.cupid.results import small_hidden
from backend.systems.cupid.structure_stage import SolvedCamera
from tests.unit.test_pipeline import Recorder, system_with, tiny_model

PICTURES = Path(__file__).parents[2] / "examples" / "pictures"
SIZE = 128
LENS = np.array([[1.6, 0, 0.5], [0, 1.6, 0.5], [0, 0, 1.0]])
FRONT = look_at(np.array([0.0, -2.0, 0.0]), np.zeros(3))
BALL = trimesh.creation.icosphere(4, 0.5)
HAND = (255, 0, 255)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def ball() -> MeshData:
    """Orange above, blue below."""
    vertices = np.asarray(BALL.vertices, np.float32)
    colors = np.where(vertices[:, 2:] > 0, np.uint8([230, 130, 40, 255]), np.uint8([40, 90, 210, 255]))
    return MeshData(vertices, np.asarray(BALL.faces, np.int32), colors=colors.astype(np.uint8))


def behind_a_hand(columns: slice) -> tuple[bytes, bytes]:
    """The ball's picture with a hand of one colour over some columns, and the occluder's mask."""
    view = render_mesh(ball(), FRONT, LENS, (SIZE, SIZE), (0.0, 0.0, 0.0))
    rgba = np.rint(np.dstack([view.color, view.alpha]) * 255).astype(np.uint8)
    occluder = np.zeros((SIZE, SIZE), np.uint8)
    occluder[:, columns] = 255
    rgba[:, columns] = (*HAND, 255)
    return encode_png(rgba), encode_png(occluder)


def prepared() -> Photo:
    image, occluder = behind_a_hand(slice(0, 50))
    return prepare_image(image, None, tiny_model(), occluder)


def test_under_the_occluder_nothing_is_known():
    photo = prepared()
    assert photo.hidden[:, :50].all() and not photo.hidden[:, 50:].any()
    assert (photo.rgba[:, :50, 3] == 0).all()
    assert np.array_equal(np.isnan(photo.seen_alpha), photo.occluder) and photo.occluder.any()
    assert np.nanmax(photo.seen_alpha) == 1.0
    assert not np.isnan(prepare_image(behind_a_hand(slice(0, 50))[0], None, tiny_model()).seen_alpha).any()


def test_the_fit_counts_only_what_is_seen():
    photo, mesh = prepared(), ball()
    camera = SolvedCamera(Camera(LENS, FRONT, 0.0), LENS, 0.0, "")
    whole = fit_to_photo(mesh, photo, camera)  # the ball goes on behind the hand: no error
    assert whole["mask_iou"] > 0.98 and whole["psnr"] > 25
    told = fit_to_photo(mesh, replace(photo, hidden=None), camera)
    assert told["mask_iou"] < 0.8 and told["psnr"] < 15


def test_a_pixel_that_is_hidden_in_part_is_left_out():
    hidden = np.zeros((8, 8), bool)
    hidden[3, 3] = True
    assert small_hidden(hidden, (4, 4)).sum() == 1 and not small_hidden(None, (4, 2)).any()
    assert small_hidden(None, (4, 2)).shape == (2, 4)


def test_hidden_surface_takes_colours_of_the_object():
    photo = prepared()
    mesh = textured_mesh(
        np.asarray(BALL.vertices), np.asarray(BALL.faces), photo.rgba, FRONT, LENS, size=256
    )
    view = render_mesh(mesh, FRONT, LENS, (SIZE, SIZE), (0.0, 0.0, 0.0))
    behind = view.mask & photo.hidden
    behind[:, 47:] = False  # away from the rim
    colors = view.color[behind]
    both = np.float32([[230, 130, 40], [40, 90, 210]]) / 255
    distance = np.abs(colors[:, None] - both).max(2).min(1)
    assert behind.sum() > 300 and np.median(distance) < 0.15
    magenta = np.abs(colors - np.float32(HAND) / 255).max(1)
    assert magenta.min() > 0.3 and colors.max(1).min() > 0.3  # nothing of the hand, nothing black
    upper = np.nonzero(behind)[0] < SIZE * 0.4
    assert (colors[upper, 0] > colors[upper, 2]).mean() > 0.9  # orange stays above


def test_a_job_with_an_occluder_runs_through():
    image, occluder = behind_a_hand(slice(0, 40))
    hooks = Recorder()
    result = system_with(tiny_model()).run("image_to_3d", {"image": image, "occluder": occluder}, {}, hooks)
    assert "mask_iou" in result.report and hooks.steps == 2


def test_mini_completes_what_a_barrel_hides():
    hidden = np.asarray(Image.open(PICTURES / "truck_behind_barrel_occluder.png")) >= 128
    whole = np.asarray(Image.open(PICTURES / "space_truck.png"))[..., 3] >= 128
    cut = np.array(Image.open(PICTURES / "truck_behind_barrel.png"))
    cut[hidden, 3] = 0
    stream = io.BytesIO()
    Image.fromarray(cut).save(stream, "PNG")
    told = {name: (PICTURES / f"truck_behind_barrel{end}.png").read_bytes()
            for name, end in (("image", ""), ("occluder", "_occluder"))}  # fmt: skip
    system, overlap = CupidSystem("cpu"), {}
    for name, inputs in (("told", told), ("not told", {"image": stream.getvalue()})):
        files = {item.name: item.data for item in system.run("image_to_3d", inputs, {"seed": 42}, Recorder()).artifacts}
        seen = seen_whole(files)
        overlap[name] = (seen & whole).sum() / (seen | whole).sum()
    # 0.90 and 0.78 were seen; the photo without the barrel gives 0.93.
    assert overlap["told"] > overlap["not told"] + 0.04 and overlap["told"] > 0.8


def seen_whole(files: dict[str, bytes]) -> np.ndarray:
    """The result's silhouette through its camera, 512 x 512."""
    camera = json.loads(files["camera.json"])
    matrix, lens = np.array(camera["world_to_camera"]), np.array(camera["intrinsics"])
    return render_mesh(mesh_from_bytes(files["asset.mesh"]), matrix, lens, (512, 512)).mask

"""Several answers to one photo: artifacts and scores of each, the visible side shared, the hidden side seen."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backend.contract.errors import MaquetteError
from backend.contract.frames import look_at
from backend.contract.meshes import MeshData, mesh_from_bytes
from backend.geometry.pose import Camera
from backend.rendering.views import render_mesh
from backend.systems.base import Hooks
from backend.systems.cupid import hypotheses, model
from backend.systems.cupid.pipeline import CupidSystem, parse_request
from backend.systems.cupid.structure_decode import Structure
from backend.systems.cupid.structure_stage import Hypothesis, SolvedCamera
from tests.unit.test_pipeline import run, tiny_model

BARREL = Path(__file__).parents[2] / "examples" / "pictures" / "barrel.png"
RESOLUTION = 32


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def seen_from(eye: tuple[float, float, float], occupied: np.ndarray) -> Hypothesis:
    lens = np.array([[1.4, 0.0, 0.5], [0.0, 1.4, 0.5], [0.0, 0.0, 1.0]])
    coords = torch.from_numpy(np.pad(np.argwhere(occupied), ((0, 0), (1, 0)))).int()
    crop = Camera(lens, look_at(np.array(eye), np.zeros(3)), 0.0)
    structure = Structure(coords, coords, torch.zeros(len(coords), 2))
    return Hypothesis(structure, RESOLUTION, SolvedCamera(crop, lens, 1.0, ""), None)


def test_a_gallery_has_three_files_a_hypothesis_and_the_best_first(monkeypatch):
    monkeypatch.setattr(hypotheses, "FITTING_OUTLINE", 0.0)  # random networks do not know the photo
    artifacts, report = run(tiny_model(), hypotheses=3)
    names = [f"hypothesis_{k}.{kind}" for k in range(3) for kind in ("mesh", "png", "json")]
    assert [name for name in artifacts if name.startswith("hypothesis")] == names
    assert artifacts["hypothesis_0.mesh"] == artifacts["asset.mesh"]
    assert artifacts["hypothesis_1.mesh"] != artifacts["asset.mesh"]
    assert json.loads(artifacts["hypothesis_0.json"])["camera"] == json.loads(artifacts["camera.json"])
    assert len(report["hypotheses"]) == 3 and {"voxels", "outline"} <= report["hypotheses"][2].keys()
    assert Image.open(io.BytesIO(artifacts["hypothesis_2.png"])).size == (256, 256)


def test_one_is_made_as_before():
    single, _ = run(tiny_model())
    asked, report = run(tiny_model(), hypotheses=1)
    assert single["asset.mesh"] == asked["asset.mesh"] and list(single) == list(asked) and report["hypotheses"] == []


def test_an_answer_that_does_not_show_the_photo_is_not_offered(monkeypatch):
    monkeypatch.setattr(hypotheses, "FITTING_OUTLINE", 2.0)  # nothing is as good as the best one
    artifacts, _ = run(tiny_model(), hypotheses=8)
    assert not any(name.startswith("hypothesis") for name in artifacts)


def test_their_number_is_checked():
    assert parse_request({"hypotheses": 8}).hypotheses == 8
    for wrong in (0, 9, True, 2.5):
        with pytest.raises(MaquetteError, match="hypotheses"):
            parse_request({"hypotheses": wrong})


def test_one_shape_turned_with_its_camera_is_one_answer():
    occupied = np.zeros((RESOLUTION,) * 3, bool)
    occupied[6:26, 10:22, 8:24] = True
    one = hypotheses.seen_shape(seen_from((1.4, -1.3, 0.9), occupied))
    turned = hypotheses.seen_shape(seen_from((1.3, 1.4, 0.9), np.rot90(occupied, 1, (0, 1)).copy()))
    slab = occupied.copy()
    slab[:, 16:] = False
    assert hypotheses.shape_overlap(one, turned) > 0.9
    assert hypotheses.shape_overlap(one, hypotheses.seen_shape(seen_from((1.4, -1.3, 0.9), slab))) < 0.75


def test_the_turned_view_shows_the_whole_of_the_other_side():
    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.2, 0.2) for z in (-0.4, 0.4)], np.float32)
    mesh = MeshData(corners, np.array([[0, 1, 2], [5, 6, 7]], np.int32))
    for eye in ([0.0, -3.0, 0.5], [0.5, 0.5, 9.0], [2.0, 1.0, -4.0]):
        view = hypotheses.turned_view(mesh, np.array(eye))
        centre = -view[:3, :3].T @ view[:3, 3]
        assert centre[2] > 0 and centre[:2] @ np.array(eye)[:2] < 0
        seen = corners @ view[:3, :3].T + view[:3, 3]
        assert (seen[:, 2] > 0).all() and (np.abs(hypotheses.FOCAL * seen[:, :2] / seen[:, 2:]) < 0.5).all()


def test_the_visible_side_agrees_while_shapes_differ():
    system = CupidSystem("cpu")
    networks = model.load_model("mini", "mini", "cpu", 0)
    system.use_model(replace(networks, settings=replace(networks.settings, hypotheses=4)))
    parameters = {"seed": 0, "steps": 6, "hypotheses": 3}
    result = system.run("image_to_3d", {"image": BARREL.read_bytes()}, parameters, Hooks())
    artifacts = {artifact.name: artifact.data for artifact in result.artifacts}
    masks, solids = [], []
    for k in range(len(result.report["hypotheses"])):
        mesh = mesh_from_bytes(artifacts[f"hypothesis_{k}.mesh"])
        camera = json.loads(artifacts[f"hypothesis_{k}.json"])["camera"]
        lens, matrix = np.array(camera["intrinsics"]), np.array(camera["world_to_camera"])
        masks.append(render_mesh(mesh, matrix, lens, (192, 192)).mask)
        solids.append(mesh.vertices)
    assert len(masks) >= 2
    for a in range(len(masks)):
        for b in range(a):
            assert (masks[a] & masks[b]).sum() / (masks[a] | masks[b]).sum() >= 0.8
            assert solids[a].shape != solids[b].shape

"""The task match_mesh with tiny random networks: the mesh alone decides, and bad meshes get one sentence."""

import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from backend.contract import meshes
from backend.contract.errors import Cancelled, MaquetteError
from backend.contract.frames import project
from backend.contract.meshes import MeshData, mesh_from_bytes, mesh_to_bytes
from backend.evaluation import match as evaluation
from backend.evaluation.metrics import rotation_error, up_rotation
from backend.evaluation.views import TestView
from backend.formats.images import encode_png
from backend.geometry.pose import Camera
from backend.geometry.registration import register
from backend.geometry.surface_sampling import sample_surface
from backend.rendering.views import render_mesh
from backend.systems.base import Hooks
from backend.systems.cupid import match_mesh, mesh_search

from .test_mesh_search import SIZE, camera_at, colored_lorry, picture_of
from .test_pipeline import Recorder, system_with, tiny_model


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def moved(mesh: MeshData, place: np.ndarray) -> MeshData:
    vertices = np.asarray(mesh.vertices, np.float64) @ place[:3, :3].T + place[:3, 3]
    return MeshData(vertices.astype(np.float32), mesh.faces, mesh.uvs, mesh.colors, mesh.texture)


def place_of(scale: float, angle: float, shift: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = scale * up_rotation(angle), shift
    return matrix


def run(image: bytes, mesh: bytes, hooks: Hooks | None = None, occupancy_bias: float = 0.0, **parameters):
    networks = tiny_model(occupancy_bias=occupancy_bias)
    system = system_with(networks)
    result = system.run(match_mesh.TASK, {"image": image, "mesh": mesh}, parameters, hooks or Hooks())
    return {artifact.name: artifact.data for artifact in result.artifacts}, result.report


def test_the_camera_belongs_to_the_untouched_mesh():
    cube, place = colored_lorry(), place_of(7.0, 1.1, (40.0, -20.0, 3.0))
    world_to_camera, intrinsics = camera_at(200, 25)
    hooks = Recorder()
    photo = encode_png(picture_of(cube, world_to_camera, intrinsics))
    artifacts, report = run(photo, mesh_to_bytes(moved(cube, place)), hooks)
    assert list(artifacts) == ["match.json", "asset.mesh", "camera.json", "thumbnail.png", "report.json"]
    match = json.loads(artifacts["match.json"])
    found = np.array(match["world_to_camera"])
    assert np.linalg.det(found[:3, :3]) == pytest.approx(1.0)
    assert rotation_error(found[:3, :3] @ up_rotation(1.1), world_to_camera[:3, :3]) < 3.0
    points = np.asarray(cube.vertices, np.float64)
    wanted, _ = project(points, world_to_camera, intrinsics)
    seen, _ = project(points @ place[:3, :3].T + place[:3, 3], found, np.array(match["intrinsics"]))
    assert np.linalg.norm(seen - wanted, axis=1).mean() < 0.015  # of the picture
    assert match["mask_iou"] > 0.93 and match["trusted"] and match["image_size"] == [SIZE, SIZE]
    # Random networks make no such object: the registration says so, and the match does not depend on it.
    assert match["shapes_agree"] is False and match["residual"] > 0 and "do not agree" in match["shapes_message"]
    assert np.array(match["mesh_to_canonical"]).shape == (4, 4) and 0.0 in match["symmetric"]
    assert report["origin"] in ("search", "cupid") and report["triangles"] == len(cube.faces)
    assert hooks.seen[-2:] == ["match_mesh", "finish"] and "match_mesh" in report["seconds"]
    assert len(mesh_from_bytes(artifacts["asset.mesh"]).faces) > 0
    assert set(json.loads(artifacts["camera.json"])) >= {"world_to_camera", "intrinsics", "image_size"}
    assert np.asarray(Image.open(io.BytesIO(artifacts["thumbnail.png"])))[..., 3].mean() > 30


def test_without_an_object_from_cupid_the_search_goes_on():
    mesh = colored_lorry()
    photo = encode_png(picture_of(mesh, *camera_at(65, 50)))
    artifacts, report = run(photo, mesh_to_bytes(mesh), occupancy_bias=-50.0)
    assert "asset.mesh" not in artifacts and report["mask_iou"] > 0.93
    assert json.loads(artifacts["match.json"])["mesh_to_canonical"] is None


def test_another_mesh_is_not_trusted(monkeypatch):
    monkeypatch.setattr(mesh_search, "SMALL_STEP", 24)  # what does not fit is searched for twice: keep that short
    ring = np.zeros((SIZE, SIZE, 4), np.uint8)
    rows, columns = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    radius = np.hypot(rows, columns)
    ring[(radius < 50) & (radius > 38)] = (200, 150, 30, 255)
    hooks = Recorder()
    said: list[str] = []
    hooks.on_message = said.append
    _, report = run(encode_png(ring), mesh_to_bytes(colored_lorry()), hooks)
    assert not report["camera_trusted"] and "do not agree" in report["camera_message"]
    assert any("outlines overlap" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("iou", "others", "words"),
    [(0.4, 0, "do not agree"), (0.8, 1, "only in part .the outlines overlap by 80 %"), (0.95, 1, "another side")],
)
def test_what_is_said_of_a_doubtful_match(iou, others, words):
    assert re.search(words, match_mesh.verdict(iou, others))
    assert match_mesh.verdict(0.95, 0) == ""


@pytest.mark.parametrize(
    ("vertices", "faces", "words"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3)), "empty"),
        (np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]), np.array([[0, 1, 2], [1, 3, 2]]), "flat"),
        (np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0]]), np.array([[0, 1, 2]]), "no surface"),
    ],
)
def test_meshes_that_cannot_be_matched(vertices, faces, words):
    mesh = mesh_to_bytes(MeshData(vertices.astype(np.float32), faces.astype(np.int32)))
    with pytest.raises(MaquetteError, match=words) as caught:
        run(encode_png(picture_of(colored_lorry(), *camera_at(65, 50))), mesh)
    assert caught.value.code == "bad_input"


def test_broken_bytes_numbers_and_missing_inputs():
    mesh = colored_lorry()
    photo = encode_png(picture_of(mesh, *camera_at(65, 50)))
    good = mesh_to_bytes(mesh)
    place = good.index(mesh.vertices.tobytes())
    with pytest.raises(MaquetteError, match="finite"):
        run(photo, good[:place] + np.float32(np.nan).tobytes() + good[place + 4 :])
    with pytest.raises(MaquetteError, match="cannot be read"):
        run(photo, b"no mesh")
    with pytest.raises(MaquetteError, match="a picture and a mesh"):
        system_with(tiny_model()).run(match_mesh.TASK, {"image": photo}, {}, Hooks())


def test_cancel_stops_between_stages_of_the_search():
    mesh = colored_lorry()
    photo = encode_png(picture_of(mesh, *camera_at(65, 50)))
    hooks = Recorder(cancel_after=3)  # two steps of the sampler, one of the search
    with pytest.raises(Cancelled):
        run(photo, mesh_to_bytes(mesh), hooks)
    assert hooks.seen[-1] == "match_mesh"


def test_cupids_camera_is_carried_over_by_the_registration():
    cube = colored_lorry()
    world_to_camera, intrinsics = camera_at(200, 25)
    turned = moved(cube, place_of(0.9, 0.7, (0.02, 0.0, -0.01)))
    registration = register(sample_surface(turned, 4000).points, sample_surface(cube, 4000, 1).points)
    (guess,) = match_mesh.first_guesses(registration, Camera(intrinsics, world_to_camera, 0.0))
    shown = guess.view.camera()
    points = np.asarray(cube.vertices, np.float64)
    wanted, _ = project(points, world_to_camera, intrinsics)
    seen, _ = project(np.asarray(turned.vertices, np.float64), shown.world_to_camera, shown.intrinsics)
    assert np.linalg.norm(seen - wanted, axis=1).mean() < 0.01


def test_a_mesh_of_many_triangles_is_drawn_light(monkeypatch):
    mesh = colored_lorry()
    world_to_camera, intrinsics = camera_at(200, 25)
    whole = render_mesh(mesh, world_to_camera, intrinsics, (SIZE, SIZE)).mask
    fine = _subdivided(mesh, 6)
    monkeypatch.setattr(match_mesh, "MOST_FACES", 10_000)
    light = match_mesh.light_mesh(fine)
    assert len(light.faces) < len(fine.faces) and light.colors is not None
    shown = render_mesh(light, world_to_camera, intrinsics, (SIZE, SIZE)).mask
    assert (shown & whole).sum() / (shown | whole).sum() > 0.96
    assert match_mesh.light_mesh(mesh) is mesh


def _subdivided(mesh: MeshData, times: int) -> MeshData:
    corners = np.asarray(mesh.vertices)[mesh.faces]
    for _ in range(times):
        a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
        ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
        corners = np.concatenate([np.stack(t, 1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    vertices = corners.reshape(-1, 3)
    colors = np.full((len(vertices), 4), 200, np.uint8)
    return MeshData(vertices, np.arange(len(vertices), dtype=np.int32).reshape(-1, 3), None, colors)


def test_the_evaluation_scores_a_perfect_and_a_failed_match(tmp_path):
    cube = colored_lorry()
    world_to_camera, intrinsics = camera_at(200, 25)
    surface = sample_surface(cube, 500).points
    occupancy = np.zeros((32, 32, 32), bool)
    occupancy[tuple(((surface + 0.5) * 31.9).astype(int).T)] = True
    view = TestView("lorry", 0, picture_of(cube, world_to_camera, intrinsics), intrinsics, world_to_camera, occupancy,
                    surface, surface)  # fmt: skip
    path = tmp_path / "lorry.glb"
    from backend.formats.glb import mesh_to_glb

    path.write_bytes(mesh_to_glb(cube))
    places = evaluation.random_place(np.random.default_rng(5))

    def perfect(_: TestView, mesh: meshes.MeshData) -> dict:
        assert np.ptp(mesh.vertices, axis=0).max() == pytest.approx(np.cbrt(np.linalg.det(places[:3, :3])), rel=0.6)
        camera = (world_to_camera @ np.linalg.inv(places)).tolist()
        return {"match": {"world_to_camera": camera, "intrinsics": intrinsics.tolist(), "mask_iou": 1.0, "color": 1.0,
                          "origin": "search", "residual": None, "shapes_agree": None, "trusted": True,
                          "symmetric": [], "mesh_to_canonical": None}}  # fmt: skip

    def failing(*_) -> dict:
        raise MaquetteError("bad_input", "No.")

    report = evaluation.evaluate([view], {"lorry": path}, perfect, 5, True)
    (entry,) = report["objects"]
    assert entry["rotation_error_deg"] < 0.01 and entry["reprojection_percent"] < 0.01
    assert report["summary"]["below_10_deg"] == 1.0 and report["summary"]["won"]["search"] == 1
    assert evaluation.evaluate([view], {"lorry": path}, failing, 5, True)["summary"] == {"count": 1, "failed": 1}

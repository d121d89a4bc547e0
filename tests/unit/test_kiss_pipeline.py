"""Kiss3DGen as a system: parameters, tasks, artifacts, and what is said when it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from backend.contract.errors import MaquetteError
from backend.contract.meshes import mesh_from_bytes
from backend.formats.images import encode_png, on_white
from backend.systems import registry
from backend.systems.base import Hooks
from backend.systems.kiss3dgen import pipeline
from backend.systems.kiss3dgen.request import Request, parse_request
from tests.unit.test_kiss_train import RED, TILE, ball_bundle, write_config


class Listener(Hooks):
    """Remembers what a run says."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: list[str] = []
        self.previews: list[bytes] = []

    def on_stage(self, name: str) -> None:
        self.stages.append(name)

    def on_preview(self, png: bytes) -> None:
        self.previews.append(png)


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, object]:
    return {"weights": "random", "config": write_config(tmp_path / "tiny.json"), "steps": 2, "texture_size": 256}


def ball_picture() -> np.ndarray:
    return ball_bundle(RED, 0.7)[..., :3].astype(np.float32) / 255.0


def test_the_registry_knows_it() -> None:
    system = registry.get_system("kiss3dgen")
    assert system.tasks == ("text_to_3d", "image_to_3d", "refine_mesh")
    assert system.info().title == "Kiss3DGen"


def test_a_bundle_becomes_a_finished_mesh() -> None:
    listener = Listener()
    mesh = pipeline.mesh_of(ball_picture(), Request(texture_size=256), listener)
    assert mesh.texture and mesh.uvs is not None and len(mesh.faces) > 100
    half = np.abs(mesh.vertices).max()
    assert 0.3 < half < 0.52  # the ball covers 0.7 of the tile: radius 0.7 * 0.67
    assert listener.stages == ["start_mesh", "refine_mesh", "finish"]


def test_an_empty_bundle_says_what_to_do() -> None:
    white = np.ones((2 * TILE, 4 * TILE, 3), np.float32)
    with pytest.raises(MaquetteError, match="another seed"):
        pipeline.mesh_of(white, Request(), Hooks())


def test_each_task_samples_a_bundle_of_the_weights_size(tiny: dict[str, object]) -> None:
    system = pipeline.KissSystem("cpu")
    request = parse_request({**tiny, "prompt": "a red ball", "strength": 0.5})
    networks = system.networks(request)
    made = [
        pipeline.bundle_from_text(networks, request, Hooks()),
        pipeline.bundle_from_photo(networks, np.ones((40, 40, 3), np.float32), request, Hooks()),
        pipeline.bundle_from_bundle(networks, ball_picture(), request, Hooks()),
    ]
    for picture in made:
        assert picture.shape == (2 * TILE, 4 * TILE, 3) and np.isfinite(picture).all()
    again = pipeline.bundle_from_text(networks, request, Hooks())
    assert np.array_equal(again, made[0])  # the seed decides
    other = pipeline.bundle_from_text(networks, parse_request({**tiny, "prompt": "a red ball", "seed": 7}), Hooks())
    assert not np.array_equal(other, made[0])


def test_a_run_hands_over_mesh_bundle_and_report(tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "bundle_from_text", lambda *_: ball_picture())  # random weights make noise
    listener = Listener()
    result = pipeline.KissSystem("cpu").run("text_to_3d", {}, {**tiny, "prompt": " a ball "}, listener)
    data = {artifact.name: artifact.data for artifact in result.artifacts}
    assert set(data) == {"asset.mesh", "asset.glb", "bundle.png", "thumbnail.png", "report.json"}
    assert len(mesh_from_bytes(data["asset.mesh"]).faces) == json.loads(data["report.json"])["triangles"]
    assert json.loads(data["report.json"])["prompt"] == "a ball"
    assert data["bundle.png"] in listener.previews


@pytest.mark.parametrize(
    ("task", "inputs", "parameters", "sentence"),
    [
        ("text_to_3d", {}, {"prompt": "  "}, "write what to make"),
        ("text_to_3d", {"image": b"x"}, {"prompt": "a cup"}, "takes no input 'image'"),
        ("image_to_3d", {}, {}, "choose an image"),
        ("refine_mesh", {}, {}, "select a mesh"),
        ("refine_mesh", {"bundle": b"no picture"}, {}, "picture"),
        ("paint", {}, {}, "choose one of"),
        ("text_to_3d", {}, {"prompt": 3}, "must be a text"),
        ("text_to_3d", {}, {"prompt": "a cup", "strength": 2}, "between 0"),
        ("text_to_3d", {}, {"prompt": "a cup", "colour": 2}, "no parameter 'colour'"),
        ("text_to_3d", {}, {"prompt": "a cup", "steps": 900}, "between 1 and 200"),
        ("text_to_3d", {}, {"prompt": "a " * 1500}, "shorten it"),
        ("text_to_3d", {}, {"prompt": "a cup", "start": "cube"}, "start mesh"),
    ],
)
def test_bad_requests_are_explained(
    task: str, inputs: dict[str, bytes], parameters: dict[str, object], sentence: str, tiny: dict[str, object]
) -> None:
    with pytest.raises(MaquetteError, match=sentence):
        pipeline.KissSystem("cpu").run(task, inputs, {**tiny, **parameters}, Hooks())


def test_a_photo_is_cut_out_onto_white() -> None:
    photo = np.zeros((60, 80, 4), np.float32)
    photo[20:40, 30:50] = (0.2, 0.6, 0.2, 1.0)
    cut, message = pipeline.cut_out(encode_png(photo), None)
    picture = on_white(cut)
    assert picture.shape[0] == picture.shape[1] and not message
    assert picture[0, 0] == pytest.approx(np.ones(3), abs=1e-3)
    middle = picture[picture.shape[0] // 2, picture.shape[1] // 2]
    assert middle == pytest.approx([0.2, 0.6, 0.2], abs=0.02)


def test_with_its_models_a_photo_starts_from_a_reference_bundle(
    tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole published way with tiny networks in the place of the published files, which are not here."""
    from backend.systems.kiss3dgen import zero123_networks
    from backend.systems.kiss3dgen.lrm import lrm
    from backend.systems.kiss3dgen.lrm.generator import random_generator
    from tests.unit.test_kiss_lrm import SMALL as SMALL_LRM
    from tests.unit.test_kiss_zero123 import SMALL as SMALL_VIEWS

    monkeypatch.setattr(zero123_networks, "load_published", lambda: zero123_networks.random_networks(SMALL_VIEWS))
    monkeypatch.setattr(lrm, "load_lrm", lambda **_: random_generator(SMALL_LRM))
    request = parse_request(tiny)
    networks = pipeline.KissSystem("cpu").networks(request)
    rgba = np.zeros((48, 48, 4), np.uint8)
    rgba[10:38, 14:34] = (0, 0, 200, 255)
    listener = Listener()
    picture = pipeline.bundle_from_reference(networks, rgba, on_white(rgba), request, listener)
    assert picture.shape == (2 * TILE, 4 * TILE, 3) and np.isfinite(picture).all()
    assert listener.stages == ["views", "rough_mesh", "sample_bundle"] and listener.previews

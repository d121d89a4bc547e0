"""Enhancing a mesh: what is taken over of a made bundle, the task with its own mesh, and the evaluation's table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backend.contract.errors import MaquetteError
from backend.contract.meshes import MeshData, mesh_from_bytes, mesh_to_bytes
from backend.data.degradation import Degree, degraded
from backend.evaluation import kiss3dgen_enhance
from backend.evaluation.mesh_scores import fixed_cameras, mesh_pictures, picture_scores, surface_scores
from backend.formats import glb
from backend.formats.images import encode_png
from backend.geometry.edge_splitting import with_short_edges
from backend.geometry.mesh_repair import face_areas
from backend.geometry.surface_sampling import sample_surface
from backend.rendering.bundle_views import draw_bundle
from backend.systems.base import Hooks
from backend.systems.finishing import FinishOptions
from backend.systems.kiss3dgen import bundle, enhance, pipeline
from backend.systems.kiss3dgen.flows import read_flows
from backend.systems.kiss3dgen.flux.config import read_config, read_settings
from backend.systems.kiss3dgen.flux.networks import PUBLISHED
from backend.systems.kiss3dgen.isomer.settings import MOST_FACES, IsomerSettings, settings_for
from backend.systems.kiss3dgen.request import Request
from tests.unit.test_degradation import box
from tests.unit.test_kiss_train import TILE, write_config


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, object]:
    return {"weights": "random", "config": write_config(tmp_path / "tiny.json"), "steps": 2, "texture_size": 256}


def test_what_was_not_changed_stays_as_sent() -> None:
    sent = draw_bundle(box(), 64)[..., :3]
    small = enhance.resized_picture(sent, 16)
    assert small.shape == (32, 64, 3)
    assert np.abs(enhance.transferred(sent, small, small) - sent).max() < 1e-5
    noise = np.random.default_rng(0).uniform(-0.03, 0.03, small.shape)
    assert np.abs(enhance.transferred(sent, small, small + noise) - sent).max() < 1e-5  # within COLOR_NOISE


def test_a_change_is_laid_on_the_detail_that_was_sent() -> None:
    sent = draw_bundle(box(), 64)[..., :3]
    blurred = enhance.resized_picture(enhance.resized_picture(sent, 8), 64).clip(0, 1)
    small = [enhance.resized_picture(picture, 32) for picture in (blurred, sent)]
    better = enhance.transferred(blurred, small[0], small[1], 0.01)
    before, after = (float(np.square(picture - sent).mean()) for picture in (blurred, better))
    assert after < 0.4 * before
    large = draw_bundle(box(), 2 * enhance.WORK_TILE)[..., :3]
    assert enhance.transferred(large, small[0], small[0]).shape == (2 * enhance.WORK_TILE, 4 * enhance.WORK_TILE, 3)


def test_without_a_change_a_mesh_keeps_shape_and_colours() -> None:
    mesh = degraded(box(), Degree(400, 0.02, 0.0), 256)
    sent = draw_bundle(mesh, 64)[..., :3]
    small = enhance.resized_picture(sent, 32)
    for given in (mesh, MeshData(mesh.vertices, mesh.faces)):
        same = enhance.changed_mesh(given, sent, enhance.change_between(small, small), FinishOptions(texture_size=256))
        before, after = sample_surface(mesh, 4000), sample_surface(same, 4000)
        score = surface_scores(after.points, after.normals, before.points, before.normals)
        assert score["normal_consistency"] > 0.95 and score["chamfer"] < 0.02
        assert picture_scores(same, mesh_pictures(mesh, fixed_cameras(), 64))["psnr"] > 24


def test_a_changed_colour_reaches_every_side() -> None:
    mesh = box()
    sent = draw_bundle(mesh, 64)[..., :3]
    blue = sent.copy()
    inside = draw_bundle(mesh, 64)[:64, :, 3] > 0.99
    blue[:64][inside] = (0.1, 0.1, 0.8)
    small = [enhance.resized_picture(picture, 32).clip(0, 1) for picture in (sent, blue)]
    made = enhance.changed_mesh(mesh, sent, enhance.change_between(*small), FinishOptions(texture_size=256))
    colors = sample_surface(made, 4000).colors
    assert colors is not None and (colors.argmax(axis=1) == 2).mean() > 0.8
    assert np.abs(made.vertices).max(axis=0) == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


def test_an_edit_leaves_the_shape_alone_and_enhancing_does_as_much_as_it_is_asked() -> None:
    mini = read_settings(read_config("mini"))
    assert pipeline.sharpening(mini, Request(prompt="make it red")) == 0.0
    amounts = [pipeline.sharpening(mini, Request(strength=strength)) for strength in (0.0, 0.25, None, 1.0)]
    assert amounts == [0.0, 0.5, 1.0, 1.0]
    row = read_flows().stage_one("enhance_mini")
    assert [row.settings(None, strength).level for strength in (0.0, 0.25, None)] == [0.0, 0.1, 0.2]
    mesh = degraded(box(), Degree(400, 0.02, 0.0), 256)
    vertices, faces = enhance.sharpened(mesh, 0.0)
    assert np.array_equal(vertices, mesh.vertices) and np.array_equal(faces, mesh.faces)
    assert len(enhance.sharpened(mesh, 1.0)[0]) >= len(mesh.vertices)


def test_long_edges_are_cut_and_the_surface_stays() -> None:
    mesh = box()
    vertices, faces = with_short_edges(mesh.vertices, mesh.faces, 0.2, 20_000)
    assert np.linalg.norm(vertices[faces] - vertices[np.roll(faces, 1, axis=1)], axis=2).max() <= 0.2
    assert face_areas(vertices, faces).sum() == pytest.approx(face_areas(mesh.vertices, mesh.faces).sum(), rel=1e-6)
    assert len(with_short_edges(mesh.vertices, mesh.faces, np.inf, 20_000)[0]) == 8  # corners are there once


def test_a_mesh_of_ones_own_is_what_is_refined(tiny: dict[str, object]) -> None:
    mesh = box()
    picture = encode_png(draw_bundle(mesh, 2 * TILE)[..., :3])
    inputs = {"bundle": picture, "mesh": mesh_to_bytes(mesh)}
    result = pipeline.KissSystem("cpu").run(pipeline.MESH, inputs, {**tiny, "strength": 0.0}, Hooks())
    made = mesh_from_bytes({item.name: item.data for item in result.artifacts}["asset.mesh"])
    assert np.abs(made.vertices.max(axis=0) - [0.5, 0.3, 0.2]).max() < 0.03
    assert np.abs(made.vertices.min(axis=0) + [0.5, 0.3, 0.2]).max() < 0.03
    assert result.report["steps"] == 2 and result.report["purpose"] == "enhance"


@pytest.mark.parametrize(
    ("prompt", "purpose"), [("", "enhance"), (" \n", "enhance"), ("make it red", "edit"), (" a red chair ", "edit")]
)
def test_a_sentence_asks_for_an_edit_and_none_for_enhancing(prompt: str, purpose: str) -> None:
    request, flows = Request(prompt=prompt), read_flows()
    assert request.purpose == purpose
    mini, full = (read_settings(read_config(name)) for name in ("mini", "full"))
    assert pipeline.mesh_flow(mini, request) == flows.stage_one(f"{purpose}_mini")
    assert pipeline.mesh_flow(full, request) == flows.stage_one("mesh")
    assert pipeline.flow_of(mini, "text") == pipeline.flow_of(full, "text")  # small weights have no row of their own


@pytest.mark.parametrize(
    ("data", "sentence"),
    [(b"no mesh", "cannot be read"), (mesh_to_bytes(MeshData(box().vertices, box().faces[:0])), "no faces")],
)
def test_a_mesh_that_cannot_be_refined_is_explained(data: bytes, sentence: str) -> None:
    with pytest.raises(MaquetteError, match=sentence):
        pipeline.given_mesh(data)


def test_published_weights_refine_by_the_published_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[IsomerSettings] = []

    def remember(_views: object, settings: object, *_: object) -> MeshData:
        asked.append(settings.isomer)  # type: ignore[attr-defined]
        return box()

    monkeypatch.setattr(pipeline.reconstruct, "reconstruct", remember)
    picture = draw_bundle(box(), 512)[..., :3]
    pipeline.mesh_of(picture, Request(weights=PUBLISHED), Hooks())
    row = read_flows().isomer_of("text")
    assert asked == [settings_for(512, row.stage1_steps, row.stage2_steps, row.radius)]
    assert asked[0].most_faces == MOST_FACES


def test_the_true_bundle_brings_a_degraded_mesh_nearer(tmp_path: Path) -> None:
    (tmp_path / "box.glb").write_bytes(glb.mesh_to_glb(box(), "box"))
    system, psnr = pipeline.KissSystem("cpu"), {}
    for stand_in in ("true", "same"):
        summary = kiss3dgen_enhance.measure_enhance(system, tmp_path, "val", 1, 0, {}, stand_in)["summary"]
        assert summary["count"] == 1 and summary["failed"] == 0
        assert summary["normal_consistency"]["enhanced"] > summary["normal_consistency"]["degraded"] - 0.02
        psnr[stand_in] = summary["psnr"]["enhanced"]
    assert psnr["true"] > psnr["same"] + 0.05


def test_the_table_says_what_was_gained() -> None:
    before = dict.fromkeys(kiss3dgen_enhance.MEASURES, 0.5)
    better, worse = dict.fromkeys(before, 0.75), dict.fromkeys(before, 0.25)
    entries = [
        {"id": str(index), "error": "", "degraded": before, "enhanced": after, "seconds": 1.0}
        for index, after in enumerate((better, better, worse))
    ]
    summary = kiss3dgen_enhance.summarise(entries)
    assert summary["psnr"]["gain_median"] == 0.25 and summary["psnr"]["improved"] == pytest.approx(2 / 3)
    assert summary["chamfer"]["gain_median"] == -0.25 and summary["chamfer"]["improved"] == pytest.approx(1 / 3)
    assert kiss3dgen_enhance.summarise([]) == {"count": 0}
    assert bundle.RADIUS == 4.5  # of the cameras that draw what is sent

"""RefAny3D as a system: parameters, conditions, artifacts, report, weights, and what is said when it cannot."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from backend.contract.errors import Cancelled, MaquetteError
from backend.contract.meshes import MeshData, mesh_to_bytes
from backend.formats import exr, glb
from backend.formats.images import decode_image, encode_png
from backend.systems import command, picture_command, registry
from backend.systems.base import Hooks, RunResult
from backend.systems.refany3d import condition_views, lora, networks, pipeline, point_maps, request
from backend.systems.refany3d.sampler import NEGATIVE_GUIDANCE, Painted
from backend.systems.refany3d.surface_dots import Surface
from backend.training.checkpoints import save_model, save_tensors
from tests.fakes.tiny_refany3d import SIZE, TINY, write_tiny_config
from tests.unit.test_refany3d_points import BOX_FACES, CORNERS, VIEW, painted

torch.set_num_threads(1)
COLORS = np.tile(np.uint8([[200, 120, 40, 255]]), (8, 1))
MESH = MeshData((CORNERS * [4, 3, 2]).astype(np.float32), BOX_FACES.astype(np.int32), colors=COLORS)


class Listener(Hooks):
    """Remembers what a run says, and stops it at a step if asked to."""

    def __init__(self, stop_at: int = 0) -> None:
        super().__init__()
        self.stages: list[str] = []
        self.steps: list[tuple[str, int, int]] = []
        self.previews: list[bytes] = []
        self.stop_at = stop_at

    def on_stage(self, name: str) -> None:
        self.stages.append(name)

    def on_step(self, stage: str, index: int, count: int) -> None:
        self.steps.append((stage, index, count))

    def on_preview(self, png: bytes) -> None:
        self.previews.append(png)

    def cancelled(self) -> bool:
        return bool(self.stop_at) and len(self.steps) >= self.stop_at


def conditions(count: int = 4, size: int = SIZE) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Inputs of a job, and the box parameters."""
    drawn = condition_views.draw_conditions([MESH], size, condition_views.azimuths(count))
    return picture_command.picture_inputs(drawn), picture_command.bounds_parameters(drawn)


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, Any]:
    config = write_tiny_config(tmp_path / "tiny.json")
    return {"weights": "random", "config": config, "prompt": " a box on sand ", **conditions()[1]}


@pytest.fixture(scope="module")
def system() -> pipeline.RefAny3DSystem:
    return pipeline.RefAny3DSystem("cpu")


def files_of(result: RunResult) -> dict[str, bytes]:
    return {artifact.name: artifact.data for artifact in result.artifacts}


def test_the_registry_knows_it_and_says_what_is_missing() -> None:
    found = registry.get_system("refany3d")
    assert found.tasks == ("render_picture",)
    info = found.info()
    assert info.ready == (not info.missing)


def test_mini_without_weights_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "MINI_FOLDER", tmp_path / "nothing")
    found = pipeline.RefAny3DSystem("cpu")
    assert not found.info().ready and "published" in found.info().missing
    with pytest.raises(MaquetteError, match="no small weights") as caught:
        found.run("render_picture", conditions()[0], {"prompt": "a box"}, Hooks())
    assert caught.value.failure.code == "model_missing" and caught.value.failure.next_step == "install_model"


def test_a_run_hands_over_pictures_points_and_cameras(system: pipeline.RefAny3DSystem, tiny: dict[str, Any]) -> None:
    listener = Listener()
    result = system.run("render_picture", conditions()[0], {**tiny, "variants": 2, "seed": 7}, listener)
    data = files_of(result)
    each = ("picture-{}.png", "points-{}.png", "points-{}.exr")
    assert list(data) == [name.format(n) for n in (0, 1) for name in each] + ["thumbnail.png", "report.json"]
    report = json.loads(data["report.json"])
    assert [variant["seed"] for variant in report["variants"]] == [7, 8] and report["prompt"] == "a box on sand"
    camera = report["variants"][0]["camera"]
    assert set(camera) == {"world_to_camera", "intrinsics", "residual_px", "inliers", "trusted", "reason"}
    picture = Image.open(io.BytesIO(data["picture-1.png"]))
    assert picture.size == (SIZE, SIZE) and picture.text["prompt"] == "a box on sand" and picture.text["seed"] == "8"
    planes = exr.read_exr(data["points-0.exr"])
    shown = decode_image(data["points-0.png"]).rgba[..., :3] / 255.0
    np.testing.assert_allclose(np.dstack([planes[name] for name in "RGB"]), shown, atol=0.502 / 255)
    assert data["picture-0.png"] != data["picture-1.png"]
    assert tuple(listener.stages) == pipeline.STAGES
    assert [step[1:] for step in listener.steps] == [(n, 6) for n in range(1, 7)]
    assert decode_image(listener.previews[-1]).size == (2 * SIZE, SIZE)
    again = files_of(system.run("render_picture", conditions()[0], {**tiny, "seed": 7}, Hooks()))
    assert again["picture-0.png"] == data["picture-0.png"]  # the seed decides


def test_previews_are_made_only_where_somebody_looks(
    system: pipeline.RefAny3DSystem, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[bool, int] = {}
    for looks in (True, False):
        listener = Listener()
        monkeypatch.setattr(listener, "wants_preview", lambda looks=looks: looks)
        system.run("render_picture", conditions()[0], {**tiny, "steps": 9}, listener)
        shown[looks] = len(listener.previews)
    assert shown == {True: 3, False: 1}  # after four and eight steps, and what came of it
    assert Listener().wants_preview() and not Hooks().wants_preview()


def test_of_several_tries_the_one_nearest_to_its_mesh_is_kept(tmp_path: Path) -> None:
    """With the weights that ship: each try is the picture of a seed of its own."""
    own, inputs, box = pipeline.RefAny3DSystem("cpu"), *conditions(8, 128)

    def run(tries: int, **given: Any) -> RunResult:
        folder = tmp_path / str(tries)
        if not folder.exists():
            shutil.copytree(networks.MINI_FOLDER, folder)
            entry = json.loads((folder / "pipeline.json").read_text())
            (folder / "pipeline.json").write_text(json.dumps({"settings": entry["settings"] | {"tries": tries}}))
        asked = {**box, "weights": str(folder), "prompt": "a brick on sand", "steps": 4, **given}
        return own.run("render_picture", inputs, asked, listener)

    listener = Listener()
    found = run(2, seed=7, variants=2)
    assert listener.steps[-1][1:] == (16, 16) and found.report["tries"] == 2
    assert [variant["seed"] for variant in found.report["variants"]] == [7, 8]
    asked = request.parse_request({"prompt": "x", "seed": 7})
    for variant in range(2):
        alone = [run(1, seed=pipeline.seed_of(asked, variant, number)) for number in range(2)]
        misses = [result.report["variants"][0]["miss"] for result in alone]
        assert misses[0] != misses[1]
        best = files_of(alone[int(np.argmin(misses))])["points-0.png"]
        assert files_of(found)[f"points-{variant}.png"] == best
        assert found.report["variants"][variant]["miss"] == min(misses)


def test_views_words_and_image_guidance_matter(system: pipeline.RefAny3DSystem, tiny: dict[str, Any]) -> None:
    inputs = conditions()[0]

    def picture(given: dict[str, bytes], **changed: Any) -> bytes:
        return files_of(system.run("render_picture", given, {**tiny, "steps": 2, **changed}, Hooks()))["points-0.exr"]

    plain = picture(inputs)
    assert picture(inputs, prompt="another thing") != plain
    assert picture(inputs, image_guidance=1) != plain
    assert picture(inputs, guidance=1.0) != plain
    assert picture(inputs, masked_black=True) != plain
    assert picture({**inputs, "views": inputs["points"]}) != plain
    assert picture(conditions(size=64)[0], seed=3) != plain  # larger views are made smaller
    assert picture(conditions(8)[0]) != plain


def test_bases_without_distilled_guidance_are_guided_by_words(tmp_path: Path, tiny: dict[str, Any]) -> None:
    config = write_tiny_config(tmp_path / "open.json", guidance_embeds=False)
    own = pipeline.RefAny3DSystem("cpu")
    runs = [
        own.run("render_picture", conditions()[0], {**tiny, "config": config, "steps": 2, "guidance": value}, Hooks())
        for value in (1.0, 4.0)
    ]
    assert files_of(runs[0])["points-0.exr"] != files_of(runs[1])["points-0.exr"]
    assert [run.report["guidance"] for run in runs] == [None, 4.0]


@pytest.mark.parametrize("distilled", [True, False])
def test_words_for_what_should_not_be_seen(tmp_path: Path, tiny: dict[str, Any], distilled: bool) -> None:
    """They change the picture with any base, are one more pass, and stand in the picture's metadata and the report."""
    config = write_tiny_config(tmp_path / "base.json", guidance_embeds=distilled)
    own = pipeline.RefAny3DSystem("cpu")
    given = {**tiny, "config": config, "steps": 2, "image_guidance": 1, "guidance": 3.5 if distilled else 1}

    def run(**changed: Any) -> RunResult:
        return own.run("render_picture", conditions()[0], {**given, **changed}, Hooks())

    plain, without, other = run(), run(negative=" people "), run(negative="snow")
    pictures = [files_of(result)["points-0.exr"] for result in (plain, without, other)]
    assert len(set(pictures)) == 3 and files_of(run(negative="  "))["points-0.exr"] == pictures[0]
    texts = [Image.open(io.BytesIO(files_of(result)["picture-0.png"])).text for result in (plain, without)]
    assert "negative" not in texts[0] and texts[1]["negative"] == "people"
    assert (without.report["negative"], without.report["negative_guidance"]) == ("people", NEGATIVE_GUIDANCE)
    assert plain.report["negative_guidance"] is None
    # what is to be seen, and not to be seen, cancel out: the guidance has nothing to point away from
    both = files_of(run(prompt="people", negative="people"))["points-0.exr"]
    alone = files_of(run(prompt="people"))["points-0.exr"]
    shown, wanted = (exr.read_exr(data) for data in (both, alone))
    assert all(np.abs(shown[name] - wanted[name]).max() < 1e-4 for name in "RGB")
    if not distilled:
        stronger = run(negative="people", guidance=4.0)
        assert stronger.report["negative_guidance"] == 4.0 == stronger.report["guidance"]
        assert files_of(stronger)["points-0.exr"] not in pictures


@pytest.mark.parametrize("profile", ["int8", "offload"])
def test_one_stage_at_a_time(tiny: dict[str, Any], profile: str) -> None:
    """The text encoders leave before the transformer comes, and both come again for new words."""
    own = pipeline.RefAny3DSystem("cpu")
    given = {**tiny, "steps": 2, "profile": profile}
    first, second, third = (
        files_of(own.run("render_picture", conditions()[0], {**given, "prompt": prompt}, Hooks()))["points-0.exr"]
        for prompt in ("a box", "a box at night", "a box")
    )
    assert first == third != second
    held = own.networks(request.parse_request(given)).flux.present
    assert "transformer" in held and "t5" not in held


def test_weights_without_point_maps_have_no_camera(tmp_path: Path, tiny: dict[str, Any]) -> None:
    config = write_tiny_config(tmp_path / "flat.json", points=False, independent=True)
    result = pipeline.RefAny3DSystem("cpu").run("render_picture", conditions()[0], {**tiny, "config": config}, Hooks())
    assert "points-0.png" not in files_of(result)
    assert result.report["model"] == "refany3d-independent", "nobody takes these for the published model"
    assert result.report["variants"][0]["camera"]["reason"] == pipeline.NO_POINTS


def test_a_true_point_map_gives_the_camera_in_the_report() -> None:
    values, bounds, matrix, _ = painted(20 * CORNERS * (1, 0.6, 0.4) + [3.0, -1.0, 7.0], VIEW)
    asked = request.parse_request(
        {"prompt": "x", "bounds_min": bounds.low.tolist(), "bounds_max": bounds.high.tolist(), "focal": 1.5}
    )
    camera, _ = pipeline.camera_of(Painted(values, values), asked, Surface(np.zeros((1, 3)), np.zeros((1, 3))), 0)
    assert camera.trusted
    np.testing.assert_allclose(camera.world_to_camera, matrix, atol=1e-2)


def test_cancel_stops_within_a_step(system: pipeline.RefAny3DSystem, tiny: dict[str, Any]) -> None:
    listener = Listener(stop_at=2)
    with pytest.raises(Cancelled):
        system.run("render_picture", conditions()[0], {**tiny, "steps": 50}, listener)
    assert len(listener.steps) == 2


def test_a_folder_of_weights_and_every_profile(tmp_path: Path, tiny: dict[str, Any]) -> None:
    source = networks.load_networks("random", tiny["config"], seed=42)
    folder = tmp_path / "weights"
    for role in networks.NEEDED:  # words come from MiniLM's package
        entry = TINY["networks"][role]
        save_model(folder, role, entry["name"], entry["args"], dict(source.flux[role].state_dict()))
    (folder / "pipeline.json").write_text(json.dumps({"settings": {**TINY["settings"], "text": "minilm"}}))
    with pytest.raises(MaquetteError, match="lacks transformer"):
        networks.load_networks(str(tmp_path / "other"))
    made = source.transformer
    for name in networks.LORAS:
        lora.save_lora(folder / f"{name}.safetensors", getattr(made, name))
    save_tensors(folder / networks.EMBEDDER, dict(made.domain_embedder.state_dict()))
    read = networks.load_networks(str(folder)).transformer
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    given = (noise(1, 4, 16), noise(1, 4, 16), noise(1, 8, 4, 16), noise(1, 12, 32), noise(1, 24), 0.5, 3.5)
    with torch.no_grad():
        wanted, found = made.predict(*given), read.predict(*given)
    torch.testing.assert_close(found, wanted)
    for profile, most in (("half", 0.1), ("int8", 0.15), ("offload", 0.15)):
        other = networks.load_networks("random", tiny["config"], seed=42, profile=profile)
        with torch.no_grad():
            cast = [part.to(other.dtype) if isinstance(part, torch.Tensor) else part for part in given]
            answer = other.transformer.predict(*cast)
        for mine, theirs in zip(answer, wanted, strict=True):
            assert (mine.float() - theirs).norm() < most * theirs.norm(), profile


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"prompt": "  "}, "no text"),
        ({"variants": 9}, "variants"),
        ({"variants": 1.5}, "whole number"),
        ({"image_guidance": -1}, "image guidance"),
        ({"guidance": True}, "guidance"),
        ({"focal": 0.01}, "focal length"),
        ({"bounds_min": [0, 0]}, "three numbers"),
        ({"bounds_min": [9, 1, 1]}, "box is empty"),
        ({"bounds_max": [float("nan"), 1, 1]}, "three numbers"),
        ({"strength": 1}, "no parameter"),
        ({"prompt": "x" * 3000}, "longer than"),
        ({"negative": "x" * 3000}, "negative is longer than"),
        ({"negative": 3}, "negative must be a text"),
        ({"profile": "huge"}, "no profile"),
    ],
)
def test_parameters_are_refused_by_name(tiny: dict[str, Any], parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(MaquetteError, match=says) as caught:
        pipeline.RefAny3DSystem("cpu").run("render_picture", conditions()[0], {**tiny, **parameters}, Hooks())
    assert caught.value.failure.code == "bad_input"


def test_inputs_are_refused_with_a_sentence(system: pipeline.RefAny3DSystem, tiny: dict[str, Any]) -> None:
    good = conditions()[0]
    white = encode_png(np.ones((SIZE, 4 * SIZE, 3), np.float32))
    bad = (
        ({}, "select a mesh"),
        ({**good, "image": white}, "no input 'image'"),
        ({**good, "points": white}, "show no object"),
        ({**good, "points": conditions(8)[0]["points"]}, "belong together"),
        ({**good, "views": encode_png(np.ones((SIZE, 3 * SIZE, 3), np.float32))}, "4, 6 or 8 squares"),
        ({**good, "views": b"no picture"}, "not a picture"),
    )
    for inputs, says in bad:
        with pytest.raises(MaquetteError, match=says):
            system.run("render_picture", inputs, tiny, Hooks())
    with pytest.raises(MaquetteError, match="cannot do"):
        system.run("image_to_3d", good, tiny, Hooks())


def test_places_are_not_blended_when_views_are_made_smaller() -> None:
    large = conditions(size=128)[0]
    _, points = request.read_conditions(large, SIZE)
    drawn = condition_views.split_strip(decode_image(large["points"], 4096).rgba[..., :3])
    known = {tuple(color) for color in drawn.reshape(-1, 3)}
    assert {tuple(color) for color in points.reshape(-1, 3)} <= known
    assert point_maps.foreground(point_maps.from_bytes(points)).any()


def test_the_command_paints_a_mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_command, "SIDE", 64)
    mesh = tmp_path / "box.glb"
    mesh.write_bytes(glb.mesh_to_glb(MESH))
    config = write_tiny_config(tmp_path / "tiny.json")
    arguments = ["--system", "refany3d", "--mesh", str(mesh), "--text", "a box", "--out", str(tmp_path / "out")]
    assert command.main([*arguments, "--weights", "random", "--config", config, "--views", "6", "--steps", "2"]) == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"picture-0.png", "points-0.exr", "views.png", "points.png", "report.json"} <= written
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    np.testing.assert_allclose(report["bounds_max"], [4, 3, 2], atol=1e-5)
    assert report["views"] == 6


def test_the_commands_overlay_shows_the_mesh_in_the_picture() -> None:
    values, _, matrix, lens = painted(CORNERS * 1.0, VIEW)
    mesh = MeshData(CORNERS.astype(np.float32), BOX_FACES.astype(np.int32), colors=COLORS)
    grey = encode_png(np.full(values.shape, 0.5))
    camera = {"world_to_camera": matrix.tolist(), "intrinsics": lens.tolist()}
    sheet = decode_image(picture_command.overlay(grey, encode_png(values), [mesh], camera)).rgba[..., :3]
    side = values.shape[0]
    shown = (values < 1).any(-1)
    assert sheet.shape[:2] == (side, 3 * side)
    np.testing.assert_array_equal(sheet[:, 2 * side :][shown][0], COLORS[0, :3])
    assert (sheet[:, 2 * side :][~shown] == 128).all()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [("a.obj", b"", "give a .glb"), ("a.glb", b"glTF", "cannot be used"), ("a.mesh", b"x", "cannot be used")],
)
def test_meshes_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MaquetteError, match=says):
        picture_command.read_mesh(tmp_path / name)
    with pytest.raises(MaquetteError, match="cannot be read"):
        picture_command.read_mesh(tmp_path / "nothing.glb")


def test_maquettes_own_meshes_are_read(tmp_path: Path) -> None:
    (tmp_path / "box.mesh").write_bytes(mesh_to_bytes(MESH))
    (read,) = picture_command.read_mesh(tmp_path / "box.mesh")
    np.testing.assert_array_equal(read.faces, MESH.faces)

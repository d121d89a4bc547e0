"""Training of RefAny3D mini with tiny numbers, from shards of scenes to weights that the pipeline paints with."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from backend.contract.errors import MaquetteError
from backend.contract.meshes import MeshData
from backend.data import prepare, reference_scenes, shards
from backend.formats.glb import mesh_to_glb
from backend.formats.glb_reader import read_glb
from backend.systems import picture_command
from backend.systems.base import Hooks
from backend.systems.kiss3dgen.flux.config import build
from backend.systems.kiss3dgen.flux.places import MINI_FOLDER as KISS_FOLDER
from backend.systems.refany3d import condition_views, pipeline, request
from backend.systems.refany3d.config import read_config
from backend.systems.refany3d.networks import load_networks
from backend.systems.refany3d.train import RefAny3DTrainRequest, start_as_kiss3dgen, train
from backend.systems.refany3d.train_data import object_views
from backend.systems.refany3d.train_plain import PICTURES, PlainTraining, draw_plain
from backend.training.checkpoints import load_tensors
from backend.training.cli import main
from tests.unit.test_refany3d_points import BOX_FACES, CORNERS
from tests.unit.test_reference_scenes import two_scenes

SIZE = 32
NAMES = {"train": ("barrel", "box"), "val": ("lamp",)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `assets` (three boxes in GLB files), `scenes` of them, and `tiny.json`."""
    folder = tmp_path_factory.mktemp("refany3d")
    assets, scenes = folder / "assets", folder / "scenes"
    assets.mkdir()
    scenes.mkdir()
    lines = ["id,path,split,caption"]
    for split, names in NAMES.items():
        kept = []
        for number, name in enumerate(names):
            colors = np.tile(np.uint8([[200, 60 * number, 40, 255]]), (8, 1))
            mesh = MeshData((CORNERS * [1, 0.5, 0.7]).astype(np.float32), BOX_FACES.astype(np.int32), colors=colors)
            (assets / f"{name}.glb").write_bytes(mesh_to_glb(mesh))
            lines.append(f"{name},{name}.glb,{split},a {name}")
            arrays = {key: enlarged(value) for key, value in two_scenes(number).items()}
            row = prepare.AssetRow(name, assets / f"{name}.glb", split, f"a {name}")
            kept += reference_scenes.read_scenes(row, arrays, ["a crate", "a chair"])
        reference_scenes.write_scenes(kept, scenes, split, f"{split}-00000")
    shards.write_index(scenes)
    (assets / "objects.csv").write_text("\n".join(lines))
    config = read_config("mini")
    config["settings"] |= {"size": SIZE, "text_tokens": 8, "steps": 2, "rank": 2}
    config["networks"]["transformer"]["args"] |= {
        "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
        "axes_dims_rope": [4, 6, 6],
    }  # fmt: skip
    (folder / "tiny.json").write_text(json.dumps(config))
    return folder


def enlarged(array: np.ndarray) -> np.ndarray:
    """Pictures and masks of 16 pixels at SIZE; other arrays as they are."""
    is_picture = array.ndim >= 3 and array.shape[1:3] == (16, 16)
    return array.repeat(SIZE // 16, axis=1).repeat(SIZE // 16, axis=2) if is_picture else array


def asked(made: Path, out: Path, stage: str, **changes: Any) -> RefAny3DTrainRequest:
    """A request for two steps that exports."""
    start = RefAny3DTrainRequest(
        stage=stage, data=made / "scenes", out=out, config=str(made / "tiny.json"), minutes=1, resume=False,
        export=True, device="cpu", batch=4, rate=1e-2, total=100, seed=0, export_to=out / "weights", steps=2,
        assets=made / "assets",
    )  # fmt: skip
    return dataclasses.replace(start, **changes)


@pytest.fixture(scope="module")
def base(made: Path) -> Path:
    """The folder in which the stage base ran; its weights are in `weights`."""
    out = made / "base"
    assert train(asked(made, out, "base"))["val_loss"] > 0
    return out


def test_both_stages_give_weights_that_paint(made: Path, base: Path, tmp_path: Path) -> None:
    result = train(asked(made, tmp_path, "lora", start=base / "weights"))
    assert result["val_loss"] == pytest.approx(result["val_rgb"] + result["val_coord"], rel=1e-4)
    weights = tmp_path / "weights"
    networks = load_networks(str(weights))
    own = networks.transformer
    assert networks.settings.size == SIZE and networks.settings.views == 8
    for lora in (own.default, own.coord):
        assert any(float(layer.lora_B.abs().max()) > 0 for layer in lora.layers.values()), "both LoRAs learnt"
    before, after = (load_tensors(folder / "transformer") for folder in (base / "weights", weights))
    assert any(not torch.equal(before[name], after[name]) for name in before), "and the base with them"
    assert float(own.domain_embedder[3].weight.abs().max()) > 0
    mesh = MeshData(CORNERS.astype(np.float32), BOX_FACES.astype(np.int32))
    drawn = condition_views.draw_conditions([mesh], SIZE, condition_views.azimuths(8))
    inputs = picture_command.picture_inputs(drawn)
    parameters = {"prompt": "a barrel on sand", "weights": "mini", **picture_command.bounds_parameters(drawn)}
    painted = pipeline.render(networks, inputs, request.parse_request(parameters), Hooks())
    files = {artifact.name: artifact.data for artifact in painted.artifacts}
    for name in ("picture-0.png", "points-0.png"):
        assert Image.open(io.BytesIO(files[name])).size == (SIZE, SIZE)


def test_the_base_starts_as_kiss3dgens() -> None:
    entry = read_config("mini")["networks"]["transformer"]
    transformer = build(entry)
    assert start_as_kiss3dgen(transformer, entry)
    stored = load_tensors(KISS_FOLDER / "transformer")
    assert all(torch.equal(tensor, stored[name].float()) for name, tensor in transformer.state_dict().items())
    assert not start_as_kiss3dgen(transformer, {**entry, "args": {**entry["args"], "num_layers": 2}})


def test_the_scaling_makes_latents_of_these_pictures_even(base: Path) -> None:
    arguments = json.loads((base / "weights" / "vae.json").read_text())["args"]
    cached = load_tensors(base / "refany3d" / "cache" / "scenes-train")
    tokens = torch.cat([part.float() for part in cached.values()])
    assert float(tokens.std()) == pytest.approx(1.0, abs=0.05) and abs(float(tokens.mean())) < 0.05
    assert arguments["scaling_factor"] != 1.18718, "Kiss3DGen's own scaling is for bundles"


def test_a_run_goes_on_where_it_stopped(made: Path, base: Path, tmp_path: Path) -> None:
    first = train(asked(made, tmp_path, "lora", start=base / "weights"))
    again = train(asked(made, tmp_path, "lora", start=base / "weights", resume=True))
    assert (first["step"], again["step"]) == (2, 4)
    fresh = tmp_path / "elsewhere"
    moved = train(asked(made, fresh, "lora", start=tmp_path / "weights", resume=True))
    assert moved["step"] == 2, "without a checkpoint it starts from the exported weights"
    before, after = (load_tensors(folder / "weights" / "default") for folder in (tmp_path, fresh))
    worst = max(float((before[name].float() - after[name].float()).abs().max()) for name in before)
    assert 0 < worst < 0.1, "two small steps away from what was exported"


def test_a_frozen_base_stays_as_it_is(made: Path, base: Path, tmp_path: Path) -> None:
    train(asked(made, tmp_path, "lora", start=base / "weights", frozen=True))
    before, frozen = (load_tensors(folder / "weights" / "transformer") for folder in (base, tmp_path))
    assert all(torch.equal(before[name], frozen[name]) for name in before)


@pytest.mark.parametrize(
    ("changes", "absent", "settings"),
    [
        ({"without": ("points",)}, ["coord"], {"points": False}),
        ({"without": ("positions",)}, [], {"shared_positions": False}),
        ({"without": ("domain-lora",)}, ["coord"], {"points": True}),
        ({"views": 4, "independent": True}, [], {"views": 4, "independent": True}),
        ({"views": 6}, [], {"views": 6}),
    ],
)
def test_ablations_are_trained_exported_and_loaded(
    made: Path, base: Path, tmp_path: Path, changes: dict[str, Any], absent: list[str], settings: dict[str, Any]
) -> None:
    result = train(asked(made, tmp_path, "lora", start=base / "weights", steps=1, **changes))
    assert ("val_coord" in result) == settings.get("points", True)
    runs = [path.name for path in (tmp_path / "refany3d").iterdir() if path.name.startswith("lora")]
    assert len(runs) == 1 and runs[0] != "lora", "an ablation has a run of its own"
    networks = load_networks(str(tmp_path / "weights"))
    assert {name: getattr(networks.settings, name) for name in settings} == settings
    assert [name for name in ("default", "coord") if getattr(networks.transformer, name) is None] == absent


def test_views_are_made_once_and_a_bad_file_is_left_out(made: Path, base: Path, tmp_path: Path) -> None:
    vae = load_networks(str(base / "weights")).vae
    (tmp_path / "bad.glb").write_bytes(b"no GLB")
    paths = {"box": made / "assets" / "box.glb", "bad": tmp_path / "bad.glb"}
    first = object_views(["box", "bad", "gone"], paths, vae, SIZE, 4, tmp_path / "cache")
    assert first.usable(["bad", "box", "gone"]) == [1]
    later = object_views(["box"], {}, vae, SIZE, 4, tmp_path / "cache")
    assert torch.equal(first.of(["box", "box"]), later.of(["box", "box"]))
    assert later.of(["box"]).shape == (1, 8, 4, 128)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stage": "vae"}, "no stage 'vae'; choose: base, lora"),
        ({"without": ("colour",)}, "no ablation 'colour'"),
        ({"views": 5}, "5 views cannot be trained"),
        ({"assets": None}, "name their folder: --assets"),
    ],
)
def test_what_cannot_be_trained_is_told(
    made: Path, base: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(MaquetteError, match=said):
        train(asked(made, tmp_path, **({"stage": "lora", "start": base / "weights"} | changes)))


def test_lora_needs_a_base(made: Path, tmp_path: Path) -> None:
    with pytest.raises(MaquetteError, match="weights 'transformer' are not there"):
        train(asked(made, tmp_path, "lora"))


def test_the_command_line_trains_and_refuses_what_is_not_its_own(
    made: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        "refany3d", "--stage", "lora", "--data", str(made / "scenes"), "--out", str(tmp_path), "--steps", "1",
        "--config", str(made / "tiny.json"), "--batch", "2", "--start", str(base / "weights"),
        "--assets", str(made / "assets"), "--without", "points", "domain-lora", "--views", "4",
    ]  # fmt: skip
    assert main(given) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 1
    assert (tmp_path / "refany3d" / "lora-no-points-no-domain-lora-4-views" / "state.json").exists()
    with pytest.raises(SystemExit):
        main([*given, "--photos", str(tmp_path)])
    assert "--photos is for kiss3dgen" in capsys.readouterr().err


def test_plain_pictures_show_the_object_or_are_its_views(made: Path, base: Path, tmp_path: Path) -> None:
    networks = load_networks(str(base / "weights"))
    paths = {"box": made / "assets" / "box.glb"}
    views = object_views(["box"], paths, networks.vae, SIZE, 4, tmp_path)
    plain = PlainTraining(
        ["box", "box", "gone"], {"box": "a box"}, paths, networks.vae, networks.settings, views, tmp_path
    )
    assert len(plain) == 1, "an object is there once, and not at all without views"
    batch = plain.draw(40, torch.Generator().manual_seed(0))
    stored = {kind: tokens.of(["box"])[0] for kind, tokens in (("views", views), ("own", plain.pictures))}
    seen = {"views": 0, "own": 0}
    for rgb, coord in zip(batch.rgb, batch.coord, strict=True):
        for kind, tokens in stored.items():
            half = len(tokens) // 2
            seen[kind] += any(
                torch.equal(rgb, tokens[k]) and torch.equal(coord, tokens[half + k]) for k in range(half)
            )
    assert sum(seen.values()) >= 40 and seen["views"] > 3 and seen["own"] > 20
    drawn = draw_plain("box", read_glb(paths["box"].read_bytes()), 64)
    shown = (drawn.points < 255).any(axis=-1)
    assert ((drawn.views < 255).any(axis=-1) <= shown).all() and (shown.reshape(PICTURES, -1).mean(axis=1) > 0.03).all()
    assert not shown[:, [0, -1]].any() and not shown[:, :, [0, -1]].any(), "all of it is in the picture"

"""Training of Kiss3DGen mini with tiny numbers, from shards to weights that the pipeline loads."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.contract.errors import MaquetteError
from backend.data import crops, shards
from backend.systems.kiss3dgen import colors, train_data
from backend.systems.kiss3dgen.flux.config import read_config
from backend.systems.kiss3dgen.flux.latents import encode_pictures
from backend.systems.kiss3dgen.flux.networks import load_flux
from backend.systems.kiss3dgen.flux.patch_autoencoder import PatchAutoencoder
from backend.systems.kiss3dgen.train import train
from backend.systems.kiss3dgen.train_flow import ControlNet
from backend.systems.kiss3dgen.train_stage import KissTrainRequest

TILE = 32
RED, BLUE = (220, 30, 30), (30, 40, 220)


def ball_bundle(color: tuple[int, int, int], radius: float) -> np.ndarray:
    """A bundle uint8 [2S,4S,4] of a ball: even colour above, its normals below."""
    axis = (np.arange(TILE) + 0.5) / TILE * 2 - 1
    x, y = np.meshgrid(axis, axis)
    inside = x**2 + y**2 < radius**2
    z = np.sqrt(np.maximum(radius**2 - x**2 - y**2, 0))
    normal = np.stack([-x, -y, z], -1) / radius
    upper = np.where(inside[..., None], np.array(color), 255)
    lower = np.where(inside[..., None], (normal + 1) / 2 * 255, 255)
    rows = [np.concatenate([row] * 4, axis=1) for row in (upper, lower)]
    alpha = np.concatenate([np.concatenate([inside] * 4, axis=1)] * 2)[..., None] * 255
    return np.concatenate([np.concatenate(rows), alpha], -1).astype(np.uint8)


TRAIN, VAL = ["a ball", "a stone", "a blue egg", "the moon"], ["a cup", "a hat"]


def write_bundles(folder: Path, worse: bool = False) -> Path:
    """Shards of four training objects and two for validation; `worse`: of the last two and one, smaller and paler."""
    folder.mkdir()
    for split, names in (("train", TRAIN), ("val", VAL)):
        rows = range(len(names) // 2, len(names)) if worse else range(len(names))
        captions = [names[index] for index in rows]
        pictures = [
            crops.encode_image(
                ball_bundle((128, 128, 128) if worse else RED if index % 2 else BLUE, 0.5 + index / 20 - worse / 10)
            )
            for index in rows
        ]
        tensors = {
            "bundles": np.frombuffer(b"".join(pictures), dtype=np.uint8),
            "bundle_offsets": np.cumsum([0] + [len(picture) for picture in pictures]),
        }
        entry = {
            "split": split, "views": 4, "seed": 0, "size": TILE, "captions": captions,
            "ids": [f"{split}{index}" for index in rows],
        }  # fmt: skip
        shards.write_shard(folder / f"{split}-00000.safetensors", tensors, entry)
    shards.write_index(folder)
    return folder


def write_config(path: Path) -> str:
    """Mini's configuration with tiny numbers."""
    config = read_config("mini")
    config["settings"] |= {"tile": TILE, "text_tokens": 8, "image_size": 32, "steps": 2}
    flux = {
        "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
        "axes_dims_rope": [4, 6, 6], "in_channels": 32,
    }  # fmt: skip
    networks = config["networks"]
    networks["transformer"]["args"] |= flux
    networks["controlnet"]["args"] |= flux | {"num_single_layers": 0}
    networks["vae"]["args"] = {"latent_channels": 8, "width": 8, "blocks": 1}
    networks["image_encoder"]["args"] |= {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
    }  # fmt: skip
    networks["redux"]["args"] |= {"redux_dim": 16}
    path.write_text(json.dumps(config))
    return str(path)


def request(tmp_path: Path, stage: str, **changes: object) -> KissTrainRequest:
    values = {
        "stage": stage, "data": tmp_path / "bundles", "out": tmp_path / "runs", "config": str(tmp_path / "tiny.json"),
        "minutes": 1.0, "resume": False, "export": True, "device": "cpu", "batch": 4, "rate": 0.0, "total": 10,
        "seed": 0, "export_to": tmp_path / "weights", "steps": 2, **changes,
    }  # fmt: skip
    return KissTrainRequest(**values)  # type: ignore[arg-type]


def test_every_stage_trains_and_its_weights_load(tmp_path: Path) -> None:
    write_bundles(tmp_path / "bundles")
    config = write_config(tmp_path / "tiny.json")
    write_bundles(tmp_path / "worse", worse=True)
    for stage in ("vae", "base", "controlnet", "lora"):
        result = train(request(tmp_path, stage, degraded=tmp_path / "worse"))
        assert np.isfinite(result["loss"]), stage
    folder = tmp_path / "weights"
    roles = {"vae", "transformer", "image_encoder", "redux", "controlnet"}
    assert {path.stem for path in folder.glob("*.json")} == roles
    assert (folder / "lora.safetensors").exists()
    networks = load_flux(str(folder), config, profile="full")
    assert set(networks) == roles and networks.lora is not None
    assert networks["vae"].config.scaling_factor != 1.0  # the latents' own spread


def test_the_tile_condition_is_paired_with_its_own_object(tmp_path: Path) -> None:
    write_bundles(tmp_path / "bundles")
    write_bundles(tmp_path / "worse", worse=True)
    write_config(tmp_path / "tiny.json")
    train(request(tmp_path, "vae"))
    train(request(tmp_path, "base"))
    stage = ControlNet(request(tmp_path, "controlnet", degraded=tmp_path / "worse"))
    data, generator = stage.train_set, torch.Generator().manual_seed(0)
    rows, seen = data.draw_worse(40, generator)
    assert {data.variants[row].item for row in rows.tolist()} == {2, 3}  # the objects that were made worse
    for row, latents in zip(rows[:6].tolist(), seen, strict=False):
        variant = data.variants[row]
        grey = train_data.picture_of(
            dataclasses.replace(variant, item=0), ball_bundle((128, 128, 128), 0.4 + variant.item / 20)[None]
        )
        expected = encode_pictures(stage.vae, torch.from_numpy(grey).permute(2, 0, 1)[None] / 255.0)
        assert torch.allclose(latents, expected[0], atol=0.02)
    wanted, given = data.draw_hues(40, generator)
    for row, latents in zip(wanted.tolist(), given, strict=True):
        own = data.variants[row]
        others = [index for index, v in enumerate(data.variants) if v.item == own.item and v.mirrored == own.mirrored]
        assert any(torch.equal(latents, data.latents[index].float()) for index in others if index != row)
        assert colors.names_a_color(own.captions[-1])
    drawn = stage.drawn(data, 20, generator)
    assert len({len(part) for part in drawn}) == 1 and drawn[0].shape == drawn[3].shape
    assert not torch.equal(drawn[0][:9], drawn[3][:9])


def test_without_degraded_bundles_the_tile_condition_still_trains(tmp_path: Path) -> None:
    write_bundles(tmp_path / "bundles")
    write_config(tmp_path / "tiny.json")
    for stage in ("vae", "base", "controlnet"):
        result = train(request(tmp_path, stage, degraded=tmp_path / "nowhere"))
    assert np.isfinite(result["loss"])


def test_a_stage_without_the_one_before_says_which_is_missing(tmp_path: Path) -> None:
    write_bundles(tmp_path / "bundles")
    write_config(tmp_path / "tiny.json")
    with pytest.raises((MaquetteError, FileNotFoundError), match="vae"):
        train(request(tmp_path, "base"))
    with pytest.raises(MaquetteError, match="no stage"):
        train(request(tmp_path, "everything"))


def test_a_mirrored_bundle_is_that_of_the_mirrored_object() -> None:
    picture = ball_bundle(RED, 0.8)[..., :3]
    picture[4:8, TILE : TILE + 4] = (0, 255, 0)  # a mark on the second tile, which shows the object's left side
    mirrored = train_data.mirror(picture)
    assert (mirrored[4:8, 4 * TILE - 4 :] == (0, 255, 0)).all()  # now on the fourth, flipped
    ball = ball_bundle(RED, 0.8)[..., :3]
    assert np.abs(train_data.mirror(ball).astype(int) - ball).max() <= 1  # a ball is its own mirror image, normals too
    assert (train_data.mirror(mirrored)[:TILE] == picture[:TILE]).all()


def test_captions_name_the_colour_that_is_there() -> None:
    bundle = ball_bundle(RED, 0.8)
    assert train_data.captions_of("a ball", bundle, changed=False) == ("a ball", "a red ball")
    assert train_data.captions_of("a blue ball", bundle, changed=True) == ()
    turned = np.concatenate([train_data.recolor(bundle[..., :3], 120.0), bundle[..., 3:]], -1)
    assert train_data.captions_of("a ball", turned, changed=True) == ("a green ball",)
    assert (turned[TILE:] == bundle[TILE:]).all()  # normals keep their colours


def test_the_autoencoder_starts_as_principal_components() -> None:
    tiles = torch.from_numpy(np.stack([ball_bundle(RED, r)[:TILE, :TILE, :3] for r in (0.4, 0.6, 0.8)]))
    pictures = tiles.permute(0, 3, 1, 2).float() / 127.5 - 1
    errors = []
    for channels in (2, 8, 48):
        network = PatchAutoencoder(latent_channels=channels, width=8, blocks=1)
        network.start_linear(pictures)
        with torch.no_grad():
            again = network.decode(network.encode(pictures).latent_dist.mode()).sample
        errors.append(float((again - pictures).square().mean()))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-6  # 48 patches hold at most 48 dimensions

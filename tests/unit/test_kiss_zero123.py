"""Zero123++ with small numbers: seeds, what the photo changes, cancelling; its published layout and sizes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from backend.contract.errors import Cancelled, MaquetteError
from backend.systems.base import Hooks
from backend.systems.kiss3dgen.zero123 import (
    ReferenceMemory,
    decode,
    generate_views,
    make_scheduler,
    prepare,
    split_views,
    text_tokens,
)
from backend.systems.kiss3dgen.zero123_networks import (
    ROLES,
    ImagePreparation,
    Zero123Networks,
    build,
    load_folder,
    load_published,
    random_networks,
    read_config,
    read_settings,
)

torch.set_num_threads(1)
SMALL = {
    "unet": {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": [16, 32], "layers_per_block": 1,
        "attention_head_dim": [2, 4], "cross_attention_dim": 24, "norm_num_groups": 8, "use_linear_projection": True,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    },
    "vae": {
        "in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": [8, 16], "norm_num_groups": 4,
        "layers_per_block": 1, "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    },
    "text_encoder": {
        "vocab_size": 40, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 7, "eos_token_id": 39, "bos_token_id": 38,
    },
    "vision_encoder": {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
        "patch_size": 8, "projection_dim": 24,
    },
    "scheduler": {
        "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear",
        "prediction_type": "v_prediction",
    },
    "vae_image": {"size": 16, "mean": [0.5] * 3, "std": [0.8] * 3},
    "clip_image": {"size": 16, "mean": [0.5] * 3, "std": [0.25] * 3},
    "size": 32,
}  # fmt: skip
PUBLISHED_PARAMETERS = {
    "unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840, "vision_encoder": 632_076_800,
}  # fmt: skip


@pytest.fixture(scope="module")
def networks() -> Zero123Networks:
    return random_networks(SMALL, 0)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)


def test_a_seed_and_a_photo_decide_the_views(networks: Zero123Networks, photo: np.ndarray) -> None:
    views = generate_views(networks, photo, seed=1, steps=3)
    assert views.shape == (4, 16, 16, 3) and views.dtype == np.float32
    assert views.min() >= 0 and views.max() <= 1 and views.std() > 0.01
    assert np.array_equal(views, generate_views(networks, photo, seed=1, steps=3))
    for other in (
        generate_views(networks, photo, seed=2, steps=3),
        generate_views(networks, 255 - photo, seed=1, steps=3),
        generate_views(networks, photo, seed=1, steps=3, guidance=1.0),
    ):
        assert np.abs(views - other).mean() > 1e-4


def test_the_photo_comes_in_by_its_latent_and_by_its_embedding(networks: Zero123Networks, photo: np.ndarray) -> None:
    empty, told = text_tokens(networks, photo)
    change = told - empty
    assert empty.shape == (7, 24) and not change[0].any()
    assert torch.allclose(change[-1] * 0.5, change[3], atol=1e-5)  # the ramp rises evenly here
    memory = ReferenceMemory(networks.unet)
    latents, time = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(500)
    answers = []
    for seed in (1, 2):
        reference = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(seed))
        memory.writing = True
        networks.unet(reference, time, empty[None])
        layers = [name for name in networks.unet.attn_processors if "attn1" in name]
        assert sorted(memory.written) == sorted(layers) and len(layers) == 4
        assert memory.written[layers[0]].shape == (1, 36, 16)
        memory.writing = False
        answers.append(networks.unet(latents, time, empty[None]).sample)
        assert not memory.written
    assert float((answers[0] - answers[1]).abs().max()) > 1e-6


def test_steps_are_told_and_can_be_cancelled(networks: Zero123Networks, photo: np.ndarray) -> None:
    class Watching(Hooks):
        def __init__(self, last: int) -> None:
            super().__init__()
            self.last, self.seen = last, [0]

        def on_step(self, stage: str, index: int, count: int) -> None:
            self.seen.append(index)

        def cancelled(self) -> bool:
            return self.seen[-1] >= self.last

    patient = Watching(99)
    generate_views(networks, photo, steps=4, hooks=patient)
    assert patient.seen == [0, 1, 2, 3, 4]
    hasty = Watching(2)
    with pytest.raises(Cancelled):
        generate_views(networks, photo, steps=4, hooks=hasty)
    assert hasty.seen == [0, 1, 2]


def test_the_schedule_ends_at_the_first_noise_level() -> None:
    scheduler = make_scheduler(read_config()["scheduler"])
    scheduler.set_timesteps(50)
    assert scheduler.timesteps.tolist() == list(range(999, 0, -20))
    betas = torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64)
    alpha = (1 - betas).cumprod(0)[999]
    assert float(scheduler.sigmas[0]) == pytest.approx(float(((1 - alpha) / alpha).sqrt()), rel=1e-4)
    assert scheduler.config.prediction_type == "v_prediction"


def test_pictures_and_latents_are_scaled_as_published(networks: Zero123Networks) -> None:
    grey = prepare(np.full((10, 10, 3), 255, np.uint8), ImagePreparation(4, (0.5,) * 3, (0.8,) * 3))
    assert grey.shape == (1, 3, 4, 4) and float(grey[0, 0, 0, 0]) == pytest.approx(0.625)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = networks.vae.decode((latents / 0.75 + 0.22) / networks.vae.config.scaling_factor).sample
    wanted = (plain[0] * 1.6 / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy()
    assert np.allclose(decode(networks, latents), wanted, atol=1e-5)
    numbered = np.arange(4).reshape(2, 2, 1).repeat(3, 2).repeat(5, 0).repeat(5, 1).astype(np.float32)
    assert split_views(numbered).mean((1, 2, 3)).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="square"):
        generate_views(networks, np.zeros((4, 5, 3), np.uint8))


def lay_out(networks: Zero123Networks, folder: Path) -> Path:
    """The networks in the published layout, with an older autoencoder's names; the UNet as a pickle beside."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for role in ROLES:
        (folder / role).mkdir(parents=True)
        (folder / role / "config.json").write_text(json.dumps({"_class_name": "any", **SMALL[role]}))
        tensors = dict(getattr(networks, role).state_dict())
        if role == "vae":
            for name in [name for name in tensors if "mid_block.attentions" in name]:
                parts = [new for new in old if f".{new}." in name]
                tensors[name.replace(parts[0], old[parts[0]]) if parts else name] = tensors.pop(name)
            assert any(name.endswith("proj_attn.weight") for name in tensors)
        if role == "text_encoder":
            tensors["text_model.embeddings.position_ids"] = torch.arange(7)[None]
        if role == "unet":
            torch.save(tensors, folder / "flexgen.ckpt")
        elif role == "vision_encoder":
            torch.save(tensors, folder / role / "pytorch_model.bin")
        else:
            name = "model" if role == "text_encoder" else "diffusion_pytorch_model"
            whole = {key: value.contiguous() for key, value in tensors.items()}
            save_file(whole, folder / role / f"{name}.safetensors")
    for role, extractor in (("vae_image", "feature_extractor_vae"), ("clip_image", "feature_extractor_clip")):
        (folder / extractor).mkdir()
        stated = SMALL[role]
        text = {"size": {"shortest_edge": stated["size"]}, "image_mean": stated["mean"], "image_std": stated["std"]}
        (folder / extractor / "preprocessor_config.json").write_text(json.dumps(text))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SMALL["scheduler"]))
    ramp = list(read_settings(SMALL).ramp)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "any", "ramping_coefficients": ramp}))
    return folder


def test_the_published_layout_is_read_strictly(networks: Zero123Networks, tmp_path: Path) -> None:
    folder = lay_out(networks, tmp_path / "zero123plus")
    loaded = load_folder(folder, folder / "flexgen.ckpt")
    for role in ROLES:
        wanted = getattr(networks, role).state_dict()
        found = getattr(loaded, role).state_dict()
        assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
        assert not any(part.is_meta for part in (*getattr(loaded, role).parameters(), *getattr(loaded, role).buffers()))
    assert loaded.settings.ramp == networks.settings.ramp and loaded.settings.size == 1024
    assert loaded.settings.vae_image == networks.settings.vae_image
    unet = torch.load(folder / "flexgen.ckpt", weights_only=True)
    unet["conv_in.weight"] = torch.zeros(16, 5, 3, 3)
    torch.save(unet, folder / "flexgen.ckpt")
    with pytest.raises(MaquetteError, match="conv_in.weight.*unet.*16, 5, 3, 3"):
        load_folder(folder, folder / "flexgen.ckpt")
    (folder / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(MaquetteError, match="scheduler_config.json"):
        load_folder(folder, folder / "flexgen.ckpt")


def test_what_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAQUETTE_MODELS", str(tmp_path))
    with pytest.raises(MaquetteError, match=r"Zero123\+\+.*not installed") as caught:
        load_published()
    assert caught.value.code == "model_missing" and caught.value.failure.next_step == "install_model"
    with pytest.raises(ValueError, match="no network"):
        build("controlnet", {})


def test_the_published_sizes(photo: np.ndarray) -> None:
    config = read_config()
    with torch.device("meta"):
        parts = {role: build(role, config[role]) for role in ROLES}
        assert {role: sum(p.numel() for p in part.parameters()) for role, part in parts.items()} == PUBLISHED_PARAMETERS
        memory = ReferenceMemory(parts["unet"])
        memory.writing = True
        parts["unet"](torch.zeros(2, 4, 40, 40), 500, torch.zeros(2, 77, 1024))
        assert len(memory.written) == 16
        memory.writing = False
        answer = parts["unet"](torch.zeros(2, 4, 128, 128), 500, torch.zeros(2, 77, 1024)).sample
        assert answer.shape == (2, 4, 128, 128) and not memory.written
        assert parts["vision_encoder"](torch.zeros(1, 3, 224, 224)).image_embeds.shape == (1, 1024)
    settings = read_settings(config)
    assert len(settings.ramp) == 77 and settings.size == 1024

"""The networks of Zero123++ v1.2 with the FlexGen UNet: by configuration, random, or from the published folders.

The published repository holds a configuration beside every network, and the picture sizes, the noise schedule and the
ramp beside those; `zero123_full.json` repeats the sizes for random weights and checks (spec sections 2 and 6.1). All
classes are diffusers' and transformers', which are imported when a network is built.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backend.catalog.catalog import find_model, is_installed, models_folder
from backend.contract.errors import MaquetteError
from backend.systems.kiss3dgen.lrm.generator import read_tensors
from backend.training.checkpoints import load_strict

logger = logging.getLogger(__name__)

FULL_CONFIG = Path(__file__).with_name("zero123_full.json")
ROLES = ("unet", "vae", "text_encoder", "vision_encoder")
MODEL = "zero123plus"
UNET_MODEL, UNET_FILE = "kiss3dgen_flexgen", "flexgen.ckpt"
FILES = {
    "vae": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    "text_encoder": ("model.safetensors", "pytorch_model.bin"),
    "vision_encoder": ("model.safetensors", "pytorch_model.bin"),
}
"""What a network's file may be called in the published layout; the UNet comes from elsewhere."""
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names that files of older autoencoders use."""


@dataclass(frozen=True)
class ImagePreparation:
    """A square picture is resized to `size` pixels; (value - mean) / std of values in [0,1]."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Zero123Settings:
    """What is no network.

    scheduler: arguments of the noise schedule. ramp: how much of the photo's embedding is added to each text token.
    vae_image, clip_image: how the photo is prepared. size: pixels of the 2 x 2 picture's side.
    """

    scheduler: Mapping[str, Any]
    ramp: tuple[float, ...]
    vae_image: ImagePreparation
    clip_image: ImagePreparation
    size: int


@dataclass(frozen=True)
class Zero123Networks:
    """The networks by role and their settings."""

    unet: Any
    vae: Any
    text_encoder: Any
    vision_encoder: Any
    settings: Zero123Settings

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> Zero123Networks:
        """All networks moved there."""
        for role in ROLES:
            getattr(self, role).to(device=device, dtype=dtype)
        return self


def read_config(path: Path = FULL_CONFIG) -> dict[str, Any]:
    """A configuration: arguments by role, and the settings. Errors: `MaquetteError` bad_input."""
    try:
        loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MaquetteError(
            "bad_input", f"The configuration {path.name} cannot be read; use the one that ships.", str(error)
        ) from error
    return loaded


def read_settings(config: Mapping[str, Any]) -> Zero123Settings:
    """The settings of a configuration; without a ramp it rises evenly from 0 to 1 over the text's tokens."""
    tokens = config["text_encoder"]["max_position_embeddings"]
    ramp = config.get("ramp") or [index / (tokens - 1) for index in range(tokens)]
    pictures = {
        name: ImagePreparation(config[name]["size"], tuple(config[name]["mean"]), tuple(config[name]["std"]))
        for name in ("vae_image", "clip_image")
    }
    return Zero123Settings(dict(config["scheduler"]), tuple(ramp), size=config["size"], **pictures)


def build(role: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The network of a role as its class starts it. Errors: ValueError for an unknown role."""
    import diffusers
    import transformers

    if role == "unet":
        network: nn.Module = diffusers.UNet2DConditionModel.from_config(dict(arguments))
    elif role == "vae":
        network = diffusers.AutoencoderKL.from_config(dict(arguments))
    elif role == "text_encoder":
        network = transformers.CLIPTextModel(transformers.CLIPTextConfig(**arguments))
    elif role == "vision_encoder":
        network = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**arguments))
    else:
        raise ValueError(f"Zero123++ has no network {role!r}; it has {', '.join(ROLES)}.")
    return network


def random_networks(config: Mapping[str, Any], seed: int = 0) -> Zero123Networks:
    """Seeded random networks of a configuration, ready to run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = {role: build(role, config[role]).eval().requires_grad_(False) for role in ROLES}
    return Zero123Networks(settings=read_settings(config), **networks)


def load_published() -> Zero123Networks:
    """The networks that the catalogue installed, in float32 on the CPU.

    Errors: `MaquetteError` model_missing when one is not installed, or a tensor does not fit.
    """
    for name in (MODEL, UNET_MODEL):
        entry = find_model(name)
        if not is_installed(models_folder(), entry):
            raise MaquetteError(
                "model_missing", f"{entry.title} ({entry.licence}) is not installed; install it under Models.",
                str(models_folder() / name), "install_model",
            )  # fmt: skip
    return load_folder(models_folder() / MODEL, models_folder() / UNET_MODEL / UNET_FILE)


def load_folder(folder: Path, unet_file: Path) -> Zero123Networks:
    """The networks of a folder in the published layout, with the UNet's weights from `unet_file`.

    Errors: `MaquetteError` model_missing naming the file or the tensor.
    """
    config = published_config(folder)
    files = {"unet": unet_file}
    for role, names in FILES.items():
        files[role] = next((folder / role / name for name in names if (folder / role / name).is_file()), folder / role)
    networks = {role: _load(role, config[role], files[role]) for role in ROLES}
    logger.info("Zero123++ read from %s, its UNet from %s", folder, unet_file.name)
    return Zero123Networks(settings=read_settings(config), **networks)


def published_config(folder: Path) -> dict[str, Any]:
    """A configuration from the files of a folder in the published layout. Errors: `MaquetteError` model_missing."""
    config = {role: _read_json(folder / role / "config.json") for role in ROLES}
    for role, extractor in (("vae_image", "feature_extractor_vae"), ("clip_image", "feature_extractor_clip")):
        stated = _read_json(folder / extractor / "preprocessor_config.json")
        size = stated["size"]
        config[role] = {
            "size": size["shortest_edge"] if isinstance(size, dict) else size,
            "mean": stated["image_mean"],
            "std": stated["image_std"],
        }
    config["scheduler"] = _read_json(folder / "scheduler" / "scheduler_config.json")
    config["ramp"] = _read_json(folder / "model_index.json")["ramping_coefficients"]
    config["size"] = read_config()["size"]
    return config


def current_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under today's names: older autoencoders name their attention otherwise, older CLIPs store positions."""
    renamed = {}
    for name, tensor in tensors.items():
        if name.endswith(".position_ids"):
            continue
        old = re.fullmatch(r"(.*mid_block\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)", name)
        if old:
            name = f"{old[1]}.{OLD_ATTENTION[old[2]]}.{old[3]}"
            tensor = tensor.flatten(1) if old[3] == "weight" else tensor
        renamed[name] = tensor
    return renamed


def _load(role: str, arguments: Mapping[str, Any], file: Path) -> nn.Module:
    from accelerate import init_empty_weights

    tensors = {name: value.float() for name, value in current_names(read_tensors(file, f"Zero123++'s {role}")).items()}
    with init_empty_weights(include_buffers=False):
        network = build(role, arguments)
    load_strict(network, tensors, f"Zero123++'s {role}", assign=True)
    return network.eval().requires_grad_(False)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MaquetteError(
            "model_missing", f"The file {path.parent.name}/{path.name} of Zero123++ is missing; install it again.",
            str(error), "install_model",
        ) from error  # fmt: skip
    return {name: value for name, value in loaded.items() if not name.startswith("_")}

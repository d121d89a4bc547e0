"""Which networks Stage I has, with which numbers: JSON in, classes of diffusers and transformers out (spec section 2).

One implementation serves the published sizes (`configs/full.json`) and ours (`configs/mini.json`); a folder of weights
has one `ROLE.json` ({"name": class, "args": {...}}) a network, written by `training.checkpoints.save_model`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backend.contract.errors import MaquetteError
from backend.systems.configuration import read_configuration

CONFIG_FOLDER = Path(__file__).with_name("configs")
ROLES = ("transformer", "vae", "controlnet", "image_encoder", "redux", "clip", "t5")
"""Every network of Stage I; MiniLM is no role, it comes whole from its package (`text.py`)."""
NEEDED = ("transformer", "vae")
"""Without one of these nothing can be made."""
DIFFUSERS = ("FluxTransformer2DModel", "FluxControlNetModel", "AutoencoderKL")
REDUX = "ReduxImageEncoder"
OWN_AUTOENCODER = "PatchAutoencoder"
TRANSFORMERS = {
    "SiglipVisionModel": "SiglipVisionConfig",
    "CLIPTextModel": "CLIPTextConfig",
    "T5EncoderModel": "T5Config",
}
PACK = 2
"""Latents are packed PACK x PACK into one token (spec section 6)."""


@dataclass(frozen=True)
class FluxSettings:
    """Everything of Stage I that is not a network.

    tile: side of one of the eight tiles in pixels. text: "clip_t5" or "minilm", with `text_tokens` at most.
    image_size: what the Redux encoder looks at; image_mean, image_std: its normalisation.
    shift: of the Heun schedule. guidance: the distilled one, None where the transformer has no guidance embedder.
    guidance_scale: classifier-free guidance, 1 for none. control_mode: the union ControlNet's index of "tile".
    """

    tile: int
    text: str
    text_tokens: int
    image_size: int
    steps: int
    shift: float = 3.0
    guidance: float | None = None
    guidance_scale: float = 1.0
    control_mode: int = 1
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the bundle in pixels."""
        return 2 * self.tile, 4 * self.tile


def read_config(config: str) -> dict[str, Any]:
    """The configuration `mini` or `full`, or a JSON file. Errors: `MaquetteError` bad_input."""
    return read_configuration(CONFIG_FOLDER, config, "Kiss3DGen")


def read_settings(config: Mapping[str, Any]) -> FluxSettings:
    """The part "settings" of a configuration. Errors: `MaquetteError` bad_input naming what does not fit."""
    values = dict(config["settings"])
    for name in ("image_mean", "image_std"):
        if name in values:
            values[name] = tuple(values[name])
    try:
        return FluxSettings(**values)
    except TypeError as error:
        raise MaquetteError(
            "bad_input", "The settings of this configuration do not fit this version; use mini or full.", str(error)
        ) from error


def build(entry: Mapping[str, Any]) -> nn.Module:
    """The network that {"name", "args"} describes, as its class starts it; in training mode.

    Errors: `MaquetteError` model_missing for a class or arguments that we do not have.
    """
    name, arguments = entry["name"], dict(entry["args"])
    try:
        if name in DIFFUSERS:
            import diffusers

            network = getattr(diffusers, name)(**arguments)
        elif name == REDUX:
            from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder

            network = ReduxImageEncoder(**arguments)
        elif name == OWN_AUTOENCODER:
            from backend.systems.kiss3dgen.flux.patch_autoencoder import PatchAutoencoder

            network = PatchAutoencoder(**arguments)
        elif name in TRANSFORMERS:
            import transformers

            config = getattr(transformers, TRANSFORMERS[name])(**arguments)
            network = getattr(transformers, name)(config)
        else:
            raise TypeError(f"unknown class {name}")
    except (TypeError, ValueError, AssertionError) as error:
        raise MaquetteError(
            "model_missing",
            f"The configuration of {name} does not fit this version; choose other weights.",
            detail=str(error),
            next_step="install_model",
        ) from error
    module: nn.Module = network
    return module


def build_empty(entry: Mapping[str, Any]) -> nn.Module:
    """The same network with parameters on the device "meta": no memory, no time; its buffers are real."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        network = build(entry)
    return network.eval().requires_grad_(False)


def count_parameters(entry: Mapping[str, Any]) -> int:
    """Numbers in the network, without making it."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(entry).parameters())

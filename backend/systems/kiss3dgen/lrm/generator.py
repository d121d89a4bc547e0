"""The large reconstruction model: its parts by configuration, and strict loading of the published checkpoint.

The published file is a training checkpoint; its entry `state_dict` holds the generator below `lrm_generator.` (spec
section 2). A safetensors file of the same names, with or without that prefix, is read too.
"""

from __future__ import annotations

import logging
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from backend.contract.errors import MaquetteError
from backend.systems.kiss3dgen.lrm.field import TriplaneField
from backend.systems.kiss3dgen.lrm.image_encoder import CameraImageEncoder
from backend.systems.kiss3dgen.lrm.triplane import TriplaneTransformer
from backend.training.checkpoints import load_strict

logger = logging.getLogger(__name__)

PREFIX = "lrm_generator."
WHAT = "the reconstruction model"


@dataclass(frozen=True)
class LrmConfig:
    """Sizes; the defaults are the published ones.

    image_size: pixels of a view's side. trained_size: of the encoder's position table. grid: cubes of FlexiCubes' grid
    a side; extent: its length in the LRM's frame.
    """

    image_size: int = 512
    encoder_channels: int = 768
    encoder_layers: int = 12
    encoder_heads: int = 12
    encoder_hidden: int = 3072
    patch_size: int = 16
    trained_size: int = 224
    channels: int = 1024
    layers: int = 16
    heads: int = 16
    low_resolution: int = 32
    plane_channels: int = 80
    decoder_hidden: int = 64
    decoder_layers: int = 4
    grid: int = 128
    extent: float = 2.1


class LrmGenerator(nn.Module):
    """Views [V,3,S,S] in [0,1] and cameras [V,16] of one object to planes [1,3,C,H,W]; `synthesizer` reads those."""

    def __init__(self, config: LrmConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = CameraImageEncoder(
            config.encoder_channels, config.encoder_heads, config.encoder_layers, config.encoder_hidden,
            config.patch_size, config.trained_size,
        )  # fmt: skip
        self.transformer = TriplaneTransformer(
            config.channels, config.layers, config.heads, config.encoder_channels, config.low_resolution,
            config.plane_channels,
        )  # fmt: skip
        self.synthesizer = TriplaneField(config.plane_channels, config.decoder_hidden, config.decoder_layers)

    def forward(self, views: Tensor, cameras: Tensor) -> Tensor:
        tokens = self.encoder(views, cameras)
        return self.transformer(tokens.flatten(0, 1)[None])


def random_generator(config: LrmConfig, seed: int = 0) -> LrmGenerator:
    """A generator with seeded random weights, ready to run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LrmGenerator(config).eval().requires_grad_(False)


def load_generator(file: Path, config: LrmConfig | None = None) -> LrmGenerator:
    """The generator with the weights in `file`, on the CPU in float32.

    Errors: `MaquetteError` model_missing when the file is not there, cannot be read safely, or a tensor is missing,
    unknown or misshapen.
    """
    tensors = {name: tensor.float() for name, tensor in read_checkpoint(file).items()}
    with torch.device("meta"):
        generator = LrmGenerator(config or LrmConfig())
    load_strict(generator, tensors, WHAT, assign=True)
    logger.info("%s read from %s: %d tensors", WHAT, file.name, len(tensors))
    return generator.eval().requires_grad_(False)


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """The generator's tensors by their own names. Errors: `MaquetteError` model_missing."""
    stored = read_tensors(file, WHAT)
    ours = {name.removeprefix(PREFIX): value for name, value in stored.items() if name.startswith(PREFIX)}
    return ours or stored


def read_tensors(file: Path, what: str) -> dict[str, Tensor]:
    """All tensors of a safetensors file or of a pickle: plain, or a checkpoint's `state_dict`. No code in it is run.

    Errors: `MaquetteError` model_missing when the file is not there or is not of that kind.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        loaded: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        loaded = loaded.get("state_dict", loaded)
        return {name: value for name, value in loaded.items() if isinstance(value, Tensor)}
    except (OSError, RuntimeError, ValueError, AttributeError, SafetensorError, pickle.UnpicklingError) as error:
        raise MaquetteError(
            "model_missing", f"The file {file.name} of {what} cannot be read; install it again.", repr(error),
            "install_model",
        ) from error  # fmt: skip

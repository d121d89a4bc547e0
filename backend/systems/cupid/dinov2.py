"""The published image encoder: DINOv2 ViT-L/14 with registers (CUPID spec section 5), run by `transformers`.

`transformers` is imported when a `DinoV2` is made, never before: mini's own encoder does without it. The parameter
names are those of the published `model.safetensors` (repository facebook/dinov2-with-registers-large). The file of the
authors' own repository (`dinov2_vitl14_reg4_pretrain.pth`) holds the same numbers under other names; `published_names`
maps them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.contract.errors import MaquetteError
from backend.nn.imagenet import IMAGENET_MEAN, IMAGENET_STD
from backend.nn.norms import FINAL_EPS
from backend.training.checkpoints import load_strict, load_tensors

logger = logging.getLogger(__name__)

IMAGE_SIZE = 518  # pixels of the trained position embedding: 37 x 37 patches of 14
PATCH_SIZE = 14
REGISTERS = 4
ARCHITECTURES = {  # channels, blocks, heads
    "dinov2_vits14_reg": (384, 12, 6),
    "dinov2_vitb14_reg": (768, 12, 12),
    "dinov2_vitl14_reg": (1024, 24, 16),
}
ENTRY = {"name": "DinoV2", "args": {"architecture": "dinov2_vitl14_reg"}}
FOLDER_NAME = "dinov2_vitl14_reg"  # its name in the catalogue, beside the models that need it
FILE_STEM = "model"
AUTHORS_FILE = "dinov2_vitl14_reg4_pretrain.pth"

_AUTHORS_NAMES = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "register_tokens": "embeddings.register_tokens",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_AUTHORS_BLOCK = re.compile(r"blocks\.(?:\d+\.)?(\d+)\.(.+)")  # the largest files number chunks before blocks
_AUTHORS_PARTS = {
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}


class DinoV2(nn.Module):
    """Premultiplied picture [B,3,S,S] in [0,1] to tokens [B, 5 + (S/14)^2, channels]: class, 4 registers, patches.

    The tokens are taken before the network's final norm, then layer-normalised without affine (eps 1e-5). The picture's
    ImageNet normalisation happens here. Raises ValueError for an architecture that is not in `ARCHITECTURES`.
    """

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, architecture: str = "dinov2_vitl14_reg", channels: int | None = None) -> None:
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise ValueError(f"The image encoder {architecture!r} is unknown; use one of {', '.join(ARCHITECTURES)}.")
        width, blocks, heads = ARCHITECTURES[architecture]
        if channels not in (None, width):
            raise ValueError(f"{architecture} has {width} channels, not {channels}.")
        from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

        network = Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(
                hidden_size=width, num_hidden_layers=blocks, num_attention_heads=heads, image_size=IMAGE_SIZE,
                patch_size=PATCH_SIZE, num_register_tokens=REGISTERS,
            )  # fmt: skip
        )
        # Its parts, not the network, so that the names are those in the file. The final norm is in the file too, and
        # loaded, though the tokens are taken before it.
        self.embeddings, self.encoder, self.layernorm = network.embeddings, network.encoder, network.layernorm
        self.channels, self.in_channels = width, 3
        self.image_size, self.patches = IMAGE_SIZE, IMAGE_SIZE // PATCH_SIZE
        self.register_buffer("image_mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        pixels = (image - self.image_mean.to(image.dtype)) / self.image_std.to(image.dtype)
        tokens = self.encoder(self.embeddings(pixels)).last_hidden_state
        return F.layer_norm(tokens.float(), tokens.shape[-1:], eps=FINAL_EPS)


def weight_place(folder: Path) -> Path | None:
    """The file of DINOv2's weights in `folder`, or None."""
    for name in (f"{FILE_STEM}.safetensors", AUTHORS_FILE):
        if (folder / name).is_file():
            return folder / name
    return None


def find_dinov2(weights: Path) -> Path | None:
    """The folder with DINOv2 for the published weights in `weights`: inside it, or beside it as the catalogue installs.
    """
    for folder in (weights / FOLDER_NAME, weights.parent / FOLDER_NAME, weights):
        if weight_place(folder) is not None:
            return folder
    return None


def load_dinov2(folder: Path, architecture: str = "dinov2_vitl14_reg") -> DinoV2:
    """The encoder with the weights in `folder`, read from the disk only, in float32.

    Errors: `MaquetteError` model_missing when there is no file or a tensor does not fit.
    """
    place = weight_place(folder)
    if place is None:
        raise MaquetteError(
            "model_missing", "The image encoder's weights are not there; install DINOv2.", f"looked in {folder}",
            "install_model",
        )  # fmt: skip
    tensors = load_tensors(folder / FILE_STEM) if place.suffix == ".safetensors" else _authors_tensors(place)
    with torch.device("meta"):
        network = DinoV2(architecture)
    network.register_buffer("image_mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
    network.register_buffer("image_std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
    load_strict(network, {name: value.float() for name, value in tensors.items()}, "DINOv2", assign=True)
    return network


def published_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the authors' file under the names of the published safetensors; one `qkv` becomes three tensors.

    Unknown names stay as they are, so that strict loading names them.
    """
    return dict(_renamed(tensors))


def _renamed(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors.items():
        block = _AUTHORS_BLOCK.fullmatch(name)
        if block is None:
            yield _AUTHORS_NAMES.get(name, name), tensor
            continue
        layer, rest = f"encoder.layer.{block[1]}", block[2]
        if rest.startswith("attn.qkv."):
            kind = rest.removeprefix("attn.qkv.")
            for part, value in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                yield f"{layer}.attention.attention.{part}.{kind}", value
            continue
        for old, new in _AUTHORS_PARTS.items():
            rest = rest.replace(old, new)
        yield f"{layer}.{rest}", tensor


def _authors_tensors(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise MaquetteError(
            "model_missing", f"{path.name} cannot be read; install DINOv2 again.", str(error), "install_model"
        ) from error
    return published_names(loaded)

"""RefAny3D's own weights: two LoRAs and the domain embedder, loaded strictly (spec section 1).

The published LoRA files hold two tensors for each of 343 layers, `transformer.LAYER.lora_A.weight` [rank, in] and
`.lora_B.weight` [out, rank], and their scale is 1. A file with a tensor too many, too few or of another shape is
refused by the tensor's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from backend.contract.errors import MaquetteError

RANK = 16
TAGS = 2
"""Domains: pictures and point maps."""
TAG_WIDTH = 256
ADAPTED = re.compile(
    r"x_embedder"
    r"|transformer_blocks\.\d+\.(norm1\.linear|attn\.to_[qkv]|attn\.to_out\.0|ff\.net\.2)"
    r"|single_transformer_blocks\.\d+\.(norm\.linear|proj_mlp|proj_out|attn\.to_[qkv])"
)
PREFIX = "transformer."


class LoraLayer(nn.Module):
    """What a layer gains: lora_B @ lora_A. lora_A [rank, in], lora_B [out, rank]."""

    def __init__(self, lora_a: Tensor, lora_b: Tensor) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(lora_a)
        self.lora_B = nn.Parameter(lora_b)


class LoraSet(nn.Module):
    """One LoRA: a pair of matrices for each adapted layer of the transformer."""

    def __init__(self, layers: Mapping[str, LoraLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({_escaped(name): layer for name, layer in layers.items()})

    @property
    def rank(self) -> int:
        """Rows of every lora_A."""
        return next(iter(self.parameters())).shape[0]

    def layer(self, name: str) -> Any:
        """The pair of the layer `name`, None where it is not adapted."""
        escaped = _escaped(name)
        return self.layers[escaped] if escaped in self.layers else None

    def published_tensors(self) -> dict[str, Tensor]:
        """Tensors under the names of the published files."""
        return {
            f"{PREFIX}{escaped.replace('/', '.')}.{side}.weight": getattr(layer, side).detach()
            for escaped, layer in self.layers.items()
            for side in ("lora_A", "lora_B")
        }


def _escaped(name: str) -> str:
    return name.replace(".", "/")  # a module's name has no dots


def adapted_layers(transformer: nn.Module) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of every layer of a Flux transformer that the LoRAs adapt, by name."""
    return {
        name: (module.in_features, module.out_features)
        for name, module in transformer.named_modules()
        if ADAPTED.fullmatch(name) and hasattr(module, "in_features")
    }


def new_lora(transformer: nn.Module, rank: int = RANK, generator: torch.Generator | None = None) -> LoraSet:
    """A LoRA at the start of its training: lora_A random with spread 1 / rank, lora_B zero."""
    layers = {}
    for name, (inputs, outputs) in adapted_layers(transformer).items():
        first = torch.randn(rank, inputs, generator=generator) / rank
        layers[name] = LoraLayer(first, torch.zeros(outputs, rank))
    return LoraSet(layers)


def lora_shapes(transformer: nn.Module, rank: int = RANK) -> dict[str, tuple[int, int]]:
    """Every tensor of a published file for this transformer, and its shape."""
    shapes = {}
    for name, (inputs, outputs) in adapted_layers(transformer).items():
        shapes[f"{PREFIX}{name}.lora_A.weight"] = (rank, inputs)
        shapes[f"{PREFIX}{name}.lora_B.weight"] = (outputs, rank)
    return shapes


def parse_lora(tensors: Mapping[str, Tensor], transformer: nn.Module, what: str) -> LoraSet:
    """The LoRA that a file's tensors are, for `transformer` (which may be on the device "meta").

    Errors: `MaquetteError` model_missing naming a tensor that is missing, misshapen or unknown.
    """
    first = next((tensor for key, tensor in tensors.items() if key.endswith(".lora_A.weight")), None)
    rank = RANK if first is None or first.ndim != 2 else first.shape[0]
    _check(tensors, lora_shapes(transformer, rank), what)
    return LoraSet(
        {
            name: LoraLayer(*(tensors[f"{PREFIX}{name}.{side}.weight"] for side in ("lora_A", "lora_B")))
            for name in adapted_layers(transformer)
        }
    )


def read_lora(path: Path, transformer: nn.Module) -> LoraSet:
    """The LoRA in the safetensors file `path`. Errors: as `parse_lora`, and for a file that is missing or damaged."""
    return parse_lora(_read(path), transformer, path.name)


def save_lora(path: Path, lora: LoraSet) -> None:
    """Write `lora` as the published files are written."""
    save_file({name: tensor.contiguous().cpu() for name, tensor in lora.published_tensors().items()}, path)


def new_domain_embedder(width: int) -> nn.Sequential:
    """The domain embedder for a transformer of inner size `width` at the start of training: it answers zero."""
    last = nn.Linear(width, width)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Embedding(TAGS, TAG_WIDTH), nn.Linear(TAG_WIDTH, width), nn.SiLU(), last)


def parse_domain_embedder(tensors: Mapping[str, Tensor], width: int, what: str) -> nn.Sequential:
    """The embedder that a file's five tensors are. Errors: as `parse_lora`."""
    with torch.device("meta"):
        embedder = new_domain_embedder(width)
    shapes = {name: tuple(tensor.shape) for name, tensor in embedder.state_dict().items()}
    _check(tensors, shapes, what)
    embedder.load_state_dict(dict(tensors), assign=True)
    return embedder


def read_domain_embedder(path: Path, width: int) -> nn.Sequential:
    """The embedder in `path`: safetensors, or the published torch file, of which only tensors are read."""
    return parse_domain_embedder(_read(path), width, path.name)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise _refused(f"The weights {path.name} are not there; install RefAny3D's weights.", str(path))
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors and unpickling have exceptions of their own, below Exception only
        raise _refused(f"The weights file {path.name} is damaged; install it again.", str(error)) from error
    if not isinstance(loaded, dict) or not all(isinstance(tensor, Tensor) for tensor in loaded.values()):
        raise _refused(f"The weights file {path.name} is not a list of tensors; install it again.")
    return loaded


def _check(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], what: str) -> None:
    for name, shape in shapes.items():
        if name not in tensors:
            raise _refused(f"The weights {what} lack the tensor {name}; install them again.")
        if tuple(tensors[name].shape) != shape:
            found = list(tensors[name].shape)
            raise _refused(f"The tensor {name} of {what} has shape {found}, not {list(shape)}; use the right file.")
    unknown = sorted(set(tensors) - set(shapes))
    if unknown:
        raise _refused(f"The weights {what} hold an unknown tensor {unknown[0]}; use the right file.")


def _refused(sentence: str, detail: str = "") -> MaquetteError:
    return MaquetteError("model_missing", sentence, detail, "install_model")

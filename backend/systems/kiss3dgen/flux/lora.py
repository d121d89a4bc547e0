"""LoRA files of all three layouts that Flux trainers write, as one thing: additions to the transformer's layers.

| layout | key | scale |
|---|---|---|
| PEFT, diffusers | `transformer.MODULE.lora_A.weight`, `.lora_B.weight` | `.alpha` or metadata over rank, else 1 |
| kohya | `lora_unet_NAME.lora_down.weight`, `.lora_up.weight`, `.alpha` | alpha over rank, else 1 |
| XLabs | `double_blocks.0.processor.qkv_lora1.down.weight`, `.up.weight` | 1 |

Kohya and XLabs name the layers of the original release, of which one may be several of diffusers (`names.py`). Every
key must belong to a layer of the right size (spec section 2); the rank is read from the tensors. A LoRA is fused while
the transformer is read (`WithLora`), which suits every memory profile, or attached and taken off again through PEFT.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from backend.contract.errors import MaquetteError
from backend.systems.kiss3dgen.flux import names
from backend.systems.kiss3dgen.flux.config import build_empty
from backend.systems.kiss3dgen.flux.tensors import Shape, TensorSource

PEFT_KEY = re.compile(
    r"(?:transformer\.|diffusion_model\.|base_model\.model\.)?(?P<layer>.+?)\.(?:lora_(?P<side>[AB])(?:\.\w+)?\.weight|alpha)"
)
KOHYA_KEY = re.compile(r"lora_(?:unet|transformer)_(?P<layer>\w+)\.(?:lora_(?P<side>down|up)\.weight|alpha)")
XLABS_KEY = re.compile(
    r"(?P<block>(?:double|single)_blocks\.\d+)\.processor\.(?P<which>\w+_lora\d?)\.(?P<side>down|up)\.weight"
)
XLABS_LAYERS = {
    "qkv_lora1": "img_attn.qkv",
    "qkv_lora2": "txt_attn.qkv",
    "proj_lora1": "img_attn.proj",
    "proj_lora2": "txt_attn.proj",
    "qkv_lora": "qkv",
    "proj_lora": "linear2",
}
SIDES = {"A": "down", "B": "up", "down": "down", "up": "up", None: "alpha"}
METADATA = "lora_adapter_metadata"
ADAPTER = "bundle"


@dataclass(frozen=True, eq=False)
class LoraLayer:
    """What one layer gains: scale * up @ down. down [rank, in], up [out, rank]."""

    down: Tensor
    up: Tensor
    scale: float


@dataclass(frozen=True, eq=False)
class Lora:
    """Additions by the name of the transformer's layer (diffusers). ranks: those in the file, smallest first."""

    name: str
    layout: str
    layers: Mapping[str, tuple[LoraLayer, ...]]
    ranks: tuple[int, ...]

    def delta(self, layer: str, device: torch.device) -> Tensor:
        """What `layer`'s weight gains [out, in], float32."""
        return torch.stack(
            [part.scale * part.up.to(device).float() @ part.down.to(device).float() for part in self.layers[layer]]
        ).sum(0)

    def joined(self, layer: str) -> tuple[Tensor, Tensor]:
        """All of `layer`'s additions as one pair down [R, in], up [out, R], the scales in `up`."""
        parts = self.layers[layer]
        return (
            torch.cat([part.down.float() for part in parts]),
            torch.cat([part.scale * part.up.float() for part in parts], 1),
        )


class WithLora:
    """A transformer's tensors with a LoRA fused: what `scale` says of it is added as each weight is read."""

    def __init__(self, source: TensorSource, lora: Lora, scale: float = 1.0) -> None:
        self.source, self.lora, self.scale = source, lora, scale

    def shapes(self) -> Mapping[str, Shape]:
        """As without the LoRA."""
        return self.source.shapes()

    def read(self, name: str, device: torch.device) -> Tensor:
        """One tensor; in float32 where the LoRA adds to it."""
        tensor = self.source.read(name, device)
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and layer in self.lora.layers:
            tensor = tensor.float() + self.scale * self.lora.delta(layer, device)
        return tensor


def read_lora(path: Path, transformer: Mapping[str, Any]) -> Lora:
    """The LoRA in the file `path` for the transformer that {"name", "args"} describes.

    Errors: `MaquetteError` model_missing when there is no such file; bad_input naming a key that belongs to no layer,
    does not fit its layer, or lacks its other half.
    """
    tensors, metadata = _read_file(path)
    return parse_lora(tensors, build_empty(transformer), path.stem, metadata)


def parse_lora(
    tensors: Mapping[str, Tensor], network: nn.Module, name: str = "lora", metadata: Mapping[str, str] | None = None
) -> Lora:
    """The same from a file's tensors and metadata, for `network`. Errors: `MaquetteError` bad_input."""
    linears = {path: module for path, module in network.named_modules() if isinstance(module, nn.Linear)}
    layout, pattern, targets = _layout(tensors, linears)
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = pattern.fullmatch(key)
        words = match.groupdict() if match else {}
        layer = words.get("layer") or f"{words.get('block')}.{XLABS_LAYERS.get(words.get('which') or '')}"
        if match is None or layer not in targets:
            raise _refused(name, f"its key {key} belongs to no layer")
        found.setdefault(layer, {})[SIDES[words.get("side")]] = tensor
    layers: dict[str, list[LoraLayer]] = {}
    ranks = set()
    alphas = _alphas(metadata or {})
    for layer, parts in found.items():
        if not {"down", "up"} <= set(parts):
            raise _refused(name, f"of its layer {layer} a half is missing")
        down, up = parts["down"], parts["up"]
        modules = targets[layer]
        rows = [linears[module].out_features for module in modules]
        fits = down.ndim == up.ndim == 2 and down.shape[0] == up.shape[1]
        if not fits or down.shape[1] != linears[modules[0]].in_features or up.shape[0] != sum(rows):
            raise _refused(name, f"its layer {layer} has shapes {list(down.shape)} and {list(up.shape)}")
        rank = down.shape[0]
        ranks.add(rank)
        alpha = float(parts["alpha"]) if "alpha" in parts else alphas(layer, rank)
        for module, part in zip(modules, up.split(rows), strict=True):
            if module == names.HALVES_SWAPPED and layout != "peft" and layer not in linears:
                part = torch.cat(part.chunk(2)[::-1])
            layers.setdefault(module, []).append(LoraLayer(down, part, alpha / rank))
    if not layers:
        raise _refused(name, "it is empty")
    return Lora(name, layout, {module: tuple(additions) for module, additions in layers.items()}, tuple(sorted(ranks)))


def attach_lora(network: Any, lora: Lora, scale: float = 1.0) -> None:
    """Put `lora` beside the layers of a transformer of diffusers through PEFT; its own weights stay as they are."""
    from peft import LoraConfig

    pairs = {layer: lora.joined(layer) for layer in lora.layers}
    ranks = {f"^{re.escape(layer)}": down.shape[0] for layer, (down, _) in pairs.items()}
    targets = "|".join(re.escape(layer) for layer in pairs)
    config = LoraConfig(r=1, lora_alpha=1, rank_pattern=ranks, alpha_pattern=ranks, target_modules=f"({targets})")
    network.add_adapter(config, adapter_name=ADAPTER)
    for layer, (down, up) in pairs.items():
        module = network.get_submodule(layer)
        first = module.base_layer.weight
        for side, value in (("lora_A", down), ("lora_B", scale * up)):
            getattr(module, side)[ADAPTER].weight = nn.Parameter(
                value.to(first.device, first.dtype), requires_grad=False
            )


def detach_lora(network: Any) -> None:
    """Take off what `attach_lora` put on."""
    network.unload_lora()


def _layout(
    tensors: Mapping[str, Tensor], linears: Mapping[str, nn.Linear]
) -> tuple[str, re.Pattern[str], dict[str, tuple[str, ...]]]:
    """Name of the layout, its keys, and what each layer's name in it stands for."""
    own: dict[str, tuple[str, ...]] = {name: (name,) for name in linears}
    doubles, singles = (_blocks(linears, part) for part in ("transformer_blocks", "single_transformer_blocks"))
    original = {
        name: modules for name, modules in names.original_layers(doubles, singles) if set(modules) <= set(linears)
    }
    if any(".processor." in key for key in tensors):
        singles_qkv = {f"single_blocks.{i}.qkv": original[f"single_blocks.{i}.linear1"][:3] for i in range(singles)}
        return "xlabs", XLABS_KEY, {**original, **singles_qkv}
    if any(key.startswith("lora_") for key in tensors):
        flat = {name.replace(".", "_"): modules for name, modules in {**original, **own}.items()}
        return "kohya", KOHYA_KEY, flat
    return "peft", PEFT_KEY, own


def _blocks(linears: Iterable[str], part: str) -> int:
    """How many blocks the list `part` of the transformer has."""
    return len({name.split(".")[1] for name in linears if name.startswith(f"{part}.")})


def _alphas(metadata: Mapping[str, str]) -> Any:
    """(layer, rank) -> alpha by what diffusers writes into a file's metadata; without that the rank itself."""
    try:
        config = json.loads(metadata.get(METADATA, "{}"))
    except ValueError:
        config = {}
    config = {key.removeprefix("transformer."): value for key, value in config.items()}
    patterns = config.get("alpha_pattern") or {}
    default = config.get("lora_alpha")

    def alpha(layer: str, rank: int) -> float:
        return float(patterns.get(layer, rank if default is None else default))

    return alpha


def _refused(name: str, why: str) -> MaquetteError:
    return MaquetteError(
        "bad_input", f"The LoRA {name} does not fit this transformer: {why}. Choose a LoRA made for this base model."
    )


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise MaquetteError(
            "model_missing", f"The LoRA {path.name} is not there; install it, or generate without one.", str(path),
            "install_model",
        )  # fmt: skip
    try:
        with safe_open(path, framework="pt") as handle:
            return {key: handle.get_tensor(key) for key in handle.keys()}, dict(handle.metadata() or {})
    except Exception as error:  # safetensors has an exception of its own, below Exception only
        raise MaquetteError(
            "model_missing", f"The LoRA {path.name} is damaged; install it again.", str(error), "install_model"
        ) from error

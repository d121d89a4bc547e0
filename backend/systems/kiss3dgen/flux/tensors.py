"""Where the numbers of a network come from, one tensor at a time: so a network of 24 GB is never there twice.

A `TensorSource` names its tensors and their shapes and reads one when asked; files, seeded random numbers and files in
the original layout are such sources, and a LoRA is one around another (`lora.py`). `load_into` is strict about names
and shapes before it reads anything.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor, nn

from backend.contract.errors import MaquetteError
from backend.systems.kiss3dgen.flux import names
from backend.systems.kiss3dgen.flux.quantise import Int8Linear, quantise_linears

Shape = tuple[int, ...]
ALIASES = {"encoder.embed_tokens.weight": "shared.weight"}
"""T5 has one embedding under two names; files hold either or both."""
COUNTED = ("embeddings.position_ids",)
"""Ends of names that some files hold and no network needs: 0, 1, 2 ..."""


class TensorSource(Protocol):
    """Named tensors, read one by one."""

    def shapes(self) -> Mapping[str, Shape]:
        """Every name and its shape, without reading a tensor."""
        ...

    def read(self, name: str, device: torch.device) -> Tensor:
        """One tensor in the precision it is kept in."""
        ...


class StoredTensors:
    """Tensors of safetensors files. `prefix`: take only names that begin so, and without it."""

    def __init__(self, files: Iterable[Path], prefix: str = "") -> None:
        """Errors: `MaquetteError` model_missing for a file that is damaged."""
        self.places: dict[str, tuple[Any, str]] = {}
        self.known: dict[str, Shape] = {}
        for file in files:
            try:
                handle = safe_open(file, framework="pt")
            except Exception as error:  # safetensors has an exception of its own, below Exception only
                raise MaquetteError(
                    "model_missing", f"The weights file {file.name} is damaged; install it again.", str(error),
                    "install_model",
                ) from error  # fmt: skip
            for stored in handle.keys():
                if stored.startswith(prefix):
                    name = stored[len(prefix) :]
                    self.places[name] = handle, stored
                    self.known[name] = tuple(handle.get_slice(stored).get_shape())

    def shapes(self) -> Mapping[str, Shape]:
        """Every name and its shape."""
        return self.known

    def read(self, name: str, device: torch.device) -> Tensor:
        """One tensor, from its file."""
        handle, stored = self.places[name]
        tensor: Tensor = handle.get_tensor(stored)
        return tensor.to(device)


class OriginalTensors:
    """A source in the layout of the original release, seen under the names of diffusers."""

    def __init__(self, source: TensorSource) -> None:
        self.source = source
        self.parts: dict[str, tuple[str, tuple[int, int]]] = {}
        self.known: dict[str, Shape] = {}
        shapes = source.shapes()
        doubles, singles = _blocks(shapes, "double_blocks."), _blocks(shapes, "single_blocks.")
        used = set()
        for original, modules in names.original_layers(doubles, singles):
            weight = shapes.get(f"{original}.weight")
            for kind in ("weight", "bias"):
                stored = f"{original}.{kind}"
                if weight is None or stored not in shapes:
                    continue
                used.add(stored)
                rows = names.part_rows(weight[0], weight[1], len(modules))
                for module, (start, stop) in zip(modules, rows, strict=True):
                    self.parts[f"{module}.{kind}"] = stored, (start, stop)
                    self.known[f"{module}.{kind}"] = (stop - start, *shapes[stored][1:])
        for original, module in names.original_norms(doubles, singles):
            stored = f"{original}.scale"
            if stored in shapes:
                used.add(stored)
                self.parts[f"{module}.weight"] = stored, (0, shapes[stored][0])
                self.known[f"{module}.weight"] = shapes[stored]
        for stored in set(shapes) - used:  # left as it is, so that strict loading names it
            self.parts[stored] = stored, (0, shapes[stored][0] if shapes[stored] else 1)
            self.known[stored] = shapes[stored]

    def shapes(self) -> Mapping[str, Shape]:
        """Every name of diffusers and its shape."""
        return self.known

    def read(self, name: str, device: torch.device) -> Tensor:
        """One tensor: some rows of an original one."""
        stored, (start, stop) = self.parts[name]
        tensor = self.source.read(stored, device)[start:stop]
        if name.startswith(names.HALVES_SWAPPED):
            first, second = tensor.chunk(2)
            tensor = torch.cat([second, first])
        return tensor


def _blocks(shapes: Mapping[str, Shape], prefix: str) -> int:
    numbers = {int(name.split(".")[1]) for name in shapes if name.startswith(prefix)}
    return max(numbers, default=-1) + 1


class RandomTensors:
    """Seeded random weights: each tensor has numbers of its own seed, so that the order of reading does not matter.

    Matrices keep the size of what goes through them; nothing is zero that would leave nothing to measure.
    """

    def __init__(self, shapes: Mapping[str, Shape], what: str, seed: int) -> None:
        self.known, self.what, self.seed = dict(shapes), what, seed

    def shapes(self) -> Mapping[str, Shape]:
        """Every name and its shape."""
        return self.known

    def read(self, name: str, device: torch.device) -> Tensor:
        """One tensor; the same for the same seed on the same kind of device."""
        shape = self.known[name]
        if len(shape) < 2:
            return torch.ones(shape, device=device) if name.endswith("weight") else torch.zeros(shape, device=device)
        generator = torch.Generator(device).manual_seed(
            (self.seed + zlib.crc32(f"{self.what} {name}".encode())) % 2**63
        )
        spread = 1 / math.sqrt(math.prod(shape[1:]))
        return torch.randn(shape, generator=generator, device=device) * spread


def expected_shapes(network: nn.Module) -> dict[str, Shape]:
    """Every tensor that `network` is saved with, and its shape."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def check_strict(network: nn.Module, source: TensorSource, what: str) -> None:
    """Errors: `MaquetteError` model_missing naming a tensor that is missing, misshapen or unknown."""
    expected, found = expected_shapes(network), source.shapes()
    for name, shape in expected.items():
        stored = name if name in found else _alias(name)
        if stored not in found:
            raise _mismatch(f"The weights of {what} lack the tensor {name}.")
        if tuple(found[stored]) != shape:
            raise _mismatch(f"The tensor {name} of {what} has shape {list(found[stored])}, not {list(shape)}.")
    for name in sorted(set(found) - set(expected)):
        if not name.endswith(COUNTED):
            raise _mismatch(f"The weights of {what} hold an unknown tensor {name}.")


def _mismatch(sentence: str) -> MaquetteError:
    return MaquetteError("model_missing", sentence, next_step="install_model")


def _alias(name: str) -> str:
    other = {new: old for old, new in ALIASES.items()}
    return ALIASES.get(name, other.get(name, name))


def load_into(
    network: nn.Module,
    source: TensorSource,
    what: str,
    dtype: torch.dtype,
    device: torch.device,
    int8_blocks: Sequence[str] = (),
) -> nn.Module:
    """Fill `network` (made on the device "meta") from `source`, in `dtype` on `device`, and return it.

    int8_blocks: names of its parts whose linear layers are kept as 8-bit integers. Errors: see `check_strict`.
    """
    check_strict(network, source, what)
    quantise_linears(network, int8_blocks)
    found = source.shapes()
    shared: dict[str, nn.Parameter] = {}
    for prefix, module in network.named_modules(remove_duplicate=False):
        for name in list(module._parameters):
            if module._parameters[name] is None:
                continue
            full = f"{prefix}.{name}" if prefix else name
            stored = full if full in found else _alias(full)
            key = min(stored, _alias(stored))
            if key in shared:
                module._parameters[name] = shared[key]
                continue
            value = source.read(stored, device)
            value = value.to(dtype) if value.is_floating_point() else value
            module._parameters[name] = shared[key] = nn.Parameter(value, requires_grad=False)
        if isinstance(module, Int8Linear):
            module.take(source.read(f"{prefix}.weight", device))
    return network.to(device)

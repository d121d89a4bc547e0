"""Weights on disk: safetensors files of at most 16 MiB each, so that a run can be moved and committed.

A tensor set `NAME` is `NAME.safetensors`, or `NAME-00001-of-00003.safetensors` and so on when it is larger. Files are
written beside the old ones and renamed, so that a run that dies while saving keeps its last checkpoint.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from backend.contract.errors import MaquetteError

LIMIT_BYTES = 15 * 2**20
"""Room for a file's header below 16 MiB."""


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> list[Path]:
    """Write `tensors` as the set `path` (without suffix); returns the files. A larger tensor has its own file."""
    groups: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        length = tensor.numel() * tensor.element_size()
        if groups[-1] and size + length > LIMIT_BYTES:
            groups.append({})
            size = 0
        groups[-1][name] = tensor.detach().contiguous().cpu()
        size += length
    path.parent.mkdir(parents=True, exist_ok=True)
    old = set(tensor_files(path))
    if len(groups) == 1:
        files = [path.with_name(path.name + ".safetensors")]
    else:
        files = [
            path.with_name(f"{path.name}-{i + 1:05d}-of-{len(groups):05d}.safetensors") for i in range(len(groups))
        ]
    for file, group in zip(files, groups, strict=True):
        partial = file.with_suffix(".partial")
        save_file(group, partial)
        os.replace(partial, file)
    for file in old - set(files):
        file.unlink()
    return files


def tensor_files(path: Path) -> list[Path]:
    """The files of the set `path` (without suffix), in order; empty if there is none."""
    single = path.with_name(path.name + ".safetensors")
    return [single] if single.exists() else sorted(path.parent.glob(path.name + "-[0-9]*-of-[0-9]*.safetensors"))


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of the set `path`. Errors: `MaquetteError` model_missing if there is none."""
    files = tensor_files(path)
    if not files:
        raise MaquetteError(
            "model_missing", f"The weights {path.name!r} are not there.", f"looked in {path.parent}", "install_model"
        )
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as handle:
            tensors.update({name: handle.get_tensor(name) for name in handle.keys()})
    return tensors


def load_strict(module: nn.Module, tensors: dict[str, torch.Tensor], what: str, assign: bool = False) -> None:
    """Copy `tensors` into `module`. Errors: `MaquetteError` naming a tensor that is missing, unknown or misshapen.

    With `assign` the module takes the tensors themselves: it may then be made on the device "meta", costs no memory of
    its own, and pages of a mapped file are read when they are first used.
    """
    expected = module.state_dict()
    for name, tensor in expected.items():
        if name not in tensors:
            raise MaquetteError(
                "model_missing", f"The weights of {what} lack the tensor {name}.", next_step="install_model"
            )
        if tensors[name].shape != tensor.shape:
            raise MaquetteError(
                "model_missing",
                f"The tensor {name} of {what} has shape {list(tensors[name].shape)}, not {list(tensor.shape)}.",
                next_step="install_model",
            )
    unknown = sorted(set(tensors) - set(expected))
    if unknown:
        raise MaquetteError(
            "model_missing", f"The weights of {what} hold an unknown tensor {unknown[0]}.", next_step="install_model"
        )
    module.load_state_dict(tensors, assign=assign)


def save_model(directory: Path, name: str, class_name: str, args: dict, tensors: dict[str, torch.Tensor]) -> None:
    """Write `NAME.json` ({"name": class, "args": {...}}, the published layout) and the tensors beside it."""
    save_tensors(directory / name, tensors)
    (directory / f"{name}.json").write_text(json.dumps({"name": class_name, "args": args}, indent=2) + "\n")

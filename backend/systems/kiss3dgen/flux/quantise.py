"""Weight-only quantisation to 8-bit integers in plain torch: half of bf16's memory, on every device torch runs on.

Each output row has its own scale (symmetric, largest value 127); the products are made in the precision of what comes
in, from a matrix that is widened for the moment of its use. The error of a row of normal numbers is below 1 %.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGEST = 127
SMALLEST_LAYER = 2**14
"""Layers of fewer numbers stay as they are: there is nothing to gain."""


class Int8Linear(nn.Module):
    """A linear layer whose weight is kept as int8 [out, in] with one float32 scale a row."""

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        """Like `linear`, still without numbers; its bias is taken over as it is."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("weight", torch.empty(linear.weight.shape, dtype=torch.int8, device="meta"))
        self.register_buffer("scale", torch.empty(self.out_features, device="meta"))
        self.bias = linear.bias

    def take(self, weight: Tensor) -> None:
        """Round `weight` [out, in] to this layer's integers."""
        self.weight, self.scale = quantise_rows(weight)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out], in x's precision."""
        return functional.linear(x, widen(self.weight, self.scale, x.dtype), self.bias)


def quantise_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 [out, in], float32 scales [out]) of `weight` [out, in]."""
    rows = weight.float()
    scale = rows.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST
    return (rows / scale[:, None]).round_().clamp_(-LARGEST, LARGEST).to(torch.int8), scale


def widen(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix that the integers stand for, in `dtype`."""
    return weight.to(dtype).mul_(scale.to(dtype)[:, None])


def quantise_linears(network: nn.Module, parts: Sequence[str]) -> int:
    """Replace the large linear layers inside the named parts of `network` by `Int8Linear`; returns how many.

    What is outside the parts (embedders, the last layer) is small and every number goes through it: it stays exact.
    """
    found = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
        and module.weight.numel() >= SMALLEST_LAYER
        and any(name.startswith(f"{part}.") for part in parts)
    ]
    for name, module in found:
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, Int8Linear(module))
    return len(found)

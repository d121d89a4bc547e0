"""Normalisations that compute in float32 and return the type they were given (specs/cupid.md 1.2, 4.1, 4.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCK_EPS = 1e-6  # inside transformer blocks
FINAL_EPS = 1e-5  # before output layers, and in the dense VAEs


class LayerNorm32(nn.LayerNorm):
    """Layer norm over the last dimension in float32; ``x`` [..., C] keeps its type."""

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.float()
        bias = None if self.bias is None else self.bias.float()
        return functional.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class ChannelLayerNorm32(LayerNorm32):
    """Layer norm over the channels of every voxel: ``x`` [B, C, ...] (the norm of the dense VAEs)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class MultiHeadRMSNorm(nn.Module):
    """Per head L2 normalisation times sqrt(d) times ``gamma`` [heads, d]; ``x`` [..., heads, d]."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.scale = dim**0.5
        self.gamma = nn.Parameter(torch.ones(heads, dim))

    def forward(self, x: Tensor) -> Tensor:
        normalised = functional.normalize(x.float(), dim=-1, eps=1e-12)
        return (normalised * self.gamma.float() * self.scale).to(x.dtype)

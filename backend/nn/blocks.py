"""Transformer blocks over dense token sequences (specs/cupid.md 4.1).

The forward pass of ``ModulatedTransformerCrossBlock`` only asks its attention modules for ``(x, context, weight)`` and
works on [B, N, C]; sparse tensors reuse ``FeedForwardNet`` and ``modulation_layer`` and lay out their own block.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from backend.nn.attention import KeysValues, MultiHeadAttention
from backend.nn.norms import BLOCK_EPS, LayerNorm32

MODULATION_PARTS = 6  # shift, scale, gate of the self attention; shift, scale, gate of the feed-forward


class FeedForwardNet(nn.Module):
    """Linear, tanh-GELU, Linear. Keys ``mlp.0.*`` and ``mlp.2.*``."""

    def __init__(self, channels: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., C] -> [..., C]."""
        return self.mlp(x)


def modulation_layer(channels: int) -> nn.Sequential:
    """SiLU and the linear layer that makes the six modulation parts (``adaLN_modulation.1``)."""
    return nn.Sequential(nn.SiLU(), nn.Linear(channels, MODULATION_PARTS * channels))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``x`` [B, N, C] scaled and shifted by [B, C]."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def modulated_norm(norm: LayerNorm32, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``norm`` of ``x`` [B, N, C], scaled and shifted by [B, C].

    For one item in half precision the norm's own kernel does all of it, in float32 inside, without a copy between.
    """
    if len(x) == 1 and x.dtype != torch.float32 and not torch.is_grad_enabled():
        return functional.layer_norm(x, norm.normalized_shape, (1 + scale)[0], shift[0], norm.eps)
    return modulate(norm(x), shift, scale)


def gated(x: Tensor, change: Tensor, gate: Tensor) -> Tensor:
    """``x`` + ``change`` * ``gate``, in half precision with one rounding."""
    return x + change * gate if x.dtype == torch.float32 else torch.addcmul(x, change, gate)


class ModulatedTransformerCrossBlock(nn.Module):
    """Self attention, cross attention, feed-forward; time modulates the first and the last.

    With ``share_mod`` the six parts come ready-made from the network and the block has no ``adaLN_modulation``.
    """

    def __init__(
        self,
        channels: int,
        ctx_channels: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qk_rms_norm: bool = False,
        qk_rms_norm_cross: bool = False,
        share_mod: bool = False,
    ) -> None:
        super().__init__()
        self.share_mod = share_mod
        self.norm1 = LayerNorm32(channels, elementwise_affine=False, eps=BLOCK_EPS)
        self.norm2 = LayerNorm32(channels, elementwise_affine=True, eps=BLOCK_EPS)
        self.norm3 = LayerNorm32(channels, elementwise_affine=False, eps=BLOCK_EPS)
        self.self_attn = MultiHeadAttention(channels, num_heads, kind="self", qk_rms_norm=qk_rms_norm)
        self.cross_attn = MultiHeadAttention(
            channels, num_heads, ctx_channels=ctx_channels, kind="cross", qk_rms_norm=qk_rms_norm_cross
        )
        self.mlp = FeedForwardNet(channels, mlp_ratio)
        if not share_mod:
            self.adaLN_modulation = modulation_layer(channels)

    def forward(self, x: Tensor, mod: Tensor, context: Tensor | KeysValues, weight: Tensor | None = None) -> Tensor:
        """``x`` [B, N, C], ``mod`` [B, C] ([B, 6C] with share_mod), ``context`` [B, M, Cc] or prepared -> [B, N, C].

        ``weight`` [B, M] lowers the attention to occluded context tokens (spec 8); None is plain attention.
        """
        parts = mod if self.share_mod else self.adaLN_modulation(mod)
        shift1, scale1, gate1, shift2, scale2, gate2 = parts.chunk(MODULATION_PARTS, dim=1)
        x = gated(x, self.self_attn(modulated_norm(self.norm1, x, shift1, scale1)), gate1.unsqueeze(1))
        x = x + self.cross_attn(self.norm2(x), context, weight)
        return gated(x, self.mlp(modulated_norm(self.norm3, x, shift2, scale2)), gate2.unsqueeze(1))

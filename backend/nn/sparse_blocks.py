"""Blocks over sparse voxels.

transformer blocks and the convolutional block at the ends of the SLat flow (CUPID spec 4.1, 4.5, 4.6).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.attention import KeysValues
from backend.nn.blocks import MODULATION_PARTS, FeedForwardNet, gated, modulation_layer
from backend.nn.norms import BLOCK_EPS, LayerNorm32
from backend.nn.sparse_attention import SparseCrossAttention, SparseSelfAttention
from backend.nn.sparse_conv import SparseConv3d
from backend.nn.sparse_ops import downsample, upsample
from backend.nn.sparse_tensor import SparseTensor


class SparseTransformerBlock(nn.Module):
    """x += Attn(LN(x)); x += FFN(LN(x)). Keys ``attn.*`` and ``mlp.mlp.{0,2}.*``; the norms have no parameters."""

    def __init__(
        self,
        channels: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        window_size: int | None = None,
        shift: int = 0,
        qk_rms_norm: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm32(channels, elementwise_affine=False, eps=BLOCK_EPS)
        self.norm2 = LayerNorm32(channels, elementwise_affine=False, eps=BLOCK_EPS)
        self.attn = SparseSelfAttention(channels, num_heads, window_size, shift, qk_rms_norm)
        self.mlp = FeedForwardNet(channels, mlp_ratio)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Features [L,C] -> [L,C]."""
        feats = x.feats + self.attn(x.replace(self.norm1(x.feats))).feats
        return x.replace(feats + self.mlp(self.norm2(feats)))


class SparseModulatedCrossBlock(nn.Module):
    """Full self-attention, cross-attention, feed-forward; time modulates the first and the last.

    Keys as the dense block: ``norm2.*``, ``self_attn.*``, ``cross_attn.*``, ``mlp.mlp.*``, ``adaLN_modulation.1.*``
    (absent with ``share_mod``, where the six parts come ready-made).
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
        self.self_attn = SparseSelfAttention(channels, num_heads, qk_rms_norm=qk_rms_norm)
        self.cross_attn = SparseCrossAttention(channels, ctx_channels, num_heads, qk_rms_norm=qk_rms_norm_cross)
        self.mlp = FeedForwardNet(channels, mlp_ratio)
        if not share_mod:
            self.adaLN_modulation = modulation_layer(channels)

    def forward(
        self, x: SparseTensor, mod: Tensor, context: Tensor | KeysValues, weight: Tensor | None = None
    ) -> SparseTensor:
        """Features [L,C], mod [B,C] ([B,6C] with share_mod), context [B,N,Cc] or prepared -> [L,C].

        weight [B,N] lowers the attention to tokens that an occluder hides (spec 8).
        """
        parts = mod if self.share_mod else self.adaLN_modulation(mod)
        shift1, scale1, gate1, shift2, scale2, gate2 = (x.spread(p) for p in parts.chunk(MODULATION_PARTS, dim=1))
        feats = x.feats
        hidden = x.replace(self._modulated(self.norm1, feats, shift1, scale1))
        feats = gated(feats, self.self_attn(hidden).feats, gate1)
        feats = feats + self.cross_attn(x.replace(self.norm2(feats)), context, weight).feats
        return x.replace(gated(feats, self.mlp(self._modulated(self.norm3, feats, shift2, scale2)), gate2))

    @staticmethod
    def _modulated(norm: LayerNorm32, feats: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """As `blocks.modulated_norm`, for features [L,C] and parts [1,C] or [L,C]."""
        if len(scale) == 1 and feats.dtype != torch.float32 and not torch.is_grad_enabled():
            return F.layer_norm(feats, norm.normalized_shape, (1 + scale)[0], shift[0], norm.eps)
        return norm(feats) * (1 + scale) + shift


class SparseResBlock3d(nn.Module):
    """Convolutional residual block with time; changes the resolution first when asked to.

    Keys ``norm1.*``, ``conv1.conv.*``, ``conv2.conv.*``, ``emb_layers.1.*`` and, if channels change,
    ``skip_connection.*``.
    """

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        out_channels: int | None = None,
        resample: Literal["down", "up"] | None = None,
    ) -> None:
        super().__init__()
        out_channels = out_channels or channels
        self.resample = resample
        self.norm1 = LayerNorm32(channels, elementwise_affine=True, eps=BLOCK_EPS)
        self.norm2 = LayerNorm32(out_channels, elementwise_affine=False, eps=BLOCK_EPS)
        self.conv1 = SparseConv3d(channels, out_channels, 3)
        self.conv2 = SparseConv3d(out_channels, out_channels, 3)
        self.conv2.zero_()
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, 2 * out_channels))
        self.skip_connection = nn.Linear(channels, out_channels) if channels != out_channels else nn.Identity()

    def forward(self, x: SparseTensor, emb: Tensor) -> SparseTensor:
        """Features [L,C] and time embedding [B,E] -> [L',out], where L' is the number of voxels after resampling."""
        if self.resample == "down":
            x = downsample(x)
        elif self.resample == "up":
            x = upsample(x)
        scale, shift = (x.spread(part) for part in self.emb_layers(emb).chunk(2, dim=1))
        hidden = self.conv1(x.replace(F.silu(self.norm1(x.feats))))
        hidden = self.conv2(x.replace(F.silu(self.norm2(hidden.feats) * (1 + scale) + shift)))
        return x.replace(hidden.feats + self.skip_connection(x.feats))


def convert_torso(modules: nn.ModuleList | nn.Module, dtype: torch.dtype) -> None:
    """Cast the linear and convolution weights of a torso; norms and gammas stay float32 (spec section 1.2)."""
    for module in modules.modules():
        if isinstance(module, nn.Linear | nn.Conv3d):
            module.to(dtype)
        elif isinstance(module, SparseConv3d):
            module.conv.to(dtype)


def torso_dtype(modules: nn.Module) -> torch.dtype:
    """The dtype that a torso's linear weights have now."""
    return next(module.weight.dtype for module in modules.modules() if isinstance(module, nn.Linear))

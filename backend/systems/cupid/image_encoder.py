"""Mini's own image encoder: a small vision transformer in the place of DINOv2.

It answers with the token layout of DINOv2 with registers (specification section 5): [class, 4 registers, patches],
so that everything after it is the same code at either size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from backend.nn.attention import product_attention

REGISTERS = 4
SPECIAL_TOKENS = 1 + REGISTERS


class Block(nn.Module):
    """Pre-norm transformer block. tokens [B,T,C] to [B,T,C]."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.to_out = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU("tanh"), nn.Linear(4 * channels, channels))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        batch, count, channels = tokens.shape
        qkv = self.to_qkv(self.norm1(tokens)).view(batch, count, 3, self.num_heads, channels // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = product_attention(query, key, value)
        tokens = tokens + self.to_out(mixed.transpose(1, 2).reshape(batch, count, channels))
        return tokens + self.mlp(self.norm2(tokens))


class ImageEncoder(nn.Module):
    """Premultiplied picture [B,C,S,S] in [0,1] to tokens [B, 5 + (S/patch)^2, channels], normalised without affine.

    With four ``in_channels`` the last one is the object's alpha: a dark object stays apart from the black around it.
    """

    def __init__(
        self, image_size: int, patch_size: int, channels: int, num_blocks: int, num_heads: int, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.patches = image_size // patch_size
        self.channels = channels
        self.in_channels = in_channels
        self.patch_embed = nn.Conv2d(in_channels, channels, patch_size, patch_size)
        self.special_tokens = nn.Parameter(torch.randn(1, SPECIAL_TOKENS, channels) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, self.patches**2, channels) * 0.02)
        self.blocks = nn.ModuleList(Block(channels, num_heads) for _ in range(num_blocks))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embed(image * 2 - 1).flatten(2).transpose(1, 2) + self.pos_embed
        tokens = torch.cat([self.special_tokens.expand(len(image), -1, -1).to(patches.dtype), patches], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return F.layer_norm(tokens.float(), tokens.shape[-1:], eps=1e-5)

"""The LRM's transformer: learned tokens that look at the image tokens and become three feature planes (spec section 7).

Parameter names are those of the published checkpoint below `transformer.`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FINAL_NORM_EPS = 1e-6
PLANES = 3


class TriplaneBlock(nn.Module):
    """Cross attention to the image, self attention among the planes' tokens, MLP; each on normed tokens, added."""

    def __init__(self, channels: int, heads: int, image_channels: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.cross_attn = nn.MultiheadAttention(
            channels, heads, bias=False, kdim=image_channels, vdim=image_channels, batch_first=True
        )
        self.self_attn = nn.MultiheadAttention(channels, heads, bias=False, batch_first=True)
        # the published MLP has (inactive) dropout at 2 and 4: the second linear layer is number 3
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden), nn.GELU(), nn.Identity(), nn.Linear(hidden, channels), nn.Identity()
        )

    def forward(self, tokens: Tensor, image: Tensor) -> Tensor:
        tokens = tokens + self.cross_attn(self.norm1(tokens), image, image, need_weights=False)[0]
        hidden = self.norm2(tokens)
        tokens = tokens + self.self_attn(hidden, hidden, hidden, need_weights=False)[0]
        return tokens + self.mlp(self.norm3(tokens))


class TriplaneTransformer(nn.Module):
    """Image tokens [B,N,Ci] to planes [B,3,C,2L,2L]; L is `low_resolution`, C `plane_channels`."""

    def __init__(
        self, channels: int = 1024, layers: int = 16, heads: int = 16, image_channels: int = 768,
        low_resolution: int = 32, plane_channels: int = 80, mlp_ratio: float = 4.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.low_resolution = low_resolution
        self.pos_embed = nn.Parameter(torch.randn(1, PLANES * low_resolution**2, channels) * channels**-0.5)
        self.layers = nn.ModuleList(TriplaneBlock(channels, heads, image_channels, mlp_ratio) for _ in range(layers))
        self.norm = nn.LayerNorm(channels, eps=FINAL_NORM_EPS)
        self.deconv = nn.ConvTranspose2d(channels, plane_channels, 2, 2)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.pos_embed.expand(len(image), -1, -1)
        for layer in self.layers:
            tokens = layer(tokens, image)
        side = self.low_resolution
        planes = self.norm(tokens).unflatten(1, (PLANES, side, side)).permute(0, 1, 4, 2, 3)
        return self.deconv(planes.flatten(0, 1)).unflatten(0, (len(image), PLANES))

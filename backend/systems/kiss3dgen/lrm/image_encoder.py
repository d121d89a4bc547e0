"""The LRM's image encoder: DINO ViT-B/16 whose blocks are told the camera (spec section 7).

Parameter names are those of the published checkpoint below `encoder.`, which are transformers' ViT names, with
`adaLN_modulation` added to every layer. The modules are our own, because that addition sits inside the blocks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.imagenet import IMAGENET_MEAN, IMAGENET_STD

NORM_EPS = 1e-12  # of the published ViT
CAMERA_NUMBERS = 16  # three rows of camera_to_world, fx, fy, cx, cy
POSITION_OFFSET = 0.1  # patches added before the position table is stretched, as DINO does against rounding


class PatchEmbeddings(nn.Module):
    """Pixels [B,3,H,W] to patch tokens [B,(H/p)(W/p),C]."""

    def __init__(self, channels: int, patch_size: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, channels, patch_size, patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.projection(pixels).flatten(2).transpose(1, 2)


class Embeddings(nn.Module):
    """Class token and patches with their positions; the table of the trained size is stretched bicubically."""

    def __init__(self, channels: int, patch_size: int, trained_size: int) -> None:
        super().__init__()
        self.patch_size, self.side = patch_size, trained_size // patch_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.position_embeddings = nn.Parameter(torch.randn(1, 1 + self.side**2, channels) * 0.02)
        self.patch_embeddings = PatchEmbeddings(channels, patch_size)

    def positions(self, height: int, width: int) -> Tensor:
        """The table [1,1+(H/p)(W/p),C] for a picture of height x width pixels."""
        rows, columns = height // self.patch_size, width // self.patch_size
        if rows == columns == self.side:
            return self.position_embeddings
        first, patches = self.position_embeddings[:, :1], self.position_embeddings[:, 1:]
        table = patches.unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
        scale = ((rows + POSITION_OFFSET) / self.side, (columns + POSITION_OFFSET) / self.side)
        table = F.interpolate(table, scale_factor=scale, mode="bicubic", align_corners=False)
        return torch.cat([first, table.flatten(2).transpose(1, 2)], dim=1)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.patch_embeddings(pixels)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        return tokens + self.positions(*pixels.shape[-2:])


class SelfAttention(nn.Module):
    """Queries, keys and values of tokens [B,N,C], mixed by `heads` heads."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = (
            part(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class Dense(nn.Module):
    """A linear layer under the name `dense`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.dense(tokens)


class Attention(nn.Module):
    """Self attention and the projection of its answer."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention, self.output = SelfAttention(channels, heads), Dense(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(self.attention(tokens))


class Layer(nn.Module):
    """One block; the camera shifts and scales what attention and MLP see: x * (1 + scale) + shift, no gates."""

    def __init__(self, channels: int, heads: int, mlp_channels: int) -> None:
        super().__init__()
        self.attention = Attention(channels, heads)
        self.intermediate, self.output = Dense(channels, mlp_channels), Dense(mlp_channels, channels)
        self.layernorm_before = nn.LayerNorm(channels, eps=NORM_EPS)
        self.layernorm_after = nn.LayerNorm(channels, eps=NORM_EPS)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(channels, 4 * channels))

    def forward(self, tokens: Tensor, camera: Tensor) -> Tensor:
        changes = self.adaLN_modulation(camera)[:, None].chunk(4, dim=-1)
        tokens = tokens + self.attention(self.layernorm_before(tokens) * (1 + changes[1]) + changes[0])
        hidden = self.layernorm_after(tokens) * (1 + changes[3]) + changes[2]
        return tokens + self.output(F.gelu(self.intermediate(hidden)))


class Layers(nn.Module):
    """The blocks, one after the other."""

    def __init__(self, channels: int, heads: int, layers: int, mlp_channels: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(channels, heads, mlp_channels) for _ in range(layers))

    def forward(self, tokens: Tensor, camera: Tensor) -> Tensor:
        for layer in self.layer:
            tokens = layer(tokens, camera)
        return tokens


class VisionTransformer(nn.Module):
    """Normalised pixels [B,3,H,W] and camera embeddings [B,C] to tokens [B,1+(H/p)(W/p),C]."""

    def __init__(
        self, channels: int, heads: int, layers: int, mlp_channels: int, patch_size: int, trained_size: int
    ) -> None:
        super().__init__()
        self.embeddings = Embeddings(channels, patch_size, trained_size)
        self.encoder = Layers(channels, heads, layers, mlp_channels)
        self.layernorm = nn.LayerNorm(channels, eps=NORM_EPS)

    def forward(self, pixels: Tensor, camera: Tensor) -> Tensor:
        return self.layernorm(self.encoder(self.embeddings(pixels), camera))


class CameraImageEncoder(nn.Module):
    """Views [V,3,S,S] in [0,1] and their cameras [V,16] to tokens [V,1+(S/p)^2,C].

    Raises ValueError for a picture whose sides are no multiples of the patch.
    """

    def __init__(
        self, channels: int = 768, heads: int = 12, layers: int = 12, mlp_channels: int = 3072, patch_size: int = 16,
        trained_size: int = 224,
    ) -> None:  # fmt: skip
        super().__init__()
        self.patch_size = patch_size
        self.model = VisionTransformer(channels, heads, layers, mlp_channels, patch_size, trained_size)
        self.camera_embedder = nn.Sequential(
            nn.Linear(CAMERA_NUMBERS, channels), nn.SiLU(), nn.Linear(channels, channels)
        )

    def forward(self, views: Tensor, cameras: Tensor) -> Tensor:
        if any(side % self.patch_size for side in views.shape[-2:]):
            raise ValueError(f"Views of {list(views.shape[-2:])} pixels do not divide into patches.")
        mean, std = (views.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        return self.model((views - mean) / std, self.camera_embedder(cameras))

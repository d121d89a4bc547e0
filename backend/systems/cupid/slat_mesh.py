"""Mesh decoder: structured latent -> cubes on a four times finer grid -> triangle mesh (CUPID spec section 4.8)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from backend.geometry.dual_marching_cubes import DualMesh, cube_channels, extract_mesh
from backend.nn.sparse_blocks import convert_torso
from backend.nn.sparse_conv import SparseConv3d
from backend.nn.sparse_ops import SparseGroupNorm, subdivide
from backend.nn.sparse_tensor import SparseTensor
from backend.systems.cupid.slat_vae import SparseTrunk

SOLID = -0.5  # signed distance inside: some times what random weights scatter about it
NORM_GROUPS = 32  # the published number; narrow networks take the largest divisor they share with it


class _Activation(nn.Module):
    """SiLU on sparse features."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        return x.replace(F.silu(x.feats))


def _norm(channels: int) -> SparseGroupNorm:
    return SparseGroupNorm(math.gcd(NORM_GROUPS, channels), channels)


class SparseSubdivideBlock3d(nn.Module):
    """Norm, SiLU, subdivide, two convolutions, and a 1x1x1 path beside them.

    Keys ``act_layers.0.*``, ``out_layers.{0,3}.conv.*``, ``out_layers.1.*``, ``skip_connection.conv.*``.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.act_layers = nn.Sequential(_norm(channels), _Activation())
        last = SparseConv3d(out_channels, out_channels, 3)
        last.zero_()
        self.out_layers = nn.Sequential(
            SparseConv3d(channels, out_channels, 3), _norm(out_channels), _Activation(), last
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else SparseConv3d(channels, out_channels, 1)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Features [L,C] -> [8L,out]."""
        h = self.out_layers(subdivide(self.act_layers(x)))
        # the 1x1x1 path is the same for all children: apply it before copying
        return h.replace(h.feats + subdivide(self.skip_connection(x)).feats)


class SLatMeshDecoder(SparseTrunk):
    """Structured latent -> mesh. There is no layer norm after the trunk, and ``upsample`` keeps its precision."""

    def __init__(
        self,
        resolution: int,
        model_channels: int,
        latent_channels: int,
        num_blocks: int,
        representation_config: Mapping[str, Any],
        **trunk: Any,
    ) -> None:
        super().__init__(latent_channels, model_channels, num_blocks, **trunk)
        self.resolution, self.grid_resolution = resolution, resolution * 4
        self.use_color = bool(representation_config.get("use_color", False))
        self.upsample = nn.ModuleList(
            [
                SparseSubdivideBlock3d(model_channels, model_channels // 4),
                SparseSubdivideBlock3d(model_channels // 4, model_channels // 8),
            ]
        )
        self.out_layer = self._head(model_channels // 8, cube_channels(self.use_color))
        if trunk.get("use_fp16"):
            self.set_compute_dtype(torch.float16)

    def start_solid(self) -> None:
        """Let a decoder of random weights call the voxels solid, so that its surface is theirs and not noise."""
        torch.nn.init.constant_(self.out_layer.bias[:8], SOLID)

    def set_compute_dtype(self, dtype: torch.dtype) -> None:
        """Run blocks and upsampling in another precision; the ends of the network stay float32 (spec section 1.2)."""
        super().set_compute_dtype(dtype)
        if hasattr(self, "upsample"):
            convert_torso(self.upsample, dtype)

    def fine(self, z: SparseTensor) -> SparseTensor:
        """Features [64L,C/8] on the 4x grid, before the output layer."""
        h = self.trunk(z)
        for block in self.upsample:
            h = block(h)
        return h

    def cubes(self, z: SparseTensor) -> SparseTensor:
        """Cube features [64L,101] (53 without colour) on the 4x grid, before extraction."""
        h = self.fine(z)
        return h.replace(self.out_layer(h.feats.float()))

    def extract(self, cubes: SparseTensor, training: bool = False) -> list[DualMesh]:
        """One mesh a batch item of cube features."""
        return [
            extract_mesh(coords, feats, self.grid_resolution, self.use_color, training)
            for coords, feats in cubes.items()
        ]

    def forward(self, z: SparseTensor, training: bool = False) -> list[DualMesh]:
        """Latent [L,latent] -> one mesh a batch item.

        With ``training`` the differentiable variant and its regulariser.
        """
        return self.extract(self.cubes(z), training)

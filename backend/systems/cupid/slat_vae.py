"""Structured latents.

encoder, shared trunk, Gaussian and radiance-field decoders (CUPID spec sections 4.6, 4.7, 4.9).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.embeddings import AbsolutePositionEmbedder
from backend.nn.norms import FINAL_EPS
from backend.nn.sparse_blocks import SparseTransformerBlock, convert_torso, torso_dtype
from backend.nn.sparse_tensor import SparseTensor

SH_C0 = 0.28209479177387814  # the constant spherical harmonic: 1 / (2 sqrt(pi))
ATTENTION_MODES = ("full", "swin")


class SparseTrunk(nn.Module):
    """``input_layer``, absolute positions, ``blocks``: what the SLat encoder and all decoders share.

    attn_mode "swin" attends inside windows, shifted by half a window in every other block; "full" over the whole item.
    """

    def __init__(
        self,
        in_channels: int,
        model_channels: int,
        num_blocks: int,
        num_heads: int | None = None,
        num_head_channels: int = 64,
        mlp_ratio: float = 4.0,
        attn_mode: str = "swin",
        window_size: int | None = 8,
        pe_mode: str = "ape",
        use_fp16: bool = False,
        qk_rms_norm: bool = False,
    ) -> None:
        super().__init__()
        if attn_mode not in ATTENTION_MODES or pe_mode != "ape":
            raise ValueError(f'attn_mode "{attn_mode}" with pe_mode "{pe_mode}" is unknown; use full or swin with ape.')
        if attn_mode == "swin" and not window_size:
            raise ValueError('attn_mode "swin" needs a window_size.')
        heads = num_heads or model_channels // num_head_channels
        window = window_size if attn_mode == "swin" else None
        self.pos_embedder = AbsolutePositionEmbedder(model_channels)
        self.input_layer = nn.Linear(in_channels, model_channels)
        self.blocks = nn.ModuleList(
            SparseTransformerBlock(
                model_channels, heads, mlp_ratio, window, (window or 0) // 2 * (index % 2), qk_rms_norm
            )
            for index in range(num_blocks)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        if use_fp16:
            self.set_compute_dtype(torch.float16)

    def set_compute_dtype(self, dtype: torch.dtype) -> None:
        """Run the blocks in another precision; the ends of the network stay float32 (spec section 1.2)."""
        convert_torso(self.blocks, dtype)

    def trunk(self, x: SparseTensor) -> SparseTensor:
        """Features [L,in] -> [L,C] in the blocks' dtype."""
        feats = self.input_layer(x.feats) + self.pos_embedder(x.coords[:, 1:])
        h = x.replace(feats.to(torso_dtype(self.blocks)))
        for block in self.blocks:
            h = block(h)
        return h

    def _head(self, width: int, out_channels: int) -> nn.Linear:
        """A zero-initialised output layer."""
        layer = nn.Linear(width, out_channels)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    def _finish(self, h: SparseTensor, out_layer: nn.Linear) -> SparseTensor:
        """float32 layer norm without parameters, then the output layer."""
        return h.replace(out_layer(F.layer_norm(h.feats.float(), h.feats.shape[-1:], eps=FINAL_EPS)))


class SLatEncoder(SparseTrunk):
    """Voxel image features -> structured latent."""

    def __init__(
        self,
        resolution: int,
        in_channels: int,
        model_channels: int,
        latent_channels: int,
        num_blocks: int,
        **trunk: Any,
    ) -> None:
        super().__init__(in_channels, model_channels, num_blocks, **trunk)
        self.resolution, self.latent_channels = resolution, latent_channels
        self.out_layer = self._head(model_channels, 2 * latent_channels)

    def moments(self, x: SparseTensor) -> tuple[SparseTensor, SparseTensor]:
        """Mean and logvar [L,latent] of features [L,in]."""
        h = self._finish(self.trunk(x), self.out_layer)
        mean, logvar = h.feats.chunk(2, dim=1)
        return h.replace(mean), h.replace(logvar)

    def forward(self, x: SparseTensor, noise: Tensor | None = None) -> SparseTensor:
        """The latent [L,latent]: the mean, or a sample mean + noise * std when ``noise`` [L,latent] is given."""
        mean, logvar = self.moments(x)
        return mean if noise is None else mean.replace(mean.feats + noise * torch.exp(0.5 * logvar.feats))


@dataclass(frozen=True)
class Gaussians:
    """Splats of one object. Raw attributes as the network answers them; the properties are what a renderer uses.

    raw_xyz [N,3] (cube 0..1), raw_features_dc [N,1,3], raw_scaling [N,3], raw_rotation [N,4], raw_opacity [N,1].
    """

    raw_xyz: Tensor
    raw_features_dc: Tensor
    raw_scaling: Tensor
    raw_rotation: Tensor
    raw_opacity: Tensor
    scaling_bias: float
    opacity_bias: float
    minimum_scale: float
    scaling_activation: str

    @property
    def positions(self) -> Tensor:
        """Centres [N,3] in the object cube [-0.5, 0.5]^3."""
        return self.raw_xyz - 0.5

    @property
    def scales(self) -> Tensor:
        """Standard deviations [N,3], never below the 3D filter's size."""
        if self.scaling_activation == "softplus":
            offset = self.scaling_bias + math.log(-math.expm1(-self.scaling_bias))  # the inverse of softplus
            base = F.softplus(self.raw_scaling + offset)
        elif self.scaling_activation == "exp":
            base = torch.exp(self.raw_scaling + math.log(self.scaling_bias))
        else:
            raise ValueError(f'Scaling activation "{self.scaling_activation}" is unknown; use softplus or exp.')
        return torch.sqrt(base.square() + self.minimum_scale**2)

    @property
    def rotations(self) -> Tensor:
        """Unit quaternions [N,4] (w,x,y,z)."""
        identity = self.raw_rotation.new_tensor([1.0, 0.0, 0.0, 0.0])
        return F.normalize(self.raw_rotation + identity, dim=-1)

    @property
    def opacities(self) -> Tensor:
        """Opacities [N,1] in [0,1]."""
        return torch.sigmoid(self.raw_opacity + math.log(self.opacity_bias / (1 - self.opacity_bias)))

    @property
    def colors(self) -> Tensor:
        """Colours [N,3], spherical harmonics of degree 0."""
        return 0.5 + SH_C0 * self.raw_features_dc[:, 0]


def _radical_inverse(base: int, number: int) -> float:
    value, fraction = 0.0, 1.0 / base
    while number:
        value += fraction * (number % base)
        number //= base
        fraction /= base
    return value


def offset_perturbation(count: int, voxel_size: float) -> Tensor:
    """Raw offsets [count,3] that spread a voxel's Gaussians evenly (Hammersley points) while the network answers zero.
    """
    points = [[n / count, _radical_inverse(2, n), _radical_inverse(3, n)] for n in range(count)]
    return torch.atanh((torch.tensor(points).float() * 2 - 1) / voxel_size)


class SLatGaussianDecoder(SparseTrunk):
    """Structured latent -> ``num_gaussians`` splats a voxel.

    The buffer ``offset_perturbation`` is in the published file.
    """

    GROUPS = {"_xyz": (3,), "_features_dc": (1, 3), "_scaling": (3,), "_rotation": (4,), "_opacity": (1,)}
    offset_perturbation: Tensor

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
        self.resolution, self.config = resolution, dict(representation_config)
        count = int(self.config["num_gaussians"])
        self.out_layer = self._head(model_channels, sum(count * math.prod(s) for s in self.GROUPS.values()))
        perturbation = offset_perturbation(count, float(self.config["voxel_size"]))
        if not self.config.get("perturb_offset", True):
            perturbation = torch.zeros_like(perturbation)
        self.register_buffer("offset_perturbation", perturbation)

    def forward(self, z: SparseTensor) -> list[Gaussians]:
        """Latent [L,latent] -> one set of splats a batch item, voxel by voxel."""
        h = self._finish(self.trunk(z), self.out_layer)
        return [self._splats(coords, feats) for coords, feats in h.items()]

    def _splats(self, coords: Tensor, feats: Tensor) -> Gaussians:
        config, count, feats = self.config, int(self.config["num_gaussians"]), feats.float()
        rates, raw, start = config.get("lr", {}), {}, 0
        for name, shape in self.GROUPS.items():
            width = count * math.prod(shape)
            values = feats[:, start : start + width].reshape(-1, count, *shape)
            raw[name] = values * float(rates.get(name, 1.0))
            start += width
        centre = (coords.float() + 0.5) / self.resolution
        reach = 0.5 * float(config["voxel_size"]) / self.resolution
        offset = torch.tanh(raw["_xyz"] + self.offset_perturbation) * reach
        raw["_xyz"] = centre[:, None, :] + offset
        flat = {name: values.flatten(0, 1) for name, values in raw.items()}
        return Gaussians(
            raw_xyz=flat["_xyz"],
            raw_features_dc=flat["_features_dc"],
            raw_scaling=flat["_scaling"],
            raw_rotation=flat["_rotation"],
            raw_opacity=flat["_opacity"],
            scaling_bias=float(config["scaling_bias"]),
            opacity_bias=float(config["opacity_bias"]),
            minimum_scale=float(config["3d_filter_kernel_size"]),
            scaling_activation=str(config["scaling_activation"]),
        )


@dataclass(frozen=True)
class RadianceField:
    """Tensor decomposition of one object.

    position [L,3] (cube 0..1), trivec [L,R,3,D], density [L,R], features_dc [L,R,1,3].
    """

    position: Tensor
    trivec: Tensor
    density: Tensor
    features_dc: Tensor


class SLatRadianceFieldDecoder(SparseTrunk):
    """Structured latent -> a small radiance field a voxel."""

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
        self.resolution = resolution
        self.rank, self.dim = int(representation_config["rank"]), int(representation_config["dim"])
        self.out_layer = self._head(model_channels, self.rank * (3 * self.dim + 1 + 3))

    def forward(self, z: SparseTensor) -> list[RadianceField]:
        """Latent [L,latent] -> one field a batch item."""
        h = self._finish(self.trunk(z), self.out_layer)
        widths = [self.rank * 3 * self.dim, self.rank, self.rank * 3]
        fields = []
        for coords, feats in h.items():
            trivec, density, colour = feats.float().split(widths, dim=1)
            fields.append(
                RadianceField(
                    position=(coords.float() + 0.5) / self.resolution,
                    trivec=trivec.reshape(-1, self.rank, 3, self.dim) + 1,
                    density=density,
                    features_dc=colour.reshape(-1, self.rank, 1, 3),
                )
            )
        return fields

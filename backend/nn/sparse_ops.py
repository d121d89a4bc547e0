"""Changing the resolution of sparse voxels, and norms over them (CUPID spec section 4.4)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backend.nn.sparse_tensor import SparseTensor, bounds, voxel_keys


@dataclass(frozen=True)
class _Coarsening:
    """How fine voxels fall into coarse ones.

    ``parent`` [L] coarse row of each fine row, ``children`` [M, f^3] fine rows (L = none).
    """

    fine: SparseTensor
    coarse: SparseTensor
    parent: Tensor
    children: Tensor
    count: Tensor


def _coarsen(x: SparseTensor, factor: int) -> _Coarsening:
    coords = x.coords.clone()
    coords[:, 1:] = torch.div(coords[:, 1:], factor, rounding_mode="floor")
    lower, extent = bounds(coords)
    keys, parent = torch.unique(voxel_keys(coords, lower, extent), sorted=True, return_inverse=True)
    offset = (x.coords[:, 1:] - coords[:, 1:] * factor).long()
    slot = (offset[:, 0] * factor + offset[:, 1]) * factor + offset[:, 2]
    rows = torch.arange(len(x), device=x.device)
    children = torch.full((len(keys), factor**3), len(x), dtype=torch.int64, device=x.device)
    children[parent, slot] = rows
    first = children.amin(1)
    # the remembered tensors carry no features, so that no graph is kept alive by the cache
    fine = SparseTensor(x.coords, x.feats.new_zeros(len(x), 0), x.batch_size, x.cache)
    coarse = SparseTensor(coords[first], x.feats.new_zeros(len(keys), 0), x.batch_size)
    return _Coarsening(fine, coarse, parent, children, (children < len(x)).sum(1))


def downsample(x: SparseTensor, factor: int = 2) -> SparseTensor:
    """coords // factor, unique, lexicographic (b,x,y,z); feature = sum / (n + 1).

    The published reduction counts its initial zero as one more sample, so this is not a plain mean.
    """
    step: _Coarsening = x.cached(("down", factor), lambda: _coarsen(x, factor))
    step.coarse.cache[("up", factor)] = step
    padded = torch.cat([x.feats, x.feats.new_zeros(1, x.feats.shape[1])])
    total = padded[step.children.reshape(-1)].view(*step.children.shape, -1).sum(1)
    return step.coarse.replace(total / (step.count[:, None] + 1).to(total.dtype))


def upsample(x: SparseTensor, factor: int = 2) -> SparseTensor:
    """Nearest neighbour, back to the voxels and the order that :func:`downsample` came from."""
    step: _Coarsening | None = x.cache.get(("up", factor))
    if step is None:
        raise ValueError("These voxels were not made by downsample, so there is no way back up; downsample first.")
    return step.fine.replace(x.feats[step.parent])


def _subdivided_coords(x: SparseTensor) -> SparseTensor:
    corners = torch.tensor(list(itertools.product((0, 1), repeat=3)), device=x.device, dtype=x.coords.dtype)
    coords = x.coords[:, None, :].repeat(1, 8, 1)
    coords[:, :, 1:] = coords[:, :, 1:] * 2 + corners
    return SparseTensor(coords.reshape(-1, 4), x.feats.new_zeros(len(x) * 8, 0), x.batch_size)


def subdivide(x: SparseTensor) -> SparseTensor:
    """Every voxel -> its 8 children 2c + {0,1}^3 (z fastest), features copied: [L,C] -> [8L,C]."""
    children: SparseTensor = x.cached("subdivide", lambda: _subdivided_coords(x))
    return children.replace(x.feats.repeat_interleave(8, dim=0, output_size=len(children)))


class SparseGroupNorm(nn.GroupNorm):
    """Group norm whose statistics run over all voxels of one batch item.

    Computed in float32, answers in the input's dtype.
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5) -> None:
        if num_channels % num_groups:
            raise ValueError(f"{num_channels} channels cannot be split into {num_groups} groups; change the channels.")
        super().__init__(num_groups, num_channels, eps=eps)

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Features [L,C] -> [L,C]."""
        parts = []
        for item in x.feats.split(x.lengths):  # a split, not slices: their gradients would each fill the whole tensor
            values = item.float().view(len(item), self.num_groups, -1)
            if not len(values):
                parts.append(values.flatten(1))
                continue
            variance, mean = torch.var_mean(values, dim=(0, 2), keepdim=True, correction=0)
            parts.append(((values - mean) * torch.rsqrt(variance + self.eps)).flatten(1))
        normal = parts[0] if len(parts) == 1 else torch.cat(parts)
        return x.replace((normal * self.weight.float() + self.bias.float()).to(x.dtype))

"""Submanifold convolution: outputs only at voxels, absent neighbours count as zero (CUPID spec section 4.4).

Neighbours are found once for each set of coordinates by a search in sorted keys; each convolution is then a gather and
a matrix product, in chunks of bounded memory. Backward gathers through the mirrored map (if j is the neighbour of i at
offset o, then i is the neighbour of j at the opposite offset), so gradients are deterministic and nothing is scattered.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from backend.nn.sparse_tensor import SparseTensor, bounds, find_keys, voxel_keys

CHUNK_ELEMENTS = 8_000_000  # gathered values held at once: 32 MB in float32


def neighbour_map(x: SparseTensor, kernel_size: int) -> Tensor:
    """Row of every neighbour [L, k^3] int32, ``L`` where there is none. Offsets run x slowest, from -(k//2) to k//2."""
    return x.cached(("neighbours", kernel_size), lambda: _search_neighbours(x.coords, kernel_size))


def _search_neighbours(coords: Tensor, kernel_size: int) -> Tensor:
    count, radius = len(coords), kernel_size // 2
    table = torch.full((count, kernel_size**3), count, dtype=torch.int32, device=coords.device)
    lower, extent = bounds(coords, margin=radius)
    keys, order = torch.sort(voxel_keys(coords, lower, extent))
    if bool((keys[1:] == keys[:-1]).any()):
        raise ValueError("Two voxels share one place; give every occupied voxel once.")
    rows = order.to(torch.int32)
    middle = kernel_size**3 // 2
    table[:, middle] = torch.arange(count, dtype=torch.int32, device=coords.device)
    offsets = list(itertools.product(range(-radius, radius + 1), repeat=3))
    for index in range(middle):  # the other half are the same pairs seen from the other side
        dx, dy, dz = offsets[index]
        found = find_keys(keys, keys + ((dx * extent[1] + dy) * extent[2] + dz))
        hit = found >= 0
        here, there = rows[hit], rows[found[hit]]
        table[here.long(), index] = there
        table[there.long(), 2 * middle - index] = here
    return table


def _chunks(rows: int, width: int) -> list[slice]:
    step = max(1, CHUNK_ELEMENTS // max(1, width))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _gather_product(values: Tensor, table: Tensor, matrix: Tensor) -> Tensor:
    """sum over k of values[table[:, k]] @ matrix[k]. values [L,C], table [L,K], matrix [K*C,D] -> [L,D]."""
    padded = torch.cat([values, values.new_zeros(1, values.shape[1])])
    out = values.new_empty(table.shape[0], matrix.shape[1])
    for rows in _chunks(table.shape[0], matrix.shape[0]):
        columns = padded.index_select(0, table[rows].reshape(-1)).view(-1, matrix.shape[0])
        torch.mm(columns, matrix, out=out[rows])
    return out


class _GatherConvolution(torch.autograd.Function):
    """values [L,C], weight [D,K,C], table [L,K] -> [L,D]; saves the inputs only and gathers again in backward."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(values, weight, table)
        matrix = weight.permute(1, 2, 0).reshape(-1, weight.shape[0])
        return _gather_product(values, table, matrix)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        values, weight, table = ctx.saved_tensors
        upstream = gradients[0].contiguous()
        out_channels, taps, in_channels = weight.shape
        grad_values = grad_weight = None
        if ctx.needs_input_grad[0]:
            mirrored = weight.flip(1).permute(1, 0, 2).reshape(taps * out_channels, in_channels)
            grad_values = _gather_product(upstream, table, mirrored)
        if ctx.needs_input_grad[1]:
            padded = torch.cat([values, values.new_zeros(1, in_channels)])
            total = torch.zeros(out_channels, taps * in_channels, dtype=torch.float32, device=values.device)
            total = total.to(torch.promote_types(total.dtype, values.dtype))
            for rows in _chunks(table.shape[0], taps * in_channels):
                columns = padded.index_select(0, table[rows].reshape(-1)).view(-1, taps * in_channels)
                total += upstream[rows].T @ columns
            grad_weight = total.view_as(weight).to(weight.dtype)
        return grad_values, grad_weight, None


def _autocast_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else dtype


class SubmanifoldKernel(nn.Module):
    """Weights of one convolution, stored [out, kx, ky, kz, in] as in the published files."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, kernel_size, kernel_size, kernel_size, in_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        bound = 1.0 / math.sqrt(in_channels * kernel_size**3)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)


class SparseConv3d(nn.Module):
    """Submanifold convolution of odd ``kernel_size``; parameters ``conv.weight`` and ``conv.bias``.

    A 1x1x1 kernel is the published trap: the stored buffer is read as [in, out] by a plain reshape, not transposed.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, bias: bool = True) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"A submanifold convolution needs an odd kernel size, got {kernel_size}.")
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.conv = SubmanifoldKernel(in_channels, out_channels, kernel_size, bias)

    def zero_(self) -> None:
        """Set weight and bias to zero: a residual branch that starts silent."""
        for parameter in self.conv.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Features [L,in] -> [L,out] on the same voxels."""
        dtype = _autocast_dtype(x.device, x.dtype)
        feats, weight = x.feats.to(dtype), self.conv.weight.to(dtype)
        if self.kernel_size == 1:
            out = feats @ weight.reshape(self.in_channels, self.out_channels)
        else:
            taps = weight.reshape(self.out_channels, -1, self.in_channels)
            out = _GatherConvolution.apply(feats, taps, neighbour_map(x, self.kernel_size))
        if self.conv.bias is not None:
            out = out + self.conv.bias.to(dtype)
        return x.replace(out)

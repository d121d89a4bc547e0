"""Features on the occupied voxels of a grid, for a batch of objects (CUPID spec sections 3 and 4.4).

Rows are voxels. ``coords`` holds (b, x, y, z); the rows of one batch item are contiguous and items come in order. Work
that depends on the coordinates alone (neighbour maps, attention groups, the way back up after a downsample) is kept in
``cache``, which every tensor made by :meth:`SparseTensor.replace` shares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

KEY_LIMIT = 2**62  # keys are int64


class SparseTensor:
    """Voxel features: coords [L,4] int (b, x, y, z), feats [L,...] float. Raises ValueError when rows do not match."""

    def __init__(
        self, coords: Tensor, feats: Tensor, batch_size: int | None = None, cache: dict[Any, Any] | None = None
    ) -> None:
        if coords.ndim != 2 or coords.shape[1] != 4:
            raise ValueError(f"Sparse coordinates must be [L,4] rows of (b, x, y, z), got {list(coords.shape)}.")
        if coords.shape[0] != feats.shape[0]:
            raise ValueError(f"{coords.shape[0]} voxels came with {feats.shape[0]} feature rows; give one row a voxel.")
        self.coords = coords
        self.feats = feats
        self.cache: dict[Any, Any] = {} if cache is None else cache
        if batch_size is None:
            batch_size = self.cached("batch_size", lambda: int(coords[:, 0].max()) + 1 if len(coords) else 0)
        self.batch_size = int(batch_size)

    @classmethod
    def from_batch(cls, coords: Sequence[Tensor], feats: Sequence[Tensor]) -> SparseTensor:
        """One tensor of several objects: coords list of [L_b,3] int, feats list of [L_b,C]. An item may be empty."""
        if len(coords) != len(feats):
            raise ValueError(f"{len(coords)} coordinate lists came with {len(feats)} feature lists; give one each.")
        if not coords:
            raise ValueError("A sparse batch needs at least one item.")
        rows = [torch.cat([torch.full_like(c[:, :1], b), c], dim=1) for b, c in enumerate(coords)]
        return cls(torch.cat(rows), torch.cat(list(feats)), batch_size=len(coords))

    def __len__(self) -> int:
        return self.coords.shape[0]

    @property
    def device(self) -> torch.device:
        return self.feats.device

    @property
    def dtype(self) -> torch.dtype:
        return self.feats.dtype

    def cached(self, key: Any, compute: Callable[[], Any]) -> Any:
        """The remembered result of ``compute`` for these coordinates."""
        if key not in self.cache:
            self.cache[key] = compute()
        return self.cache[key]

    @cached_property
    def batch_index(self) -> Tensor:
        """Batch item of each row [L] int64."""
        return self.coords[:, 0].long()

    @property
    def lengths(self) -> list[int]:
        """Voxels of each batch item."""
        return self.cached(
            ("lengths", self.batch_size), lambda: torch.bincount(self.batch_index, minlength=self.batch_size).tolist()
        )

    @property
    def layout(self) -> list[slice]:
        """Rows of each batch item."""
        slices, start = [], 0
        for length in self.lengths:
            slices.append(slice(start, start + length))
            start += length
        return slices

    def replace(self, feats: Tensor) -> SparseTensor:
        """The same voxels with other features [L,...]; the cache is shared."""
        return SparseTensor(self.coords, feats, self.batch_size, self.cache)

    def to(self, target: torch.dtype | torch.device | str) -> SparseTensor:
        """Features as another dtype, or everything on another device (the cache is left behind then)."""
        if isinstance(target, torch.dtype):
            return self.replace(self.feats.to(target))
        return SparseTensor(self.coords.to(target), self.feats.to(target), self.batch_size)

    def items(self) -> list[tuple[Tensor, Tensor]]:
        """(coords [L_b,3], feats [L_b,...]) of each batch item."""
        return list(zip(self.coords[:, 1:].split(self.lengths), self.feats.split(self.lengths), strict=True))

    def spread(self, values: Tensor) -> Tensor:
        """One row a batch item [B,C] -> one row a voxel [L,C] ([1,C] when the batch has one item, to broadcast)."""
        return values if self.batch_size == 1 else values[self.batch_index]


def voxel_keys(coords: Tensor, lower: Tensor, extent: Sequence[int]) -> Tensor:
    """Lexicographic int64 keys [L] of coords [L,4] (b, x, y, z).

    ``lower`` [3] is subtracted from xyz, ``extent`` bounds them.
    """
    ex, ey, ez = (int(size) for size in extent)
    b, xyz = coords[:, 0].long(), coords[:, 1:].long() - lower
    return ((b * ex + xyz[:, 0]) * ey + xyz[:, 1]) * ez + xyz[:, 2]


def bounds(coords: Tensor, margin: int = 0) -> tuple[Tensor, list[int]]:
    """Lower corner [3] int64 and extent (3 ints) of the voxels, widened by ``margin`` cells on every side."""
    if not len(coords):
        return torch.zeros(3, dtype=torch.int64, device=coords.device), [1, 1, 1]
    xyz = coords[:, 1:].long()
    lower, upper = xyz.amin(0) - margin, xyz.amax(0) + margin
    extent = (upper - lower + 1).tolist()
    if (int(coords[:, 0].max()) + 1) * extent[0] * extent[1] * extent[2] >= KEY_LIMIT:
        raise ValueError(f"A voxel grid of {extent} cells is too large to index; check the coordinates.")
    return lower, extent


def find_keys(sorted_keys: Tensor, queries: Tensor) -> Tensor:
    """Position of each query in ``sorted_keys`` [N], -1 where absent; same shape as ``queries``, int64."""
    if not len(sorted_keys):
        return torch.full_like(queries, -1)
    position = torch.searchsorted(sorted_keys, queries).clamp_(max=len(sorted_keys) - 1)
    return torch.where(sorted_keys[position] == queries, position, -1)

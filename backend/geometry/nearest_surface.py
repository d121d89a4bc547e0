"""Points spread evenly over triangles, each knowing its place, and the dense surface's nearest place to any point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

MOST_STEPS = 256  # parts of a face's longest edge: larger faces are sampled more coarsely than asked
CANDIDATES = 3  # nearest samples looked at for a point: the nearest on another side of a thin part must not win
FACING_AWAY = 0.5  # extra distance, in units of the sample spacing, for each unit that a cosine is missing


@dataclass(frozen=True)
class Places:
    """N places on a mesh: `face` [N] int64, `barycentric` [N,3] float64."""

    face: np.ndarray
    barycentric: np.ndarray

    def interpolate(self, faces: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Values at vertices [V,C] -> at the places [N,C] float64."""
        corners = np.asarray(faces)[self.face]
        values = np.asarray(values, np.float64)
        return np.asarray(sum(self.barycentric[:, k, None] * values[corners[:, k]] for k in range(3)))


def face_samples(vertices: np.ndarray, faces: np.ndarray, spacing: float) -> Places:
    """Places on every face of vertices [V,3], faces [F,3], about `spacing` apart; small faces have their centre."""
    corners = np.asarray(vertices, np.float64)[np.asarray(faces)]
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
    steps = np.ceil(longest / max(spacing, 1e-9)).clip(1, MOST_STEPS).astype(np.int64)
    owners, weights = [], []
    for count in np.unique(steps):
        rows = np.flatnonzero(steps == count)
        lattice = _lattice(int(count))
        owners.append(np.repeat(rows, len(lattice)))
        weights.append(np.tile(lattice, (len(rows), 1)))
    if not owners:
        return Places(np.zeros(0, np.int64), np.zeros((0, 3)))
    return Places(np.concatenate(owners), np.concatenate(weights))


def _lattice(steps: int) -> np.ndarray:
    """Barycentric centres [steps^2,3] of the small triangles of a triangle cut into `steps` parts a side."""
    i, j = np.meshgrid(np.arange(steps), np.arange(steps), indexing="ij")
    upright = i + j < steps
    inverted = i + j < steps - 1
    first = np.stack([i[upright] + 1 / 3, j[upright] + 1 / 3], axis=1)
    second = np.stack([i[inverted] + 2 / 3, j[inverted] + 2 / 3], axis=1)
    two = np.concatenate([first, second]) / steps
    return np.column_stack([1.0 - two.sum(axis=1), two])


class NearestSurface:
    """Finds the places of a dense mesh that are nearest to points. Exact to a fraction of `spacing`."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray, spacing: float) -> None:
        """vertices [V,3], faces [F,3], unit normals [V,3], spacing of the samples in object units."""
        self._faces = np.asarray(faces, np.int64)
        self._corners = np.asarray(vertices, np.float64)[self._faces]
        self._samples = face_samples(vertices, faces, spacing)
        self._spacing = spacing
        self._tree = cKDTree(self._samples.interpolate(faces, vertices), balanced_tree=False, compact_nodes=False)
        self._facing = np.asarray(normals, np.float32)[self._faces].sum(axis=1)
        self._facing /= np.maximum(np.linalg.norm(self._facing, axis=1, keepdims=True), 1e-9)

    def at(self, points: np.ndarray, normals: np.ndarray) -> Places:
        """The places nearest to points [N,3] among those that face as `normals` [N,3] do."""
        count = min(CANDIDATES, len(self._samples.face))
        distance, index = self._tree.query(points, k=count)
        distance, index = distance.reshape(-1, count), index.reshape(-1, count)
        face = self._samples.face[index]
        away = 1.0 - np.einsum("nkc,nc->nk", self._facing[face], np.asarray(normals, np.float32))
        chosen = (distance + FACING_AWAY * self._spacing * away).argmin(axis=1)
        face = face[np.arange(len(face)), chosen]
        return Places(face, nearest_barycentric(np.asarray(points, np.float64), self._corners[face]))


def nearest_barycentric(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Barycentric places [N,3] of points [N,3] dropped onto the planes of triangles [N,3,3], pulled into them."""
    first, second, across = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], points - corners[:, 0]
    aa, ab, bb = (np.einsum("ni,ni->n", p, q) for p, q in ((first, first), (first, second), (second, second)))
    pa, pb = np.einsum("ni,ni->n", across, first), np.einsum("ni,ni->n", across, second)
    below = np.maximum(aa * bb - ab * ab, 1e-30)
    v, w = (bb * pa - ab * pb) / below, (aa * pb - ab * pa) / below
    weights = np.stack([1.0 - v - w, v, w], axis=1).clip(0.0, 1.0)
    return np.asarray(weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12))

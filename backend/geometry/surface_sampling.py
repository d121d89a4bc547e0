"""Points spread over a mesh by area, with the normals and colours found there: what stands for a mesh of any size."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from backend.contract.meshes import MeshData

LEAST_AREA = 1e-12  # of the squared longest side: below it a mesh has no surface


@dataclass(frozen=True)
class SurfacePoints:
    """points [N,3] float64, unit normals [N,3], colors [N,3] sRGB in [0,1] or None where the mesh has none."""

    points: np.ndarray
    normals: np.ndarray
    colors: np.ndarray | None

    def __len__(self) -> int:
        return len(self.points)


def sample_surface(mesh: MeshData, count: int, seed: int = 0) -> SurfacePoints:
    """`count` points of `mesh`. Errors: ValueError with a sentence for a mesh without a surface."""
    if not len(mesh.faces) or not len(mesh.vertices):
        raise ValueError("The mesh is empty; choose an object that has faces.")
    area = _areas(mesh.vertices, mesh.faces)
    longest = float(np.ptp(mesh.vertices, axis=0).max())
    total = float(area.sum())
    if not np.isfinite(total):
        raise ValueError("The mesh has places that are not finite numbers; repair it and try again.")
    if total <= LEAST_AREA * max(longest, 1e-30) ** 2:
        raise ValueError("The mesh has no surface: all its faces are lines or points; choose another object.")
    rng = np.random.default_rng(seed)
    # One point in each of `count` equal shares of the area: spread more evenly than by chance alone.
    places = (np.arange(count) + rng.random(count)) / count * total
    chosen = np.searchsorted(np.cumsum(area), places).clip(0, len(area) - 1)
    corners = np.asarray(mesh.vertices)[mesh.faces[chosen]].astype(np.float64)
    first, along, across = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    u, v = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    points = first + u * (1 - v) * along + u * v * across
    weights = np.concatenate([1 - u, u * (1 - v), u * v], axis=1)
    normals = np.cross(along, across)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)
    return SurfacePoints(points, normals, colors_at(mesh, chosen, weights))


def _areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Twice the area [F] float64 of each face, one axis after the other: meshes have millions of them."""
    a, b, c = faces[:, 0], faces[:, 1], faces[:, 2]
    along, across = [], []
    for axis in range(3):
        place = np.asarray(vertices[:, axis], np.float32)
        along.append(place[b] - place[a])
        across.append(place[c] - place[a])
    squares = sum(
        (along[i] * across[j] - along[j] * across[i]).astype(np.float64) ** 2 for i, j in ((0, 1), (1, 2), (2, 0))
    )
    return np.asarray(np.sqrt(squares))


def colors_at(mesh: MeshData, chosen: np.ndarray, weights: np.ndarray) -> np.ndarray | None:
    """Colours [N,3] at `weights` [N,3] in the faces `chosen` [N]: of the texture, else of the vertices."""
    if mesh.texture and mesh.uvs is not None:
        texture = np.asarray(Image.open(io.BytesIO(mesh.texture)).convert("RGB"), np.float64) / 255.0
        corners = np.asarray(mesh.uvs, np.float64).reshape(-1, 3, 2)[chosen]
        uv = np.einsum("nk,nkc->nc", weights, corners) % 1.0  # textures repeat
        column = (uv[:, 0] * texture.shape[1]).astype(int).clip(0, texture.shape[1] - 1)
        row = ((1.0 - uv[:, 1]) * texture.shape[0]).astype(int).clip(0, texture.shape[0] - 1)
        return np.asarray(texture[row, column])
    if mesh.colors is not None:
        corners = np.asarray(mesh.colors, np.float64)[np.asarray(mesh.faces)[chosen], :3] / 255.0
        return np.asarray(np.einsum("nk,nkc->nc", weights, corners))
    return None

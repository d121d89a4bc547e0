"""Software z-buffer: which triangle covers each pixel, and where on it (plain numpy, no GPU, no compiled code).

Method: homogeneous rasterisation. With pixel coordinates p = (x, y, 1) and the three projected corners as columns
of a matrix M (before the division by depth), M^-1 p = barycentrics / depth. A pixel is inside when all three are
>= 0, and their sum is 1 / depth: barycentrics are perspective correct and triangles that cross the camera plane need
no clipping. Candidate pixels come from each triangle's bounding box, expanded in chunks of bounded memory.

Conventions: OpenCV camera (x right, y down, z forward), `world_to_camera` [4,4], intrinsics [3,3] normalised to the
image, pixel centres at (p + 0.5) / size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEAR = 1e-3  # object units; anything closer than this to the camera plane is not drawn
CHUNK = 300_000  # candidate pixels handled at once: arrays below 32 MB, which the allocator keeps for the next chunk


@dataclass(frozen=True)
class Raster:
    """One rasterised view. `face` [H,W] int64 (-1 = background), `barycentric` [H,W,3] float32, `depth` [H,W] float32
    (0 = none)."""

    face: np.ndarray
    barycentric: np.ndarray
    depth: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """Covered pixels [H,W] bool."""
        return self.face >= 0


def to_camera(points: np.ndarray, world_to_camera: np.ndarray) -> np.ndarray:
    """Points [N,3] in world coordinates -> camera coordinates [N,3] float64."""
    matrix = np.asarray(world_to_camera, dtype=np.float64)
    return np.asarray(points, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]


def rasterize(
    vertices: np.ndarray,
    faces: np.ndarray,
    world_to_camera: np.ndarray,
    intrinsics: np.ndarray,
    size: tuple[int, int],
) -> Raster:
    """Draw triangles.

    vertices [V,3], faces [F,3] int, size = (width, height) in pixels. Both sides of a triangle are drawn. Ties in
    depth go to
    the lower face index, so results are deterministic.
    """
    width, height = int(size[0]), int(size[1])
    if width < 1 or height < 1:
        raise ValueError(f"size must be positive, got {size}")
    faces = np.asarray(faces, dtype=np.int64).reshape(-1, 3)
    to_pixels = np.diag([width, height, 1.0]) @ np.asarray(intrinsics, dtype=np.float64)
    camera = to_camera(vertices, world_to_camera)
    # [F,3 corners,3]; the third component is depth because K has last row (0,0,1)
    corners = (camera @ to_pixels.T)[faces]
    depths = corners[:, :, 2]

    # rows of adj(M) are cross products of the corner vectors; dividing by det(M) gives M^-1
    adjugate = np.stack(
        [
            np.cross(corners[:, 1], corners[:, 2]),
            np.cross(corners[:, 2], corners[:, 0]),
            np.cross(corners[:, 0], corners[:, 1]),
        ],
        axis=1,
    )
    determinant = np.einsum("fi,fi->f", corners[:, 0], adjugate[:, 0])
    boxes = _pixel_boxes(corners, depths, width, height)
    counts = (boxes[:, 2] - boxes[:, 0]).clip(0) * (boxes[:, 3] - boxes[:, 1]).clip(0)
    usable = (np.abs(determinant) > 1e-12) & np.isfinite(determinant) & (depths.max(axis=1) > NEAR) & (counts > 0)
    selected = np.flatnonzero(usable)
    inverse = adjugate[selected] / determinant[selected, None, None]
    boxes, counts = boxes[selected], counts[selected]

    best = np.full(width * height, np.iinfo(np.int64).max, dtype=np.int64)
    for start, stop in _chunks(counts):
        owner, x, y = _candidates(boxes[start:stop], counts[start:stop])
        owner += start
        weights = _weights(inverse[owner], x, y)
        inverse_depth = weights.sum(axis=1)
        inside = (weights >= 0.0).all(axis=1) & (inverse_depth > 0.0) & (inverse_depth < 1.0 / NEAR)
        owner, x, y = owner[inside], x[inside], y[inside]
        depth = (1.0 / inverse_depth[inside]).astype(np.float32)
        # positive floats order like their bit patterns: depth in the high half, face in the low half, one minimum
        # decides
        key = (depth.view(np.uint32).astype(np.int64) << 32) | selected[owner]
        np.minimum.at(best, y * width + x, key)
    return _resolve(best, selected, inverse, len(faces), width, height)


def _pixel_boxes(corners: np.ndarray, depths: np.ndarray, width: int, height: int) -> np.ndarray:
    """Half-open pixel boxes [F,4] = (x0, y0, x1, y1) of the parts of the triangles before the camera plane."""
    limit = float(4 * max(width, height))
    low = np.full((len(corners), 2), limit)
    high = np.full((len(corners), 2), -limit)
    for a, b in ((0, 1), (1, 2), (2, 0)):
        start, stop = corners[:, a], corners[:, b]
        _include(low, high, start, depths[:, a] > NEAR, limit)
        crossing = (depths[:, a] > NEAR) != (depths[:, b] > NEAR)
        rise = np.where(crossing, depths[:, b] - depths[:, a], 1.0)
        part = ((NEAR - depths[:, a]) / rise)[:, None]
        _include(low, high, start + part * (stop - start), crossing, limit)
    low = np.floor(low - 0.5).astype(np.int64)
    high = np.ceil(high + 0.5).astype(np.int64)
    bounds = np.array([width, height, width, height])
    return np.clip(np.concatenate([low, high], axis=1), 0, bounds)


def _include(low: np.ndarray, high: np.ndarray, points: np.ndarray, valid: np.ndarray, limit: float) -> None:
    """Grow the boxes `low`, `high` [F,2] by homogeneous pixel points [F,3] where `valid` [F]."""
    depth = np.where(valid, points[:, 2], 1.0)[:, None]
    pixels = np.nan_to_num(points[:, :2] / depth, nan=limit, posinf=limit, neginf=-limit).clip(-limit, limit)
    low[valid] = np.minimum(low[valid], pixels[valid])
    high[valid] = np.maximum(high[valid], pixels[valid])


def _chunks(counts: np.ndarray) -> list[tuple[int, int]]:
    """Split triangles into runs whose candidate pixels sum to about CHUNK (one triangle may exceed it alone)."""
    if len(counts) == 0:
        return []
    bucket = np.cumsum(counts) // CHUNK
    edges = np.flatnonzero(np.diff(bucket)) + 1
    starts = np.concatenate([[0], edges])
    stops = np.concatenate([edges, [len(counts)]])
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def _candidates(boxes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pixels of all boxes: owner [N] (row of boxes), x [N], y [N]."""
    owner = np.repeat(np.arange(len(boxes)), counts)
    first = np.cumsum(counts) - counts
    local = np.arange(len(owner)) - first[owner]
    widths = (boxes[:, 2] - boxes[:, 0])[owner]
    return owner, boxes[owner, 0] + local % widths, boxes[owner, 1] + local // widths


def _weights(inverse: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """M^-1 p for pixel centres: inverse [N,3,3], x [N], y [N] -> barycentric / depth [N,3]."""
    return inverse[:, :, 0] * (x + 0.5)[:, None] + inverse[:, :, 1] * (y + 0.5)[:, None] + inverse[:, :, 2]


def _resolve(
    best: np.ndarray, selected: np.ndarray, inverse: np.ndarray, face_count: int, width: int, height: int
) -> Raster:
    """Turn winning keys [H*W] into faces, barycentrics and depth."""
    face = np.full(width * height, -1, dtype=np.int64)
    barycentric = np.zeros((width * height, 3), dtype=np.float32)
    depth = np.zeros(width * height, dtype=np.float32)
    hit = np.flatnonzero(best != np.iinfo(np.int64).max)
    face[hit] = best[hit] & 0xFFFFFFFF
    if len(hit):
        row = np.full(face_count, -1, dtype=np.int64)
        row[selected] = np.arange(len(selected))
        weights = _weights(inverse[row[face[hit]]], hit % width, hit // width)
        total = weights.sum(axis=1, keepdims=True)
        barycentric[hit] = weights / total
        depth[hit] = 1.0 / total[:, 0]
    return Raster(
        face.reshape(height, width), barycentric.reshape(height, width, 3), depth.reshape(height, width)
    )

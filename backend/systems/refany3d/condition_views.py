"""The conditions of a mesh without Blender: colour views and point maps drawn by our own rasteriser (spec section 3).

The mesh stands in its box, centred and scaled to [-1,1] along its longest side, in glTF axes; the camera goes round it.
Unlit base colour, white background, no anti-aliasing, both sides of a face, bytes truncated: as published.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from backend.contract.frames import look_at
from backend.contract.meshes import MeshData
from backend.contract.reference_views import DISTANCE, FRAMES, to_bytes, view_intrinsics
from backend.rendering.rasterizer import Raster, rasterize
from backend.rendering.views import interpolate
from backend.systems.refany3d.point_maps import Bounds, bounds_of, encode_points, to_gltf

PLAIN = 102 / 255  # of a mesh without any colour


@dataclass(frozen=True)
class ConditionViews:
    """views [N,S,S,3], points [N,S,S,3], both uint8; the box of the mesh in world axes."""

    views: np.ndarray
    points: np.ndarray
    bounds: Bounds

    def strips(self) -> tuple[np.ndarray, np.ndarray]:
        """Views and point maps, each as one picture [S,N*S,3], from left to right."""
        return join_strip(self.views), join_strip(self.points)


def azimuths(count: int, even: bool = False) -> tuple[float, ...]:
    """Degrees of `count` views: every floor(60 / count)-th frame of the orbit as published, or evenly spaced."""
    if even:
        return tuple(360.0 * index / count for index in range(count))
    stride = FRAMES // count
    return tuple(360.0 * stride * index / FRAMES for index in range(count))


def gltf_camera(azimuth: float, elevation: float = 0.0, radius: float = DISTANCE) -> np.ndarray:
    """`world_to_camera` [4,4] (OpenCV) in the glTF axes of the centred mesh; angles in degrees, 0 on +x towards +z."""
    a, p = np.deg2rad(azimuth), np.deg2rad(elevation)
    eye = radius * np.array([np.cos(p) * np.cos(a), np.sin(p), np.cos(p) * np.sin(a)])
    return look_at(eye, np.zeros(3), (0.0, 1.0, 0.0))


def draw_conditions(
    parts: Sequence[MeshData],
    size: int,
    angles: Sequence[float],
    elevation: float = 0.0,
    radius: float = DISTANCE,
    y_rotation: float = 0.0,
) -> ConditionViews:
    """Views and point maps of the mesh that `parts` make together, in world axes (z up), `size` pixels square.

    Errors: ValueError when there is no face.
    """
    vertices, faces = joined(parts)
    bounds = bounds_of(vertices[np.unique(faces)])
    placed = to_gltf(vertices - bounds.centre) * (2.0 / max(bounds.longest, 1e-12))
    cameras = [(gltf_camera(angle, elevation, radius), view_intrinsics()) for angle in angles]
    return draw_at(parts, placed, cameras, size, y_rotation)


def draw_at(
    parts: Sequence[MeshData],
    placed: np.ndarray,
    cameras: Sequence[tuple[np.ndarray, np.ndarray]],
    size: int,
    y_rotation: float = 0.0,
) -> ConditionViews:
    """Views and point maps of what `parts` make together, its vertices at `placed` [V,3] in the frame of `cameras`.

    Each camera is a `world_to_camera` [4,4] (OpenCV) and normalised intrinsics [3,3]. Errors: as `draw_conditions`.
    """
    vertices, faces = joined(parts)
    bounds = bounds_of(vertices[np.unique(faces)])
    codes = encode_points(vertices, bounds, y_rotation)
    views, points = [], []
    for matrix, lens in cameras:
        raster = rasterize(placed, faces, matrix, lens, (size, size))
        views.append(_on_white(base_colors(raster, parts), raster.mask))
        points.append(_on_white(interpolate(raster, faces, codes), raster.mask))
    return ConditionViews(np.stack(views), np.stack(points), bounds)


def joined(parts: Sequence[MeshData]) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V,3] float64 and faces [F,3] of `parts` together. Errors: ValueError when there is no face."""
    if not sum(len(part.faces) for part in parts):
        raise ValueError("the mesh has no faces")
    vertices = np.concatenate([np.asarray(part.vertices, np.float64) for part in parts])
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    faces = np.concatenate([np.asarray(part.faces) + start for part, start in zip(parts, starts, strict=False)])
    return vertices, faces


def join_strip(pictures: np.ndarray) -> np.ndarray:
    """[N,S,S,3] -> [S,N*S,3]."""
    return np.ascontiguousarray(np.concatenate(list(pictures), axis=1))


def split_strip(strip: np.ndarray) -> np.ndarray:
    """[S,N*S,3] -> [N,S,S,3]. Errors: ValueError when the width is no multiple of the height."""
    size, width = strip.shape[:2]
    if width % size:
        raise ValueError(f"the strip is {width} x {size} pixels, no row of squares")
    return np.stack(np.split(strip, width // size, axis=1))


def _on_white(color: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return to_bytes(np.where(mask[..., None], color, 1.0))


def base_colors(raster: Raster, parts: Sequence[MeshData]) -> np.ndarray:
    """Base colours [H,W,3] of what `raster` shows of the joined parts."""
    color = np.full((*raster.face.shape, 3), PLAIN, np.float32)
    for part, first in _with_first_face(parts):
        hit = (raster.face >= first) & (raster.face < first + len(part.faces))
        if not hit.any():
            continue
        own, weights = raster.face[hit] - first, raster.barycentric[hit]
        if part.texture and part.uvs is not None:
            texture = np.asarray(Image.open(io.BytesIO(part.texture)).convert("RGB"), np.float32) / 255.0
            corners = np.asarray(part.uvs, np.float32).reshape(-1, 3, 2)[own]
            uv = np.einsum("nk,nkc->nc", weights, corners)
            color[hit] = sample_wrapped(texture, np.stack([uv[:, 0], 1.0 - uv[:, 1]], axis=1))
        elif part.colors is not None:
            corners = np.asarray(part.colors, np.float32)[np.asarray(part.faces)[own], :3] / 255.0
            color[hit] = np.einsum("nk,nkc->nc", weights, corners)
    return color


def sample_wrapped(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """`image` [H,W,C] at places uv [N,2] (v down), between texels, repeated beyond [0,1] -> [N,C] float32."""
    height, width = image.shape[:2]
    x, y = uv[:, 0].astype(np.float64) * width - 0.5, uv[:, 1].astype(np.float64) * height - 0.5
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    fx, fy = (x - left).astype(np.float32)[:, None], (y - top).astype(np.float32)[:, None]
    columns, rows = (left % width, (left + 1) % width), (top % height, (top + 1) % height)
    upper = image[rows[0], columns[0]] * (1 - fx) + image[rows[0], columns[1]] * fx
    lower = image[rows[1], columns[0]] * (1 - fx) + image[rows[1], columns[1]] * fx
    return np.asarray(upper * (1 - fy) + lower * fy, np.float32)


def _with_first_face(parts: Sequence[MeshData]) -> Iterator[tuple[MeshData, int]]:
    first = 0
    for part in parts:
        yield part, first
        first += len(part.faces)

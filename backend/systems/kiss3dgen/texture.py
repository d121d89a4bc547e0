"""The texture of a result: every texel takes the colours of the views that see it, by angle; the rest is inpainted.

As `projection.py` does for vertices, with three differences that a texture asks for: each texel has its own direction
to the camera and its own depth test; colours at an outline are freed of the white mixed into them instead of being
thrown away; and what the views see only at a grazing angle (a roof, from 5 degrees) still shows its own colours where
nothing better is known. In our object cube, as `systems/finishing.py` works.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree

from backend.contract.frames import project
from backend.rendering.rasterizer import rasterize
from backend.rendering.views import sample_bilinear
from backend.systems.finishing import PLAIN, Canvas, Painter
from backend.systems.kiss3dgen.bundle import RADIUS, Bundle, view_cameras
from backend.systems.kiss3dgen.inpaint import complete_unseen
from backend.systems.kiss3dgen.projection import COLOR_WEIGHTS

DEPTH_SIZE = 384  # pixels of the depth pictures that decide visibility
DEPTH_SLACK = 0.006  # object units a point may lie behind the nearest surface beside what its slope explains
SHARPNESS = 4  # power of the cosine: views never agree fully, and an even mix would be a blur
GRAZING = 0.03  # least cosine to the ray
PURE = 0.5  # share of a pixel from which its colour can be freed of the background's white
REACH = 2.0  # pixels that colours are carried beyond the outline: meshes overshoot
SURE = 1e-3  # weight from which a texel needs no inpainting: a cosine of 0.18


@dataclass(frozen=True)
class ViewColors:
    """One view: colors [S,S,3] of the object carried out over its rim, inside [S,S] bool where they hold, depth [D,D]
    of the mesh (inf: none), its camera's world_to_camera [4,4] and intrinsics [3,3], and its weight."""

    colors: np.ndarray
    inside: np.ndarray
    depth: np.ndarray
    world_to_camera: np.ndarray
    intrinsics: np.ndarray
    weight: float

    def sample(self, points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Colours [N,3] and weights [N] (0: not seen) of surface points [N,3] with unit normals [N,3]."""
        rotation, shift = self.world_to_camera[:3, :3], self.world_to_camera[:3, 3]
        ways = -(rotation.T @ shift) - points
        cosine = np.einsum("nk,nk->n", normals, ways) / np.maximum(np.linalg.norm(ways, axis=1), 1e-9)
        colors, weight = np.zeros((len(points), 3), np.float32), np.zeros(len(points), np.float32)
        rows = np.flatnonzero(cosine > GRAZING)
        uv, depth = project(points[rows], self.world_to_camera, self.intrinsics)
        within = ((uv >= 0) & (uv < 1)).all(axis=1) & (depth > 0)
        rows, uv, depth = rows[within], uv[within], depth[within]
        side = len(self.depth)
        column, row = np.floor(uv * side).astype(np.int64).T
        slope = np.sqrt(np.maximum(1.0 - cosine[rows] ** 2, 0.0)) / cosine[rows]
        pitch = depth / (side * self.intrinsics[0, 0])  # object units across a pixel of the depth picture
        seen = depth - self.depth[row, column] <= DEPTH_SLACK + np.minimum(2.0 * pitch * slope, 10 * DEPTH_SLACK)
        size = len(self.inside)
        column, row = np.floor(uv * size).astype(np.int64).T
        seen &= self.inside[row, column]
        rows, uv = rows[seen], uv[seen]
        colors[rows] = sample_bilinear(self.colors, uv)
        weight[rows] = self.weight * cosine[rows] ** SHARPNESS
        return colors, weight


def bundle_views(
    vertices: np.ndarray, faces: np.ndarray, bundle: Bundle, radius: float = RADIUS,
    weights: Sequence[float] = COLOR_WEIGHTS,
) -> list[ViewColors]:  # fmt: skip
    """The views of a bundle as sources of colour for a mesh [V,3], [F,3] in the object cube."""
    cameras, intrinsics = view_cameras(radius)
    views = []
    for rgb, mask, camera, weight in zip(bundle.rgb, bundle.mask, cameras, weights, strict=True):
        raster = rasterize(vertices, faces, camera, intrinsics, (DEPTH_SIZE, DEPTH_SIZE))
        depth = np.where(raster.mask, raster.depth, np.inf)
        colors, inside = carried_colors(rgb, mask)
        views.append(ViewColors(colors, inside, depth, camera, intrinsics, weight))
    return views


def carried_colors(rgb: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The object's own colours [S,S,3] of a view on white, carried REACH pixels beyond its outline, and where [S,S]
    bool they are known."""
    pure = mask >= PURE
    if not pure.any():
        return rgb, pure
    share = mask.clip(PURE, 1.0)[..., None]
    own = np.where(pure[..., None], (rgb - (1.0 - share)) / share, rgb).clip(0.0, 1.0)
    distance, (rows, columns) = ndimage.distance_transform_edt(~pure, return_indices=True)
    return own[rows, columns].astype(np.float32), distance <= REACH


def blended(views: Sequence[ViewColors], points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours [N,3] and summed weights [N] that the views give points [N,3] with normals [N,3]."""
    total, weight = np.zeros((len(points), 3), np.float32), np.zeros(len(points), np.float32)
    for view in views:
        colors, share = view.sample(points, normals)
        total += share[:, None] * colors
        weight += share
    return total / np.maximum(weight, 1e-12)[:, None], weight


def filled_vertices(
    vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray, seen: np.ndarray
) -> np.ndarray:  # fmt: skip
    """Colours [V,3] with those of the vertices that no view `seen` [V] bool spread from their neighbours, else from the
    nearest in space."""
    if not seen.any():
        return np.tile(PLAIN, (len(vertices), 1)).astype(np.float32)
    start = colors.copy()
    start[~seen] = colors[seen][cKDTree(vertices[seen]).query(vertices[~seen])[1]]
    spread = complete_unseen(
        torch.from_numpy(start.astype(np.float32)),
        torch.from_numpy(np.asarray(faces, np.int64)),
        torch.from_numpy(seen),
    )
    return spread.numpy()


def bundle_painter(bundle: Bundle, radius: float = RADIUS, weights: Sequence[float] = COLOR_WEIGHTS) -> Painter:
    """A painter with the colours of a bundle."""

    def painted(canvas: Canvas) -> np.ndarray:
        views = bundle_views(canvas.vertices, canvas.faces, bundle, radius, weights)
        colors, weight = blended(views, canvas.vertices, canvas.normals)
        hidden = filled_vertices(canvas.vertices, canvas.faces, colors, weight > SURE)
        rest = canvas.texels.interpolate(canvas.faces, hidden)
        shown, weight = blended(views, canvas.points, canvas.point_normals)
        share = (weight / SURE).clip(0.0, 1.0)[:, None]
        return np.asarray(rest + share * (shown - rest))

    return painted

"""Colour a mesh from the photo: what the camera sees gets the photo's colour, the rest its nearest coloured
neighbour."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from backend.contract.frames import project
from backend.rendering.rasterizer import rasterize
from backend.rendering.views import vertex_normals

DEPTH_SIZE = 256  # pixels of the depth picture that decides visibility
DEPTH_SLACK = 0.02  # object units a vertex may lie behind the nearest surface and still count as seen
FACING = 0.15  # least cosine between normal and view ray: grazing surfaces take smeared colours
NEIGHBOURS = 6
PLAIN = np.array([0.7, 0.7, 0.7])


def visible_colors(
    vertices: np.ndarray,
    faces: np.ndarray,
    rgba: np.ndarray,
    world_to_camera: np.ndarray,
    intrinsics: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Photo colours [V,3] in [0,1] and which vertices [V] bool the camera sees well enough to have one.

    rgba [H,W,4] uint8 straight alpha of the picture that the normalised intrinsics [3,3] belong to.
    """
    uv, depth = project(vertices, world_to_camera, intrinsics)
    raster = rasterize(vertices, faces, world_to_camera, intrinsics, (DEPTH_SIZE, DEPTH_SIZE))
    nearest = np.where(raster.mask, raster.depth, np.inf)
    # a vertex may fall beside its own triangle's pixel
    nearest = ndimage.minimum_filter(nearest, size=3, mode="nearest")
    pixel = np.floor(uv * DEPTH_SIZE).clip(0, DEPTH_SIZE - 1).astype(np.int64)
    rotation, shift = world_to_camera[:3, :3], world_to_camera[:3, 3]
    rays = vertices + rotation.T @ shift  # from the camera's centre -R^T t
    rays = rays / np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-9)
    facing = -(vertex_normals(vertices, faces) * rays).sum(axis=1)
    inside = ((uv >= 0) & (uv <= 1)).all(axis=1) & (depth > 0)
    seen = inside & (facing > FACING) & (depth <= nearest[pixel[:, 1], pixel[:, 0]] + DEPTH_SLACK)
    height, width = rgba.shape[:2]
    places = [uv[:, 1] * height - 0.5, uv[:, 0] * width - 0.5]
    alpha = rgba[..., 3] / 255.0
    weight = ndimage.map_coordinates(alpha, places, order=1, mode="nearest")
    colors = np.stack(
        [ndimage.map_coordinates(rgba[..., c] / 255.0 * alpha, places, order=1, mode="nearest") for c in range(3)], 1
    )
    seen &= weight > 0.9
    return colors / np.maximum(weight, 1e-3)[:, None], seen


def spread_colors(vertices: np.ndarray, colors: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Colours [V,3] where the unknown vertices take the distance-weighted mean of the nearest `known` [V] ones."""
    if not known.any():
        return np.tile(PLAIN, (len(vertices), 1))
    count = min(NEIGHBOURS, int(known.sum()))
    distance, index = cKDTree(vertices[known]).query(vertices[~known], k=count)
    weight = 1.0 / (distance.reshape(-1, count) + 1e-3)
    weight /= weight.sum(axis=1, keepdims=True)
    filled = colors.copy()
    filled[~known] = (colors[known][index.reshape(-1, count)] * weight[..., None]).sum(axis=1)
    return filled


def photo_colors(
    vertices: np.ndarray,
    faces: np.ndarray,
    rgba: np.ndarray,
    world_to_camera: np.ndarray,
    intrinsics: np.ndarray,
) -> np.ndarray:
    """Vertex colours [V,3] in [0,1]: the photo's where seen, else the neighbours'."""
    colors, seen = visible_colors(vertices, faces, rgba, world_to_camera, intrinsics)
    return spread_colors(vertices, colors, seen)

"""Surface voxels, surface points and the inside test of grid vertices, all from point maps.

Object space is the cube [-0.5, 0.5]^3, z up; voxel (i, j, k) of an R-grid is centred at ((i, j, k) + 0.5) / R - 0.5.
"""

from __future__ import annotations

import numpy as np

from ..contract import frames

_INSET = 2e-3  # points are moved this far inward, so that a face on a voxel border fills one layer and not two
_CARVE_MARGIN = 0.01  # of depth: a vertex this close behind or before a surface counts as inside


def voxel_indices(points: np.ndarray, resolution: int) -> np.ndarray:
    """Voxel (i, j, k) [N, 3] of points [N, 3], clamped to the grid."""
    return np.clip(np.floor((points + 0.5) * resolution), 0, resolution - 1).astype(np.int64)


def voxel_centres(resolution: int) -> np.ndarray:
    """Centres [R, R, R, 3] of all voxels."""
    axis = (np.arange(resolution) + 0.5) / resolution - 0.5
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)


def surface_occupancy(points: np.ndarray, normals: np.ndarray, resolution: int, min_points: int = 2) -> np.ndarray:
    """Voxels [R, R, R] bool that hold at least ``min_points`` of the surface points [N, 3] with normals [N, 3]."""
    i, j, k = voxel_indices(points - _INSET * normals, resolution).T
    counts = np.bincount((i * resolution + j) * resolution + k, minlength=resolution**3)
    return (counts >= min_points).reshape(resolution, resolution, resolution)


def stratified_choice(points: np.ndarray, count: int, rng: np.random.Generator, resolution: int = 48) -> np.ndarray:
    """Indices [count] of points [N, 3] spread evenly over the surface: one a voxel, then the second of each, and so on.

    When there are too few points, some are taken more than once. Raises ValueError without any point.
    """
    if not len(points):
        raise ValueError("There are no surface points to choose from; check that the object is visible.")
    order = rng.permutation(len(points))
    i, j, k = voxel_indices(points[order], resolution).T
    voxel = (i * resolution + j) * resolution + k
    by_voxel = np.argsort(voxel, kind="stable")
    ordered = voxel[by_voxel]
    new_run = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    run_start = np.maximum.accumulate(np.where(new_run, np.arange(len(ordered)), 0))
    rank = np.empty(len(ordered), dtype=np.int64)
    rank[by_voxel] = np.arange(len(ordered)) - run_start
    chosen = order[np.argsort(rank, kind="stable")]
    return np.resize(chosen, count)


def carve_solid(
    points: np.ndarray,
    mask: np.ndarray,
    alpha: np.ndarray,
    world_to_camera: np.ndarray,
    intrinsics: np.ndarray,
    resolution: int = 64,
) -> np.ndarray:
    """Inside test [R + 1, R + 1, R + 1] bool of the grid vertices v / R - 0.5 by space carving.

    points [V, H, W, 3], mask [V, H, W] bool, alpha [V, H, W], world_to_camera [V, 4, 4], intrinsics [V, 3, 3].
    A vertex is outside when some view sees background at it, sees a surface behind it, or does not show it at all (each
    picture shows the whole object).
    """
    axis = np.arange(resolution + 1) / resolution - 0.5
    vertices = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    inside = np.arange(len(vertices))
    for view in range(len(points)):
        height, width = mask[view].shape
        uv, depth = frames.project(vertices[inside], world_to_camera[view], intrinsics[view])
        column = np.floor(uv[:, 0] * width).astype(np.int64)
        row = np.floor(uv[:, 1] * height).astype(np.int64)
        shown = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        inside, depth, column, row = inside[shown], depth[shown], column[shown], row[shown]
        axis_z = world_to_camera[view, 2]
        surface = points[view][row, column] @ axis_z[:3] + axis_z[3]
        hit = mask[view][row, column]
        keep = np.where(hit, depth > surface - _CARVE_MARGIN, alpha[view][row, column] > 0)
        inside = inside[keep]
    solid = np.zeros(len(vertices), dtype=bool)
    solid[inside] = True
    return solid.reshape(resolution + 1, resolution + 1, resolution + 1)

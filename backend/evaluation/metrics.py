"""Measures: rotation and focal error, symmetry about the up axis, Chamfer and F-score after scale-shift fitting.

Rotations are world_to_camera [3,3]; "in the object's frame" means that an error turned with the object counts, so a
wrong canonical orientation is an error. Distances are in object units (longest side of the box = 1). Angles in degrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from backend.rendering.image_metrics import mask_iou, psnr, ssim

__all__ = ["ShapeScore", "mask_iou", "psnr", "rotation_error", "shape_score", "ssim", "symmetry_angles"]

SYMMETRY_IOU = 0.9  # voxels (dilated by one) must overlap this much after a turn to count as the same
SYMMETRY_STEPS = 24  # turns of 15 degrees
SHIFT_ITERATIONS = 8


@dataclass(frozen=True)
class ShapeScore:
    """Symmetric mean Chamfer distance and F-scores at 0.01 and 0.05."""

    chamfer: float
    fscore_01: float
    fscore_05: float


def rotation_error(first: np.ndarray, second: np.ndarray) -> float:
    """Angle in degrees between two rotations [3,3]."""
    cosine = (np.trace(np.asarray(first, np.float64).T @ second) - 1.0) / 2.0
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def up_rotation(angle: float) -> np.ndarray:
    """Rotation [3,3] about z by `angle` radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def symmetry_angles(occupancy: np.ndarray) -> np.ndarray:
    """Angles in radians [N] about the up axis that map the voxels [R,R,R] bool onto themselves; 0 is always one.

    Both sides are dilated by one voxel first, so that the grid itself breaks no symmetry.
    """
    coords = np.argwhere(occupancy)
    if not len(coords):
        return np.zeros(1)
    size = occupancy.shape[0]
    centre = (coords[:, :2].min(axis=0) + coords[:, :2].max(axis=0)) / 2.0
    wide = np.asarray(ndimage.binary_dilation(occupancy))
    found = [0.0]
    for step in range(1, SYMMETRY_STEPS):
        angle = 2 * np.pi * step / SYMMETRY_STEPS
        turned = (coords[:, :2] - centre) @ up_rotation(angle)[:2, :2].T + centre
        index = np.rint(turned).astype(int)
        inside = ((index >= 0) & (index < size)).all(axis=1)
        moved = np.zeros_like(occupancy, dtype=bool)
        moved[index[inside, 0], index[inside, 1], coords[inside, 2]] = True
        covered = wide[index[inside, 0], index[inside, 1], coords[inside, 2]].sum() / len(coords)
        back = np.asarray(ndimage.binary_dilation(moved))[occupancy].mean()
        if min(covered, back) >= SYMMETRY_IOU:
            found.append(angle)
    return np.array(found)


def symmetric_rotation_error(predicted: np.ndarray, truth: np.ndarray, angles: np.ndarray) -> float:
    """The least rotation error over the object's own turns about its up axis."""
    return min(rotation_error(predicted, truth @ up_rotation(angle)) for angle in angles)


def align_scale_shift(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`points` [N,3] scaled and shifted (no rotation) onto `target` [M,3] by iterated closest points."""
    moved = np.asarray(points, np.float64)
    spread = np.linalg.norm(moved - moved.mean(axis=0), axis=1).mean()
    wanted = np.linalg.norm(target - target.mean(axis=0), axis=1).mean()
    moved = (moved - moved.mean(axis=0)) * (wanted / max(spread, 1e-9)) + target.mean(axis=0)
    tree = cKDTree(target)
    for _ in range(SHIFT_ITERATIONS):
        partner = target[tree.query(moved)[1]]
        offset, goal = moved.mean(axis=0), partner.mean(axis=0)
        centred = moved - offset
        scale = (centred * (partner - goal)).sum() / max((centred**2).sum(), 1e-12)
        moved = centred * np.clip(scale, 0.5, 2.0) + goal
    return moved


def shape_score(points: np.ndarray, target: np.ndarray) -> ShapeScore:
    """Score of `points` [N,3] against `target` [M,3] after scale-shift fitting; the worst when one of them is empty."""
    if not len(points) or not len(target):
        return ShapeScore(1.0, 0.0, 0.0)
    fitted = align_scale_shift(points, target)
    to_points = cKDTree(fitted).query(target)[0]
    to_target = cKDTree(target).query(fitted)[0]
    scores = []
    for limit in (0.01, 0.05):
        precision, recall = float((to_target < limit).mean()), float((to_points < limit).mean())
        scores.append(2 * precision * recall / max(precision + recall, 1e-9))
    return ShapeScore(float((to_points.mean() + to_target.mean()) / 2), *scores)


def voxel_iou(points: np.ndarray, occupancy: np.ndarray) -> float:
    """IoU of the voxels that surface `points` [N,3] fall into and those of `occupancy` [R,R,R] bool, both widened by
    one voxel: half of a thin surface's voxels are a matter of rounding."""
    resolution = occupancy.shape[0]
    cells = np.floor((points + 0.5) * resolution).astype(int)
    cells = cells[((cells >= 0) & (cells < resolution)).all(-1)]
    filled = np.zeros(occupancy.shape, bool)
    filled[tuple(cells.T)] = True
    first, second = ndimage.binary_dilation(filled), ndimage.binary_dilation(occupancy)
    return float((first & second).sum() / max((first | second).sum(), 1))


def surface_points(vertices: np.ndarray, faces: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """`count` points [N,3] spread over a mesh by area."""
    corners = np.asarray(vertices, np.float64)[np.asarray(faces)]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    if not len(corners) or area.sum() <= 0:
        return np.zeros((0, 3))
    rng = np.random.default_rng(seed)
    chosen = corners[rng.choice(len(corners), count, p=area / area.sum())]
    u, v = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    return np.asarray((1 - u) * chosen[:, 0] + u * (1 - v) * chosen[:, 1] + u * v * chosen[:, 2])

"""How far an object is, from the depth of its photo (spec section 9, made robust)."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from backend.geometry.similarity import Similarity, fit_similarity_robust
from backend.rendering.rasterizer import rasterize
from backend.systems.cupid.scene_pose import Placement, SceneObject, scaled_from_camera, upright_axes

EROSION = np.ones((5, 5), bool)  # as published: depth is not to be trusted across outlines
EDGE = np.ones((3, 3), bool)
BOX_TRIM = 0.02  # of the points at either end of an axis: stray pixels
HIDDEN_SHARE = 0.5  # how far a network's hidden side is believed; with 0 and 1 middles are off by a half more (mini)
STANDS = 0.25  # of its height: an object measured to this near above the ground stands on it
LEAST_PAIRS = 24  # pixels that the object's surface and the depth must have in common
MOST_TURN = np.radians(20.0)  # a similarity that turns an object further follows noise
MOST_SCALE = 1.3  # nor may it change the size that the middle of all pairs tells by more


def by_depth(
    item: SceneObject, pose: np.ndarray, intrinsics: np.ndarray, depth: np.ndarray, mask: np.ndarray,
    ground: tuple[np.ndarray, float | None] | None = None,
) -> Placement | None:  # fmt: skip
    """The object as far as the depth says; None where the two have hardly a pixel in common.

    depth and mask [h,w] of the picture; `ground` is the direction up [3] and, if measured, the camera's height. First
    the surfaces are laid on each other: where no ground tells how the object stands by a robust similarity (unless that
    would turn it far), else by the middle of all pairs. What a small network makes is often too thick, and its visible
    side says little about its middle; so the distance is then the one at which the middle is where the measured surface
    and the object's hidden part together put it. The outline in the picture stays.
    """
    height, width = depth.shape
    raster = rasterize(item.vertices, item.faces, pose, intrinsics, (width, height))
    common = ndimage.binary_erosion(raster.mask, EROSION) & ndimage.binary_erosion(mask, EROSION) & (depth > 0)
    if common.sum() < LEAST_PAIRS:
        common = raster.mask & mask & (depth > 0)
    if common.sum() < LEAST_PAIRS:
        return None
    source, target = unprojected(raster.depth, common, intrinsics), unprojected(depth, common, intrinsics)
    moved = Similarity(float(np.median(target[:, 2] / source[:, 2])), np.eye(3), np.zeros(3))
    if ground is None:
        moved = _turned(source, target, moved)
    pose = moved.matrix @ pose
    seen = moved.apply(unprojected(raster.depth, raster.mask, intrinsics))
    inside = ndimage.binary_erosion(mask, EDGE) & (depth > 0)
    measured = unprojected(depth, inside if inside.sum() >= LEAST_PAIRS else mask & (depth > 0), intrinsics)
    middle = pose[:3, :3] @ item.middle + pose[:3, 3]
    wanted = _measured_middle(middle, seen, measured, ground)
    factor = float(np.clip(np.linalg.norm(wanted) / np.linalg.norm(middle), 1.0 / MOST_SCALE, MOST_SCALE))
    return Placement(scaled_from_camera(pose, factor), "depth", "")


def _turned(source: np.ndarray, target: np.ndarray, start: Similarity) -> Similarity:
    """The robust similarity, or `start` where that follows noise."""
    try:
        found = fit_similarity_robust(source, target, start)
    except ValueError:
        return start
    turn = float(np.arccos(np.clip((np.trace(found.rotation) - 1.0) / 2.0, -1.0, 1.0)))
    usual = 1.0 / MOST_SCALE < found.scale / start.scale < MOST_SCALE
    return found if turn <= MOST_TURN and usual else start


def _measured_middle(
    middle: np.ndarray, seen: np.ndarray, measured: np.ndarray, ground: tuple[np.ndarray, float | None] | None
) -> np.ndarray:
    """Where the object's middle [3] is: that of the box around the `measured` surface [N,3], moved as the object's own
    `middle` lies off the box around what is `seen` of it [M,3], by a part of that; half as high as what stands."""
    axes = np.eye(3) if ground is None else upright_axes(ground[0])
    own, true = _box_middle(seen @ axes.T), _box_middle(measured @ axes.T)
    wanted = true + HIDDEN_SHARE * (axes @ middle - own)
    if ground is not None and ground[1] is not None:
        heights = measured @ axes[2] + ground[1]
        low, top = np.quantile(heights, (BOX_TRIM / 2, 1.0 - BOX_TRIM / 2))
        if low < STANDS * top:
            wanted[2] = top / 2.0 - ground[1]
    return np.asarray(axes.T @ wanted)


def _box_middle(points: np.ndarray) -> np.ndarray:
    low, high = np.quantile(points, (BOX_TRIM, 1.0 - BOX_TRIM), axis=0)
    return np.asarray((low + high) / 2.0)


def unprojected(depth: np.ndarray, chosen: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Points [N,3] in the camera's frame at the `chosen` pixels [h,w] of `depth` [h,w]."""
    height, width = depth.shape
    rows, columns = np.nonzero(chosen)
    pixels = np.stack([(columns + 0.5) / width, (rows + 0.5) / height, np.ones(len(rows))], axis=1)
    return np.asarray(pixels @ np.linalg.inv(intrinsics).T * depth[rows, columns, None].astype(np.float64))

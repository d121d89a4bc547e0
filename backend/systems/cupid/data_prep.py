"""Training data of stage 1: cameras, UV cubes and crop augmentation (specs/cupid.md 12.1)."""

from __future__ import annotations

import math

import numpy as np

from backend.contract import frames

SUPPORT_MARGIN = 0.01  # a voxel supports the UV loss if it lies this far inside the picture
RATIO_BUCKETS = 9
RATIO_RANGE = (1.0, 1.4)

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


def camera_from_blender(camera_to_world: np.ndarray, fov: float) -> tuple[np.ndarray, np.ndarray]:
    """``world_to_camera`` [4,4], normalised intrinsics [3,3] of a square Blender view, field of view ``fov`` (rad)."""
    focal = 0.5 / math.tan(fov / 2)
    intrinsics = np.array([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])
    return frames.world_to_camera_from_blender(camera_to_world), intrinsics


def grid_centres(resolution: int) -> np.ndarray:
    """Voxel centres [R,R,R,3] of the object cube, indexed i=x, j=y, k=z."""
    axis = (np.arange(resolution) + 0.5) / resolution - 0.5
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)


def uv_cube(world_to_camera: np.ndarray, intrinsics: np.ndarray, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """UV of every voxel before clamping [2,R,R,R] float32, and the support [1,R,R,R] int32 (in the whole picture)."""
    uv, _ = frames.project(grid_centres(resolution).reshape(-1, 3), world_to_camera, intrinsics)
    raw = uv.T.reshape(2, resolution, resolution, resolution).astype(np.float32)
    inside = np.all((raw >= SUPPORT_MARGIN) & (raw <= 1 - SUPPORT_MARGIN), axis=0, keepdims=True)
    return raw, inside.astype(np.int32)


def augmented_box(alpha: np.ndarray, ratio: float, allow_padding: bool) -> Box:
    """Square box around ``alpha`` [H,W] > 0, ``ratio`` times the object's longer side.

    Without padding it shrinks to stay inside the picture. Raises ValueError for an empty alpha.
    """
    rows, columns = np.nonzero(alpha > 0)
    if not len(rows):
        raise ValueError("The picture shows no object; render it again.")
    left, right = int(columns.min()), int(columns.max()) + 1
    top, bottom = int(rows.min()), int(rows.max()) + 1
    centre_x, centre_y = round((left + right) / 2), round((top + bottom) / 2)
    half = round(0.5 * max(right - left, bottom - top) * ratio)
    if not allow_padding:
        height, width = alpha.shape
        half = min(half, centre_x, centre_y, width - centre_x, height - centre_y)
    half = max(half, 1)
    return centre_x - half, centre_y - half, centre_x + half, centre_y + half


def crop_camera(
    raw_uv: np.ndarray, intrinsics: np.ndarray, box: Box, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """UV cube [2,R,R,R] (clamped to the crop) and intrinsics [3,3] of the part ``box`` of a picture.

    ``raw_uv`` [2,R,R,R] belongs to the whole ``width`` x ``height`` picture and is not clamped.
    """
    left, top, right, bottom = box[0] / width, box[1] / height, box[2] / width, box[3] / height
    low = np.array([left, top], np.float32).reshape(2, 1, 1, 1)
    span = np.array([right - left, bottom - top], np.float32).reshape(2, 1, 1, 1)
    cropped = np.clip((raw_uv - low) / span, 0.0, 1.0).astype(np.float32)
    return cropped, frames.crop_intrinsics(intrinsics, (left, top, right, bottom))


def draw_ratio(generator: np.random.Generator) -> float:
    """Crop ratio: 1 + 0.4 Beta(1.5, 1.5)."""
    low, high = RATIO_RANGE
    return low + (high - low) * float(generator.beta(1.5, 1.5))


def bucket_ratio(ratio: float, buckets: int = RATIO_BUCKETS) -> float:
    """The centre of the bucket ``ratio`` falls into, so that UV latents can be cached for each view and bucket."""
    low, high = RATIO_RANGE
    width = (high - low) / buckets
    index = min(max(int((ratio - low) / width), 0), buckets - 1)
    return low + (index + 0.5) * width

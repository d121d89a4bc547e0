"""Coordinate frames: the only place that converts between OpenCV, Blender and glTF.

World inside systems: right-handed, z up, the object in [-0.5, 0.5]^3. Cameras: OpenCV axes (x right, y down, z forward)
with a 4x4 `world_to_camera`. Intrinsics are 3x3 and normalised: u = fx X/Z + cx with u, v in [0, 1] over the image,
pixel p's centre at (p + 0.5) / size. Blender cameras look along -z with y up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CAMERA_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
"""OpenCV camera axes to Blender (OpenGL) camera axes, and back."""

Y_UP_TO_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, -1.0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1.0]])
"""glTF (x, y, z) with y up to (x, -z, y) with z up. Its transpose is the way back."""


@dataclass(frozen=True)
class BlenderLens:
    """What a Blender perspective camera needs beside its matrix. `lens_mm` belongs to `sensor_mm` with sensor fit AUTO
    (the sensor spans the longer image side); the shifts are fractions of that longer side. `pixel_aspect` is
    fy / fx in pixels; Blender stores it as the render's pixel aspect, 1 for square pixels."""

    lens_mm: float
    shift_x: float
    shift_y: float
    sensor_mm: float = 36.0
    pixel_aspect: float = 1.0


def blender_camera_matrix(world_to_camera: np.ndarray) -> np.ndarray:
    """Blender's camera `matrix_world` [4,4] from an OpenCV `world_to_camera` [4,4]."""
    return np.linalg.inv(np.asarray(world_to_camera, np.float64)) @ CAMERA_FLIP


def world_to_camera_from_blender(matrix_world: np.ndarray) -> np.ndarray:
    """OpenCV `world_to_camera` [4,4] from a Blender camera's `matrix_world` [4,4] (free of scale)."""
    return np.linalg.inv(np.asarray(matrix_world, np.float64) @ CAMERA_FLIP)


def blender_lens(intrinsics: np.ndarray, width: int, height: int, sensor_mm: float = 36.0) -> BlenderLens:
    """Lens and shift of the Blender camera with normalised `intrinsics` [3,3], for `width` x `height` pixels.

    Skew is dropped; with fx != fy in pixels the lens follows fx and `pixel_aspect` keeps the rest.
    """
    k = np.asarray(intrinsics, np.float64)
    focal_x, focal_y = k[0, 0] * width, k[1, 1] * height
    longer = max(width, height)
    return BlenderLens(
        lens_mm=float(focal_x / longer * sensor_mm),
        shift_x=float((0.5 - k[0, 2]) * width / longer),
        shift_y=float((k[1, 2] - 0.5) * height / longer),
        sensor_mm=sensor_mm,
        pixel_aspect=float(focal_y / focal_x),
    )


def intrinsics_from_blender(lens: BlenderLens, width: int, height: int) -> np.ndarray:
    """Normalised intrinsics [3,3] of a Blender camera: the inverse of `blender_lens`."""
    longer = max(width, height)
    focal = lens.lens_mm / lens.sensor_mm * longer
    return np.array(
        [
            [focal / width, 0.0, 0.5 - lens.shift_x * longer / width],
            [0.0, focal * lens.pixel_aspect / height, 0.5 + lens.shift_y * longer / height],
            [0.0, 0.0, 1.0],
        ]
    )


def crop_intrinsics(intrinsics: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """Intrinsics of the part `box` = (left, top, right, bottom), in units of the image, of a whole image."""
    left, top, right, bottom = box
    window = np.array(
        [[1 / (right - left), 0, -left / (right - left)], [0, 1 / (bottom - top), -top / (bottom - top)], [0, 0, 1]]
    )
    return window @ np.asarray(intrinsics, np.float64)


def uncrop_intrinsics(intrinsics: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """Intrinsics of the whole image from those of its part `box`: the inverse of `crop_intrinsics`."""
    left, top, right, bottom = box
    window = np.array([[right - left, 0, left], [0, bottom - top, top], [0, 0, 1]])
    return window @ np.asarray(intrinsics, np.float64)


def project(points: np.ndarray, world_to_camera: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image coordinates uv [N,2] and depths z [N] of world `points` [N,3]. Points at z <= 0 give no usable uv."""
    camera = np.asarray(points, np.float64) @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    pixels = camera @ np.asarray(intrinsics, np.float64).T
    depth = pixels[:, 2]
    return pixels[:, :2] / np.where(np.abs(depth) < 1e-12, 1e-12, depth)[:, None], depth


def look_at(eye: np.ndarray, target: np.ndarray, up: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> np.ndarray:
    """OpenCV `world_to_camera` [4,4] of a camera at `eye` [3] that looks at `target` [3] with `up` towards the top."""
    forward = np.asarray(target, np.float64) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, up)
    if np.linalg.norm(right) < 1e-8:
        right = np.cross(forward, (0.0, 1.0, 0.0))
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, -rotation @ np.asarray(eye, np.float64)
    return matrix

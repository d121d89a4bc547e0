"""The views of a mesh that a picture is to stay true to: cameras, and how places become colours (refany3d spec 3).

Views stand on an orbit around the box of the captured selection, which is thought centred with its longest side 2. A
point map says for every pixel where in that box it lies: per axis, 0 at the least and 1 at the greatest coordinate, in
glTF's axes (red x, green up, blue towards the viewer of the front). World coordinates here are ours and Blender's,
z up: world (x, y, z) is glTF (x, z, -y).
"""

from __future__ import annotations

import numpy as np

from .frames import look_at

VIEW_COUNTS = (4, 6, 8)
FRAMES = 60  # of the published orbit; the views are every (60 // count)th of them
FOV_DEGREES = 45.0
DISTANCE = 4.0  # where the longest side is 2
NEAR, FAR = 0.1, 100.0


def view_azimuths(count: int = 8, evenly_spaced: bool = False) -> np.ndarray:
    """Azimuths [count] in radians, from +x towards -y: as published 0, 42, ... 294 degrees for 8, or all gaps equal."""
    step = FRAMES / count if evenly_spaced else FRAMES // count
    return np.arange(count) * (step * 2.0 * np.pi / FRAMES)


def view_camera(azimuth: float, elevation: float = 0.0, distance: float = DISTANCE) -> np.ndarray:
    """OpenCV `world_to_camera` [4,4] around a centred box with longest side 2; angles in radians."""
    direction = (
        np.cos(elevation) * np.cos(azimuth), -np.cos(elevation) * np.sin(azimuth), np.sin(elevation)
    )  # fmt: skip
    return look_at(distance * np.array(direction), np.zeros(3))


def view_intrinsics() -> np.ndarray:
    """Normalised intrinsics [3,3] of every view."""
    focal = 0.5 / np.tan(np.radians(FOV_DEGREES) / 2.0)
    return np.array([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])


def to_centred(bounds_min: np.ndarray, bounds_max: np.ndarray) -> np.ndarray:
    """`world_to_centred` [4,4], a scale and a shift: the box `bounds_min`, `bounds_max` [3] centred, longest side 2.

    Errors: `ValueError` for a box that is a point.
    """
    low, high = np.asarray(bounds_min, np.float64), np.asarray(bounds_max, np.float64)
    longest = float((high - low).max())
    if not longest > 0:
        raise ValueError("The box has no size; it needs two different corners.")
    matrix = np.diag([2.0 / longest] * 3 + [1.0])
    matrix[:3, 3] = -(low + high) / longest
    return matrix


def encode_points(points: np.ndarray, bounds_min: np.ndarray, bounds_max: np.ndarray, turn: float = 0.0) -> np.ndarray:
    """World points [...,3] of the box as colours [...,3] in [0,1]. An axis along which the box is flat gives 0.5.

    `turn` in radians turns the coordinates, not the object, around the up axis (`y_rotation` of the published code);
    what leaves [0,1] by it is clamped.
    """
    low, high = np.asarray(bounds_min, np.float64), np.asarray(bounds_max, np.float64)
    size = high - low
    flat = size <= 0
    values = (np.asarray(points, np.float64) - low) / np.where(flat, 1.0, size)
    values = np.where(flat, 0.5, values)
    values = np.stack([values[..., 0], values[..., 2], 1.0 - values[..., 1]], axis=-1)
    if turn:
        values = ((2.0 * values - 1.0) @ turn_matrix(turn).T + 1.0) / 2.0
    return np.clip(values, 0.0, 1.0)


def decode_points(colors: np.ndarray, bounds_min: np.ndarray, bounds_max: np.ndarray, turn: float = 0.0) -> np.ndarray:
    """World points [...,3] from colours [...,3] in [0,1]: the inverse of `encode_points` where nothing was clamped."""
    values = np.asarray(colors, np.float64)
    if turn:
        values = ((2.0 * values - 1.0) @ turn_matrix(turn) + 1.0) / 2.0
    values = np.stack([values[..., 0], 1.0 - values[..., 2], values[..., 1]], axis=-1)
    low, high = np.asarray(bounds_min, np.float64), np.asarray(bounds_max, np.float64)
    return low + values * (high - low)


def turn_matrix(angle: float) -> np.ndarray:
    """A turn [3,3] around glTF's y axis by `angle` in radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Values in [0,1] as uint8 the way the published renderer has it: float32, clipped and cut off, not rounded."""
    return (np.clip(np.asarray(values, np.float32), 0.0, 1.0) * np.float32(255.0)).astype(np.uint8)

"""Point maps: pictures whose colours are places on the object (spec section 3), decoded and told from background.

A colour is the place in the object's box as `backend.contract.reference_views` codes it; white is background.
World axes here are z up: world (x, y, z) is glTF (x, z, -y).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backend.contract import reference_views

WORLD_TO_GLTF = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""World axes (z up) to glTF axes (y up)."""
NEAR_WHITE = 0.06  # a pixel whose every channel is this close to 1 is background; generated white is off by 2 to 4 %


@dataclass(frozen=True)
class Bounds:
    """The object's axis-aligned box in world axes: `low` [3], `high` [3]."""

    low: np.ndarray
    high: np.ndarray

    @property
    def longest(self) -> float:
        """Length of the longest side."""
        return float((self.high - self.low).max())

    @property
    def centre(self) -> np.ndarray:
        """The middle [3]."""
        return (self.low + self.high) / 2


UNIT_CUBE = Bounds(np.full(3, -0.5), np.full(3, 0.5))


def to_gltf(points: np.ndarray) -> np.ndarray:
    """World points [...,3] in glTF axes."""
    return np.asarray(points, np.float64) @ WORLD_TO_GLTF.T


def from_gltf(points: np.ndarray) -> np.ndarray:
    """glTF points [...,3] in world axes."""
    return np.asarray(points, np.float64) @ WORLD_TO_GLTF


def encode_points(points: np.ndarray, bounds: Bounds, y_rotation: float = 0.0) -> np.ndarray:
    """World `points` [...,3] -> colours [...,3] in [0,1]. `y_rotation` (degrees) turns the painted coordinates only."""
    return reference_views.encode_points(points, bounds.low, bounds.high, np.deg2rad(y_rotation))


def decode_points(values: np.ndarray, bounds: Bounds, y_rotation: float = 0.0) -> np.ndarray:
    """Colours [...,3] in [0,1] -> world points [...,3] float64; a colour beyond [0,1] is taken to the box's side."""
    points = reference_views.decode_points(values, bounds.low, bounds.high, np.deg2rad(y_rotation))
    return np.clip(points, bounds.low, bounds.high)


def foreground(values: np.ndarray, near_white: float = NEAR_WHITE) -> np.ndarray:
    """Which pixels of a point map [...,3] in [0,1] are the object [...] bool: those that are not white.

    The box's far upper corner has the code of the background and is lost; only few objects reach it.
    """
    return np.asarray(np.asarray(values).min(axis=-1) < 1.0 - near_white)


def inner(mask: np.ndarray, times: int = 1) -> np.ndarray:
    """`mask` [H,W] without its outermost pixels: where a silhouette was blended its colours are false places."""
    for _ in range(times):
        padded = np.pad(mask, 1)  # the picture's edge counts as background: what is cut off there is uncertain too
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def from_bytes(values: np.ndarray) -> np.ndarray:
    """uint8 -> colours in [0,1] float32."""
    return np.asarray(values, np.float32) / 255.0


def bounds_of(points: np.ndarray) -> Bounds:
    """The box of world `points` [N,3]. Errors: ValueError without any."""
    points = np.asarray(points, np.float64).reshape(-1, 3)
    if not len(points):
        raise ValueError("there are no points to bound")
    return Bounds(points.min(axis=0), points.max(axis=0))

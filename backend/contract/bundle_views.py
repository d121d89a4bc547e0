"""The four views of a 3D bundle picture: their cameras, and how a normal becomes a colour in them (kiss3dgen spec 4).

A bundle is a 2 x 4 grid of square tiles: four colour views at azimuth 0, 90, 180, 270 degrees above, the same views'
normals below, on white. Frames here are ours: z up, object in the cube [-0.5, 0.5]^3 with its front towards -y, OpenCV
cameras. The system's own y-up frame, 1.8 times as large, lives in `backend/systems/kiss3dgen/bundle.py`.
"""

from __future__ import annotations

import numpy as np

from .frames import look_at

AZIMUTHS_DEGREES = (0.0, 90.0, 180.0, 270.0)
"""Azimuth 0 looks at the front from -y; 90 stands on +x, where the object's own left side is."""
ELEVATION_DEGREES = 5.0
FOV_DEGREES = 30.0
DISTANCE = 2.5  # object units: radius 4.5 of the published cameras over the 1.8 that its objects are larger


def bundle_intrinsics() -> np.ndarray:
    """Normalised intrinsics [3,3] of every view."""
    focal = 0.5 / np.tan(np.radians(FOV_DEGREES) / 2.0)
    return np.array([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])


def bundle_view(azimuth: float, elevation: float = ELEVATION_DEGREES, distance: float = DISTANCE) -> np.ndarray:
    """OpenCV `world_to_camera` [4,4] of a view; azimuth and elevation in degrees."""
    turn, rise = np.radians(azimuth), np.radians(elevation)
    direction = np.array([np.sin(turn) * np.cos(rise), -np.cos(turn) * np.cos(rise), np.sin(rise)])
    return look_at(direction * distance, np.zeros(3))


def bundle_cameras() -> list[np.ndarray]:
    """`world_to_camera` [4,4] of the four views in the order of the tiles."""
    return [bundle_view(azimuth) for azimuth in AZIMUTHS_DEGREES]


def encode_normals(normals: np.ndarray, world_to_camera: np.ndarray) -> np.ndarray:
    """World normals [...,3] as colours [...,3] in [0,1]: red to the picture's LEFT, green up, blue to the viewer."""
    local = np.asarray(normals, np.float64) @ np.asarray(world_to_camera, np.float64)[:3, :3].T
    return np.clip((1.0 - local) / 2.0, 0.0, 1.0)  # OpenCV x right, y down, z away: all three signs turn


def decode_normals(colors: np.ndarray, world_to_camera: np.ndarray) -> np.ndarray:
    """Unit world normals [...,3] from colours [...,3] in [0,1]: the inverse of `encode_normals`. Grey gives zeros."""
    local = 1.0 - 2.0 * np.asarray(colors, np.float64)
    length = np.linalg.norm(local, axis=-1, keepdims=True)
    unit = np.where(length > 1e-6, local / np.maximum(length, 1e-6), 0.0)
    return unit @ np.asarray(world_to_camera, np.float64)[:3, :3]


def join_tiles(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Tiles [4,S,S,C] above tiles [4,S,S,C] as one picture [2S,4S,C]."""
    return np.concatenate([np.concatenate(list(row), axis=1) for row in (upper, lower)], axis=0)


def split_tiles(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A picture [2S,4S,C] as its upper and lower tiles [4,S,S,C] each.

    Errors: `ValueError` for a picture that is not twice as wide as it is high.
    """
    height, width = picture.shape[:2]
    if height % 2 or width != 2 * height:
        raise ValueError(f"A bundle picture is twice as wide as high, in 2 x 4 tiles; this one is {width} x {height}.")
    rows = picture.reshape(2, height // 2, 4, width // 4, -1).swapaxes(1, 2)
    return rows[0], rows[1]

"""Where a result goes: scale to metres, position, and the object's matrix when the camera is to stay.

The object's own frame is z up with the object in [-0.5, 0.5]^3; its mesh is baked to metres, so matrices have no scale.
"""

from __future__ import annotations

import numpy as np

from ...backend.contract import frames


def metres_per_unit(bounds: np.ndarray, size: float) -> float:
    """The factor that makes the longest side of `bounds` [2,3] (least, greatest) `size` metres long."""
    longest = float((bounds[1] - bounds[0]).max())
    return size / longest if longest > 1e-9 else size


def placed_matrix(bounds: np.ndarray, scale: float, placement: str, cursor: tuple[float, ...]) -> np.ndarray:
    """`object_to_world` [4,4] for a mesh with `bounds` [2,3] in its own units, baked by `scale` to metres.

    CURSOR: the middle of the underside on `cursor`; GROUND: the same on z = 0; ORIGIN: the centre on the world origin.
    """
    low, high = bounds * scale
    centre = (low + high) / 2
    underside = np.array([centre[0], centre[1], low[2]])
    target = {
        "CURSOR": np.asarray(cursor, np.float64),
        "GROUND": np.array([cursor[0], cursor[1], 0.0]),
        "ORIGIN": np.zeros(3),
    }[placement]
    matrix = np.eye(4)
    matrix[:3, 3] = target - (centre if placement == "ORIGIN" else underside)
    return matrix


def kept_matrix(matrix: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """`object_to_world` [4,4] of a mesh with bounds `new` [2,3] that takes the place of one with bounds `old` at
    `matrix` [4,4], both in metres: the middle of the underside stays where it is."""
    kept = np.array(matrix, np.float64)
    undersides = [np.array([*((low + high) / 2)[:2], low[2]]) for low, high in (old, new)]
    kept[:3, 3] += kept[:3, :3] @ (undersides[0] - undersides[1])
    return kept


def without_scale(matrix: np.ndarray) -> np.ndarray:
    """`matrix` [4,4] with axes of length one."""
    result = np.array(matrix, np.float64)
    result[:3, :3] /= np.maximum(np.linalg.norm(result[:3, :3], axis=0), 1e-12)
    return result


def pivot_point(bounds: np.ndarray, pivot: str) -> np.ndarray:
    """The point [3] of an object with `bounds` [2,3] that `pivot` names: cube (its own origin), base or centre."""
    centre = (bounds[0] + bounds[1]) / 2
    points = {"cube": np.zeros(3), "base": np.array([centre[0], centre[1], bounds[0, 2]]), "centre": centre}
    return points[pivot]


def translation(shift: np.ndarray) -> np.ndarray:
    """The matrix [4,4] that moves by `shift` [3]."""
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    return matrix


def camera_matrix(world_to_camera: np.ndarray, scale: float, object_to_world: np.ndarray) -> np.ndarray:
    """Blender's `matrix_world` [4,4] of the camera that sees the placed object as `world_to_camera` [4,4] saw it.

    Scaling object and distance alike leaves the picture as it was.
    """
    return object_to_world @ frames.blender_camera_matrix(scaled_camera(world_to_camera, scale))


def object_matrix(world_to_camera: np.ndarray, scale: float, camera_world_to_camera: np.ndarray) -> np.ndarray:
    """`object_to_world` [4,4] that puts the object before a camera that stays at `camera_world_to_camera` [4,4]."""
    return np.linalg.inv(camera_world_to_camera) @ scaled_camera(world_to_camera, scale)


def scaled_camera(world_to_camera: np.ndarray, scale: float) -> np.ndarray:
    """`world_to_camera` [4,4] of an object that was made `scale` times as large, camera distance included."""
    scaled = np.array(world_to_camera, np.float64)
    scaled[:3, 3] *= scale
    return scaled

"""A scene in which camera and place are known already: what the camera is to the object's cube, and where that stands.

The cube has the object's size, its middle is at the 3D cursor, its axes are the world's.
"""

from __future__ import annotations

from typing import Any

import bpy
import numpy as np

from ...backend.contract.errors import MaquetteError
from . import cameras


def camera_parameter(scene: bpy.types.Scene, size: float, picture: tuple[int, int]) -> dict[str, Any]:
    """The scene's camera as a job's parameter `camera`, for an object of `size` metres at the 3D cursor.

    `picture` is (width, height) in pixels. Errors: `MaquetteError` when there is no camera with a perspective, or it
    does not see the cursor.
    """
    camera = scene.camera
    if camera is None or camera.type != "CAMERA" or camera.data.type != "PERSP":
        text = "The scene has no perspective camera that could have taken the photo. Add one, or move the camera."
        raise MaquetteError("bad_input", text)
    if not all(picture):
        raise MaquetteError("bad_input", "The picture's size cannot be read. Save it as PNG and choose it again.")
    world_to_camera, intrinsics = cameras.read_camera(camera, picture)
    cube = cube_camera(world_to_camera, np.array(scene.cursor.location), size)
    if cube[2, 3] <= 0:
        raise MaquetteError("bad_input", "The 3D cursor is behind the camera. Put it where the object's middle is.")
    return {"world_to_camera": cube.tolist(), "intrinsics": intrinsics.tolist()}


def cube_camera(world_to_camera: np.ndarray, cursor: np.ndarray, size: float) -> np.ndarray:
    """`world_to_camera` [4,4] in units and axes of the cube with sides of `size` metres around `cursor` [3].

    A point x of the cube is cursor + size x in the world; the picture stays when its depth is divided by `size`.
    """
    matrix = np.array(world_to_camera, np.float64)
    matrix[:3, 3] = (matrix[:3, :3] @ cursor + matrix[:3, 3]) / size
    return matrix


def cube_to_world(cursor: tuple[float, ...]) -> np.ndarray:
    """`object_to_world` [4,4] of a mesh that was baked to metres: its cube's middle on the cursor."""
    matrix = np.eye(4)
    matrix[:3, 3] = cursor
    return matrix

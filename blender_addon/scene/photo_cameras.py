"""The cameras of several photos of one object: an object of its own for each, found again when a variant is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np

from . import cameras, placement
from .cameras import SolvedCamera

MARK = "maquette_photo"  # property of a camera object: the job, and which of its photos the camera belongs to


@dataclass(frozen=True)
class PhotoCamera:
    """The camera of one photo of several: what it is called, where it stands, and the photo's file or None."""

    title: str
    camera: SolvedCamera
    picture: Path | None
    orientation: int = 1


def camera_of(scene: bpy.types.Scene, job_id: str, number: int, title: str, again: bool) -> bpy.types.Object:
    """The camera object for photo `number` of a job: a new one, or `again` the one made for it before, if any."""
    mark = f"{job_id} {number}"
    earlier = [item for item in scene.objects if again and item.type == "CAMERA" and item.get(MARK) == mark]
    if earlier:
        return earlier[0]
    camera = cameras.add_camera(scene, camera_name(title))
    camera[MARK] = mark
    return camera


def place_camera(
    scene: bpy.types.Scene, camera: bpy.types.Object, photo: PhotoCamera, scale: float, object_to_world: np.ndarray
) -> None:
    """Make `camera` see the object at `object_to_world` [4,4] as the photo does, in the scene's render frame."""
    solved = photo.camera
    intrinsics, frame = cameras.framed(scene, solved.intrinsics, solved.size)
    matrix = placement.camera_matrix(solved.world_to_camera, scale, object_to_world)
    cameras.set_camera(camera, placement.without_scale(matrix), intrinsics, frame)
    if photo.picture is not None:
        cameras.set_background(scene, camera, photo.picture, photo.orientation, solved.size)


def place_cameras(
    scene: bpy.types.Scene,
    photos: tuple[PhotoCamera, ...],
    job_id: str,
    scale: float,
    object_to_world: np.ndarray,
    again: bool,
) -> None:
    """A camera for every further photo, counted from 1; none for one whose camera was not solved."""
    for number, photo in enumerate(photos, start=1):
        if photo.camera.world_to_camera is not None and photo.camera.intrinsics is not None:
            camera = camera_of(scene, job_id, number, photo.title, again)
            place_camera(scene, camera, photo, scale, object_to_world)


def camera_name(title: str) -> str:
    """What the camera of a photo is called: after it, yet not like the object."""
    return f"{title} Camera"

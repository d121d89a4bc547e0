"""Puts one result into a scene: object, camera, background, provenance. Data access only, no operators."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from mathutils import Matrix

from ...backend.contract import frames
from ...backend.contract.meshes import MeshData
from . import cameras, importing, known_camera, placement, provenance
from .cameras import SolvedCamera


@dataclass(frozen=True)
class PhotoCamera:
    """The camera of one photo of several: what it is called, where it stands, and the photo's file or None."""

    title: str
    camera: SolvedCamera
    picture: Path | None
    orientation: int = 1


@dataclass(frozen=True)
class Result:
    """What came back and what to do with it. `move` is NONE, CAMERA, OBJECT or KNOWN; `camera` None if there is none.

    `size` in metres, `cursor` in world coordinates, `picture` the file for the background or None. With `more` photos
    of the object every photo gets a camera object of its own, the first one is made the scene's camera.
    """

    title: str
    mesh: MeshData
    camera: SolvedCamera | None
    provenance: dict[str, Any]
    size: float
    placement: str
    cursor: tuple[float, ...]
    move: str
    set_render_size: bool
    picture: Path | None
    orientation: int = 1
    more: tuple[PhotoCamera, ...] = ()


def apply_result(
    scene: bpy.types.Scene, result: Result, earlier: bpy.types.Object | None = None
) -> tuple[bpy.types.Object, str]:
    """Add the object and move camera or object. Returns the object and a sentence to show, mostly empty.

    An `earlier` object gets the result as its mesh instead, and stays where it is unless the camera says otherwise.
    """
    bounds = importing.mesh_bounds(result.mesh)
    known = result.move == "KNOWN"
    scale = result.size if known else placement.metres_per_unit(bounds, result.size)
    if known:
        matrix = known_camera.cube_to_world(result.cursor)
    elif earlier is not None:
        matrix = np.array(earlier.matrix_world, np.float64)
        matrix = placement.kept_matrix(matrix, importing.object_bounds(earlier), bounds * scale)
    else:
        matrix = placement.placed_matrix(bounds, scale, result.placement, result.cursor)
    solved = result.camera
    message = solved.message if solved is not None else ""
    if result.move != "NONE" and solved is not None:
        if solved.world_to_camera is None or solved.intrinsics is None:
            message = solved.message or "The picture's camera could not be found; only the object was added."
        else:
            matrix = _match(scene, result, solved, scale, matrix)
        for photo in result.more:
            _add_photo_camera(scene, photo, scale, matrix)
    made = earlier
    if made is None:
        made = bpy.data.objects.new(result.title, importing.build_mesh(result.title, result.mesh, scale))
        scene.collection.objects.link(made)
    else:
        importing.replace_mesh(made, importing.build_mesh(result.title, result.mesh, scale))
    made.matrix_world = Matrix(matrix.tolist())
    provenance.store(made, result.provenance | {"metres_per_unit": scale})
    return made, message


def _match(
    scene: bpy.types.Scene, result: Result, solved: SolvedCamera, scale: float, matrix: np.ndarray
) -> np.ndarray:
    """Make the scene's camera see the object as the picture does; returns the object's matrix [4,4]."""
    if result.more and result.move == "CAMERA":
        scene.camera = cameras.add_camera(scene, camera_name(result.title))
    camera = cameras.ensure_camera(scene)
    if result.set_render_size:
        cameras.set_render_size(scene, solved.size, frames.blender_lens(solved.intrinsics, *solved.size).pixel_aspect)
    if result.move == "CAMERA":
        target = placement.camera_matrix(solved.world_to_camera, scale, matrix)
        cameras.set_camera(camera, placement.without_scale(target), solved.intrinsics, solved.size)
    elif result.move == "OBJECT":
        camera_world_to_camera, _ = cameras.read_camera(camera, solved.size)
        matrix = placement.object_matrix(solved.world_to_camera, scale, camera_world_to_camera)
    if result.picture is not None:
        cameras.set_background(scene, camera, result.picture, result.orientation, solved.size)
    return matrix


def _add_photo_camera(scene: bpy.types.Scene, photo: PhotoCamera, scale: float, matrix: np.ndarray) -> None:
    """A camera that sees the object at `matrix` [4,4] as one of its photos does; none where it was not solved."""
    solved = photo.camera
    if solved.world_to_camera is None or solved.intrinsics is None:
        return
    camera = cameras.add_camera(scene, camera_name(photo.title))
    intrinsics, frame = cameras.framed(scene, solved.intrinsics, solved.size)
    cameras.set_camera(camera, placement.camera_matrix(solved.world_to_camera, scale, matrix), intrinsics, frame)
    if photo.picture is not None:
        cameras.set_background(scene, camera, photo.picture, photo.orientation, solved.size)


def camera_name(title: str) -> str:
    """What the camera of a photo is called: after it, yet not like the object."""
    return f"{title} Camera"

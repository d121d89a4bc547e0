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
from ...backend.contract.splats import Splats
from . import cameras, importing, known_camera, photo_cameras, placement, provenance, splats
from .cameras import SolvedCamera
from .photo_cameras import PhotoCamera

SPLATS_SHOWN = "The splats are shown in the mesh's place. Its eye in the outliner shows the mesh."


@dataclass(frozen=True)
class Result:
    """What came back and what to do with it. `move` is NONE, CAMERA, OBJECT or KNOWN; `camera` None if there is none.

    `size` in metres, `cursor` in world coordinates, `picture` the file for the background or None. With `more` photos
    of the object every photo gets a camera object of its own, the first one is made the scene's camera. `pivot` says
    where the object has its origin: cube, base or centre. `splats` are shown in the mesh's place. `offset` moves the
    object from where `placement` puts it.
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
    pivot: str = "cube"
    splats: Splats | None = None
    offset: tuple[float, ...] = (0.0, 0.0, 0.0)


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
        matrix = placement.translation(np.asarray(result.offset)) @ matrix
    solved = result.camera
    message = solved.message if solved is not None else ""
    if result.move != "NONE" and solved is not None:
        if solved.world_to_camera is None or solved.intrinsics is None:
            message = solved.message or "The picture's camera could not be found; only the object was added."
        else:
            matrix = _match(scene, result, solved, scale, matrix, earlier is not None)
        job_id = result.provenance.get("job_id", "")
        photo_cameras.place_cameras(scene, result.more, job_id, scale, matrix, earlier is not None)
    origin = placement.pivot_point(bounds * scale, result.pivot)
    matrix = matrix @ placement.translation(origin)
    made = earlier
    if made is None:
        made = bpy.data.objects.new(result.title, importing.build_mesh(result.title, result.mesh, scale, origin))
        scene.collection.objects.link(made)
    else:
        importing.replace_mesh(made, importing.build_mesh(result.title, result.mesh, scale, origin))
    made.matrix_world = Matrix(matrix.tolist())
    provenance.store(made, result.provenance | {"metres_per_unit": scale})
    if result.splats is not None:
        splats.show_in_place(scene, made, result.splats, scale, origin)
        message = message or SPLATS_SHOWN
    return made, message


def _match(
    scene: bpy.types.Scene, result: Result, solved: SolvedCamera, scale: float, matrix: np.ndarray, again: bool
) -> np.ndarray:
    """Make the scene's camera see the object as the picture does; returns the object's matrix [4,4]."""
    if result.more and result.move == "CAMERA":
        scene.camera = photo_cameras.camera_of(scene, result.provenance.get("job_id", ""), 0, result.title, again)
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

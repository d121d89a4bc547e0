"""Puts a scene made from one photo into a Blender scene: its objects and its camera, in one collection of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from mathutils import Matrix

from ...backend.contract import frames
from ...backend.contract.errors import MaquetteError
from ...backend.contract.meshes import MeshData
from . import cameras, importing, placement, provenance


@dataclass(frozen=True)
class ComposedObject:
    """One object: its mesh in its own frame and `object_to_world` [4,4], a similarity into the photo's world."""

    name: str
    mesh: MeshData
    object_to_world: np.ndarray


@dataclass(frozen=True)
class ComposedScene:
    """What came back and where it goes. The photo's world has z up; its ground is z = 0 if `grounded`.

    `size` in metres is the longest side of everything, `cursor` in world coordinates, `picture` the background or None.
    """

    title: str
    objects: tuple[ComposedObject, ...]
    camera: cameras.SolvedCamera
    grounded: bool
    provenance: dict[str, Any]
    size: float
    placement: str
    cursor: tuple[float, ...]
    set_render_size: bool
    picture: Path | None
    orientation: int = 1


def objects_from_json(data: dict, meshes: dict[str, MeshData]) -> tuple[ComposedObject, ...]:
    """The objects of scene.json with their meshes by file name. Errors: `MaquetteError` when it is of another form."""
    try:
        found = tuple(
            ComposedObject(
                str(item["name"]), meshes[item["mesh"]], np.asarray(item["object_to_world"], np.float64).reshape(4, 4)
            )
            for item in data["objects"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise MaquetteError("internal", "This scene cannot be read. Press Retry.", repr(error), "retry") from error
    if not found or not all(np.isfinite(item.object_to_world).all() for item in found):
        raise MaquetteError("internal", "The scene has no usable objects. Press Retry.", next_step="retry")
    return found


def apply_scene(scene: bpy.types.Scene, result: ComposedScene) -> tuple[bpy.types.Collection, str]:
    """Add the collection with all objects and the photo's camera, which becomes the scene's; a sentence to show."""
    bounds = _bounds(result)
    scale = placement.metres_per_unit(bounds, result.size)
    to_blender = placement.placed_matrix(bounds, scale, result.placement, result.cursor)
    collection = bpy.data.collections.new(f"Maquette {result.title}")
    scene.collection.children.link(collection)
    for item in result.objects:
        own = float(np.cbrt(np.linalg.det(item.object_to_world[:3, :3])))
        rigid = item.object_to_world.copy()
        rigid[:3, :3] /= own
        rigid[:3, 3] *= scale
        made = bpy.data.objects.new(item.name, importing.build_mesh(item.name, item.mesh, scale * own))
        collection.objects.link(made)
        made.matrix_world = Matrix((to_blender @ rigid).tolist())
        provenance.store(made, result.provenance | {"metres_per_unit": scale * own})
    _add_camera(scene, collection, result, scale, to_blender)
    return collection, result.camera.message


def _add_camera(
    scene: bpy.types.Scene, collection: bpy.types.Collection, result: ComposedScene, scale: float,
    to_blender: np.ndarray,
) -> None:  # fmt: skip
    solved = result.camera
    if solved.world_to_camera is None or solved.intrinsics is None:
        return
    name = f"{result.title} Camera"
    camera = bpy.data.objects.new(name, bpy.data.cameras.new(name))
    collection.objects.link(camera)
    scene.camera = camera
    if result.set_render_size:
        aspect = frames.blender_lens(solved.intrinsics, *solved.size).pixel_aspect
        cameras.set_render_size(scene, solved.size, aspect)
    matrix = placement.camera_matrix(solved.world_to_camera, scale, to_blender)
    cameras.set_camera(camera, matrix, solved.intrinsics, solved.size)
    if result.picture is not None:
        cameras.set_background(scene, camera, result.picture, result.orientation, solved.size)


def _bounds(result: ComposedScene) -> np.ndarray:
    """Least and greatest corner [2,3] of all objects in the photo's world; the ground is the lowest, if it is known."""
    corners = []
    for item in result.objects:
        points = np.asarray(item.mesh.vertices, np.float64) @ item.object_to_world[:3, :3].T
        corners.append(points + item.object_to_world[:3, 3])
    everything = np.concatenate(corners)
    bounds = np.stack([everything.min(axis=0), everything.max(axis=0)])
    if result.grounded:
        bounds[0, 2] = 0.0
    return bounds

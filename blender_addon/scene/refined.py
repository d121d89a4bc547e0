"""A mesh that was sent and comes back better, or as another thing: beside its object, or in the object's place.

The object may have been moved since it was sent: the result belongs to where it is now.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import bpy
import numpy as np
from mathutils import Matrix

from ...backend.contract.meshes import MeshData
from . import importing, placement, provenance
from .matching import SentObject, find_target

MARK = "maquette_refined"  # property of a mesh that is such a result: the job
ASIDE = 1.2  # how far beside the object the result stands, in widths
GONE = '"{}" is not in this scene any more; the result was put where it stood.'
LINKED = '"{}" belongs to another file and keeps its mesh; the result was put beside it.'
MODIFIERS = "The modifiers are switched off: the new mesh has their shape."


@dataclass(frozen=True)
class RefinedMesh:
    """What came back for `target`: a mesh in the cube, which `cube_to_world` [4,4] put around the object when it was
    sent. `replace`: the object gets the mesh."""

    title: str
    mesh: MeshData
    target: SentObject
    cube_to_world: np.ndarray
    replace: bool
    provenance: dict[str, Any]


def apply_refined(scene: bpy.types.Scene, result: RefinedMesh) -> tuple[bpy.types.Object, str]:
    """Put the mesh into the scene. Returns its object and a sentence to show, mostly empty."""
    before = np.array(result.target.matrix, np.float64).reshape(4, 4)
    cube_to_object = np.linalg.inv(before) @ result.cube_to_world
    target = find_target(scene, result.target)
    if target is None:
        return _added(scene, result, cube_to_object, before, None), GONE.format(result.target.name)
    if not result.replace:
        return _added(scene, result, cube_to_object, np.array(target.matrix_world, np.float64), target), ""
    if target.library is not None or target.override_library is not None or target.type != "MESH":
        made = _added(scene, result, cube_to_object, np.array(target.matrix_world, np.float64), target)
        return made, LINKED.format(target.name)
    return target, _replaced(target, result, cube_to_object)


def moved_mesh(mesh: MeshData, matrix: np.ndarray) -> MeshData:
    """The mesh with its vertices moved by the affine `matrix` [4,4]; a mirrored one keeps its outside outside."""
    vertices = np.asarray(mesh.vertices, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    faces, uvs = mesh.faces, mesh.uvs
    if np.linalg.det(matrix[:3, :3]) < 0:
        faces = faces[:, ::-1]
        uvs = None if uvs is None else uvs.reshape(-1, 3, 2)[:, ::-1].reshape(-1, 2)
    return dataclasses.replace(mesh, vertices=vertices.astype(np.float32), faces=faces, uvs=uvs)


def _added(
    scene: bpy.types.Scene, result: RefinedMesh, cube_to_object: np.ndarray, matrix: np.ndarray,
    target: bpy.types.Object | None,
) -> bpy.types.Object:  # fmt: skip
    """A new object, turned as the one at `matrix` [4,4] and beside it; in its very place if there is no `target`."""
    rigid = np.eye(4)
    first, _, second = np.linalg.svd(matrix[:3, :3])
    rigid[:3, :3] = first @ second * np.linalg.det(first @ second)
    rigid[:3, 3] = matrix[:3, 3]
    mesh = moved_mesh(result.mesh, np.linalg.inv(rigid) @ matrix @ cube_to_object)
    name = f"{result.title} Refined"
    made = bpy.data.objects.new(name, importing.build_mesh(name, mesh))
    made.data[MARK] = result.provenance.get("job_id", "")
    if target is not None:
        across = mesh.vertices @ rigid[0, :3]
        rigid = placement.translation(np.array([ASIDE * float(np.ptp(across)), 0.0, 0.0])) @ rigid
    made.matrix_world = Matrix(rigid.tolist())
    homes = [item for item in (target.users_collection if target is not None else ()) if _is_in(scene, item)]
    for collection in homes or [scene.collection]:
        collection.objects.link(made)
    provenance.store(made, result.provenance)
    return made


def _replaced(target: bpy.types.Object, result: RefinedMesh, cube_to_object: np.ndarray) -> str:
    """Swap the mesh of `target`; its first material is the result's, the others stay. Returns a sentence to show."""
    old, materials = target.data, [slot.material for slot in target.material_slots]
    name = old.name
    made = importing.build_mesh(result.title, moved_mesh(result.mesh, cube_to_object))
    for material in materials[1:]:
        made.materials.append(material)
    made[MARK] = result.provenance.get("job_id", "")
    target.data = made
    target.material_slots[0].link = "DATA"  # a material of the object itself would hide the mesh's
    if MARK in old and old.users == 0:
        bpy.data.meshes.remove(old)  # an earlier result; what the artist made is kept already
    elif old.users == 0 and old.library is None:
        old.use_fake_user = True
        old.name = f"{name} Original"
    made.name = name  # with a number where other objects still use the old mesh
    provenance.store(target, result.provenance)
    return MODIFIERS if _switch_off_modifiers(target) else ""


def _switch_off_modifiers(target: bpy.types.Object) -> bool:
    """Whether there were any that shaped the object."""
    active = [item for item in target.modifiers if item.show_viewport or item.show_render]
    for item in active:
        item.show_viewport = item.show_render = False
    return bool(active)


def _is_in(scene: bpy.types.Scene, collection: bpy.types.Collection) -> bool:
    return collection == scene.collection or collection in scene.collection.children_recursive

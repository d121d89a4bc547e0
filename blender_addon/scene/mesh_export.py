"""Objects as one mesh for a system: modifiers applied, instances made real, world space, z up, colours as seen.

Values leave Blender by `foreach_get`; nothing in the file changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import bpy
import numpy as np

from ...backend.contract.errors import MaquetteError
from ...backend.contract.meshes import MeshData
from . import material_colors

MOST_TRIANGLES = 20_000_000  # what a message can hold with room to spare
COLORED_TRIANGLES = 250_000  # up to here every corner gets a colour of its own, which takes three vertices a triangle
SHAPES = {"MESH", "CURVE", "SURFACE", "META", "FONT"}


def world_mesh(
    objects: Sequence[bpy.types.Object],
    depsgraph: bpy.types.Depsgraph,
    colored: bool = True,
    most: int = MOST_TRIANGLES,
) -> MeshData:
    """The surfaces of `objects` as they are rendered. Errors: `MaquetteError` when there is none or it is too large.

    Instances that one of the objects makes (geometry nodes, collections, particles) belong to it. Without colours
    (`colored`) the triangles share their vertices. `most` is how many triangles there may be.
    """
    wanted = {item.original for item in objects}
    parts: list[MeshData] = []
    total = 0
    for instance in depsgraph.object_instances:
        shape = instance.object
        owner = instance.parent.original if instance.is_instance else shape.original
        if owner not in wanted or shape.type not in SHAPES:
            continue
        mesh = shape.to_mesh()
        try:
            if mesh is None or not len(mesh.polygons):
                continue
            total += len(mesh.loop_triangles) if len(mesh.loop_triangles) else len(mesh.polygons)
            if total > most:
                text = f"The mesh has more than {most:,} triangles. Give it a Decimate modifier and try again."
                raise MaquetteError("bad_input", text)
            parts.append(_part(mesh, shape, np.array(instance.matrix_world, np.float64), colored))
        finally:
            shape.to_mesh_clear()
    if not parts:
        raise MaquetteError("bad_input", "The selected objects have no faces. Select a mesh and try again.")
    return _joined(parts)


def _part(mesh: bpy.types.Mesh, shape: bpy.types.Object, matrix: np.ndarray, colored: bool) -> MeshData:
    """One evaluated mesh in world space, in triangles."""
    mesh.calc_loop_triangles()
    count = len(mesh.loop_triangles)
    vertices = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.attributes["position"].data.foreach_get("vector", vertices)
    corners = np.empty(3 * count, np.int32)
    mesh.loop_triangles.foreach_get("loops", corners)
    loop_vertices = np.empty(len(mesh.loops), np.int32)
    mesh.attributes[".corner_vert"].data.foreach_get("value", loop_vertices)
    faces = loop_vertices[corners]
    world = (vertices.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3]).astype(np.float32)
    if not np.isfinite(world).all():
        text = f'"{shape.name}" has places that are not finite numbers. Repair the mesh and try again.'
        raise MaquetteError("bad_input", text)
    colors = None
    if colored and count <= COLORED_TRIANGLES:
        colors = material_colors.corner_colors(mesh, shape, corners)
    if colors is not None:  # a colour a corner: no vertex is shared
        world, faces = world[faces], np.arange(3 * count, dtype=np.int32)
    faces = faces.reshape(-1, 3)
    if np.linalg.det(matrix[:3, :3]) < 0:  # mirrored by its scale: keep the outside out
        faces = faces[:, ::-1]
    return MeshData(world, np.ascontiguousarray(faces), None, colors)


def _joined(parts: list[MeshData]) -> MeshData:
    """The parts as one mesh; grey where only some of them have colours."""
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    faces = np.concatenate([part.faces + start for part, start in zip(parts, starts, strict=False)])
    colors = None
    if any(part.colors is not None for part in parts):
        grey = (180, 180, 180, 255)
        colors = np.concatenate([
            np.tile(np.array(grey, np.uint8), (len(part.vertices), 1)) if part.colors is None else part.colors
            for part in parts
        ])  # fmt: skip
    vertices = np.concatenate([part.vertices for part in parts])
    return MeshData(vertices, faces.astype(np.int32), None, colors)

"""Objects as they are now, copied out of Blender: triangles with all their attributes, where they stand, materials.

A copy holds arrays only. It outlives edits, undo and deletion of the objects, and becomes Blender data again, with
modifiers applied and instances made real, whenever a picture of it is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import bpy
import numpy as np
from mathutils import Matrix

from ...backend.contract.errors import MaquetteError
from .mesh_export import SHAPES

STORED_COLOR = "maquette stored color"  # sRGB values of the colour attribute, for faces without a material
AT_ONCE = 20_000  # triangles
MOST_INSTANCES = 10_000  # every one is an object of its own, a view of so many takes some seconds
_NAME = "maquette capture"
# Types of attribute that shaders read: the field that holds a value, numbers a value, numpy's type.
_FIELDS = {
    "FLOAT": ("value", 1, np.float32),
    "INT": ("value", 1, np.int32),
    "BOOLEAN": ("value", 1, np.bool_),
    "FLOAT2": ("vector", 2, np.float32),
    "FLOAT_VECTOR": ("vector", 3, np.float32),
    "FLOAT_COLOR": ("color", 4, np.float32),
    "BYTE_COLOR": ("color_srgb", 4, np.float32),
}


@dataclass(frozen=True)
class Attribute:
    """Values [n * width] of one attribute, `domain` POINT, CORNER or FACE of the triangles."""

    name: str
    kind: str
    domain: str
    values: np.ndarray


@dataclass(frozen=True)
class MeshCopy:
    """Triangles of one evaluated mesh in its own space: positions [N,3] float32, corners [3F] int32 (vertex numbers).

    uv_map, color: names of what renders take by default. texture_space: location and size of Generated coordinates.
    """

    positions: np.ndarray
    corners: np.ndarray
    attributes: tuple[Attribute, ...]
    uv_map: str
    color: str
    texture_space: tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Placed:
    """A mesh at `matrix` [4,4] in the world, float64. materials: session uids in the order of the slots, 0 for none."""

    mesh: MeshCopy
    matrix: np.ndarray
    materials: tuple[int, ...]
    color: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)


@dataclass
class Copies:
    """All meshes of some objects, and the box around their faces in the world's axes: low, high [3] float64."""

    placed: list[Placed] = field(default_factory=list)
    low: np.ndarray = field(default_factory=lambda: np.full(3, np.inf))
    high: np.ndarray = field(default_factory=lambda: np.full(3, -np.inf))
    triangles: int = 0


def copy_objects(objects: Sequence[bpy.types.Object], depsgraph: bpy.types.Depsgraph, most: int) -> Copies:
    """Copies of `objects` with the instances they make; what is hidden from renders is left out.

    Errors: `MaquetteError` for more than `most` triangles or MOST_INSTANCES and for places that are not finite. Objects
    without faces are none: nothing is copied.
    """
    wanted = {item.original for item in objects}
    copies, known = Copies(), {}
    for instance in depsgraph.object_instances:
        shape = instance.object
        owner = instance.parent.original if instance.is_instance else shape.original
        if owner not in wanted or shape.type not in SHAPES or shape.original.hide_render:
            continue
        if not instance.is_instance and not instance.show_self:
            continue
        # Instances of one mesh share it. What is no mesh has one of its own an object: modifiers may differ.
        key = (shape.data.as_pointer() if shape.data else 0, 0 if shape.type == "MESH" else shape.original.session_uid)
        if key not in known:
            mesh = shape.to_mesh()
            try:
                known[key] = _copy(mesh, shape.name, most - copies.triangles), _mesh_materials(mesh)
            finally:
                shape.to_mesh_clear()
        mesh_copy, worn = known[key]
        if mesh_copy is None:
            continue
        # What geometry nodes instance is data without an object: only its own materials count.
        real = shape.original.evaluated_get(depsgraph).data == shape.data
        materials = _slots(shape, worn) if real else tuple(worn)
        matrix = np.array(instance.matrix_world, np.float64)
        _add(copies, Placed(mesh_copy, matrix, materials, tuple(shape.color)), shape.name, most)
    return copies


def has_surface(copies: Copies, least: float) -> bool:
    """Whether the triangles have an area of at least `least` where the longest side of the box is 1."""
    longest = float((copies.high - copies.low).max()) if copies.placed else 0.0
    area = 0.0
    for part in copies.placed:
        if not longest > 0:
            break
        to_unit = (part.matrix[:3, :3] / longest).T
        for start in range(0, len(part.mesh.corners), 3 * AT_ONCE):  # mostly the first few are enough
            corners = part.mesh.positions[part.mesh.corners[start : start + 3 * AT_ONCE]].reshape(-1, 3, 3)
            sides = (corners[:, 1:] - corners[:, :1]).astype(np.float64) @ to_unit
            area += float(np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1).sum()) / 2.0
            if area >= least:
                return True
    return False


def build_mesh(copy: MeshCopy) -> bpy.types.Mesh:
    """The copy as a Blender mesh; the caller removes it."""
    mesh = bpy.data.meshes.new(_NAME)
    mesh.vertices.add(len(copy.positions))
    mesh.loops.add(len(copy.corners))
    mesh.polygons.add(len(copy.corners) // 3)
    mesh.attributes["position"].data.foreach_set("vector", copy.positions.ravel())
    mesh.attributes[".corner_vert"].data.foreach_set("value", copy.corners)
    mesh.polygons.foreach_set("loop_start", np.arange(0, len(copy.corners), 3, dtype=np.int32))
    for item in copy.attributes:
        made = mesh.attributes.new(item.name, item.kind, item.domain)
        mesh.attributes[made.name].data.foreach_set(_FIELDS[item.kind][0], item.values)
    if copy.uv_map in mesh.uv_layers:
        mesh.uv_layers[copy.uv_map].active_render = True
    if copy.color in mesh.color_attributes:
        mesh.color_attributes.render_color_index = mesh.color_attributes.find(copy.color)
    mesh.use_auto_texspace = False
    mesh.texspace_location, mesh.texspace_size = copy.texture_space
    mesh.update(calc_edges=True)
    return mesh


def build_object(mesh: bpy.types.Mesh, matrix: np.ndarray, anchor: bpy.types.Object) -> bpy.types.Object:
    """An object with `mesh` at `matrix` [4,4], shear and all, which location, rotation and scale cannot say."""
    item = bpy.data.objects.new(_NAME, mesh)
    item.parent = anchor  # it stands at the origin
    item.matrix_parent_inverse = Matrix(matrix.tolist())
    return item


def _add(copies: Copies, placed: Placed, name: str, most: int) -> None:
    """Put one more mesh to the copies."""
    copies.triangles += len(placed.mesh.corners) // 3
    if copies.triangles > most:
        _refuse_size(most)
    if len(copies.placed) == MOST_INSTANCES:
        text = (
            f"The selection has more than {MOST_INSTANCES:,} instances. Realize them, or select fewer, and try again."
        )
        raise MaquetteError("bad_input", text)
    used = np.zeros(len(placed.mesh.positions), np.bool_)  # vertices without a face are not seen
    used[placed.mesh.corners] = True
    world = placed.mesh.positions[used].astype(np.float64) @ placed.matrix[:3, :3].T + placed.matrix[:3, 3]
    if not np.isfinite(world).all():
        text = f'"{name}" has places that are not finite numbers. Repair the mesh and try again.'
        raise MaquetteError("bad_input", text)
    copies.low, copies.high = np.minimum(copies.low, world.min(axis=0)), np.maximum(copies.high, world.max(axis=0))
    copies.placed.append(placed)


def _copy(mesh: bpy.types.Mesh | None, name: str, most: int) -> MeshCopy | None:
    """The arrays of one evaluated mesh; None when it has no faces."""
    if mesh is None or not len(mesh.polygons):
        return None
    if len(mesh.loops) - 2 * len(mesh.polygons) > most:
        _refuse_size(most)
    mesh.calc_loop_triangles()
    count = len(mesh.loop_triangles)
    positions = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.attributes["position"].data.foreach_get("vector", positions)
    loops, faces = np.empty(3 * count, np.int32), np.empty(count, np.int32)
    mesh.loop_triangles.foreach_get("loops", loops)
    mesh.loop_triangles.foreach_get("polygon_index", faces)
    corner_vertices = np.empty(len(mesh.loops), np.int32)
    mesh.attributes[".corner_vert"].data.foreach_get("value", corner_vertices)
    chosen = {"POINT": slice(None), "CORNER": loops, "FACE": faces}
    attributes = [
        Attribute(item.name, item.data_type, item.domain, _values(item, chosen[item.domain]))
        for item in mesh.attributes
        if item.data_type in _FIELDS and item.domain in chosen and not item.name.startswith(".")
        if item.name != "position" and len(item.data)
    ]
    color = _render_color(mesh)
    if color is not None and len(color.data):
        values = _values(color, chosen[color.domain], "color_srgb")
        attributes.append(Attribute(STORED_COLOR, "FLOAT_COLOR", color.domain, values))
    uv_map = next((item.name for item in mesh.uv_layers if item.active_render), "")
    space = tuple(mesh.texspace_location), tuple(mesh.texspace_size)
    return MeshCopy(
        positions.reshape(-1, 3), corner_vertices[loops], tuple(attributes), uv_map, color.name if color else "", space
    )


def _values(attribute: bpy.types.Attribute, chosen: slice | np.ndarray, name: str = "") -> np.ndarray:
    """The values of an attribute for the triangles' vertices, corners or faces, flat."""
    field_name, width, kind = _FIELDS[attribute.data_type]
    values = np.empty(width * len(attribute.data), kind)
    attribute.data.foreach_get(name or field_name, values)
    return np.ascontiguousarray(values.reshape(-1, width)[chosen]).ravel()


def _render_color(mesh: bpy.types.Mesh) -> bpy.types.Attribute | None:
    """The colour attribute that renders show."""
    number = mesh.color_attributes.render_color_index
    return mesh.color_attributes[number] if 0 <= number < len(mesh.color_attributes) else None


def _mesh_materials(mesh: bpy.types.Mesh | None) -> list[int]:
    return [] if mesh is None else [_uid(material) for material in mesh.materials]


def _slots(shape: bpy.types.Object, worn: list[int]) -> tuple[int, ...]:
    """Session uids of the materials: the mesh's, and the object's own where a slot says so."""
    result = list(worn)
    for number, slot in enumerate(shape.material_slots):
        if number >= len(result):
            result.append(_uid(slot.material))
        elif slot.link == "OBJECT":
            result[number] = _uid(slot.material)
    return tuple(result)


def _uid(material: bpy.types.Material | None) -> int:
    return material.original.session_uid if material is not None else 0


def _refuse_size(most: int) -> None:
    text = f"The selection has more than {most:,} triangles. Give it a Decimate modifier and try again."
    raise MaquetteError("bad_input", text)

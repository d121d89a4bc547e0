"""A picture thrown onto the mesh that it was made of, by the camera that took it: a new material on the faces it shows.

The faces that the picture does not show keep their materials. The places in the picture are kept twice: as a UV map,
for export and baking, and as places times depth in an attribute. The material reads the attribute, because its quotient
is right all over a face, while a UV map bends straight lines on large faces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import bpy
import numpy as np
from mathutils import Vector
from mathutils.bvhtree import BVHTree

from ...backend.contract import frames
from ...backend.contract.errors import MaquetteError
from . import compat

UV_MAP = "Picture"
PLACES = "maquette_picture"  # vector attribute of corners: (u z, v z, z), v from the bottom
BEFORE = "maquette_material_before"  # integer attribute of faces: the material's slot before any projection
MARK = "maquette_picture_job"  # property of our materials
ROUGHNESS = 1.0  # the picture holds its own light and shine
LEAST_COSINE = 0.05  # of the angle between face and view: what is seen nearly from its edge has no colour of its own
PULLED = 1e-3  # of the distance: a ray that ends this close before a face has reached it
NOTHING_SEEN = "The picture shows none of the faces."
SHAPED = "The picture was projected onto the mesh without its modifiers."


def project_picture(
    item: bpy.types.Object, image: bpy.types.Image, job_id: str, world_to_camera: np.ndarray, intrinsics: np.ndarray,
    others: Sequence[bpy.types.Object] = (),
) -> str:  # fmt: skip
    """Give the faces of `item` that the camera sees the picture. Returns a sentence to show, mostly empty.

    `world_to_camera` [4,4], `intrinsics` [3,3] normalised. What `others` hide of the object is not seen either.
    Errors: `MaquetteError` when the object cannot have materials, or none of its faces is seen.
    """
    check_projectable(item)
    if item.data.users > 1:
        item.data = item.data.copy()  # other objects keep theirs
    mesh = item.data
    positions, shaped = _world_positions(item)
    uv, depth = frames.project(positions, world_to_camera, intrinsics)
    uv[:, 1] = 1.0 - uv[:, 1]
    eye = np.linalg.inv(world_to_camera)[:3, 3]
    seen = _seen_faces(item, positions, uv, depth, eye, others)
    if not seen.any():
        raise MaquetteError("bad_input", f'"{item.name}" cannot get the picture. {NOTHING_SEEN}')
    _store_places(mesh, uv, depth)
    slot = _material_slot(item, image, job_id)
    _assign(item, seen, slot)
    mesh.update()
    return SHAPED if shaped else ""


def check_projectable(item: bpy.types.Object) -> None:
    """Errors: `MaquetteError` for what has no faces of its own, or belongs to another file."""
    if item.type != "MESH":
        raise MaquetteError("bad_input", f'"{item.name}" is no mesh. Convert it to one and try again.')
    if item.library is not None or item.override_library is not None or item.data.library is not None:
        raise MaquetteError("bad_input", f'"{item.name}" belongs to another file. Make it local and try again.')
    if not len(item.data.polygons):
        raise MaquetteError("bad_input", f'"{item.name}" has no faces to project the picture onto.')


def _world_positions(item: bpy.types.Object) -> tuple[np.ndarray, bool]:
    """World places [N,3] of the mesh's vertices, as its modifiers bend them; whether modifiers make other vertices,
    whose places are then not known."""
    own = _positions(item.data)
    shaped = any(modifier.show_viewport for modifier in item.modifiers)
    if shaped:
        bent = item.evaluated_get(bpy.context.evaluated_depsgraph_get()).data
        if len(bent.vertices) == len(own) and len(bent.polygons) == len(item.data.polygons):
            own, shaped = _positions(bent), False
    matrix = np.array(item.matrix_world, np.float64)
    return own @ matrix[:3, :3].T + matrix[:3, 3], shaped


def _positions(mesh: bpy.types.Mesh) -> np.ndarray:
    values = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.attributes["position"].data.foreach_get("vector", values)
    return values.reshape(-1, 3).astype(np.float64)


def _seen_faces(
    item: bpy.types.Object, positions: np.ndarray, uv: np.ndarray, depth: np.ndarray, eye: np.ndarray,
    others: Sequence[bpy.types.Object],
) -> np.ndarray:  # fmt: skip
    """Which faces [F] bool the camera at `eye` [3] sees the middle of: inside the picture, nothing before it."""
    mesh = item.data
    polygons = [tuple(polygon.vertices) for polygon in mesh.polygons]
    trees = [BVHTree.FromPolygons(positions.tolist(), polygons)]
    depsgraph = bpy.context.evaluated_depsgraph_get()
    for other in others:
        if other.type == "MESH" and other != item and len(other.data.polygons):
            shape = other.evaluated_get(depsgraph)
            places = [shape.matrix_world @ vertex.co for vertex in shape.data.vertices]
            trees.append(BVHTree.FromPolygons(places, [tuple(polygon.vertices) for polygon in shape.data.polygons]))
    start = Vector(eye.tolist())
    seen = np.zeros(len(polygons), bool)
    for number, middle in _candidates(mesh, positions, uv, depth, eye):
        view = middle - eye
        far = float(np.linalg.norm(view))
        ray = Vector((view / far).tolist())
        seen[number] = all(tree.ray_cast(start, ray, far * (1.0 - PULLED))[0] is None for tree in trees)
    return seen


def _candidates(
    mesh: bpy.types.Mesh, positions: np.ndarray, uv: np.ndarray, depth: np.ndarray, eye: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Number and middle [3] of the faces inside the picture that are not seen from their edge; both sides count,
    because a mesh may be turned inside out."""
    starts = np.zeros(len(mesh.polygons), np.int32)
    mesh.polygons.foreach_get("loop_start", starts)
    corners = np.zeros(len(mesh.loops), np.int32)
    mesh.attributes[".corner_vert"].data.foreach_get("value", corners)
    counts = np.diff(np.append(starts, len(corners)))
    after = np.arange(1, len(corners) + 1)
    after[starts + counts - 1] = starts
    points, behind = positions[corners], depth[corners]
    middles = np.add.reduceat(points, starts) / counts[:, None]
    places = np.add.reduceat(uv[corners], starts) / counts[:, None]
    centred = points - np.repeat(middles, counts, axis=0)
    normals = np.add.reduceat(np.cross(centred, centred[after]), starts)  # Newell's
    views = middles - eye
    across = np.abs((normals * views).sum(axis=1))
    open_ = across > LEAST_COSINE * np.linalg.norm(normals, axis=1) * np.linalg.norm(views, axis=1)
    inside = ((places >= 0) & (places <= 1)).all(axis=1) & (np.minimum.reduceat(behind, starts) > 0)
    for number in np.flatnonzero(open_ & inside):
        yield int(number), middles[number]


def _store_places(mesh: bpy.types.Mesh, uv: np.ndarray, depth: np.ndarray) -> None:
    """The picture's places as UV map and as attribute, at every corner."""
    corners = np.empty(len(mesh.loops), np.int32)
    mesh.attributes[".corner_vert"].data.foreach_get("value", corners)
    layer = mesh.uv_layers.get(UV_MAP)
    if layer is None:
        active, rendered = mesh.uv_layers.active, next((item.name for item in mesh.uv_layers if item.active_render), "")
        active = active.name if active is not None else ""
        layer = mesh.uv_layers.new(name=UV_MAP, do_init=False)
        if layer is None:
            raise MaquetteError("bad_input", "The mesh has as many UV maps as it can have. Remove one and try again.")
        if active:  # what the artist's own materials use
            mesh.uv_layers.active = mesh.uv_layers[active]
            mesh.uv_layers[rendered or active].active_render = True
        layer = mesh.uv_layers[UV_MAP]
    layer.uv.foreach_set("vector", uv[corners].astype(np.float32).ravel())
    attribute = mesh.attributes.get(PLACES) or mesh.attributes.new(PLACES, "FLOAT_VECTOR", "CORNER")
    # Depths around 1: some cameras are a millimetre away, others a kilometre.
    scale = max(float(np.abs(depth).mean()), 1e-12)
    values = np.concatenate([uv * depth[:, None], depth[:, None]], axis=1) / scale
    attribute.data.foreach_set("vector", values[corners].astype(np.float32).ravel())


def _material_slot(item: bpy.types.Object, image: bpy.types.Image, job_id: str) -> int:
    """The slot of this job's material; made, behind the ones there are, if there is none."""
    for number, slot in enumerate(item.material_slots):
        if slot.material is not None and slot.material.get(MARK) == job_id:
            node = next(node for node in slot.material.node_tree.nodes if node.type == "TEX_IMAGE")
            node.image = image
            return number
    mesh = item.data
    if not len(mesh.materials):
        mesh.materials.append(None)  # the faces that stay as they are
    mesh.materials.append(picture_material(image, job_id))
    return len(mesh.materials) - 1


def picture_material(image: bpy.types.Image, job_id: str) -> bpy.types.Material:
    """A material that shows the picture where the attribute says: places divided by depth."""
    material = bpy.data.materials.new(image.name)
    material[MARK] = job_id
    compat.use_material_nodes(material)
    tree = material.node_tree
    shader = next(node for node in tree.nodes if node.type == "BSDF_PRINCIPLED")
    shader.inputs["Roughness"].default_value = ROUGHNESS
    places, parts = tree.nodes.new("ShaderNodeAttribute"), tree.nodes.new("ShaderNodeSeparateXYZ")
    joined, texture = tree.nodes.new("ShaderNodeCombineXYZ"), tree.nodes.new("ShaderNodeTexImage")
    places.attribute_name = PLACES
    texture.image, texture.extension = image, "EXTEND"
    tree.links.new(places.outputs["Vector"], parts.inputs[0])
    for axis in "XY":
        divide = tree.nodes.new("ShaderNodeMath")
        divide.operation = "DIVIDE"
        divide.location = (shader.location.x - 720, shader.location.y - (200 if axis == "Y" else 0))
        tree.links.new(parts.outputs[axis], divide.inputs[0])
        tree.links.new(parts.outputs["Z"], divide.inputs[1])
        tree.links.new(divide.outputs[0], joined.inputs[axis])
    tree.links.new(joined.outputs[0], texture.inputs["Vector"])
    tree.links.new(texture.outputs["Color"], shader.inputs["Base Color"])
    for node, left in ((texture, 320), (joined, 520), (parts, 920), (places, 1120)):
        node.location = (shader.location.x - left, shader.location.y)
    return material


def _assign(item: bpy.types.Object, seen: np.ndarray, slot: int) -> None:
    """Give the `seen` faces [F] the slot; the others that show a picture get back what they had before."""
    mesh = item.data
    now, before = np.zeros(len(mesh.polygons), np.int32), np.zeros(len(mesh.polygons), np.int32)
    mesh.polygons.foreach_get("material_index", now)
    ours = [number for number, each in enumerate(item.material_slots) if each.material and each.material.get(MARK)]
    attribute = mesh.attributes.get(BEFORE)
    if attribute is None:
        attribute = mesh.attributes.new(BEFORE, "INT", "FACE")
    else:
        attribute.data.foreach_get("value", before)
    before = np.where(np.isin(now, ours), before, now).astype(np.int32)
    attribute.data.foreach_set("value", before)
    mesh.polygons.foreach_set("material_index", np.where(seen, slot, before).astype(np.int32))

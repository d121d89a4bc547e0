"""Gaussian splats as an object: points that carry each splat's size, rotation, colour and opacity, drawn by geometry
nodes as small ellipsoids. The points stay points: they can be selected, deleted and measured.

The ellipsoids are realised into one mesh with 20 triangles a splat, which both render engines draw at once; instances
would be drawn one by one. They are solid: where a splat is too transparent to count it is left out.
"""

from __future__ import annotations

import bpy
import numpy as np
from mathutils import Matrix

from ...backend.contract.splats import Splats
from . import compat

NODES = "Maquette Splats"
MATERIAL = "Maquette Splats"
RADIUS = 1.5  # of the ellipsoids, in standard deviations: about where a splat has faded to a third
LEAST_OPACITY = 0.2  # splats below it are haze


def build_points(name: str, splats: Splats, scale: float = 1.0) -> bpy.types.Mesh:
    """A mesh of points, `scale` times as large, with the attributes splat_scale, splat_rotation, Color, opacity."""
    mesh = bpy.data.meshes.new(name)
    count = len(splats.positions)
    mesh.vertices.add(count)
    if not count:
        return mesh
    mesh.attributes["position"].data.foreach_set("vector", _flat(splats.positions * np.float32(scale)))
    mesh.attributes.new("splat_scale", "FLOAT_VECTOR", "POINT").data.foreach_set("vector", _flat(splats.scales * scale))
    mesh.attributes.new("splat_rotation", "QUATERNION", "POINT").data.foreach_set("value", _flat(splats.rotations))
    mesh.attributes.new("opacity", "FLOAT", "POINT").data.foreach_set("value", _flat(splats.opacities))
    colors = np.ones((count, 4), np.float32)
    colors[:, :3] = _linear(splats.colors.clip(0.0, 1.0))
    mesh.color_attributes.new("Color", "FLOAT_COLOR", "POINT").data.foreach_set("color", colors.ravel())
    mesh.update()
    return mesh


def add_splats(scene: bpy.types.Scene, name: str, splats: Splats, scale: float = 1.0) -> bpy.types.Object:
    """An object in the scene that shows the splats, `scale` times as large."""
    made = bpy.data.objects.new(name, build_points(name, splats, scale))
    scene.collection.objects.link(made)
    made.modifiers.new("Splats", "NODES").node_group = splat_nodes()
    return made


def show_in_place(
    scene: bpy.types.Scene, parent: bpy.types.Object, splats: Splats, scale: float, origin: np.ndarray
) -> bpy.types.Object:
    """The splats of a result in the place of its mesh `parent`, which is hidden. `origin` [3] as in `build_mesh`."""
    made = add_splats(scene, f"{parent.name} Splats", splats, scale)
    made.parent = parent
    made.matrix_local = Matrix.Translation([-float(value) for value in origin])
    parent.hide_render = True
    for layer in scene.view_layers:
        layer.update()  # from 5.0 on a layer knows new objects only then
        if parent.name in layer.objects:
            parent.hide_set(True, view_layer=layer)
    return made


def splat_nodes() -> bpy.types.NodeTree:
    """The node group that draws points as ellipsoids; made once a file."""
    found = bpy.data.node_groups.get(NODES)
    if found is not None:
        return found
    tree = bpy.data.node_groups.new(NODES, "GeometryNodeTree")
    tree.interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    radius = tree.interface.new_socket("Radius", in_out="INPUT", socket_type="NodeSocketFloat")
    radius.default_value, radius.min_value = RADIUS, 0.0
    least = tree.interface.new_socket("Least Opacity", in_out="INPUT", socket_type="NodeSocketFloat")
    least.default_value, least.min_value, least.max_value = LEAST_OPACITY, 0.0, 1.0
    tree.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    made = {}
    for column, (key, kind) in enumerate({
        "input": "NodeGroupInput", "opacity": "GeometryNodeInputNamedAttribute", "faint": "FunctionNodeCompare",
        "solid": "GeometryNodeDeleteGeometry", "scale": "GeometryNodeInputNamedAttribute",
        "size": "ShaderNodeVectorMath", "rotation": "GeometryNodeInputNamedAttribute",
        "ball": "GeometryNodeMeshIcoSphere",
        "instances": "GeometryNodeInstanceOnPoints", "mesh": "GeometryNodeRealizeInstances",
        "smooth": "GeometryNodeSetShadeSmooth", "material": "GeometryNodeSetMaterial", "output": "NodeGroupOutput",
    }.items()):  # fmt: skip
        made[key] = tree.nodes.new(kind)
        made[key].location = (200 * column, -160 * (column % 2))
    for key, name, kind in (("opacity", "opacity", "FLOAT"), ("scale", "splat_scale", "FLOAT_VECTOR"),
                            ("rotation", "splat_rotation", "QUATERNION")):  # fmt: skip
        made[key].data_type = kind
        made[key].inputs["Name"].default_value = name
    made["faint"].data_type, made["faint"].operation = "FLOAT", "LESS_THAN"
    made["solid"].domain = "POINT"
    made["size"].operation = "SCALE"
    made["ball"].inputs["Radius"].default_value = 1.0
    made["ball"].inputs["Subdivisions"].default_value = 1
    made["material"].inputs["Material"].default_value = splat_material()

    def join(source: str, output: str, target: str, socket: str) -> None:
        # Some nodes have sockets of one name for each type of data: the one in use is the enabled one. "" is the first
        # socket, whose name differs between versions.
        start = next(item for item in made[source].outputs if output in ("", item.name) and item.enabled)
        end = next(item for item in made[target].inputs if socket in ("", item.name) and item.enabled)
        tree.links.new(start, end)

    for link in (
        ("input", "Geometry", "solid", "Geometry"), ("opacity", "Attribute", "faint", "A"),
        ("input", "Least Opacity", "faint", "B"), ("faint", "Result", "solid", "Selection"),
        ("solid", "Geometry", "instances", "Points"), ("ball", "Mesh", "instances", "Instance"),
        ("scale", "Attribute", "size", "Vector"), ("input", "Radius", "size", "Scale"),
        ("size", "Vector", "instances", "Scale"), ("rotation", "Attribute", "instances", "Rotation"),
        ("instances", "Instances", "mesh", "Geometry"), ("mesh", "Geometry", "smooth", ""),
        ("smooth", "", "material", "Geometry"), ("material", "Geometry", "output", "Geometry"),
    ):  # fmt: skip
        join(*link)
    return tree


def splat_material() -> bpy.types.Material:
    """A material that shows the splats' own colours without light: a splat's colour holds its light already."""
    found = bpy.data.materials.get(MATERIAL)
    if found is not None:
        return found
    material = bpy.data.materials.new(MATERIAL)
    compat.use_material_nodes(material)
    tree = material.node_tree
    tree.nodes.clear()
    color, light, output = (
        tree.nodes.new(kind) for kind in ("ShaderNodeAttribute", "ShaderNodeEmission", "ShaderNodeOutputMaterial")
    )
    color.attribute_name = "Color"
    color.location, light.location = (-400, 0), (-200, 0)
    tree.links.new(color.outputs["Color"], light.inputs["Color"])
    tree.links.new(light.outputs["Emission"], output.inputs["Surface"])
    return material


def _flat(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32).ravel()


def _linear(colors: np.ndarray) -> np.ndarray:
    """sRGB in [0,1] -> linear."""
    return np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)

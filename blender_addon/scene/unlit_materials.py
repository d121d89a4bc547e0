"""Materials that shine with their base colour, for pictures without light: whatever node tree computes that colour.

Each is a scratch copy of an artist's material whose surface is replaced by an emission of what fed the base colour, so
a procedural material is baked to its base colour by being rendered. The artist's material is only read.
"""

from __future__ import annotations

import bpy
import numpy as np
from mathutils import Matrix

from ...backend.contract.errors import MaquetteError
from . import compat
from .evaluated_meshes import STORED_COLOR

STORED_INDEX = 1  # pass index of materials whose emission is an sRGB value as stored, not linear light
BARE = 102.0 / 255.0  # sRGB of faces without material and colours, as published
BLACK = 1e-3  # linear; a base colour below it shows nothing
_NAME = "maquette capture"
_CLEAR = {"BSDF_TRANSPARENT", "HOLDOUT"}  # what lets one see through shows the colour of what it is mixed with

Source = bpy.types.NodeSocket | tuple[float, float, float]
"""Where a colour comes from: an output of a node, or the colour itself (linear)."""


class UnlitMaterials:
    """The unlit copies of one scratch scene. `created` collects what the caller removes afterwards.

    to_centred [4,4]: how the scene was moved and scaled; coordinates that shaders take from the world are led back.
    """

    def __init__(self, created: list[bpy.types.ID], to_centred: np.ndarray) -> None:
        self._created = created
        self._to_centred = Matrix(np.asarray(to_centred).tolist())
        self._made: dict[tuple[int, bool], bpy.types.Material] = {}
        self._places: dict[int, bpy.types.Object] = {}
        self._known = {material.session_uid: material for material in bpy.data.materials}

    def of(self, uid: int, has_color: bool) -> bpy.types.Material:
        """The unlit copy of the material with session uid `uid`; for 0 one that shows the mesh's stored colours if it
        has any, else grey. Errors: `MaquetteError` when the material is gone."""
        key = (uid, has_color and uid == 0)
        if key not in self._made:
            if uid:
                self._made[key] = self._copy(uid)
            else:
                self._made[key] = self.showing(STORED_COLOR) if has_color else self._bare()
                self._made[key].pass_index = STORED_INDEX
        return self._made[key]

    def showing(self, attribute: str) -> bpy.types.Material:
        """A material that shows the values of a mesh's attribute as they are stored."""
        material = self._new()
        node = material.node_tree.nodes.new("ShaderNodeAttribute")
        node.attribute_name = attribute
        _shine(material, node.outputs["Color"])
        return material

    def _bare(self) -> bpy.types.Material:
        material = self._new()
        _shine(material, (BARE, BARE, BARE))
        return material

    def _copy(self, uid: int) -> bpy.types.Material:
        material = self._known.get(uid)
        if material is None:
            text = "A material of the selection went away while it was looked at. Try again."
            raise MaquetteError("bad_input", text)
        plain = tuple(material.diffuse_color[:3])
        if material.node_tree is None or not compat.uses_material_nodes(material):
            flat = self._new()
            _shine(flat, plain)
            return flat
        copy = material.copy()
        self._created.append(copy)
        copy.name, copy.pass_index = _NAME, 0
        self._lead_back(copy.node_tree, plain)
        output = copy.node_tree.get_output_node("CYCLES")
        source = self._base_color(copy.node_tree, output.inputs["Surface"]) if output is not None else None
        _shine(copy, plain if source is None else source)
        return copy

    def _new(self) -> bpy.types.Material:
        material = bpy.data.materials.new(_NAME)
        self._created.append(material)
        compat.use_material_nodes(material)
        material.node_tree.nodes.clear()
        return material

    def _base_color(self, tree: bpy.types.NodeTree, surface: bpy.types.NodeSocket) -> Source | None:
        """What gives the base colour of the shader that is linked to the input `surface`; None when nothing does."""
        if not surface.is_linked:
            return None
        link = surface.links[0]
        node = link.from_node
        if node.type == "REROUTE":
            return self._base_color(tree, node.inputs[0])
        if node.type == "GROUP":
            return self._inside_group(node, link.from_socket)
        if node.type in ("MIX_SHADER", "ADD_SHADER"):
            first, second = (self._base_color(tree, socket) for socket in list(node.inputs)[-2:])
            if first is None or second is None or node.type == "ADD_SHADER":
                return second if first is None else first
            return _mixed(tree, node.inputs[0], first, second)
        color = node.inputs.get("Base Color") or node.inputs.get("Color")
        if color is None or node.type in _CLEAR:
            return None
        source = _source(color)
        if node.type == "BSDF_PRINCIPLED" and isinstance(source, tuple) and max(source) < BLACK:
            strength = node.inputs["Emission Strength"]
            if strength.is_linked or strength.default_value > 0:  # black, but it shines
                return _source(node.inputs["Emission Color"])
        return source

    def _inside_group(self, node: bpy.types.Node, socket: bpy.types.NodeSocket) -> Source | None:
        """The base colour of a shader that a group node hands out at `socket`, made an output of the group."""
        inner = node.node_tree
        ends = [item for item in inner.nodes if item.type == "GROUP_OUTPUT"] if inner is not None else []
        end = next((item for item in ends if item.is_active_output), None)
        if end is None:
            return None
        shader = next((item for item in end.inputs if item.identifier == socket.identifier), None)
        source = self._base_color(inner, shader) if shader is not None else None
        if source is None or isinstance(source, tuple):
            return source
        made = inner.interface.new_socket(name=_NAME, in_out="OUTPUT", socket_type="NodeSocketColor")
        inner.links.new(source, next(item for item in end.inputs if item.identifier == made.identifier))
        return next(item for item in node.outputs if item.identifier == made.identifier)

    def _lead_back(self, tree: bpy.types.NodeTree, plain: tuple[float, float, float]) -> None:
        """Give the tree the coordinates it had where the artist put things, and `plain` for pictures that are missing.
        Groups become copies of their own."""
        for node in list(tree.nodes):
            if node.type == "GROUP" and node.node_tree is not None:
                node.node_tree = node.node_tree.copy()
                self._created.append(node.node_tree)
                self._lead_back(node.node_tree, plain)
            elif node.type == "TEX_COORD" and node.object is not None:
                node.object = self._place(node.object)
            elif node.type == "NEW_GEOMETRY" and node.outputs["Position"].is_linked:
                world = tree.nodes.new("ShaderNodeTexCoord")
                world.object = self._place(None)
                _relink(tree, node.outputs["Position"], world.outputs["Object"])
            elif node.type == "TEX_IMAGE" and not _has_pixels(node.image):
                color = tree.nodes.new("ShaderNodeRGB")
                color.outputs[0].default_value = (*plain, 1.0)
                _relink(tree, node.outputs["Color"], color.outputs[0])

    def _place(self, item: bpy.types.Object | None) -> bpy.types.Object:
        """An empty that stands in the scratch scene where `item` stands in the world; None: the world's origin."""
        uid = item.session_uid if item is not None else 0
        if uid not in self._places:
            empty = bpy.data.objects.new(_NAME, None)
            self._created.append(empty)
            empty.matrix_world = self._to_centred @ (item.matrix_world if item is not None else Matrix.Identity(4))
            self._places[uid] = empty
        return self._places[uid]


def _source(socket: bpy.types.NodeSocket) -> Source:
    """What a colour input gets."""
    return socket.links[0].from_socket if socket.is_linked else tuple(socket.default_value[:3])


def _set(tree: bpy.types.NodeTree, source: Source, socket: bpy.types.NodeSocket) -> None:
    """Have a colour input get `source`."""
    if isinstance(source, tuple):
        socket.default_value = (*source, 1.0)
    else:
        tree.links.new(source, socket)


def _shine(material: bpy.types.Material, source: Source) -> None:
    """Make an emission of `source` all that the material shows; it gives no light, so that no light is searched."""
    tree = material.node_tree
    for node in [item for item in tree.nodes if item.type == "OUTPUT_MATERIAL"]:
        tree.nodes.remove(node)
    emission, output = tree.nodes.new("ShaderNodeEmission"), tree.nodes.new("ShaderNodeOutputMaterial")
    _set(tree, source, emission.inputs["Color"])
    tree.links.new(emission.outputs[0], output.inputs["Surface"])
    material.cycles.emission_sampling = "NONE"


def _mixed(tree: bpy.types.NodeTree, factor: bpy.types.NodeSocket, first: Source, second: Source) -> Source:
    """Two colours mixed as a Mix Shader with the input `factor` mixes."""
    node = tree.nodes.new("ShaderNodeMix")
    node.data_type = "RGBA"
    inputs = {socket.identifier: socket for socket in node.inputs}
    if factor.is_linked:
        tree.links.new(factor.links[0].from_socket, inputs["Factor_Float"])
    else:
        inputs["Factor_Float"].default_value = factor.default_value
    _set(tree, first, inputs["A_Color"])
    _set(tree, second, inputs["B_Color"])
    return next(socket for socket in node.outputs if socket.identifier == "Result_Color")


def _relink(tree: bpy.types.NodeTree, old: bpy.types.NodeSocket, new: bpy.types.NodeSocket) -> None:
    """Have everything that the output `old` feeds be fed by `new`."""
    for target in [link.to_socket for link in old.links]:
        tree.links.new(new, target)


def _has_pixels(image: bpy.types.Image | None) -> bool:
    """Whether there is a picture to show; a file that is gone leaves Blender's pink."""
    return image is not None and (image.source in ("TILED", "SEQUENCE", "MOVIE") or all(image.size))

"""The base colour of materials of every make, as a view without light shows it, against what their nodes say."""

from __future__ import annotations

import math

import bpy
import numpy as np
import pytest
from mathutils import Euler, Matrix, Vector

from tests.golden.refany3d_meshes import paint

from .conftest import module
from .reference_scenes import CORNERS, box, look, material, srgb_bytes

ORANGE, TEAL = (0.8, 0.3, 0.05), (0.02, 0.5, 0.4)  # linear
ELEVATION = math.radians(30)


@pytest.fixture(autouse=True)
def empty(blender) -> None:
    """The factory scene without its cube."""
    bpy.data.objects.remove(bpy.data.objects["Cube"])


def shown(made: bpy.types.Material | None, item: bpy.types.Object | None = None) -> np.ndarray:
    """All colours [N,3] uint8 of a box that wears the material."""
    item = item or box()
    item.data.materials.append(made)
    color, _, mask = look([item], elevation=ELEVATION)
    assert mask.sum() > 40
    return color[mask]


def assert_shows(made: bpy.types.Material | None, linear: tuple[float, ...], levels: int = 1) -> None:
    """Every pixel has the linear colour."""
    assert np.abs(shown(made).astype(int) - srgb_bytes(np.array(linear))).max() <= levels


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"Metallic": 1.0},
        {"Transmission Weight": 1.0},
        {"Alpha": 0.2},
        {"Emission Strength": 0.0, "Coat Weight": 1.0, "Roughness": 0.0},
        {"Subsurface Weight": 1.0, "Sheen Weight": 1.0},
    ],
    ids=lambda settings: ", ".join(settings) or "plain",
)
def test_the_base_color_of_a_principled_shader(settings):
    def build(tree, shader):
        for name, value in settings.items():
            shader.inputs[name].default_value = value

    assert_shows(material("Any", build, ORANGE), ORANGE)


def test_what_is_black_and_shines():
    def build(tree, shader):
        shader.inputs["Emission Color"].default_value = (*TEAL, 1.0)
        shader.inputs["Emission Strength"].default_value = 40.0

    assert_shows(material("Lamp", build, (0, 0, 0)), TEAL)
    assert_shows(material("Lit", build, ORANGE), ORANGE)


@pytest.mark.parametrize(
    "kind", ["BsdfDiffuse", "BsdfGlossy", "BsdfGlass", "BsdfToon", "Emission", "SubsurfaceScattering"]
)
def test_other_shaders(kind):
    def build(tree, shader):
        node = tree.nodes.new(f"ShaderNode{kind}")
        node.inputs["Color"].default_value = (*TEAL, 1.0)
        output = tree.get_output_node("CYCLES")
        tree.links.new(node.outputs[0], output.inputs["Surface"])

    assert_shows(material(kind, build, ORANGE), TEAL)


def mixing(factor: float, second: str):
    """A Mix Shader of the Principled shader and a second one, through a reroute."""

    def build(tree, shader):
        node, mix, bend = (tree.nodes.new(name) for name in (second, "ShaderNodeMixShader", "NodeReroute"))
        node.inputs["Color"].default_value = (*TEAL, 1.0)
        mix.inputs[0].default_value = factor
        tree.links.new(shader.outputs[0], bend.inputs[0])
        tree.links.new(bend.outputs[0], mix.inputs[1])
        tree.links.new(node.outputs[0], mix.inputs[2])
        tree.links.new(mix.outputs[0], tree.get_output_node("CYCLES").inputs["Surface"])

    return build


def test_mixed_shaders():
    middle = tuple(0.75 * np.array(ORANGE) + 0.25 * np.array(TEAL))
    assert_shows(material("Both", mixing(0.25, "ShaderNodeBsdfDiffuse"), ORANGE), middle)
    assert_shows(material("Leaf", mixing(0.25, "ShaderNodeBsdfTransparent"), ORANGE), ORANGE)


def test_shaders_in_groups_within_groups():
    inner, outer = (bpy.data.node_groups.new(name, "ShaderNodeTree") for name in ("Inner", "Outer"))
    for tree in (inner, outer):
        tree.interface.new_socket(name="Tint", in_out="INPUT", socket_type="NodeSocketColor")
        tree.interface.new_socket(name="Shader", in_out="OUTPUT", socket_type="NodeSocketShader")
    shader = inner.nodes.new("ShaderNodeBsdfPrincipled")
    start, end = inner.nodes.new("NodeGroupInput"), inner.nodes.new("NodeGroupOutput")
    inner.links.new(start.outputs[0], shader.inputs["Base Color"])
    inner.links.new(shader.outputs[0], end.inputs[0])
    start, end, node = (outer.nodes.new(f"{name}") for name in ("NodeGroupInput", "NodeGroupOutput", "ShaderNodeGroup"))
    node.node_tree = inner
    outer.links.new(start.outputs[0], node.inputs[0])
    outer.links.new(node.outputs[0], end.inputs[0])

    def build(tree, shader):
        node = tree.nodes.new("ShaderNodeGroup")
        node.node_tree = outer
        node.inputs[0].default_value = (*TEAL, 1.0)
        tree.links.new(node.outputs[0], tree.get_output_node("CYCLES").inputs["Surface"])

    assert_shows(material("Grouped", build, ORANGE), TEAL)
    assert len(bpy.data.node_groups) == 2 and len(outer.interface.items_tree) == 2  # the artist's are as they were


# Added to a coordinate so that some of it lies between 0 and 1, where a colour can show it.
OFFSETS = {
    "Object": (0.5, 0.5, 0.5),
    "Position": (-2.0, -6.5, -4.5),
    "Generated": (0.0, 0.0, 0.0),
    "other object": (0.0, 0.5, 0.5),
    "in a group": (-2.0, -6.5, -4.5),
}


def coordinates(tree: bpy.types.NodeTree, where: str, other: bpy.types.Object) -> bpy.types.NodeSocket:
    """A coordinate plus its offset, as a colour."""
    if where in ("Position", "in a group"):
        socket = tree.nodes.new("ShaderNodeNewGeometry").outputs["Position"]
    else:
        node = tree.nodes.new("ShaderNodeTexCoord")
        node.object = other if where == "other object" else None
        socket = node.outputs["Generated" if where == "Generated" else "Object"]
    add = tree.nodes.new("ShaderNodeVectorMath")
    add.inputs[1].default_value = OFFSETS[where]
    tree.links.new(socket, add.inputs[0])
    return add.outputs[0]


@pytest.mark.parametrize("where", OFFSETS)
def test_procedural_colors_lie_where_the_artist_put_them(where):
    """The colour is the coordinate itself, and the point map says where each pixel is."""
    other = bpy.data.objects.new("Other", None)
    other.matrix_world = Matrix.LocRotScale(Vector((2, 7, 5)), Euler((0.3, 0.2, 0.9)), None)
    bpy.context.scene.collection.objects.link(other)

    def build(tree, shader):
        socket = shader.inputs["Base Color"]
        if where != "in a group":
            tree.links.new(coordinates(tree, where, other), socket)
            return
        node, group = tree.nodes.new("ShaderNodeGroup"), bpy.data.node_groups.new("Colors", "ShaderNodeTree")
        group.interface.new_socket(name="Color", in_out="OUTPUT", socket_type="NodeSocketColor")
        group.links.new(coordinates(group, where, other), group.nodes.new("NodeGroupOutput").inputs[0])
        node.node_tree = group
        tree.links.new(node.outputs[0], socket)

    item = box()
    item.data.materials.append(material("Procedural", build))
    item.matrix_world = Matrix.LocRotScale(Vector((2.5, 7, 5)), Euler((0.1, 0.5, 0.4)), Vector((0.5, 1, 2)))
    seen, world, mask = look([item], elevation=ELEVATION, size=64)
    frame = {"Object": item, "Generated": item, "other object": other}.get(where)
    matrix = np.array(frame.matrix_world.inverted()) if frame is not None else np.eye(4)
    expected = world[mask] @ matrix[:3, :3].T + matrix[:3, 3] + OFFSETS[where]
    if where == "Generated":
        expected = (expected - CORNERS[0]) / (np.array(CORNERS[1]) - CORNERS[0])
    error = np.abs(seen[mask] / 255 - module("scene.capture").linear_to_srgb(expected))
    visible = (expected > 0.05) & (expected < 0.95)
    assert visible.sum() > 400 and np.ptp(expected[visible]) > 0.5  # it varies where a colour can show it
    assert np.median(error[visible]) < 0.01 and (error[visible] < 0.05).mean() > 0.98


def test_without_a_material_colors_of_the_mesh_else_grey():
    assert (shown(None) == 102).all()
    item = box("Colored")
    colors = item.data.color_attributes.new("Paint", "BYTE_COLOR", "CORNER")
    colors.data.foreach_set("color_srgb", np.tile(np.array([10, 200, 77, 255], np.float32) / 255, 24))
    item.data.color_attributes.render_color_index = 0
    color, _, mask = look([item], elevation=ELEVATION)
    assert (color[mask] == (10, 200, 77)).all()
    item.data.materials.append(None)  # an empty slot is no material either
    assert (look([item], elevation=ELEVATION)[0][mask] == (10, 200, 77)).all()


def test_a_picture_that_is_gone_and_one_without_uv_map(tmp_path):
    def build(tree, shader):
        node = tree.nodes.new("ShaderNodeTexImage")
        node.image = bpy.data.images.new("Gone", 4, 4)
        node.image.source, node.image.filepath = "FILE", str(tmp_path / "gone.png")
        tree.links.new(node.outputs[0], shader.inputs["Base Color"])

    gone = material("Gone", build)
    gone.diffuse_color = (*TEAL, 1.0)
    assert_shows(gone, TEAL)  # not Blender's pink

    item = box("No UVs")
    pixels = np.full((4, 4, 3), 90, np.uint8)
    painted = paint(item.data, np.zeros((24, 2)), pixels, module)
    item.data.uv_layers.remove(item.data.uv_layers[0])
    assert (look([item], elevation=ELEVATION)[0] == 90).any() and painted.users == 1


def test_an_unsaved_picture_and_the_uv_map_for_renders():
    item = box()
    for name, at in (("First", 0.25), ("Second", 0.75)):
        item.data.uv_layers.new(name=name).uv.foreach_set("vector", np.full(48, at, np.float32))
    item.data.uv_layers["Second"].active_render = True
    image = bpy.data.images.new("Halves", 2, 2)
    image.pixels.foreach_set(np.array([[1, 0, 0, 1]] * 2 + [[0, 0, 1, 1]] * 2, np.float32).ravel())

    def build(tree, shader):
        node = tree.nodes.new("ShaderNodeTexImage")
        node.image, node.interpolation = image, "Closest"
        tree.links.new(node.outputs[0], shader.inputs["Base Color"])

    assert (shown(material("Painted", build), item) == (0, 0, 255)).all()


def test_a_material_without_nodes_or_output_shows_its_viewport_color():
    bare = material("Bare")
    for node in list(bare.node_tree.nodes):
        bare.node_tree.nodes.remove(node)
    bare.diffuse_color = (*ORANGE, 1.0)
    assert_shows(bare, ORANGE)
    if bpy.app.version < (5, 0):
        bare.use_nodes = False
        assert_shows(bare, ORANGE)


def test_a_file_with_a_wide_working_space():
    item = box()
    before = shown(material("Plain", color=ORANGE), item)
    if bpy.app.version >= (5, 0):
        bpy.ops.wm.set_working_color_space(working_space="ACEScg", convert_colors=True)
        color, _, mask = look([item], elevation=ELEVATION)
        bpy.ops.wm.set_working_color_space(working_space="Linear Rec.709", convert_colors=True)
        assert np.abs(color[mask].astype(int) - before).max() <= 1
    assert np.abs(before.astype(int) - srgb_bytes(ORANGE)).max() <= 1

"""What may be selected for RefAny3D's views: many things just work, the others get a sentence; the scene stays."""

from __future__ import annotations

import math
from pathlib import Path

import bpy
import numpy as np
import pytest
from mathutils import Matrix

from .conftest import contract, make_undo_steps, module
from .reference_scenes import CORNERS, SIZE, begin, box, look, material

ELEVATION = math.radians(30)


@pytest.fixture(autouse=True)
def empty(blender) -> None:
    """The factory scene without its cube."""
    bpy.data.objects.remove(bpy.data.objects["Cube"])


def colored_box() -> bpy.types.Object:
    """A box whose sides along x have colours of their own."""
    item = box()
    for name, color in (("Red", (0.8, 0.1, 0.1)), ("Green", (0.1, 0.8, 0.1)), ("Blue", (0.1, 0.1, 0.8))):
        item.data.materials.append(material(name, color=color))
    for number, polygon in enumerate(item.data.polygons):
        polygon.material_index = number % 3
    return item


def assert_same_view(first: tuple, second: tuple, levels: int = 2) -> None:
    """Colours and silhouette agree but for a pixel at an edge that rounding turned."""
    assert (first[2] != second[2]).sum() <= 2
    both = first[2] & second[2]
    assert (np.abs(first[0][both].astype(int) - second[0][both]).max(axis=-1) > levels).sum() <= 2


def test_several_objects_are_one_selection():
    first, second = box("A", (0, 0, 0), (1, 1, 1)), box("B", (2, 0, 0), (3, 1, 4))
    first.data.materials.append(material("Red", color=(1, 0, 0)))
    second.data.materials.append(material("Blue", color=(0, 0, 1)))
    looking = begin([first, second])
    assert looking.bounds_min == (0, 0, 0) and looking.bounds_max == (3, 1, 4) and looking.copies.triangles == 24
    color, world, mask = look([first, second], index=1)  # from -y
    red, blue = (color == (255, 0, 0)).all(axis=-1), (color == (0, 0, 255)).all(axis=-1)
    assert red.sum() > 10 and blue.sum() > 4 * red.sum() * 0.8 and (red | blue)[mask].all()
    assert (world[red][:, 0] < 1.05).all() and (world[blue][:, 0] > 1.95).all()
    assert abs(np.median(world[red][:, 1])) < 0.01  # the side that faces -y


def test_modifiers_and_parents():
    item = colored_box()
    holder = bpy.data.objects.new("Holder", None)
    bpy.context.scene.collection.objects.link(holder)
    holder.location, holder.scale = (5, 0, 0), (2, 2, 2)
    item.parent = holder
    array = item.modifiers.new("Array", "ARRAY")
    array.count, array.use_relative_offset, array.use_constant_offset = 3, False, True
    array.constant_offset_displace = (0, 0, 2)
    looking = begin([item])
    assert looking.bounds_min == pytest.approx((3, -1, -0.5)) and looking.bounds_max == pytest.approx((7, 1, 8.5))
    assert looking.copies.triangles == 36


def scattered(part: bpy.types.Object, named: bpy.types.Material | None = None):
    """A box that geometry nodes turn into five instances of `part` along y, with the material `named` set; and the
    node that says how many."""
    tree = bpy.data.node_groups.new("Scatter", "GeometryNodeTree")
    tree.interface.new_socket(name="Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    points, instances = tree.nodes.new("GeometryNodeMeshLine"), tree.nodes.new("GeometryNodeInstanceOnPoints")
    info, out = tree.nodes.new("GeometryNodeObjectInfo"), tree.nodes.new("NodeGroupOutput")
    info.inputs["Object"].default_value = part
    points.inputs["Count"].default_value = 5
    points.inputs["Offset"].default_value = (0, 3, 0)
    tree.links.new(points.outputs[0], instances.inputs["Points"])
    tree.links.new(info.outputs["Geometry"], instances.inputs["Instance"])
    tree.links.new(instances.outputs[0], out.inputs[0])
    if named is not None:
        setter = tree.nodes.new("GeometryNodeSetMaterial")
        setter.inputs["Material"].default_value = named
        tree.links.new(info.outputs["Geometry"], setter.inputs["Geometry"])
        tree.links.new(setter.outputs[0], instances.inputs["Instance"])
    carrier = box("Carrier")
    carrier.modifiers.new("Nodes", "NODES").node_group = tree
    return carrier, points


def test_instances_of_collections_and_of_geometry_nodes():
    source = bpy.data.collections.new("Source")  # not in the scene: seen through instances only
    part = box("Part", link=False)
    source.objects.link(part)
    hidden = box("Cutter", (-9, -9, -9), (9, 9, 9), link=False)
    hidden.hide_render = True
    source.objects.link(hidden)
    empty = bpy.data.objects.new("Instance", None)
    empty.instance_type, empty.instance_collection, empty.location = "COLLECTION", source, (0, 0, 10)
    bpy.context.scene.collection.objects.link(empty)
    looking = begin([empty])
    assert looking.bounds_min == (-1, -0.5, 9.75) and looking.copies.triangles == 12

    carrier, points = scattered(part)
    looking = begin([carrier])
    assert looking.copies.triangles == 60 and looking.bounds_max == pytest.approx((1, 12.5, 0.25))
    assert len({id(part.mesh) for part in looking.copies.placed}) == 1  # one copy for all
    assert look([carrier], size=128)[2].sum() > 50
    points.inputs["Count"].default_value = 10_001
    with pytest.raises(contract("errors").MaquetteError, match="more than 10,000 instances. Realize them, or select"):
        begin([carrier])


def test_materials_of_what_geometry_nodes_make():
    part = box("Part", link=False)
    part.data.materials.append(material("Red", color=(1, 0, 0)))
    carrier, _ = scattered(part)
    carrier.data.materials.append(None)
    carrier.material_slots[0].link = "OBJECT"
    carrier.material_slots[0].material = material("Green", color=(0, 1, 0))
    color, _, mask = look([carrier], size=128)
    assert (color[mask] == (255, 0, 0)).all()  # the part's own, not that of what carries it
    other, _ = scattered(part, material("Blue", color=(0, 0, 1)))
    color, _, mask = look([other], size=128)
    assert (color[mask] == (0, 0, 255)).all()


def test_curves_and_texts_are_surfaces_too():
    curve = bpy.data.curves.new("Words", "FONT")
    curve.body, curve.extrude = "Hi", 0.1
    text = bpy.data.objects.new("Words", curve)
    bpy.context.scene.collection.objects.link(text)
    assert look([text], index=1)[2].sum() > 20


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e7])
def test_tiny_and_huge_look_the_same(scale):
    item = colored_box()
    before = look([item], elevation=ELEVATION)
    item.matrix_world = Matrix.Scale(scale, 4)
    assert_same_view(before, look([item], elevation=ELEVATION))


def test_far_away_looks_the_same():
    item = colored_box()
    before = look([item], elevation=ELEVATION)
    item.matrix_world = Matrix.Translation((1e6, -1e6, 1e5))
    assert_same_view(before, look([item], elevation=ELEVATION))


def test_mirrored_turned_and_sheared():
    item, other = colored_box(), colored_box()
    matrix = Matrix(((1, 0.7, 0.2, 3), (0, -1.5, 0.1, 1), (0.3, 0, 0.8, -2), (0, 0, 0, 1)))
    assert matrix.determinant() < 0
    holder = bpy.data.objects.new("Holder", None)
    bpy.context.scene.collection.objects.link(holder)
    item.parent, item.matrix_parent_inverse = holder, matrix
    other.data.transform(matrix)
    for index in (0, 3):
        assert_same_view(look([item], index, elevation=ELEVATION), look([other], index, elevation=ELEVATION))


def test_flat_loose_and_non_manifold():
    mesh = bpy.data.meshes.new("Fan")
    corners = [(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1), (-1, 1, 0), (-1, 1, 1), (-1, -1, 0), (-1, -1, 1), (50, 0, 0)]
    faces = [(0, 1, 3, 2), (0, 1, 5, 4), (0, 1, 7, 6), (0, 0, 1)]  # three at one edge, and one without a surface
    mesh.from_pydata(corners, [(8, 0)], faces)  # a loose edge that leads far away is not seen, so it does not count
    item = bpy.data.objects.new("Fan", mesh)
    bpy.context.scene.collection.objects.link(item)
    looking = begin([item])
    assert looking.bounds_min == (-1, -1, 0) and looking.bounds_max == (1, 1, 1)
    assert look([item])[2].sum() > 50
    item.scale.y = 0.0  # pressed flat: still a surface
    color, points = module("scene.reference_capture").render_view((flat := begin([item])).copies, 1, flat.options)
    seen = (points != 255).any(axis=-1)
    assert seen.sum() > 50 and (points[seen][:, 2] == 127).all()  # no depth along y: the middle


def test_objects_that_share_a_mesh_with_materials_of_their_own():
    first, second = box("A"), box("B")
    second.data, second.location.z = first.data, 2.0
    first.data.materials.append(material("Red", color=(1, 0, 0)))
    second.material_slots[0].link = "OBJECT"
    second.material_slots[0].material = material("Blue", color=(0, 0, 1))
    color, world, mask = look([first, second], index=1)
    assert (color[mask & (world[..., 2] < 0.5)] == (255, 0, 0)).all()
    assert (color[mask & (world[..., 2] > 1.5)] == (0, 0, 255)).all()


def test_what_another_file_lends(tmp_path: Path):
    item = colored_box()
    before = look([item], elevation=ELEVATION)
    file = str(tmp_path / "lender.blend")
    bpy.data.libraries.write(file, {item}, fake_user=True)
    bpy.data.objects.remove(item)
    with bpy.data.libraries.load(file, link=True) as (_, wanted):
        wanted.objects = ["Box"]
    bpy.context.scene.collection.objects.link(wanted.objects[0])
    assert wanted.objects[0].library is not None and wanted.objects[0].data.materials[0].library is not None
    materials = set(bpy.data.materials)
    assert_same_view(before, look([wanted.objects[0]], elevation=ELEVATION), levels=0)
    assert set(bpy.data.materials) == materials


def test_hidden_objects_are_left_out():
    shown, cutter, away = box(), box("Cutter", (-3, -3, -3), (3, 3, 3)), box("Away", (4, 4, 4), (5, 5, 5))
    cutter.hide_render = True
    away.hide_set(True)
    looking = begin([cutter, shown, away])
    assert (looking.bounds_min, looking.bounds_max) == CORNERS
    for alone in (cutter, away):
        with pytest.raises(contract("errors").MaquetteError, match="is hidden. Show it in the viewport and in renders"):
            begin([alone])


def bad_selection(name: str) -> list[bpy.types.Object]:
    if name in ("Camera", "Light"):
        return [bpy.data.objects[name]]
    if name == "both":
        return [bpy.data.objects["Camera"], bpy.data.objects["Light"]]
    if name == "nothing":
        return []
    if name == "empty":
        item = bpy.data.objects.new("Empty", None)
        bpy.context.scene.collection.objects.link(item)
        return [item]
    item = box()
    if name == "point":
        item.scale = (0, 0, 0)
    if name == "line":
        item.scale = (1, 0, 0)
    if name == "points only":
        item.data = bpy.data.meshes.new("Points")
        item.data.from_pydata([(0, 0, 0), (1, 1, 1)], [(0, 1)], [])
    if name == "no number":
        item.data.vertices[3].co.x = float("nan")
    if name == "too fine":  # 2.4 million triangles
        array = item.modifiers.new("More", "ARRAY")
        array.count = 200_000
    return [item]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Camera", '"Camera" is a camera. Select a mesh'),
        ("Light", '"Light" is a light. Select a mesh'),
        ("both", "None of the selected objects is a mesh. Select a mesh"),
        ("nothing", "Nothing is selected. Select a mesh"),
        ("empty", '"Empty" is an empty. Select a mesh'),
        ("point", '"Box" has no surface to look at. Select another'),
        ("line", '"Box" has no surface to look at. Select another'),
        ("points only", '"Box" has no faces. Select a mesh'),
        ("no number", '"Box" has places that are not finite numbers. Repair'),
        ("too fine", "more than 2,000,000 triangles. Give it a Decimate modifier"),
    ],
)
def test_bad_selections_get_a_sentence(name, text):
    with pytest.raises(contract("errors").MaquetteError, match=text):
        begin(bad_selection(name))


def test_bad_options_get_a_sentence():
    error = contract("errors").MaquetteError
    with pytest.raises(error, match="5 views are not possible. Choose 4, 6 or 8"):
        begin([box()], views=5)
    with pytest.raises(error, match="within 85 degrees"):
        begin([bpy.data.objects["Box"]], elevation=math.radians(89))


def everything() -> dict:
    """What a capture must not change: counts of all data, and settings of scene, objects, materials and images."""
    scene = bpy.context.scene
    counts = {
        name: len(getattr(bpy.data, name))
        for name in dir(bpy.data)
        if isinstance(getattr(bpy.data, name), bpy.types.bpy_prop_collection)
    }
    settings = {
        f"{owner}.{item.identifier}": repr(getattr(holder, item.identifier))
        for owner, holder in (("render", scene.render), ("cycles", scene.cycles), ("view", scene.view_settings),
                              ("image", scene.render.image_settings), ("units", scene.unit_settings))
        for item in holder.bl_rna.properties
    }  # fmt: skip
    objects = {
        item.name: (item.mode, item.select_get(), item.hide_get(), repr(item.matrix_world), item.parent,
                    [slot.material for slot in item.material_slots], [owner.name for owner in item.users_scene])
        for item in scene.objects
    }  # fmt: skip
    users = {
        item.name: (item.users, item.pass_index, item.node_tree and len(item.node_tree.nodes))
        for item in bpy.data.materials
    }
    counted = bpy.app.version >= (4, 3)  # 4.2 itself counts what a material uses twice when the material is copied
    pictures = {item.name: (counted and item.users, item.colorspace_settings.name) for item in bpy.data.images}
    return {
        "counts": counts, "settings": settings, "objects": objects, "materials": users, "images": pictures,
        "active": bpy.context.view_layer.objects.active, "mode": bpy.context.mode, "frame": scene.frame_current,
        "scene": scene.name, "cursor": repr(scene.cursor.matrix), "camera": scene.camera,
    }  # fmt: skip


@pytest.mark.parametrize("mode", ["OBJECT", "EDIT", "SCULPT", "VERTEX_PAINT"])
def test_nothing_of_the_users_changes(mode):
    item = colored_box()
    image = bpy.data.images.new("Picture", 8, 8)

    def picture(tree, shader):
        node = tree.nodes.new("ShaderNodeTexImage")
        node.image = image
        tree.links.new(node.outputs[0], shader.inputs["Base Color"])

    item.data.materials[0] = material("Painted", picture)
    item.select_set(True)
    bpy.context.view_layer.objects.active = item
    bpy.context.scene.frame_set(7)
    bpy.context.scene.render.resolution_x, bpy.context.scene.render.filepath = 1234, "//keep"
    bpy.ops.object.mode_set(mode=mode)
    before = everything()
    looking = begin([item], turn=0.3)
    assert everything() == before
    assert not looking.step()
    assert everything() == before
    looking.cancel()
    assert everything() == before
    bpy.ops.object.mode_set(mode="OBJECT")


def test_edits_that_edit_mode_has_not_written_are_seen():
    item = box()
    item.select_set(True)
    bpy.context.view_layer.objects.active = item
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.mesh.select_all(action="SELECT")
    bpy.ops.transform.resize(value=(3, 1, 1))
    assert begin([item]).bounds_max == pytest.approx((3, 0.5, 0.25))
    bpy.ops.object.mode_set(mode="OBJECT")


def test_it_sees_the_selection_as_it_was_whatever_happens_meanwhile():
    item = colored_box()
    whole = begin([item])
    while not whole.step():
        pass
    make_undo_steps()
    looking = begin([item])
    looking.step()
    item.location.x = 100.0
    bpy.ops.ed.undo_push(message="Move")
    looking.step()
    bpy.ops.ed.undo()
    looking.step()
    bpy.data.objects.remove(bpy.data.objects["Box"])
    assert looking.step() and looking.finished
    assert (looking.result.colors == whole.result.colors).all() and (looking.result.points == whole.result.points).all()


def test_a_material_that_goes_away_gets_a_sentence():
    item = colored_box()
    looking = begin([item])
    looking.step()
    bpy.data.materials.remove(bpy.data.materials["Green"])
    with pytest.raises(contract("errors").MaquetteError, match="material of the selection went away"):
        looking.step()
    assert looking.finished and looking.result is None and looking.cancelled


@pytest.mark.parametrize("after", [0, 1, 3])
def test_cancelled_at_any_step(after):
    counts = len(bpy.data.objects) + 1, len(bpy.data.materials)
    looking = begin([box()])
    for _ in range(after):
        assert not looking.step()
    assert looking.progress == (after, 4) and looking.fraction == after / 4
    looking.cancel()
    assert looking.finished and looking.cancelled and looking.step() and looking.result is None
    assert (len(bpy.data.objects), len(bpy.data.materials)) == counts
    assert looking.copies is None  # nothing large is held on to


@pytest.mark.parametrize(("views", "even"), [(4, False), (6, True), (8, True), (8, False)])
def test_strips(views, even):
    looking = begin([colored_box()], views=views, evenly_spaced=even, elevation=0.2)
    steps = 1
    while not looking.step():
        steps += 1
    assert steps == views
    result = looking.result
    assert result.color_strip().shape == result.point_strip().shape == (SIZE, views * SIZE, 3)
    assert (result.point_strip()[:, SIZE : 2 * SIZE] == result.points[1]).all()
    gaps = np.degrees(np.diff(result.azimuths))
    assert gaps == pytest.approx(360 / views if even or views < 8 else 42)
    from io import BytesIO

    from PIL import Image

    assert (np.array(Image.open(BytesIO(result.color_png()))) == result.color_strip()).all()
    assert (np.array(Image.open(BytesIO(result.points_png()))) == result.point_strip()).all()

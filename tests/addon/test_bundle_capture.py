"""The bundle picture of an object that is unlike from every side, against its own geometry; the scene stays."""

from __future__ import annotations

import math
from types import SimpleNamespace

import bpy
import numpy as np
import pytest
from mathutils import Matrix, Vector

from .conftest import contract, module

SIZE = 64
RED, BLUE = (0.8, 0.02, 0.02, 1.0), (0.02, 0.02, 0.8, 1.0)  # linear


def material(name: str, color: tuple[float, ...], metallic: float = 0.0) -> bpy.types.Material:
    made = bpy.data.materials.new(name)
    module("scene.compat").use_material_nodes(made)
    shader = next(node for node in made.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    shader.inputs["Base Color"].default_value, shader.inputs["Metallic"].default_value = color, metallic
    return made


def box(low: tuple[float, ...], high: tuple[float, ...]) -> tuple[list, list]:
    corners = [(x, y, z) for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])]
    return corners, [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]


@pytest.fixture
def flag(blender: SimpleNamespace) -> bpy.types.Object:
    """A red pole of side 0.2 and height 1 with a blue cloth at its top that points to +x, 0.8 wide: seen from the
    front (-y) it points right, from behind left."""
    bpy.data.objects.remove(bpy.data.objects["Cube"])
    first, faces = box((-0.5, -0.1, -0.5), (-0.3, 0.1, 0.5))
    second, others = box((-0.3, -0.05, 0.2), (0.5, 0.05, 0.5))
    mesh = bpy.data.meshes.new("Flag")
    mesh.from_pydata(first + second, [], faces + [tuple(i + 8 for i in face) for face in others])
    mesh.materials.append(material("Red", RED))
    mesh.materials.append(material("Blue", BLUE))
    for polygon in list(mesh.polygons)[6:]:
        polygon.material_index = 1
    item = bpy.data.objects.new("Flag", mesh)
    bpy.context.scene.collection.objects.link(item)
    bpy.context.view_layer.update()
    return item


def points(item: bpy.types.Object) -> np.ndarray:
    bpy.context.view_layer.update()
    return np.array([item.matrix_world @ vertex.co for vertex in item.data.vertices])


def tiles(item: bpy.types.Object, indices: tuple[int, ...] = (0, 1, 2, 3)) -> tuple[np.ndarray, list]:
    capture = module("scene.bundle_capture")
    frame = capture.cube_frame(points(item), np.array(item.matrix_world))
    return frame, [capture.render_tiles([item], index, frame, SIZE, threads=1) for index in indices]


def seen(tile: np.ndarray) -> np.ndarray:
    return (tile < 0.999).any(axis=-1)


def test_left_and_right_and_colours(flag):
    frame, views = tiles(flag)
    assert np.allclose(frame, np.eye(4), atol=1e-6)  # it fills the cube already
    front, side, back, other = (color for color, _ in views)
    srgb = module("scene.capture").linear_to_srgb
    for color, pole, cloth in ((front, SIZE // 4, 3 * SIZE // 4), (back, 3 * SIZE // 4, SIZE // 4)):
        row = SIZE // 4  # through the cloth
        shown = np.median(color[row - 2 : row + 2, pole - 4 : pole - 1], axis=(0, 1)) if pole < cloth else np.median(
            color[row - 2 : row + 2, pole + 1 : pole + 4], axis=(0, 1)
        )  # fmt: skip
        assert shown == pytest.approx(srgb(np.array(RED[:3])), abs=0.02)  # base colours: no light, no shade
        assert color[row, cloth] == pytest.approx(srgb(np.array(BLUE[:3])), abs=0.02)
        assert color[3 * SIZE // 4, cloth] == pytest.approx([1, 1, 1])  # below the cloth there is nothing: white
        width = np.flatnonzero(seen(color).any(axis=0))
        assert (width[-1] - width[0] + 1) / SIZE == pytest.approx(0.75, abs=0.05)
    blue = [(color[..., 2] - color[..., 0] > 0.3).mean() for color in (side, other)]
    assert blue[0] > 2 * (color_pole_hidden := blue[1]) and color_pole_hidden < 0.02  # +x sees the cloth's end


def test_each_view_sees_its_own_part_of_the_geometry(flag):
    bundle_views, frames = contract("bundle_views"), contract("frames")
    frame, views = tiles(flag)
    for camera, (_, normals) in zip(bundle_views.bundle_cameras(), views, strict=True):
        uv, _ = frames.project(points(flag), camera, bundle_views.bundle_intrinsics())
        low, high = uv.min(axis=0) * SIZE, uv.max(axis=0) * SIZE
        rows, columns = np.nonzero(seen(normals))
        assert abs(columns.min() - low[0]) < 1.5 and abs(columns.max() + 1 - high[0]) < 1.5
        assert abs(rows.min() - low[1]) < 1.5 and abs(rows.max() + 1 - high[1]) < 1.5


def test_normals_are_blue_to_the_viewer_green_up_and_red_to_the_left(flag):
    bundle_views = contract("bundle_views")
    _, views = tiles(flag)
    elevation = math.radians(5)
    facing = (0.5, 0.5 - math.sin(elevation) / 2, 0.5 + math.cos(elevation) / 2)  # seen from 5 degrees above
    for index, (_, normals) in enumerate(views):
        found = normals[seen(normals)]
        middle = np.median(found, axis=0)
        assert middle == pytest.approx(facing, abs=0.02)
        decoded = bundle_views.decode_normals(found, bundle_views.bundle_cameras()[index])
        axes = np.abs(decoded).max(axis=1)
        assert (axes > 0.99).mean() > 0.9  # all faces lie along the axes
    flag.rotation_euler.z = math.radians(30)  # but its own axes are the cube's: the pictures stay the same
    _, turned = tiles(flag, (0, 1))
    for before, after in zip(views, turned, strict=False):
        assert np.abs(before[1] - after[1]).mean() < 0.01 and np.abs(before[0] - after[0]).mean() < 0.01


@pytest.mark.parametrize(
    ("corners", "color"),  # seen from the front, 5 degrees above
    [
        ([(-0.5, 0.5, -0.5), (0.5, -0.5, -0.5), (0.5, -0.5, 0.5), (-0.5, 0.5, 0.5)], (0.854, 0.469, 0.852)),
        ([(-0.5, -0.5, -0.5), (0.5, 0.5, -0.5), (0.5, 0.5, 0.5), (-0.5, -0.5, 0.5)], (0.146, 0.469, 0.852)),
        ([(-0.5, -0.5, -0.5), (0.5, -0.5, -0.5), (0.5, 0.5, 0.5), (-0.5, 0.5, 0.5)], (0.5, 0.821, 0.883)),
    ],
    ids=["to the left is red", "to the right has no red", "upward is green"],
)
def test_a_wall_turned(blender, corners, color):
    mesh = bpy.data.meshes.new("Wall")
    mesh.from_pydata(corners, [], [(0, 1, 2, 3)])
    wall = bpy.data.objects.new("Wall", mesh)
    bpy.context.scene.collection.objects.link(wall)
    bpy.context.view_layer.update()
    assert wall.data.polygons[0].normal.y == pytest.approx(-math.sqrt(0.5), abs=1e-6)  # half to the viewer
    frame, ((_, normals),) = tiles(wall, (0,))
    assert np.median(normals[seen(normals)], axis=0) == pytest.approx(color, abs=0.005)


def test_anywhere_of_any_size_with_parent_and_modifiers_it_looks_the_same(flag):
    _, before = tiles(flag, (0, 3))
    holder = bpy.data.objects.new("Holder", None)
    bpy.context.scene.collection.objects.link(holder)
    holder.matrix_world = Matrix.Translation((12.0, -4.0, 7.0)) @ Matrix.Rotation(1.0, 4, "Z")
    flag.parent = holder
    flag.matrix_world = Matrix.Translation((10.0, -8.0, 3.0)) @ Matrix.Rotation(0.4, 4, "Z") @ Matrix.Scale(2e-3, 4)
    flag.modifiers.new("More", "SUBSURF").subdivision_type = "SIMPLE"
    frame, after = tiles(flag, (0, 3))
    assert np.cbrt(np.linalg.det(frame[:3, :3])) == pytest.approx(2e-3, rel=1e-2)  # float32 at 10 m
    for old, new in zip(before, after, strict=True):
        assert np.abs(old[1] - new[1]).mean() < 0.02 and np.abs(old[0] - new[0]).mean() < 0.02


@pytest.mark.parametrize(
    ("rotation", "up"),
    [
        (Matrix.Identity(3), (0, 0, 1)),
        (Matrix.Rotation(math.radians(40), 3, "X"), (0, 0, 1)),  # leaning: its own axes
        (Matrix.Rotation(math.radians(90), 3, "X"), (0, 1, 0)),  # y up, as other programs have it
        (Matrix.Rotation(math.radians(-90), 3, "Y"), (1, 0, 0)),
        (Matrix.Rotation(math.radians(180), 3, "X"), (0, 0, -1)),
    ],
)
def test_the_axis_nearest_to_up_is_up(blender, rotation, up):
    turned = Matrix.Rotation(0.5, 3, "Z") @ rotation
    linear = np.array(turned) @ np.diag([1.0, 2.0, 0.5])
    axes = module("scene.bundle_capture").upright_axes(linear)
    assert np.linalg.det(axes) == pytest.approx(1.0) and axes @ axes.T == pytest.approx(np.eye(3), abs=1e-6)
    assert axes[:, 2] == pytest.approx(np.array(turned @ Vector(up)), abs=1e-6)
    mirrored = module("scene.bundle_capture").upright_axes(np.array(turned) @ np.diag([-1.0, 1.0, 1.0]))
    assert np.linalg.det(mirrored) == pytest.approx(1.0)


def test_metal_shows_its_colour_too(flag):
    flag.data.materials[1] = material("Gold", (0.8, 0.5, 0.1, 1.0), metallic=1.0)
    _, ((color, _),) = tiles(flag, (0,))
    shown = np.median(color[SIZE // 4 - 2 : SIZE // 4 + 2, SIZE // 2 : SIZE // 2 + 20], axis=(0, 1))
    assert shown == pytest.approx(module("scene.capture").linear_to_srgb(np.array([0.8, 0.5, 0.1])), abs=0.12)


def test_an_animated_object_is_seen_as_it_is_now(flag):
    scene = bpy.context.scene
    flag.location.z = 0.0
    flag.keyframe_insert("location", frame=1)
    flag.location.z = 10.0
    flag.keyframe_insert("location", frame=20)
    scene.frame_set(20)
    _, ((color, normals),) = tiles(flag, (0,))
    assert seen(normals).mean() > 0.15 and scene.frame_current == 20


def test_nothing_of_the_scene_changes(flag):
    kinds = ("scenes", "objects", "meshes", "cameras", "lights", "worlds", "images", "materials")
    before = {name: len(getattr(bpy.data, name)) for name in kinds}
    place, active = flag.matrix_world.copy(), bpy.context.view_layer.objects.active
    tiles(flag, (1,))
    assert {name: len(getattr(bpy.data, name)) for name in kinds} == before
    assert flag.matrix_world == place and bpy.context.view_layer.objects.active == active
    assert list(flag.users_scene) == [bpy.context.scene]


def test_the_picture_is_a_png_of_two_by_four_tiles(flag, tmp_path):
    capture = module("scene.bundle_capture")
    views = [(np.full((8, 8, 3), 0.1 * n), np.full((8, 8, 3), 0.1 * n + 0.05)) for n in range(4)]
    (tmp_path / "bundle.png").write_bytes(capture.bundle_png(views))
    from PIL import Image

    picture = np.array(Image.open(tmp_path / "bundle.png"))
    assert picture.shape == (16, 32, 3)
    assert [picture[4, 4 + 8 * n, 0] for n in range(4)] == [0, 26, 51, 77]
    assert not capture.is_empty(views) and capture.is_empty([(np.ones((8, 8, 3)),) * 2] * 4)

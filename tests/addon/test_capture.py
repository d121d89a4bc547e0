"""blender_addon.scene.capture on the bpy module: exact geometry of a cube, the camera, and an untouched user scene."""

from __future__ import annotations

from collections.abc import Iterator

import bpy
import numpy as np
import pytest

from backend.contract import frames
from blender_addon.scene import capture

SIDE = 0.8
RED = (0.8, 0.1, 0.1, 1.0)  # linear


@pytest.fixture
def cube() -> Iterator[bpy.types.Object]:
    """A red cube of side SIDE around the origin in an otherwise empty file."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    half = SIDE / 2
    corners = [(x, y, z) for x in (-half, half) for y in (-half, half) for z in (-half, half)]
    faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    mesh = bpy.data.meshes.new("cube")
    mesh.from_pydata(corners, [], faces)
    material = bpy.data.materials.new("red")
    material.use_nodes = True
    shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    shader.inputs["Base Color"].default_value = RED
    shader.inputs["Roughness"].default_value = 1.0
    mesh.materials.append(material)
    item = bpy.data.objects.new("cube", mesh)
    bpy.context.scene.collection.objects.link(item)
    bpy.context.view_layer.objects.active = item
    item.select_set(True)
    bpy.context.view_layer.update()
    yield item


def view(
    eye: tuple[float, float, float],
    size: tuple[int, int] = (64, 64),
    focal: float = 1.2,
    centre: tuple[float, float] = (0.5, 0.5),
) -> capture.CaptureCamera:
    width, height = size
    intrinsics = np.array([[focal, 0, centre[0]], [0, focal * width / height, centre[1]], [0, 0, 1.0]])
    return capture.CaptureCamera(frames.look_at(np.array(eye), np.zeros(3)), intrinsics, size)


def test_point_map_normals_and_depth_of_a_cube(cube: bpy.types.Object) -> None:
    camera = view((1.6, -1.9, 1.3))
    shot = capture.capture([cube], [camera], samples=4, threads=1)[0]
    points, normals = shot.points[shot.mask], shot.normals[shot.mask]
    assert len(points) > 500
    # Every point lies on the cube's surface: the largest coordinate is half the side (tolerance 1e-3).
    assert np.abs(np.abs(points).max(axis=1) - SIDE / 2).max() < 1e-3
    assert np.abs(np.linalg.norm(normals, axis=1) - 1.0).max() < 1e-3
    # The normal is that of the face the point lies on, except in the pixels an edge crosses.
    axis = np.abs(points).argmax(axis=1)
    rows = np.arange(len(points))
    agreement = normals[rows, axis] * np.sign(points[rows, axis])
    assert (agreement > 0.99).mean() > 0.9
    # Each point projects into its own pixel (the first sample lies somewhere inside it), at the stated depth.
    uv, depth = frames.project(points, camera.world_to_camera, camera.intrinsics)
    row, column = np.nonzero(shot.mask)
    assert np.abs(uv * 64 - np.column_stack([column, row]) - 0.5).max() < 0.51
    assert np.abs(depth - shot.depth[shot.mask]).max() < 1e-4
    assert not shot.points[~shot.mask].any() and not shot.depth[~shot.mask].any()
    for array in (shot.color, shot.alpha, shot.points, shot.normals, shot.depth, shot.albedo):
        assert array.dtype == np.float32 and np.isfinite(array).all()


def test_mask_area_and_colour(cube: bpy.types.Object) -> None:
    distance, focal = 3.0, 1.2
    shot = capture.capture([cube], [view((0.0, -distance, 0.0), focal=focal)], samples=8, threads=1)[0]
    side = focal * SIDE / (distance - SIDE / 2) * 64  # pixels of the front face
    assert abs(shot.alpha.sum() - side**2) < 0.02 * side**2
    assert abs(shot.mask.sum() - side**2) < 0.06 * side**2
    expected = capture.linear_to_srgb(np.array(RED[:3]))
    assert np.abs(np.median(shot.albedo[shot.mask], axis=0) - expected).max() < 0.02
    # Plain white light on a convex object shows nearly its own colour (the specular part adds a little).
    assert np.abs(np.median(shot.color[shot.alpha > 0.99], axis=0) - expected).max() < 0.12


@pytest.mark.parametrize("size", [(64, 64), (96, 48), (48, 80)])
@pytest.mark.parametrize("centre", [(0.5, 0.5), (0.37, 0.58)])
def test_principal_point_and_long_side(
    cube: bpy.types.Object, size: tuple[int, int], centre: tuple[float, float]
) -> None:
    camera = view((0.0, -3.0, 0.0), size=size, focal=0.8 * 64 / max(size), centre=centre)
    shot = capture.capture([cube], [camera], samples=8, threads=1)[0]
    weight = shot.alpha / shot.alpha.sum()
    row, column = np.mgrid[: size[1], : size[0]] + 0.5
    # The front face is centred on the axis, so its middle is the principal point (tolerance a quarter pixel).
    assert abs((weight * column).sum() - centre[0] * size[0]) < 0.25
    assert abs((weight * row).sum() - centre[1] * size[1]) < 0.25
    uv, _ = frames.project(shot.points[shot.mask], camera.world_to_camera, camera.intrinsics)
    rows, columns = np.nonzero(shot.mask)
    assert np.abs(uv * size - np.column_stack([columns, rows]) - 0.5).max() < 0.51


def test_non_square_pixels_and_skew(cube: bpy.types.Object) -> None:
    for aspect in (0.8, 1.3):
        camera = view((1.0, -2.6, 0.8))
        camera.intrinsics[1, 1] *= aspect
        shot = capture.capture([cube], [camera], samples=1, threads=1)[0]
        uv, _ = frames.project(shot.points[shot.mask], camera.world_to_camera, camera.intrinsics)
        row, column = np.nonzero(shot.mask)
        assert np.abs(uv * 64 - np.column_stack([column, row]) - 0.5).max() < 0.51
    camera.intrinsics[0, 1] = 0.1
    with pytest.raises(ValueError, match="skew"):
        capture.capture([cube], [camera], samples=1, threads=1)


def test_random_light_repeats_and_varies(cube: bpy.types.Object) -> None:
    camera = view((1.6, -1.9, 1.3), size=(32, 32))
    lights = [capture.Lighting(1), capture.Lighting(2), capture.Lighting(1)]
    first, second, third = capture.capture([cube], [camera] * 3, lighting=lights, samples=4, threads=1)
    assert np.array_equal(first.color, third.color)
    assert np.abs(first.color - second.color).mean() > 1e-3
    assert np.allclose(first.points, second.points)
    with pytest.raises(ValueError, match="one lighting or one a camera"):
        capture.capture([cube], [camera], lighting=lights, samples=1)


def _counts() -> dict[str, int]:
    names = ("scenes", "objects", "meshes", "cameras", "lights", "worlds", "images", "materials", "node_groups")
    return {name: len(getattr(bpy.data, name)) for name in names}


@pytest.mark.parametrize("mode", ["OBJECT", "EDIT"])
def test_the_users_scene_is_untouched(cube: bpy.types.Object, mode: str) -> None:
    scene = bpy.context.scene
    scene.render.resolution_x, scene.render.resolution_y = 1234, 567
    scene.render.filepath = "//keep"
    engine = scene.render.engine
    bpy.ops.object.mode_set(mode=mode)
    before = _counts()
    capture.capture([cube], [view((1.6, -1.9, 1.3), size=(16, 16))], samples=1, threads=1)
    assert _counts() == before
    assert bpy.context.scene == scene and bpy.context.object == cube and cube.mode == mode and cube.select_get()
    assert (scene.render.resolution_x, scene.render.resolution_y) == (1234, 567)
    assert scene.render.filepath == "//keep" and scene.render.engine == engine
    assert list(cube.users_scene) == [scene]
    bpy.ops.object.mode_set(mode="OBJECT")


def test_scratch_data_goes_even_after_a_failure(cube: bpy.types.Object) -> None:
    before = _counts()
    broken = capture.CaptureCamera(np.zeros((4, 4)), np.eye(3), (16, 16))
    with pytest.raises(np.linalg.LinAlgError):
        capture.capture([cube], [broken], samples=1, threads=1)
    assert _counts() == before


def test_only_the_given_objects_are_seen(cube: bpy.types.Object) -> None:
    other = bpy.data.objects.new("other", cube.data)
    other.location = (0.0, -1.0, 0.0)
    bpy.context.scene.collection.objects.link(other)
    shot = capture.capture([cube], [view((0.0, -3.0, 0.0))], samples=1, threads=1)[0]
    assert np.allclose(shot.points[shot.mask][:, 1].min(), -SIDE / 2, atol=1e-3)

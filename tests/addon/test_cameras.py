"""Cameras against Blender itself: what Cycles draws must be where the projection says."""

from __future__ import annotations

import bpy
import numpy as np
import pytest
from bpy_extras.object_utils import world_to_camera_view
from mathutils import Vector

from .conftest import contract, module


def intrinsics(size: tuple[int, int], focal: float = 1.1, center: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    """Square pixels: fx of `focal` picture widths, principal point at `center` of the picture."""
    return np.array([[focal, 0, center[0]], [0, focal * size[0] / size[1], center[1]], [0, 0, 1.0]])


def set_up_camera(size: tuple[int, int], k: np.ndarray, world_to_camera: np.ndarray) -> bpy.types.Object:
    cameras, frames = module("scene.cameras"), contract("frames")
    camera = cameras.ensure_camera(bpy.context.scene)
    cameras.set_camera(camera, frames.blender_camera_matrix(world_to_camera), k, size)
    cameras.set_render_size(bpy.context.scene, size)
    bpy.context.view_layer.update()
    return camera


@pytest.mark.parametrize("size", [(64, 64), (64, 40), (40, 64)])
@pytest.mark.parametrize("center", [(0.5, 0.5), (0.62, 0.41)])
def test_a_camera_survives_the_way_through_blender(blender, size, center):
    frames = contract("frames")
    k = intrinsics(size, 1.3, center)
    world_to_camera = frames.look_at(np.array([2.0, -3.0, 1.5]), np.array([0.1, 0.2, 0.0]))
    camera = set_up_camera(size, k, world_to_camera)
    matrix, back = module("scene.cameras").read_camera(camera, size)
    assert np.abs(matrix - world_to_camera).max() < 1e-5  # Blender keeps float32
    assert np.abs(back - k).max() < 1e-5


@pytest.mark.parametrize("fit", ["HORIZONTAL", "VERTICAL"])
def test_fixed_sensor_fits_are_read_as_blender_draws_them(blender, fit):

    scene = bpy.context.scene
    camera = scene.camera
    camera.data.sensor_fit, camera.data.sensor_width, camera.data.sensor_height = fit, 30.0, 20.0
    camera.data.shift_x, camera.data.shift_y = 0.1, -0.05
    module("scene.cameras").set_render_size(scene, (80, 50))
    bpy.context.view_layer.update()
    points = np.array([[0.3, 0.2, 0.1], [-1.0, 0.4, 0.7], [0.0, -1.0, -1.0]])
    matrix, k = module("scene.cameras").read_camera(camera, (80, 50))
    uv, _ = contract("frames").project(points, matrix, k)

    for point, (u, v) in zip(points, uv, strict=True):
        x, y, _ = world_to_camera_view(scene, camera, Vector(point))
        assert (u, 1 - v) == pytest.approx((x, y), abs=1e-4)


@pytest.mark.parametrize(
    ("size", "center"), [((64, 64), (0.5, 0.5)), ((64, 48), (0.6, 0.42)), ((48, 64), (0.44, 0.55))]
)
def test_cycles_draws_the_cube_where_the_projection_says(blender, tmp_path, size, center):
    frames = contract("frames")
    world_to_camera = frames.look_at(np.array([3.5, -4.0, 2.5]), np.zeros(3))
    k = intrinsics(size, 1.2, center)
    set_up_camera(size, k, world_to_camera)
    drawn = render_alpha(tmp_path / "mask.png") > 0.5

    # A pixel is in the cube's outline if its centre is in the convex hull of the projected corners.
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    uv, _ = frames.project(corners, world_to_camera, k)
    u, v = np.meshgrid((np.arange(size[0]) + 0.5) / size[0], (np.arange(size[1]) + 0.5) / size[1])
    expected = in_hull(uv, np.stack([u, v], -1))
    union = (drawn | expected).sum()
    assert (drawn & expected).sum() / union > 0.98  # half a pixel along the outline of some 1,000 pixels
    assert 100 < union < 0.9 * drawn.size


def render_alpha(path) -> np.ndarray:
    """Alpha [H,W] of the factory cube alone, rows from the top, Cycles with one sample."""
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples, scene.cycles.use_denoising = 4, False
    scene.cycles.filter_width = 0.01
    scene.render.film_transparent = True
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGBA"
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(str(path))
    pixels = np.array(image.pixels[:]).reshape(image.size[1], image.size[0], 4)
    return pixels[::-1, :, 3]


def in_hull(corners: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Which points [H,W,2] lie in the convex hull of corners [N,2]: right of no line with all corners to its left."""
    inside = np.ones(points.shape[:2], bool)
    for i, a in enumerate(corners):
        for j, b in enumerate(corners):
            if i == j:
                continue
            edge = b - a
            side = edge[0] * (corners[:, 1] - a[1]) - edge[1] * (corners[:, 0] - a[0])
            if (side >= -1e-12).all():
                inside &= edge[0] * (points[..., 1] - a[1]) - edge[1] * (points[..., 0] - a[0]) >= 0
    return inside


def test_a_placed_object_is_seen_as_the_bare_one_was(blender):
    frames, placement = contract("frames"), module("scene.placement")
    world_to_camera = frames.look_at(np.array([1.0, -2.0, 0.7]), np.zeros(3))
    k = intrinsics((64, 64))
    vertices = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 3))
    bounds = np.stack([vertices.min(0), vertices.max(0)])
    scale = placement.metres_per_unit(bounds, 2.5)
    for where in ("CURSOR", "GROUND", "ORIGIN"):
        matrix = placement.placed_matrix(bounds, scale, where, (3.0, -1.0, 4.0))
        camera = placement.camera_matrix(world_to_camera, scale, matrix)
        world = vertices * scale @ matrix[:3, :3].T + matrix[:3, 3]
        seen, _ = frames.project(world, frames.world_to_camera_from_blender(camera), k)
        wanted, _ = frames.project(vertices, world_to_camera, k)
        assert np.abs(seen - wanted).max() < 1e-9
        lowest = world[:, 2].min()
        assert lowest == pytest.approx(
            {"CURSOR": 4.0, "GROUND": 0.0, "ORIGIN": -(bounds[1] - bounds[0])[2] / 2 * scale}[where]
        )


def test_a_damaged_camera_file_gives_one_sentence(blender):
    cameras, errors = module("scene.cameras"), contract("errors")
    for data in ({}, {"world_to_camera": [[1]], "intrinsics": None, "image_size": [1, 1]}):
        with pytest.raises(errors.MaquetteError, match="Retry"):
            cameras.solved_camera_from_json(data)

"""The software rasteriser against closed-form answers."""

import time

import numpy as np
import pytest

from backend.contract.frames import project
from backend.rendering.rasterizer import rasterize
from backend.rendering.views import interpolate, render_view, vertex_normals

CAMERA = np.eye(4)
CAMERA[2, 3] = 2.0  # the object's origin is 2 in front of the camera
INTRINSICS = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])


def grid(steps: int, side: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """A flat square in the plane z = 0 made of 2 * steps^2 triangles."""
    axis = np.linspace(-side / 2, side / 2, steps + 1)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    vertices = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
    index = np.arange(x.size).reshape(steps + 1, steps + 1)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    return vertices, faces


def test_square_covers_exactly_its_projection():
    vertices, faces = grid(1)
    raster = rasterize(vertices, faces, CAMERA, INTRINSICS, (64, 64))
    expected = np.zeros((64, 64), dtype=bool)
    expected[16:48, 16:48] = True  # half-width 0.5 at depth 2 with focal 1 -> u from 0.25 to 0.75
    assert (raster.mask == expected).all()
    assert np.allclose(raster.depth[raster.mask], 2.0, atol=1e-6)
    assert np.allclose(raster.barycentric[raster.mask].sum(-1), 1.0, atol=1e-5)


def test_no_holes_between_many_small_triangles():
    vertices, faces = grid(37)
    assert rasterize(vertices, faces, CAMERA, INTRINSICS, (101, 77)).mask[20:57, 26:75].all()


def test_nearer_triangle_wins_whatever_the_order():
    near, faces = grid(1, side=0.5)
    near = near + [0.0, 0.0, -0.5]
    far, _ = grid(1, side=1.0)
    for first, second, near_faces in ((near, far, (0, 1)), (far, near, (2, 3))):
        both = np.concatenate([first, second])
        raster = rasterize(both, np.concatenate([faces, faces + len(first)]), CAMERA, INTRINSICS, (64, 64))
        assert raster.face[32, 32] in near_faces
        assert raster.depth[32, 32] == pytest.approx(1.5, abs=1e-6)
        assert raster.depth[18, 18] == pytest.approx(2.0, abs=1e-6)


def test_interpolation_is_perspective_correct():
    # a plane tilted in depth: camera-space points read back from the raster must project to their own pixel
    vertices, faces = grid(1)
    vertices[:, 2] = vertices[:, 0] * 1.5
    raster = rasterize(vertices, faces, CAMERA, INTRINSICS, (80, 60))
    points = interpolate(raster, faces, vertices)
    uv, depth = project(points[raster.mask], CAMERA, INTRINSICS)
    rows, columns = np.nonzero(raster.mask)
    assert np.abs(uv[:, 0] * 80 - (columns + 0.5)).max() < 1e-3
    assert np.abs(uv[:, 1] * 60 - (rows + 0.5)).max() < 1e-3
    assert np.abs(depth - raster.depth[raster.mask]).max() < 1e-4


def test_triangle_through_the_camera_plane_is_kept_in_front_only():
    vertices = np.array([[-5.0, 0.5, -10.0], [5.0, 0.5, -10.0], [0.0, 0.5, 50.0]])  # a floor under the camera
    raster = rasterize(vertices, np.array([[0, 1, 2]]), CAMERA, INTRINSICS, (64, 64))
    assert not raster.mask[:32].any()
    assert raster.mask[40:, 32].all()
    assert (raster.depth[raster.mask] > 0).all()


def test_everything_behind_or_nothing_at_all():
    vertices, faces = grid(2)
    assert not rasterize(vertices - [0, 0, 5], faces, CAMERA, INTRINSICS, (16, 16)).mask.any()
    assert not rasterize(vertices, np.zeros((0, 3), int), CAMERA, INTRINSICS, (16, 16)).mask.any()
    with pytest.raises(ValueError):
        rasterize(vertices, faces, CAMERA, INTRINSICS, (0, 16))


def test_render_view_colour_normal_and_background():
    vertices, faces = grid(4)
    colours = np.tile(np.array([[0.8, 0.2, 0.1]]), (len(vertices), 1))
    view = render_view(vertices, faces, CAMERA, INTRINSICS, (64, 64), vertex_colors=colours)
    assert view.color.shape == (64, 64, 3) and view.alpha.shape == (64, 64)
    assert np.allclose(view.color[32, 32], [0.8, 0.2, 0.1], atol=1e-5)
    assert np.allclose(view.color[2, 2], 1.0)
    assert abs(abs(view.normal[32, 32, 2]) - 1.0) < 1e-5
    assert np.allclose(np.abs(vertex_normals(vertices, faces)), [0, 0, 1], atol=1e-6)


def test_texture_is_sampled_at_the_texture_coordinates():
    vertices, faces = grid(1)
    uv = (vertices[:, :2] + 0.5)[faces].reshape(-1, 2)  # v up: the object's y = -0.5 (top of the picture) is v = 0
    texture = np.zeros((2, 2, 3))
    texture[0] = (1.0, 0.0, 0.0)  # first row of the picture = top of the texture = v near 1
    texture[1] = (0.0, 0.0, 1.0)
    view = render_view(vertices, faces, CAMERA, INTRINSICS, (64, 64), texture=texture, corner_uvs=uv)
    assert np.allclose(view.color[18, 32], [0, 0, 1], atol=1e-5)
    assert np.allclose(view.color[45, 32], [1, 0, 0], atol=1e-5)


def test_fifty_thousand_triangles_take_well_under_a_second():
    vertices, faces = grid(160)  # 51,200 triangles
    vertices[:, 2] = 0.1 * np.sin(20 * vertices[:, 0])
    rasterize(vertices, faces, CAMERA, INTRINSICS, (256, 256))
    start = time.process_time()
    rasterize(vertices, faces, CAMERA, INTRINSICS, (256, 256))
    assert time.process_time() - start < 1.0

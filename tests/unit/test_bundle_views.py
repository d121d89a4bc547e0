"""The four views of a bundle: where the cameras stand and which colour a direction gets."""

from __future__ import annotations

import numpy as np
import pytest

from backend.contract import bundle_views, frames


def test_the_first_view_sees_the_front_and_the_second_the_objects_left_side() -> None:
    front, left = (bundle_views.bundle_view(azimuth, elevation=0.0) for azimuth in (0.0, 90.0))
    assert np.allclose(np.linalg.inv(front)[:3, 3], [0.0, -2.5, 0.0])
    assert np.allclose(np.linalg.inv(left)[:3, 3], [2.5, 0.0, 0.0])
    uv, depth = frames.project(np.array([[0.4, 0.0, 0.3]]), front, bundle_views.bundle_intrinsics())
    assert uv[0, 0] > 0.5 and uv[0, 1] < 0.5 and depth[0] == pytest.approx(2.5)


def test_an_object_of_side_one_covers_three_quarters_of_a_tile() -> None:
    camera = bundle_views.bundle_view(0.0, elevation=0.0)
    edges = np.array([[-0.5, 0.0, 0.0], [0.5, 0.0, 0.0]])
    uv, _ = frames.project(edges, camera, bundle_views.bundle_intrinsics())
    assert uv[1, 0] - uv[0, 0] == pytest.approx(0.746, abs=0.002)


def test_normals_are_red_to_the_left_green_up_and_blue_to_the_viewer() -> None:
    camera = bundle_views.bundle_view(0.0, elevation=0.0)
    directions = np.array([[-1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])  # the picture's left, up, the viewer
    expected = np.array([[1.0, 0.5, 0.5], [0.5, 1.0, 0.5], [0.5, 0.5, 1.0]])
    assert np.allclose(bundle_views.encode_normals(directions, camera), expected)


def test_decoding_undoes_encoding_in_every_view() -> None:
    normals = np.random.default_rng(0).normal(size=(50, 3))
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    for camera in bundle_views.bundle_cameras():
        colors = bundle_views.encode_normals(normals, camera)
        assert np.allclose(bundle_views.decode_normals(colors, camera), normals, atol=1e-9)
    assert not bundle_views.decode_normals(np.full((1, 3), 0.5), camera).any()


def test_tiles_join_and_split() -> None:
    tiles = np.random.default_rng(1).random((8, 5, 5, 3))
    picture = bundle_views.join_tiles(tiles[:4], tiles[4:])
    assert picture.shape == (10, 20, 3)
    assert np.array_equal(picture[:5, 5:10], tiles[1]) and np.array_equal(picture[5:, :5], tiles[4])
    upper, lower = bundle_views.split_tiles(picture)
    assert np.array_equal(upper, tiles[:4]) and np.array_equal(lower, tiles[4:])
    with pytest.raises(ValueError, match="2 x 4 tiles"):
        bundle_views.split_tiles(np.zeros((8, 20, 3)))

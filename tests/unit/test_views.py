"""backend.data.views: viewpoints, focal lengths and tightened cameras of spec 12.1."""

from __future__ import annotations

import numpy as np

from backend.contract import frames
from backend.data import views


def test_directions_are_unit_and_even() -> None:
    directions = views.hammersley_directions(256, (0.3, 0.7))
    assert np.allclose(np.linalg.norm(directions, axis=1), 1.0)
    # An even covering has its mean near the centre and second moments near 1/3 (tolerance for 256 samples).
    assert np.linalg.norm(directions.mean(axis=0)) < 0.02
    assert np.allclose(directions.T @ directions / 256, np.eye(3) / 3, atol=0.02)


def test_radical_inverse_of_base_two() -> None:
    assert [views.radical_inverse(i) for i in range(5)] == [0.0, 0.5, 0.25, 0.75, 0.125]


def test_fovs_stay_in_range_and_k_is_uniform() -> None:
    fovs = views.random_fovs(20000, np.random.default_rng(0))
    low, high = np.radians(views.FOV_RANGE_DEGREES)
    assert low <= fovs.min() and fovs.max() <= high
    k = 1.0 / views.fov_to_distance(fovs) ** 2
    k_low, k_high = (1.0 / views.fov_to_distance(fov) ** 2 for fov in (low, high))
    # The mean of a uniform variable, within 4 standard errors.
    error = (k_high - k_low) / np.sqrt(12 * len(k))
    assert abs(k.mean() - (k_low + k_high) / 2) < 4 * error


def test_focal_lengths_match_the_spec() -> None:
    # Spec 12.1: 32 mm sensor, fov 10 to 70 degrees gives 22.9 to 183 mm.
    lengths = [16.0 / np.tan(np.radians(fov) / 2) for fov in views.FOV_RANGE_DEGREES]
    assert np.allclose(lengths, [182.9, 22.85], atol=0.05)


def test_cameras_see_the_whole_cube_and_repeat() -> None:
    corners = np.array(np.meshgrid(*[[-0.5, 0.5]] * 3)).reshape(3, -1).T
    for seed in range(5):
        cameras = views.random_cameras(8, seed)
        again = views.random_cameras(8, seed)
        for camera, other in zip(cameras, again, strict=True):
            assert np.array_equal(camera.world_to_camera, other.world_to_camera)
            uv, depth = frames.project(corners, camera.world_to_camera, camera.intrinsics)
            assert depth.min() > 0 and uv.min() >= 0 and uv.max() <= 1
            assert np.isclose(np.linalg.det(camera.world_to_camera[:3, :3]), 1.0)
            centre, _ = frames.project(np.zeros((1, 3)), camera.world_to_camera, camera.intrinsics)
            assert np.allclose(centre, 0.5)


def test_tighten_frames_the_points() -> None:
    points = np.random.default_rng(1).uniform(-0.2, 0.1, (50, 3))
    camera = views.random_cameras(3, 7)[1]
    tight = views.tighten(camera, points, ratio=1.25)
    uv, _ = frames.project(points, tight.world_to_camera, tight.intrinsics)
    extent = uv.max(axis=0) - uv.min(axis=0)
    assert np.isclose(extent.max(), 1 / 1.25)
    assert np.allclose((uv.max(axis=0) + uv.min(axis=0)) / 2, 0.5)
    assert np.isclose(tight.intrinsics[0, 0], tight.intrinsics[1, 1])

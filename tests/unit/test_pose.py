"""The camera solver beyond its goldens: random cameras, noise, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from backend.contract import frames
from backend.geometry import pose

EXACT = 1e-6  # noiseless float64 problems


def scene(seed: int, count: int = 300, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points [N,3] in the object cube, their image points [N,2], intrinsics and pose of a random camera."""
    random = np.random.default_rng(seed)
    direction = random.normal(size=3)
    eye = direction / np.linalg.norm(direction) * random.uniform(1.5, 3.0)
    world_to_camera = frames.look_at(eye, random.uniform(-0.1, 0.1, 3))
    fx = random.uniform(0.8, 3.0)
    intrinsics = np.array(
        [[fx, 0, random.uniform(0.4, 0.6)], [0, fx * random.uniform(0.95, 1.05), random.uniform(0.4, 0.6)], [0, 0, 1]]
    )
    points = random.uniform(-0.5, 0.5, (count, 3))
    uv = pose.project(points, intrinsics, world_to_camera) + noise * random.normal(size=(count, 2))
    return points, uv, intrinsics, world_to_camera


@pytest.mark.parametrize("seed", range(8))
def test_linear_solver_is_exact_without_noise(seed: int) -> None:
    points, uv, intrinsics, world_to_camera = scene(seed, count=7 + 40 * seed)
    camera = pose.solve_dlt(points, uv)
    np.testing.assert_allclose(camera.intrinsics, intrinsics, atol=EXACT)
    np.testing.assert_allclose(camera.world_to_camera, world_to_camera, atol=EXACT)
    assert camera.residual < EXACT
    assert camera.trusted


@pytest.mark.parametrize("seed", range(6))
def test_refinement_has_no_skew_and_does_not_reproject_worse(seed: int) -> None:
    points, uv, _, _ = scene(seed, noise=0.01)
    linear, refined = pose.solve_dlt(points, uv), pose.calibrate(points, uv)
    assert refined.intrinsics[0, 1] == 0.0

    def squared(camera: pose.Camera) -> float:
        return float(((pose.project(points, camera.intrinsics, camera.world_to_camera) - uv) ** 2).sum())

    k = linear.intrinsics.copy()
    k[0, 1] = 0.0
    assert squared(refined) <= squared(pose.Camera(k, linear.world_to_camera, 0.0))
    rotation = refined.world_to_camera[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(rotation) == pytest.approx(1.0)


def test_refinement_finds_the_noiseless_camera_from_a_poor_start() -> None:
    points, uv, intrinsics, world_to_camera = scene(3)
    start_pose = world_to_camera.copy()
    start_pose[:3, :3] = pose.rotation_from_vector(np.array([0.2, -0.1, 0.15])) @ start_pose[:3, :3]
    start_pose[:3, 3] += [0.1, -0.1, 0.3]
    start = pose.Camera(np.array([[1.2, 0, 0.5], [0, 1.2, 0.5], [0, 0, 1.0]]), start_pose, 1.0)
    camera = pose.calibrate(points, uv, start=start)
    np.testing.assert_allclose(camera.intrinsics, intrinsics, atol=1e-5)
    np.testing.assert_allclose(camera.world_to_camera, world_to_camera, atol=1e-5)


def test_locked_focal_is_kept() -> None:
    points, uv, intrinsics, _ = scene(5, noise=0.002)
    camera = pose.calibrate(points, uv, focal=intrinsics[0, 0])
    assert camera.intrinsics[0, 0] == pytest.approx(intrinsics[0, 0])
    assert camera.residual < 0.004


def test_points_without_weight_do_not_count() -> None:
    points, uv, intrinsics, _ = scene(6)
    uv[::3] += 0.3
    weights = np.ones(len(points))
    weights[::3] = 0
    np.testing.assert_allclose(pose.solve_dlt(points, uv, weights).intrinsics, intrinsics, atol=EXACT)
    np.testing.assert_allclose(pose.calibrate(points, uv, weights).intrinsics, intrinsics, atol=1e-5)


def test_few_points_are_refused() -> None:
    points, uv, _, _ = scene(1, count=5)
    with pytest.raises(ValueError, match="at least 6"):
        pose.solve_dlt(points, uv)
    points, uv, _, _ = scene(1, count=12)
    with pytest.raises(ValueError, match="at least 6"):
        pose.solve_dlt(points, uv, np.r_[np.ones(5), np.zeros(7)])


@pytest.mark.parametrize("solver", [pose.solve_dlt, pose.calibrate])
def test_planar_points_are_refused(solver: object) -> None:
    points, uv, intrinsics, world_to_camera = scene(2)
    points[:, 2] = 0.3 * points[:, 0] + 0.1
    uv = pose.project(points, intrinsics, world_to_camera)
    with pytest.raises(ValueError, match="plane"):
        solver(points, uv)  # type: ignore[operator]


def test_numbers_that_are_not_finite_are_refused() -> None:
    points, uv, _, _ = scene(2)
    uv[4, 1] = np.nan
    with pytest.raises(ValueError, match="finite"):
        pose.solve_dlt(points, uv)


def test_contradicting_points_are_not_trusted() -> None:
    points, _, _, _ = scene(2)
    uv = np.random.default_rng(0).uniform(0, 1, (len(points), 2))
    assert not pose.solve_dlt(points, uv).trusted


def test_de_crop_agrees_with_projecting_and_scaling() -> None:
    points, _, intrinsics, world_to_camera = scene(4)
    crop = (0.5, 0.2, 0.1)
    full = pose.project(points, pose.de_crop(intrinsics, crop), world_to_camera)
    expected = pose.project(points, intrinsics, world_to_camera) * crop[0] + np.array(crop[1:])
    np.testing.assert_allclose(full, expected, atol=1e-12)

"""The robust camera solver against the linear one: exact points, noise, wrong points, and what it refuses."""

from __future__ import annotations

import time

import numpy as np
import pytest

from backend.contract import frames
from backend.evaluation.metrics import rotation_error
from backend.geometry import pose, robust_pose
from backend.geometry.robust_pose import judge_camera, solve_robust

EXACT = 1e-6  # noiseless float64 problems, which the linear solver meets too
NO_TURN = 1e-4  # degrees: an angle told by its cosine is no finer than 1e-6, more or less, as the processor rounds
SEEDS = range(6)


def scene(
    seed: int, count: int = 600, noise: float = 0.0, wrong: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points of a bent shell, uv (a share `wrong` of them anywhere), intrinsics and pose: square pixels, whole view."""
    random = np.random.default_rng(seed)
    points = random.normal(size=(count, 3))
    points *= np.array([0.45, 0.3, 0.2]) / np.linalg.norm(points, axis=1, keepdims=True)
    points[:, 2] += 0.5 * points[:, 0] ** 2
    direction = random.normal(size=3)
    distance = random.uniform(1.6, 4.0)
    world_to_camera = frames.look_at(direction / np.linalg.norm(direction) * distance, random.uniform(-0.05, 0.05, 3))
    focal = distance * random.uniform(0.7, 0.9)
    intrinsics = np.array([[focal, 0, random.uniform(0.45, 0.55)], [0, focal, random.uniform(0.45, 0.55)], [0, 0, 1]])
    uv = pose.project(points, intrinsics, world_to_camera) + noise * random.normal(size=(count, 2))
    bad = random.permutation(count)[: round(wrong * count)]
    uv[bad] = random.uniform(0, 1, (len(bad), 2))
    return points, uv, intrinsics, world_to_camera


def errors(solver, **kind: float) -> float:
    """Median rotation error in degrees over the seeds."""
    found = []
    for seed in SEEDS:
        points, uv, _, world_to_camera = scene(seed, **kind)
        found.append(rotation_error(solver(points, uv).world_to_camera[:3, :3], world_to_camera[:3, :3]))
    return float(np.median(found))


@pytest.mark.parametrize("seed", SEEDS)
def test_exact_points_give_the_exact_camera(seed: int) -> None:
    points, uv, intrinsics, world_to_camera = scene(seed)
    camera = solve_robust(points, uv)
    np.testing.assert_allclose(camera.intrinsics, intrinsics, atol=EXACT)
    np.testing.assert_allclose(camera.world_to_camera, world_to_camera, atol=EXACT)
    assert camera.residual < EXACT and camera.inlier_share == 1.0
    assert camera.trusted and camera.doubt == ""


def test_a_fifth_of_wrong_points_does_a_third_of_the_harm_at_most() -> None:
    assert errors(solve_robust, wrong=0.2) < NO_TURN
    for noise in (0.005, 0.01):
        robust, linear = (errors(solver, noise=noise, wrong=0.2) for solver in (solve_robust, pose.solve_dlt))
        assert robust < linear / 3 and robust < 200 * noise  # degrees


@pytest.mark.parametrize("noise", [0.005, 0.01, 0.02])
def test_noise_does_less_harm_than_to_the_linear_solver(noise: float) -> None:
    assert errors(solve_robust, noise=noise) < errors(pose.solve_dlt, noise=noise)


def test_half_of_the_points_may_be_wrong_and_are_counted() -> None:
    points, uv, intrinsics, world_to_camera = scene(1, noise=0.002, wrong=0.45)
    camera = solve_robust(points, uv)
    assert rotation_error(camera.world_to_camera[:3, :3], world_to_camera[:3, :3]) < 1.0
    assert camera.inlier_share == pytest.approx(0.55, abs=0.03)
    assert camera.residual == pytest.approx(0.002 * np.sqrt(2), rel=0.25)


def test_the_same_points_give_the_same_camera() -> None:
    points, uv, _, _ = scene(2, noise=0.01, wrong=0.2)
    first, second = solve_robust(points, uv), solve_robust(points, uv)
    np.testing.assert_array_equal(first.world_to_camera, second.world_to_camera)
    np.testing.assert_array_equal(first.intrinsics, second.intrinsics)


def test_a_locked_focal_length_is_kept_and_used() -> None:
    points, uv, intrinsics, world_to_camera = scene(3, noise=0.01)
    known = solve_robust(points, uv, focal=intrinsics[0, 0])
    assert known.intrinsics[0, 0] == known.intrinsics[1, 1] == intrinsics[0, 0]
    free = solve_robust(points, uv)

    def distance_error(camera: pose.Camera) -> float:
        return abs(camera.world_to_camera[2, 3] - world_to_camera[2, 3])

    assert distance_error(known) < distance_error(free) and distance_error(known) < 0.05


def test_open_questions_are_decided_towards_the_expected_principal_point() -> None:
    points, uv, _, _ = scene(4, noise=0.02)
    found = [solve_robust(points, uv, centre=(u, 0.5)).intrinsics[0, 2] for u in (0.2, 0.5, 0.8)]
    assert found[0] < found[1] < found[2]


def test_hidden_points_are_seen_as_hidden_and_count_less() -> None:
    axis = (np.arange(16) + 0.5) / 16 - 0.5
    cube = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    world_to_camera = frames.look_at(np.array([0.0, -3.0, 0.0]), np.zeros(3))
    intrinsics = np.array([[2.2, 0, 0.5], [0, 2.2, 0.5], [0, 0, 1]])
    seen = robust_pose.visible(cube, cube, intrinsics, world_to_camera, 1 / 16)
    front, back = cube[:, 1] == axis[0], cube[:, 1] > 0
    assert seen[front].all() and not seen[back & (np.abs(cube[:, [0, 2]]) < 0.4).all(1)].any()
    shell = cube[np.abs(np.linalg.norm(cube, axis=1) - 0.4) < 0.04]
    uv = pose.project(shell, intrinsics, world_to_camera)
    uv += 0.003 * np.random.default_rng(0).normal(size=uv.shape)
    hidden = ~robust_pose.visible(shell, shell, intrinsics, world_to_camera, 1 / 16)
    uv[hidden, 0] += 0.04 * shell[hidden, 1]  # guessed, and leaning to one side with depth as in a turned object
    errors = [
        rotation_error(solve_robust(shell, uv, occupied=given, voxel=1 / 16).world_to_camera[:3, :3],
                       world_to_camera[:3, :3])
        for given in (None, shell)
    ]  # fmt: skip
    assert 0.3 < hidden.mean() < 0.7 and errors[1] < 0.95 * errors[0]


def test_points_that_fix_no_camera_are_refused() -> None:
    points, uv, intrinsics, world_to_camera = scene(1)
    with pytest.raises(ValueError, match="at least 6"):
        solve_robust(points[:5], uv[:5])
    with pytest.raises(ValueError, match="on one place"):
        solve_robust(points, np.full_like(uv, 0.4))
    points[:, 2] = 0.2 * points[:, 0]
    with pytest.raises(ValueError, match="plane"):
        solve_robust(points, pose.project(points, intrinsics, world_to_camera))


def test_doubts_are_told() -> None:
    points, uv, intrinsics, world_to_camera = scene(2)
    random = np.random.default_rng(0)
    nonsense = solve_robust(points, random.uniform(0, 1, uv.shape))
    assert not nonsense.trusted and "agree" in nonsense.doubt
    blurred = judge_camera(points, uv + 0.018 * random.normal(size=uv.shape), intrinsics, world_to_camera)
    assert not blurred.trusted and "off by" in blurred.doubt
    inside = np.eye(4)
    inside[2, 3] = 0.3
    assert "inside" in judge_camera(points, pose.project(points, intrinsics, inside), intrinsics, inside).doubt
    flat = points * [1, 1, 0.004]
    assert "plane" in judge_camera(
        flat, pose.project(flat, intrinsics, world_to_camera), intrinsics, world_to_camera
    ).doubt
    wide = intrinsics * np.array([[0.1, 0.1, 1]]).T
    assert "lens" in judge_camera(points, pose.project(points, wide, world_to_camera), wide, world_to_camera).doubt


def test_fifteen_hundred_points_are_quick() -> None:
    points, uv, _, _ = scene(5, count=1500, noise=0.01, wrong=0.2)
    started = time.process_time()
    for seed in range(3):
        solve_robust(points, uv, seed=seed)
    # 150 ms is the aim on a free core; processor time on a busy, shared one is counted up to twice as long.
    assert (time.process_time() - started) / 3 < 0.3

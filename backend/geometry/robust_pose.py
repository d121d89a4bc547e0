"""A camera from UV correspondences that are noisy and partly wrong (not in the paper; specs/cupid.md 7 asks for it).

Square pixels, no skew, and the reprojection error itself instead of an algebraic one:

1. the best of many affine cameras through a few points each (RANSAC; affine is linear and has no bias towards short
   focal lengths), and beside it the linear transform of normalised points (Hartley) through that one's inliers;
2. both turned into perspective cameras and refined by Levenberg-Marquardt under a Geman-McClure loss, whose width
   follows the noise down from wide, so that wrong points lose their say step by step;
3. where the occupied voxels are known, points that they hide from the camera count less, and it is refined once more.

A wide prior on lens and principal point decides what the points leave open. Its weight falls with the square of the
noise, so exact points give the exact camera. Everything is seeded, in float64 numpy, on one core: 1,500 points take
some tens of milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from backend.geometry import pose
from backend.geometry.pose import Camera

SAMPLES, SAMPLE_SIZE = 100, 5  # of the affine cameras; four points are the least. Half of the points may be wrong
AFFINE_MISS = 0.06  # image sizes that a point may be off an affine camera, noise and perspective together
WIDTHS = (0.25, 0.08)  # of the loss, in image sizes, before it follows the noise
WIDTH_SIGMAS = 3.0
ROUNDS, STEPS = 8, 12  # of following the noise, and of Levenberg-Marquardt in each at most
RAYLEIGH_MEDIAN = 1.1774  # median length of a 2D error over its deviation in one coordinate
LEAST_SIGMA = 1e-10  # image sizes: numerical noise

USUAL_FOCAL = 2.5  # of a crop around the object; the training views have 0.9 to 6
FOCAL_SPREAD = 0.7  # in log focal
CENTRE_SPREAD = 0.15  # of the principal point around where it is expected, in crop sizes
POINTS_WORTH = 160.0  # errors of neighbouring voxels are alike: all points count like so many independent ones
FOCAL_RANGE = (0.4, 40.0)
MIN_DEPTH = 0.5  # the object's centre is at least this far from the camera: the camera is outside the object

HIDDEN_WEIGHT = 0.3  # of a point that the camera cannot see
HIDDEN_DEPTH = 1.5  # voxels behind the nearest one at which a point counts as hidden

INLIER_SIGMAS, MOST_SIGMA = 3.0, 0.02  # a point agrees if it is this close; noise counts up to 2 % of the crop
TRUSTED_SHARE = 0.5  # of the points that must agree
FLAT_RATIO = 0.02  # thinnest over longest extent of the points below which several cameras fit alike


@dataclass(frozen=True)
class _Problem:
    """`points` [N,3], `uv` [N,2], `weights` [N]; expected principal point; which of the 9 unknowns are free [9]; the
    focal length that the prior expects."""

    points: np.ndarray
    uv: np.ndarray
    weights: np.ndarray
    centre: np.ndarray
    free: np.ndarray
    usual_focal: float = USUAL_FOCAL


@dataclass(frozen=True)
class _State:
    """One camera while it is refined: focal length, principal point [2], rotation [3,3], translation [3]."""

    focal: float
    centre: np.ndarray
    rotation: np.ndarray
    shift: np.ndarray

    def matrices(self) -> tuple[np.ndarray, np.ndarray]:
        intrinsics = np.array([[self.focal, 0, self.centre[0]], [0, self.focal, self.centre[1]], [0, 0, 1.0]])
        world_to_camera = np.eye(4)
        world_to_camera[:3, :3], world_to_camera[:3, 3] = self.rotation, self.shift
        return intrinsics, world_to_camera


def solve_robust(
    points: np.ndarray,
    uv: np.ndarray,
    focal: float | None = None,
    centre: tuple[float, float] = (0.5, 0.5),
    occupied: np.ndarray | None = None,
    voxel: float = 1 / 64,
    seed: int = 0,
    centre_known: bool = False,
    usual_focal: float = USUAL_FOCAL,
) -> Camera:
    """Camera of a square crop from `points` [N,3] and their `uv` [N,2], judged as `judge_camera` does.

    `focal` locks the focal length, `usual_focal` is what it is expected to be; `centre` is where the principal point is
    expected, or where it is if `centre_known`; `occupied` [M,3] are centres of voxels with sides `voxel` that hide what
    lies behind them. Raises ValueError as `pose.solve_dlt`, and when all
    points fall on one place of the image.
    """
    points, uv = np.asarray(points, np.float64), np.asarray(uv, np.float64)
    pose.check_points(points, uv)
    if np.ptp(uv, axis=0).max() <= 1e-9:
        raise ValueError("The camera cannot be solved: all points fall on one place; try another seed.")
    free = np.array([focal is None, not centre_known, not centre_known, *[True] * 6])
    problem = _Problem(points, uv, np.ones(len(points)), np.asarray(centre, np.float64), free, usual_focal)
    starts = _starts(problem, focal, np.random.default_rng(seed))
    tried = [_refine(problem, start, WIDTHS[0], MOST_SIGMA) for start in starts]
    state = min(tried, key=lambda pair: pair[1])[0]
    state = _refine(problem, state, WIDTHS[1], MOST_SIGMA)[0]
    state = _follow_noise(problem, state)
    if occupied is not None and len(occupied):
        seen = visible(points, np.asarray(occupied, np.float64), *state.matrices(), voxel)
        state = _follow_noise(replace(problem, weights=np.where(seen, 1.0, HIDDEN_WEIGHT)), state)
    return judge_camera(points, uv, *state.matrices())


def judge_camera(points: np.ndarray, uv: np.ndarray, intrinsics: np.ndarray, world_to_camera: np.ndarray) -> Camera:
    """The camera with its residual, the share of points that agree with it, and why it should not be trusted, if so.

    `points` [N,3], `uv` [N,2]. The residual is the root mean square over the points that agree, in image sizes.
    """
    distances = np.linalg.norm(pose.project(points, intrinsics, world_to_camera) - uv, axis=1)
    distances = np.nan_to_num(distances, nan=np.inf)
    agree = distances <= INLIER_SIGMAS * min(_sigma(distances), MOST_SIGMA)
    share = float(agree.mean())
    residual = float(np.sqrt((distances[agree] ** 2).mean())) if agree.any() else float(np.median(distances))
    found = Camera(intrinsics, world_to_camera, residual, share)
    return replace(found, doubt=_doubt(points, found))


def visible(
    points: np.ndarray, occupied: np.ndarray, intrinsics: np.ndarray, world_to_camera: np.ndarray, voxel: float
) -> np.ndarray:
    """Which `points` [N,3] no voxel of `occupied` [M,3] hides [N] bool: a depth buffer with cells as big as a voxel."""
    depth = points @ world_to_camera[2, :3] + world_to_camera[2, 3]
    blockers = occupied @ world_to_camera[2, :3] + world_to_camera[2, 3]
    cell = intrinsics[0, 0] * voxel / max(float(np.median(blockers)), 1e-6)
    places = np.concatenate([pose.project(each, intrinsics, world_to_camera) for each in (occupied, points)])
    cells = np.floor(np.nan_to_num(places, posinf=1e6, neginf=-1e6) / max(cell, 1e-6)).astype(np.int64)
    index = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
    nearest = np.full(index.max() + 1, np.inf)
    np.minimum.at(nearest, index[: len(occupied)], np.where(blockers > 0, blockers, np.inf))
    return np.asarray(depth <= nearest[index[len(occupied) :]] + HIDDEN_DEPTH * voxel)


def _doubt(points: np.ndarray, camera: Camera) -> str:
    """A sentence why `camera` should not be trusted; empty if it may be."""
    focal, matrix = camera.intrinsics[0, 0], camera.world_to_camera
    depth = points @ matrix[2, :3] + matrix[2, 3]
    eye = -matrix[:3, :3].T @ matrix[:3, 3]
    extent = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    low, high = FOCAL_RANGE
    if (camera.inlier_share or 0.0) < TRUSTED_SHARE:
        reason = f"only {100 * (camera.inlier_share or 0.0):.0f} % of the points agree with it"
    elif camera.residual > pose.TRUSTED_RESIDUAL:
        reason = f"its points are off by {100 * camera.residual:.1f} % of the object's picture"
    elif not low * 1.01 < focal < high / 1.01 or camera.intrinsics[1, 1] <= 0:
        reason = f"a focal length of {focal:.2g} times the object's picture is not a usual lens"
    elif (depth <= 0).mean() > 1 - TRUSTED_SHARE or np.abs(eye).max() < 0.5:
        reason = "it stands inside the object"
    elif extent[2] < FLAT_RATIO * extent[0]:
        reason = "the points lie almost in a plane, which other cameras show in the same way"
    else:
        return ""
    return f"The camera is uncertain: {reason}; check it or try another seed."


def _starts(problem: _Problem, focal: float | None, random: np.random.Generator) -> list[_State]:
    """Where the refinement begins: the best affine camera, and the linear one of the points near that."""
    points, uv = problem.points, problem.uv
    design = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    chosen = random.permuted(np.tile(np.arange(len(points)), (SAMPLES, 1)), axis=1)[:, :SAMPLE_SIZE]
    affine = np.linalg.pinv(design[chosen]) @ uv[chosen]  # [S,4,2]
    affine = np.concatenate([affine, np.linalg.lstsq(design, uv, rcond=None)[0][None]])
    misses = ((design[None] @ affine - uv) ** 2).sum(-1)  # [S+1,N]
    best = int(np.minimum(misses, AFFINE_MISS**2).sum(1).argmin())
    near = misses[best] <= AFFINE_MISS**2
    if near.sum() < pose.MIN_POINTS:
        near[:] = True
    affine_fit = np.linalg.lstsq(design[near], uv[near], rcond=None)[0]
    starts = [_from_affine(affine_fit, problem.centre, focal or problem.usual_focal)]
    try:
        linear = pose.solve_dlt_normalised(points[near], uv[near])
    except (ValueError, np.linalg.LinAlgError):
        return starts
    matrix, lens = linear.world_to_camera, linear.intrinsics
    length = float(np.sqrt(lens[0, 0] * lens[1, 1]))
    if FOCAL_RANGE[0] < length < FOCAL_RANGE[1] and matrix[2, 3] > MIN_DEPTH and np.isfinite(matrix).all():
        shift = matrix[:3, 3] * [1, 1, 1.0 if focal is None else focal / length]
        centre = np.clip(lens[:2, 2], problem.centre - 1.0, problem.centre + 1.0)
        centre = np.where(problem.free[1:3], centre, problem.centre)
        starts.append(_State(focal or length, centre, matrix[:3, :3], shift))
    return starts


def _from_affine(affine: np.ndarray, centre: np.ndarray, length: float) -> _State:
    """The perspective camera with focal `length` that is nearest to an affine one [4,2]."""
    u, scales, vt = np.linalg.svd(affine[:3].T, full_matrices=False)
    right, down = u @ vt  # the nearest orthonormal pair
    depth = max(length / max(float(scales.mean()), 1e-9), 2 * MIN_DEPTH)
    shift = np.array([*((affine[3] - centre) * depth / length), depth])
    return _State(length, centre, np.stack([right, down, np.cross(right, down)]), shift)


def _follow_noise(problem: _Problem, state: _State) -> _State:
    """Refine with a loss as wide as the noise that is left, until the noise stays."""
    sigma = MOST_SIGMA
    for _ in range(ROUNDS):
        distances = np.linalg.norm(pose.project(problem.points, *state.matrices()) - problem.uv, axis=1)
        before, sigma = sigma, min(_sigma(np.nan_to_num(distances, nan=1.0)), MOST_SIGMA)
        state = _refine(problem, state, WIDTH_SIGMAS * sigma, sigma)[0]
        if abs(sigma - before) <= 0.01 * before:
            break
    return state


def _sigma(distances: np.ndarray) -> float:
    """Noise in one coordinate from the lengths of 2D errors [N], half of which may be anything."""
    return max(float(np.median(distances)) / RAYLEIGH_MEDIAN, LEAST_SIGMA)


def _refine(problem: _Problem, state: _State, width: float, sigma: float) -> tuple[_State, float]:
    """Levenberg-Marquardt under a Geman-McClure loss of `width` and the prior at noise `sigma`; also the cost."""
    strength = sigma * np.sqrt(problem.weights.sum() / POINTS_WORTH)
    damping = 1e-3
    residuals, jacobian, prior = _linearise(problem, state)
    cost = _cost(problem, residuals, prior, width, strength)
    for _ in range(STEPS):
        pull = problem.weights / (1 + (residuals**2).sum(1) / width**2) ** 2
        normal = np.einsum("nij,n,nik->jk", jacobian, pull, jacobian, optimize=True)
        gradient = np.einsum("nij,n,ni->j", jacobian, pull, residuals, optimize=True)
        spread = strength**2 / np.array([FOCAL_SPREAD, CENTRE_SPREAD, CENTRE_SPREAD])
        normal[:3, :3] += np.diag(spread / np.array([FOCAL_SPREAD, CENTRE_SPREAD, CENTRE_SPREAD]))
        gradient[:3] += spread * prior
        keep = np.ix_(problem.free, problem.free)
        improved = False
        while damping < 1e8:
            scaled = normal[keep] + damping * np.diag(np.diag(normal[keep]) + 1e-15)
            step = np.zeros(9)
            step[problem.free] = -np.linalg.lstsq(scaled, gradient[problem.free], rcond=None)[0]
            moved = _moved(state, step)
            new_residuals, new_jacobian, new_prior = _linearise(problem, moved)
            new_cost = _cost(problem, new_residuals, new_prior, width, strength)
            if new_cost < cost:
                improved = True
                break
            damping *= 10
        if not improved:
            break
        settled = cost - new_cost <= 1e-6 * cost
        state, residuals, jacobian, prior, cost = moved, new_residuals, new_jacobian, new_prior, new_cost
        damping = max(damping / 10, 1e-9)
        if settled:
            break
    return state, cost


def _cost(problem: _Problem, residuals: np.ndarray, prior: np.ndarray, width: float, strength: float) -> float:
    squared = (residuals**2).sum(1)
    value = float((problem.weights * squared / (1 + squared / width**2)).sum() + strength**2 * (prior**2).sum())
    return value if np.isfinite(value) else np.inf


def _moved(state: _State, step: np.ndarray) -> _State:
    """`state` after `step` [9]: log focal, principal point, left rotation vector, translation; kept in bounds."""
    focal = float(np.clip(state.focal * np.exp(np.clip(step[0], -1, 1)), *FOCAL_RANGE)) if step[0] else state.focal
    shift = state.shift + step[6:]
    shift[2] = max(shift[2], MIN_DEPTH)
    return _State(focal, state.centre + step[1:3], pose.rotation_from_vector(step[3:6]) @ state.rotation, shift)


def _linearise(problem: _Problem, state: _State) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Residuals [N,2], their derivatives [N,2,9] by the unknowns of `_moved`, and the prior's three deviations."""
    turned = problem.points @ state.rotation.T
    camera = turned + state.shift
    depth = np.where(np.abs(camera[:, 2]) < 1e-9, 1e-9, camera[:, 2])
    slope = state.focal * camera[:, :2] / depth[:, None]  # [N,2]
    jacobian = np.zeros((len(depth), 2, 9))
    jacobian[:, :, 0] = slope
    jacobian[:, 0, 1] = jacobian[:, 1, 2] = 1.0
    by_shift = jacobian[:, :, 6:]
    by_shift[:, 0, 0] = by_shift[:, 1, 1] = state.focal / depth
    by_shift[:, :, 2] = -slope / depth[:, None]
    x, y, z = turned.T
    for row in range(2):  # d(w x p) . g = w . (p x g)
        a, b, c = by_shift[:, row, 0], by_shift[:, row, 1], by_shift[:, row, 2]
        jacobian[:, row, 3], jacobian[:, row, 4], jacobian[:, row, 5] = y * c - z * b, z * a - x * c, x * b - y * a
    prior = np.array(
        [np.log(state.focal / problem.usual_focal) / FOCAL_SPREAD, *((state.centre - problem.centre) / CENTRE_SPREAD)]
    )
    return slope + state.centre - problem.uv, jacobian, prior

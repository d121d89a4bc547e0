"""The camera from UV correspondences (specs/cupid.md 7).

``solve_dlt`` is the default and matches the published solver: an algebraic minimiser that keeps skew. ``calibrate``
then minimises the reprojection error itself with zero skew by Levenberg-Marquardt. Everything is float64 numpy on the
CPU; a few thousand points take milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MIN_POINTS = 6  # eleven unknowns, two equations a point
PLANAR_RATIO = 1e-4  # thinnest over longest extent of the points below which the solution is not unique
TRUSTED_RESIDUAL = 0.02  # mean reprojection error, in image sizes, above which a camera should not be believed
INITIAL_FOCAL = 0.8  # start of the nonlinear solver when the linear one fails; the published alternative's start


@dataclass(frozen=True)
class Camera:
    """Normalised ``intrinsics`` [3,3], ``world_to_camera`` [4,4], reprojection ``residual`` in image sizes.

    Where it was judged (``robust_pose.judge_camera``): ``inlier_share`` of the points that agree, which the residual is
    over, and in ``doubt`` a sentence why the camera should not be trusted.
    """

    intrinsics: np.ndarray
    world_to_camera: np.ndarray
    residual: float
    inlier_share: float | None = None
    doubt: str = ""

    @property
    def trusted(self) -> bool:
        """Whether the correspondences agree with a camera that has the object in front of it."""
        k = self.intrinsics
        in_front = bool(k[0, 0] > 0 and k[1, 1] > 0 and self.world_to_camera[2, 3] > 0)
        return self.residual <= TRUSTED_RESIDUAL and in_front and not self.doubt


def check_points(points: np.ndarray, uv: np.ndarray, weights: np.ndarray | None = None) -> None:
    """Raise ValueError unless ``points`` [N,3], ``uv`` [N,2] and ``weights`` [N] can determine a camera."""
    if points.ndim != 2 or points.shape[1] != 3 or uv.shape != (len(points), 2):
        raise ValueError(f"Points {points.shape} and image points {uv.shape} do not pair up; give [N,3] and [N,2].")
    if weights is not None and weights.shape != (len(points),):
        raise ValueError(f"Weights {weights.shape} do not pair up with {len(points)} points; give one a point.")
    if not (np.isfinite(points).all() and np.isfinite(uv).all()):
        raise ValueError("The camera cannot be solved: a point is not a finite number; try another seed.")
    used = points if weights is None else points[weights > 0]
    if len(used) < MIN_POINTS:
        raise ValueError(f"The camera cannot be solved from {len(used)} points; at least {MIN_POINTS} are needed.")
    extent = np.linalg.svd(used - used.mean(axis=0), compute_uv=False)
    if extent[2] <= PLANAR_RATIO * extent[0]:
        raise ValueError("The camera cannot be solved: the points lie in a plane; try another seed.")


def project(points: np.ndarray, intrinsics: np.ndarray, world_to_camera: np.ndarray) -> np.ndarray:
    """Image coordinates [N,2] of ``points`` [N,3]; skew counts."""
    camera = points @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    image = camera @ intrinsics.T
    return image[:, :2] / image[:, 2:3]


def reprojection_error(
    points: np.ndarray, uv: np.ndarray, intrinsics: np.ndarray, world_to_camera: np.ndarray
) -> float:
    """Mean distance between projected ``points`` [N,3] and ``uv`` [N,2], in image sizes."""
    return float(np.linalg.norm(project(points, intrinsics, world_to_camera) - uv, axis=1).mean())


def solve_dlt(points: np.ndarray, uv: np.ndarray, weights: np.ndarray | None = None) -> Camera:
    """Camera from ``points`` [N,3] and ``uv`` [N,2] by the direct linear transform; ``weights`` [N] multiply the rows.

    Raises ValueError for fewer than six points, points in a plane, or a degenerate projection.
    """
    points, uv = np.asarray(points, np.float64), np.asarray(uv, np.float64)
    weights = None if weights is None else np.asarray(weights, np.float64)
    check_points(points, uv, weights)
    intrinsics, world_to_camera = decompose_projection(_projection(points, uv, weights))
    residual = reprojection_error(points, uv, intrinsics, world_to_camera)
    return Camera(intrinsics, world_to_camera, residual)


def solve_dlt_normalised(points: np.ndarray, uv: np.ndarray) -> Camera:
    """``solve_dlt`` of points and image points moved to the origin and scaled to unit spread first (Hartley 1997).

    Its algebraic error is nearer to the geometric one, so noise does less harm. Errors as ``solve_dlt``.
    """
    points, uv = np.asarray(points, np.float64), np.asarray(uv, np.float64)
    check_points(points, uv)
    from_points, from_uv = _unit_spread(points), _unit_spread(uv)
    normal_points = points * from_points[0, 0] + from_points[:3, 3]
    normal_uv = uv * from_uv[0, 0] + from_uv[:2, 2]
    projection = np.linalg.solve(from_uv, _projection(normal_points, normal_uv)) @ from_points
    intrinsics, world_to_camera = decompose_projection(projection)
    return Camera(intrinsics, world_to_camera, reprojection_error(points, uv, intrinsics, world_to_camera))


def _unit_spread(points: np.ndarray) -> np.ndarray:
    """Similarity [D+1,D+1] that gives ``points`` [N,D] their mean at the origin and a spread of one a coordinate."""
    mean, dimensions = points.mean(axis=0), points.shape[1]
    scale = 1.0 / max(float(np.sqrt(((points - mean) ** 2).mean())), 1e-12)
    matrix = np.eye(dimensions + 1)
    matrix[:dimensions, :dimensions] *= scale
    matrix[:dimensions, dimensions] = -scale * mean
    return matrix


def _projection(points: np.ndarray, uv: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The projection [3,4] of least algebraic error; ``weights`` [N] multiply the rows."""
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    if weights is not None:
        homogeneous = homogeneous * weights[:, None]
    zeros = np.zeros_like(homogeneous)
    rows = np.concatenate(
        [
            np.concatenate([homogeneous, zeros, -uv[:, :1] * homogeneous], axis=1),
            np.concatenate([zeros, homogeneous, -uv[:, 1:] * homogeneous], axis=1),
        ]
    )
    # The last right singular vector of a thin QR factor is that of the rows, in O(N) memory.
    return np.asarray(np.linalg.svd(np.linalg.qr(rows, mode="r"))[2][-1].reshape(3, 4))


def decompose_projection(projection: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics [3,3] (K[2,2] = 1, positive diagonal) and ``world_to_camera`` [4,4] of a 3x4 projection.

    Raises ValueError when the left 3x3 part is singular (a camera at infinity).
    """
    projection = np.asarray(projection, np.float64)
    if np.linalg.det(projection[:, :3]) < 0:
        projection = -projection
    left = projection[:, :3]
    singular = np.linalg.svd(left, compute_uv=False)
    if singular[2] <= 1e-12 * singular[0]:
        raise ValueError("The camera cannot be solved: the projection is degenerate; try another seed.")
    # RQ decomposition from the QR of the inverse: left^-1 = Q U  =>  left = U^-1 Q^-1.
    q, upper = np.linalg.qr(np.linalg.inv(left))
    intrinsics, rotation = np.linalg.inv(upper), q.T
    signs = np.sign(np.diag(intrinsics))
    intrinsics, rotation = intrinsics * signs[None, :], rotation * signs[:, None]
    translation = np.linalg.solve(intrinsics, projection[:, 3])
    if np.linalg.det(rotation) < 0:
        rotation = -rotation
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3], world_to_camera[:3, 3] = rotation, translation
    return intrinsics / intrinsics[2, 2], world_to_camera


def rotation_from_vector(vector: np.ndarray) -> np.ndarray:
    """Rotation [3,3] about ``vector`` [3] by its length (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    x, y, z = vector
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    if angle < 1e-8:
        return np.eye(3) + cross
    return np.eye(3) + np.sin(angle) / angle * cross + (1 - np.cos(angle)) / angle**2 * cross @ cross


def calibrate(
    points: np.ndarray,
    uv: np.ndarray,
    weights: np.ndarray | None = None,
    start: Camera | None = None,
    focal: float | None = None,
    iterations: int = 60,
) -> Camera:
    """Camera with zero skew that minimises the (weighted) squared reprojection error.

    Starts at ``start`` (default: the DLT). ``focal`` locks fx to a known value. Raises ValueError as ``solve_dlt``.
    """
    points, uv = np.asarray(points, np.float64), np.asarray(uv, np.float64)
    weights = np.ones(len(points)) if weights is None else np.asarray(weights, np.float64)
    start = start or solve_dlt(points, uv, weights)
    k = start.intrinsics
    lens = np.array([k[0, 0], k[1, 1], k[0, 2], k[1, 2]])
    if not np.isfinite(lens).all() or min(lens[:2]) <= 0:
        lens = np.array([INITIAL_FOCAL, INITIAL_FOCAL, 0.5, 0.5])
    rotation, translation = start.world_to_camera[:3, :3], start.world_to_camera[:3, 3].copy()
    if focal is not None:
        translation[2] *= focal / lens[0]  # keeps the size in the image
        lens[:2] *= focal / lens[0]
    free = np.array([focal is None, True, True, True, *[True] * 6])
    damping = 1e-3
    residuals, jacobian = _linearise(points, uv, weights, lens, rotation, translation)
    cost = float(residuals @ residuals)
    for _ in range(iterations):
        active = jacobian[:, free]
        normal, gradient = active.T @ active, active.T @ residuals
        step = np.zeros(10)
        scaled = normal + damping * np.diag(np.diag(normal) + 1e-12)
        step[free] = -np.linalg.lstsq(scaled, gradient, rcond=None)[0]
        tried = lens + step[:4], rotation_from_vector(step[4:7]) @ rotation, translation + step[7:]
        new_residuals, new_jacobian = _linearise(points, uv, weights, *tried)
        new_cost = float(new_residuals @ new_residuals)
        if np.isfinite(new_cost) and new_cost < cost and min(tried[0][:2]) > 0:
            settled = cost - new_cost <= 1e-12 * cost
            (lens, rotation, translation), cost = tried, new_cost
            residuals, jacobian, damping = new_residuals, new_jacobian, max(damping / 10, 1e-12)
            if settled:
                break
        else:
            damping *= 10
            if damping > 1e12:
                break
    intrinsics = np.array([[lens[0], 0.0, lens[2]], [0.0, lens[1], lens[3]], [0.0, 0.0, 1.0]])
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3], world_to_camera[:3, 3] = rotation, translation
    return Camera(intrinsics, world_to_camera, reprojection_error(points, uv, intrinsics, world_to_camera))


def _linearise(
    points: np.ndarray, uv: np.ndarray, weights: np.ndarray, lens: np.ndarray, rotation: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Residuals [2N] and their derivatives [2N,10] by fx, fy, cx, cy, a left rotation vector, the translation."""
    turned = points @ rotation.T
    camera = turned + shift
    depth = np.where(np.abs(camera[:, 2]) < 1e-9, 1e-9, camera[:, 2])
    x, y = camera[:, 0] / depth, camera[:, 1] / depth
    residuals = np.stack([lens[0] * x + lens[2] - uv[:, 0], lens[1] * y + lens[3] - uv[:, 1]])
    zeros, ones = np.zeros(len(points)), np.ones(len(points))
    by_lens = np.stack([np.stack([x, zeros, ones, zeros], axis=1), np.stack([zeros, y, zeros, ones], axis=1)])
    by_shift = np.stack(
        [
            np.stack([lens[0] / depth, zeros, -lens[0] * x / depth], axis=1),
            np.stack([zeros, lens[1] / depth, -lens[1] * y / depth], axis=1),
        ]
    )  # [2, N, 3]
    by_turn = np.cross(turned[None], by_shift)  # d(w x p) . g = w . (p x g)
    jacobian = np.concatenate([by_lens, by_turn, by_shift], axis=2) * weights[None, :, None]
    return (residuals * weights).reshape(-1), jacobian.reshape(-1, 10)


def de_crop(intrinsics: np.ndarray, crop: tuple[float, float, float]) -> np.ndarray:
    """Intrinsics [3,3] of the picture from those of its crop (spec 5.6).

    ``crop`` = (scale, left, top) in picture sides. Skew is untouched, as published.
    """
    scale, left, top = crop
    full = np.array(intrinsics, np.float64)
    full[0, 0] *= scale
    full[1, 1] *= scale
    full[0, 2] = full[0, 2] * scale + left
    full[1, 2] = full[1, 2] * scale + top
    return full

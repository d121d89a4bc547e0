"""Cameras of flat things: a homography by RANSAC (four points), taken apart (Zhang 2000), refined on all that agree.

A plane shows its focal length only by its perspective, and not at all from the front, so the length is a guess there.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import least_squares

from backend.geometry import pose

FLAT_SHARE, FLAT_MISS = 0.95, 0.01  # of points this near to one plane (longest side 1) that make a thing flat
PLANE_SAMPLES, HOMOGRAPHY_SAMPLES = 60, 200
NEAR = 0.015  # picture sizes that a point may be off a homography
FOCAL_LIMITS = (0.5, 5.0)  # beyond them a homography's own focal length is noise


def lies_in_plane(points: np.ndarray, seed: int = 0) -> bool:
    """Whether nearly all `points` [N,3], of something of size 1, lie in one plane, wherever the others are."""
    return bool(_plane(points, seed)[2] >= FLAT_SHARE)


def solve_plane(
    points: np.ndarray, uv: np.ndarray, focal: float | None, usual_focal: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics [3,3] and `world_to_camera` [4,4] from flat `points` [N,3] and their `uv` [N,2], centre in the middle.

    Errors: ValueError when no homography has enough points on its side.
    """
    origin, normal, _ = _plane(points, seed)
    first = np.cross(normal, np.eye(3)[np.abs(normal).argmin()])
    first /= np.linalg.norm(first)
    axes = np.stack([first, np.cross(normal, first), normal])  # rows: two in the plane, and its normal
    near = np.abs((points - origin) @ normal) <= 2 * FLAT_MISS
    flat, centred = ((points - origin) @ axes[:2].T)[near], uv[near] - 0.5
    homography, agree = _ransac(flat, centred, seed)
    length = focal or _focal_of(homography) or usual_focal
    rotation, shift = _take_apart(homography, length)
    rotation = rotation @ axes
    shift = shift - rotation @ origin
    return _refine(points[near][agree], centred[agree], length, rotation, shift, focal is None)


def _plane(points: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """A place on the plane [3], its unit normal [3] and the share of `points` [N,3] near to it."""
    random = np.random.default_rng(seed)
    chosen = points[random.integers(0, len(points), (PLANE_SAMPLES, 3))]
    normals = np.cross(chosen[:, 1] - chosen[:, 0], chosen[:, 2] - chosen[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    usable = lengths > 1e-4
    if not usable.any():
        return points.mean(axis=0), np.array([0.0, 0.0, 1.0]), 1.0  # a line or a point: flat in every way
    normals = normals[usable] / lengths[usable, None]
    misses = np.abs(points @ normals.T - (chosen[usable, 0] * normals).sum(1))
    best = int((misses <= FLAT_MISS).sum(0).argmax())
    near = misses[:, best] <= FLAT_MISS
    origin = points[near].mean(axis=0)
    normal = np.linalg.svd(points[near] - origin, full_matrices=False)[2][2]
    return origin, normal, float((np.abs((points - origin) @ normal) <= FLAT_MISS).mean())


def _ransac(flat: np.ndarray, uv: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The homography [3,3] from the plane [N,2] to the picture [N,2] that most points agree with, and which do [N]."""
    if len(flat) < 4:
        raise ValueError("too few points for a plane")
    random = np.random.default_rng(seed)
    best = np.zeros(len(flat), bool)
    for chosen in random.integers(0, len(flat), (HOMOGRAPHY_SAMPLES, 4)):
        agree = _misses(_homography(flat[chosen], uv[chosen]), flat, uv) <= NEAR
        if agree.sum() > best.sum():
            best = agree
    if best.sum() < 8:
        raise ValueError("no homography fits")
    for _ in range(3):
        homography = _homography(flat[best], uv[best])
        best = _misses(homography, flat, uv) <= NEAR
        if best.sum() < 8:
            raise ValueError("no homography fits")
    return homography, best


def _homography(flat: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """The linear solution [3,3], the plane's points brought to unit spread first."""
    middle, spread = flat.mean(axis=0), max(float(flat.std()), 1e-9)
    x, y = ((flat - middle) / spread).T
    one, none = np.ones_like(x), np.zeros_like(x)
    u, v = uv.T
    rows = np.concatenate([
        np.stack([x, y, one, none, none, none, -u * x, -u * y, -u], axis=1),
        np.stack([none, none, none, x, y, one, -v * x, -v * y, -v], axis=1),
    ])  # fmt: skip
    matrix = np.linalg.eigh(rows.T @ rows)[1][:, 0].reshape(3, 3)
    to_unit = np.array([[1.0, 0.0, -middle[0]], [0.0, 1.0, -middle[1]], [0.0, 0.0, spread]]) / spread
    return np.asarray(matrix @ to_unit)


def _misses(homography: np.ndarray, flat: np.ndarray, uv: np.ndarray) -> np.ndarray:
    mapped = np.concatenate([flat, np.ones((len(flat), 1))], axis=1) @ homography.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.nan_to_num(np.linalg.norm(mapped[:, :2] / mapped[:, 2:] - uv, axis=1), nan=np.inf))


def _focal_of(homography: np.ndarray) -> float | None:
    """The focal length with which the plane's axes are at right angles and of one length, or None where it is noise."""
    a, b = homography[:, 0], homography[:, 1]
    lines = np.array(
        [
            [a[0] * b[0] + a[1] * b[1], a[2] * b[2]],
            [a[0] ** 2 + a[1] ** 2 - b[0] ** 2 - b[1] ** 2, a[2] ** 2 - b[2] ** 2],
        ]
    )  # both rows times (1 / focal^2, 1) are zero
    denominator = float((lines[:, 0] ** 2).sum())
    inverse = -float((lines[:, 0] * lines[:, 1]).sum()) / denominator if denominator > 0 else 0.0
    if inverse <= 0:
        return None
    length = inverse**-0.5
    return length if FOCAL_LIMITS[0] < length < FOCAL_LIMITS[1] else None


def _take_apart(homography: np.ndarray, focal: float) -> tuple[np.ndarray, np.ndarray]:
    """Rotation [3,3] and shift [3] from the plane's axes to the camera."""
    columns = np.diag([1 / focal, 1 / focal, 1.0]) @ homography
    columns = columns / (np.linalg.norm(columns[:, :2], axis=0).mean() * np.sign(columns[2, 2] or 1.0))
    u, _, vt = np.linalg.svd(np.stack([columns[:, 0], columns[:, 1], np.cross(columns[:, 0], columns[:, 1])], axis=1))
    return u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt, columns[:, 2]


def _refine(
    points: np.ndarray, uv: np.ndarray, focal: float, rotation: np.ndarray, shift: np.ndarray, free: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The reprojection error made small from there on; a free focal length stays near unless the points insist."""

    def placed(step: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        length = focal * float(np.exp(step[6])) if free else focal
        return length, pose.rotation_from_vector(step[:3]) @ rotation, shift + step[3:6]

    def residuals(step: np.ndarray) -> np.ndarray:
        length, turned, moved = placed(step)
        camera = points @ turned.T + moved
        error = length * camera[:, :2] / np.maximum(camera[:, 2:], 1e-6) - uv
        return np.append(error.ravel(), 0.01 * step[6] if free else 0.0)

    found = least_squares(residuals, np.zeros(7 if free else 6), loss="soft_l1", f_scale=NEAR / 3)
    length, turned, moved = placed(found.x)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turned, moved
    return np.array([[length, 0.0, 0.5], [0.0, length, 0.5], [0.0, 0.0, 1.0]]), matrix

"""What the objects of one photo share: its lens, which way is up, and the ground they stand on (not in the paper).

In a picture the inverse depth of a plane is linear in u and v, whatever the lens. So the ground is found first, and the
lens is the one under which most of the objects' surface stands at right angles to it. What the objects' own solutions
say about the lens is not asked: an object fills a small part of the photo, and each has another answer (a factor of 1.5
off in the middle; the usual lens is nearer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

USUAL_FOCAL = 1.1  # in units of the picture's longer side: 40 mm on full frame
FOCAL_SPREAD = 0.35  # in log focal: a phone's 26 mm and a portrait's 60 mm are one spread away
HABIT = 0.15  # share of one object's surface that one spread from the usual lens weighs
UPRIGHT_SPREAD = 0.05  # cosine: how far from a right angle a wall may be
LEAST_UPRIGHT = 0.05  # of the objects' flat surface that must be upright to tell the lens
LEAST_NORMALS = 30
FLAT = 1e-3  # of the inverse depth: a window this near to a plane is flat, besides the depth's own noise
REACHES = (1, 2, 3, 4)  # pixels from the middle of such a window to its edge
FOCALS = np.exp(np.linspace(np.log(0.4), np.log(5.0), 151))
UP_SPREAD = np.radians(10.0)  # how far the top of an object points from the truth, usually
UP_AGREES = np.radians(25.0)  # tops this close to each other agree
TRIES = 300  # planes tried
TOLERANCE = 0.015  # of the depth: a point this near belongs to a plane
LEAST_SLOPE = 0.1  # of the inverse depth in the middle: how much it grows from top to bottom
NORMAL_MEDIAN = 1.4826  # deviation of normal noise over its median size
LEAST_SHARE = 0.3  # of the points that must lie in the ground
MOST_POINTS = 4000


@dataclass(frozen=True)
class PicturePlane:
    """1 / depth = a u + b v + c on the plane; `share` of the points lie in it, `noise` (relative) beside it."""

    coefficients: np.ndarray
    share: float
    noise: float

    def in_camera(self, intrinsics: np.ndarray) -> tuple[np.ndarray, float]:
        """The plane's unit normal [3] towards the camera, and the camera's height above it."""
        lead = intrinsics.T @ self.coefficients  # lead . X = 1 on the plane
        length = float(np.linalg.norm(lead))
        return -lead / length, 1.0 / length


def find_ground(depth: np.ndarray, known: np.ndarray, seed: int = 0) -> PicturePlane | None:
    """The plane that most of the `known` pixels [H,W] of `depth` lie in, if it can be a ground (RANSAC)."""
    height, width = depth.shape
    rows, columns = np.nonzero(known & (depth > 0))
    rng = np.random.default_rng(seed)
    if len(rows) > MOST_POINTS:
        chosen = rng.permutation(len(rows))[:MOST_POINTS]
        rows, columns = rows[chosen], columns[chosen]
    if len(rows) < 50:
        return None
    z = depth[rows, columns].astype(np.float64)
    points = np.stack([(columns + 0.5) / width, (rows + 0.5) / height, np.ones(len(rows))], axis=1)
    best: np.ndarray | None = None
    for _ in range(TRIES):
        three = rng.choice(len(points), 3, replace=False)
        if abs(np.linalg.det(points[three])) < 1e-4:
            continue
        plane = np.linalg.solve(points[three], 1.0 / z[three])
        near = np.abs(points @ plane * z - 1.0) < TOLERANCE
        if _slopes_down(plane) and (best is None or near.sum() > best.sum()):
            best = near
    if best is None or best.mean() < LEAST_SHARE:
        return None
    for _ in range(3):
        weight = z[best, None]  # relative errors count alike near and far
        plane = np.linalg.lstsq(points[best] * weight, np.ones(int(best.sum())), rcond=None)[0]
        best = np.abs(points @ plane * z - 1.0) < TOLERANCE
        if best.sum() < 3:
            return None
    share = float(best.mean())
    noise = NORMAL_MEDIAN * float(np.median(np.abs(points[best] @ plane * z[best] - 1.0)))
    return PicturePlane(plane, share, noise) if share >= LEAST_SHARE and _slopes_down(plane) else None


def _slopes_down(plane: np.ndarray) -> bool:
    """Whether what is lower in the picture is nearer, as on a ground seen from above and not on a wall."""
    return bool(plane[1] > LEAST_SLOPE * (plane[0] / 2.0 + plane[1] / 2.0 + plane[2]) > 0)


def estimate_focal(
    depth: np.ndarray, masks: Sequence[np.ndarray], plane: PicturePlane, size: tuple[int, int]
) -> float | None:
    """The focal length, as fx normalised to the picture of `size` (width, height), that lets the objects stand upright.

    depth [h,w] on an even grid (an uneven one bends every slope) and one mask [h,w] an object, of the picture. None
    where hardly anything of them is upright.
    """
    longer = max(size)
    every = (_tangents(depth, mask, plane.noise) for mask in masks)
    tangents = [found for found in every if len(found) >= LEAST_NORMALS]
    if not tangents:
        return None
    upright = np.zeros(len(FOCALS))
    for index, focal in enumerate(FOCALS):
        intrinsics = camera_intrinsics(focal * longer / size[0], size)
        normal, _ = plane.in_camera(intrinsics)
        for lead in tangents:
            facing = lead @ intrinsics
            cosine = facing @ normal / np.maximum(np.linalg.norm(facing, axis=1), 1e-12)
            upright[index] += float(np.exp(-((cosine / UPRIGHT_SPREAD) ** 2)).mean())
    unusual = (np.log(FOCALS / USUAL_FOCAL) / FOCAL_SPREAD) ** 2
    best = int((upright - HABIT * unusual).argmax())
    return float(FOCALS[best] * longer / size[0]) if upright[best] >= LEAST_UPRIGHT * len(tangents) else None


def usual_focal(size: tuple[int, int]) -> float:
    """The usual lens' fx, normalised to the picture of `size` (width, height)."""
    return USUAL_FOCAL * max(size) / size[0]


def _tangents(depth: np.ndarray, mask: np.ndarray, noise: float) -> np.ndarray:
    """Coefficients [N,3] of the surface's tangent planes, like `PicturePlane`'s, where it is flat inside the mask.

    Each is the least-squares plane of a square window. Windows are as small as the relative `noise` of the depth lets
    them be: until a slope is known as well as `UPRIGHT_SPREAD` asks, at a usual lens.
    """
    height, width = depth.shape
    inverse = np.where(depth > 0, 1.0 / np.maximum(depth, 1e-9), 0.0).astype(np.float64)
    for reach in REACHES:
        steps = np.arange(-reach, reach + 1.0)
        squares = float((steps**2).sum())
        if noise * max(height, width) / np.sqrt(len(steps) * squares) <= UPRIGHT_SPREAD:
            break
    even, ramp = np.full(len(steps), 1.0 / len(steps)), steps / squares

    def filtered(values: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
        return np.asarray(ndimage.correlate1d(ndimage.correlate1d(values, down, axis=0), across, axis=1))

    mean, across, down = filtered(inverse, even, even), filtered(inverse, even, ramp), filtered(inverse, ramp, even)
    explained = mean**2 + (across**2 + down**2) * squares / len(steps)
    beside = np.sqrt(np.maximum(filtered(inverse**2, even, even) - explained, 0.0)) * depth
    inside = ndimage.binary_erosion(mask & (depth > 0), np.ones((len(steps), len(steps)), bool))
    rows, columns = np.nonzero(inside & (beside < FLAT + 2.0 * noise))
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), MOST_POINTS)).astype(int)
    rows, columns = rows[chosen], columns[chosen]
    u, v = (columns + 0.5) / width, (rows + 0.5) / height
    slopes = np.stack([across[rows, columns] * width, down[rows, columns] * height], axis=1)
    return np.column_stack([slopes, mean[rows, columns] - slopes[:, 0] * u - slopes[:, 1] * v])


def camera_intrinsics(focal: float, size: tuple[int, int]) -> np.ndarray:
    """Normalised intrinsics [3,3] with square pixels and the middle of the picture as principal point."""
    return np.array([[focal, 0.0, 0.5], [0.0, focal * size[0] / size[1], 0.5], [0.0, 0.0, 1.0]])


def pixel_ray(pixel: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Unit direction [3] to the normalised pixel [2]."""
    ray = np.linalg.solve(intrinsics, np.array([pixel[0], pixel[1], 1.0]))
    return np.asarray(ray / np.linalg.norm(ray))


def arc(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The least rotation [3,3] that takes the unit vector `start` to `end`."""
    axis = np.cross(start, end)
    cosine = float(start @ end)
    if cosine < -1.0 + 1e-9:
        side = np.cross(start, [1.0, 0.0, 0.0] if abs(start[0]) < 0.9 else [0.0, 1.0, 0.0])
        side /= np.linalg.norm(side)
        return 2.0 * np.outer(side, side) - np.eye(3)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + cross + cross @ cross / (1.0 + cosine)


def common_up(tops: Sequence[np.ndarray]) -> tuple[np.ndarray | None, np.ndarray]:
    """The direction [3] that most tops [N][3] agree on, and which do [N] bool; None when no two of several agree."""
    stacked = np.stack(tops)
    close = np.arccos(np.clip(stacked @ stacked.T, -1.0, 1.0)) < UP_AGREES
    votes = close.sum(axis=1)
    if len(tops) > 1 and votes.max() < 2:
        return None, np.zeros(len(tops), bool)
    chosen = close[int(votes.argmax())]
    mean = stacked[chosen].mean(axis=0)
    return mean / np.linalg.norm(mean), chosen

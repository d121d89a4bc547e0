"""What the objects of one photo share: its lens, which way is up, and the ground they stand on (not in the paper).

In a picture the inverse depth of a plane is linear in u and v, whatever the lens. So the plane is found first, and the
lens is the one under which the plane's normal agrees with where the objects' own tops point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

USUAL_FOCAL = 1.1  # in units of the picture's longer side: 40 mm on full frame
FOCAL_SPREAD = 0.35  # in log focal: a phone's 26 mm and a portrait's 60 mm are one spread away
FOCALS = np.exp(np.linspace(np.log(0.4), np.log(5.0), 101))
UP_SPREAD = np.radians(10.0)  # how far the top of an object points from the truth, usually
UP_AGREES = np.radians(25.0)  # tops this close to each other agree
TRIES = 300  # planes tried
TOLERANCE = 0.015  # of the depth: a point this near belongs to a plane
LEAST_SHARE = 0.3  # of the points that must lie in the ground
MOST_POINTS = 4000


@dataclass(frozen=True)
class PicturePlane:
    """1 / depth = a u + b v + c on the plane; `share` of the points lie in it."""

    coefficients: np.ndarray
    share: float

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
        # On a ground seen from above, what is lower in the picture is nearer.
        if plane[1] > 0 and (best is None or near.sum() > best.sum()):
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
    return PicturePlane(plane, share) if share >= LEAST_SHARE and plane[1] > 0 else None


def estimate_focal(
    rays: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], plane: PicturePlane | None, size: tuple[int, int]
) -> float:
    """The most likely focal length of the photo, as fx normalised to the picture of `size` (width, height).

    rays: for each object the pixel [2] (u, v) of its middle, the direction [3] to it in its own solution's camera, and
    the direction [3] of its top there. Without a plane nothing but habit speaks, so that the usual lens is taken.
    """
    longer = max(size)
    cost = (np.log(FOCALS / USUAL_FOCAL) / FOCAL_SPREAD) ** 2
    if plane is not None:
        for index, focal in enumerate(FOCALS):
            intrinsics = camera_intrinsics(focal * longer / size[0], size)
            normal, _ = plane.in_camera(intrinsics)
            for pixel, direction, top in rays:
                turned = arc(direction, pixel_ray(pixel, intrinsics)) @ top
                angle = np.arccos(np.clip(turned @ normal, -1.0, 1.0))
                cost[index] += min(angle / UP_SPREAD, 3.0) ** 2
    return float(FOCALS[int(cost.argmin())] * longer / size[0])


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

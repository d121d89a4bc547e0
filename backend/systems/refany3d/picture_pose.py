"""A camera moved until the object looks as it is painted (not in the paper; for cameras that are in doubt).

A small model's point map says which side is seen, but it draws its places to the middle of the box, as means do: a
camera that fits the places alone then stands too near. Here the object's surface is drawn as coloured dots through the
camera (`surface_dots.py`), and size, place and turn change until outline, colours and places agree with the picture as
well as they can together. The lens stays.
"""

from __future__ import annotations

import numpy as np
from scipy import optimize

from backend.geometry.pose import project
from backend.systems.refany3d.surface_dots import COLORS_WEIGHT, GRID, Surface, Target, drawn_before, unexplained

MISS = 0.5  # of the object's size in the picture: what a place's error counts at most
PLACES_WEIGHT = 1.0  # of the mean miss of the places, over the object's size, beside one minus the outlines' IoU
STEPS = np.array([0.2, 0.05, 0.05, 0.3, 0.3, 0.3])
"""First steps: log distance, shift in picture widths, turn in radians."""
MOST_TRIES = 500
LEAST_DEPTH = 0.6  # of the object's middle from the camera, in its sides


def fit_picture(
    surface: Surface, points: np.ndarray, uv: np.ndarray, target: Target, intrinsics: np.ndarray, matrix: np.ndarray
) -> np.ndarray:
    """A better `world_to_camera` [4,4] than `matrix`, or that.

    surface of the object and the places `points` [N,3] seen at `uv` [N,2], all in the object's box with longest side 1
    and its middle at the origin; target: what the picture shows.
    """
    extent = max(float(np.ptp(uv, axis=0).max()), 1.0 / GRID)

    def cost(change: np.ndarray, start: np.ndarray) -> float:
        moved = changed(start, change, intrinsics)
        if moved[2, 3] < LEAST_DEPTH:
            return 10.0
        drawn = drawn_before(target, surface.points, intrinsics, moved)
        off = np.nan_to_num(np.linalg.norm(project(points, intrinsics, moved) - uv, axis=1), nan=1.0) / extent
        place = float(np.minimum(off, MISS).mean())
        return drawn.outline + PLACES_WEIGHT * place + COLORS_WEIGHT * unexplained(target, surface.colors, drawn)

    still = np.zeros(len(STEPS))
    best, least = matrix, cost(still, matrix)
    for start in (matrix, _as_large(surface.points, target.cells.reshape(GRID, GRID), intrinsics, matrix)):
        simplex = np.concatenate([still[None], np.diag(STEPS)])
        found = optimize.minimize(
            cost, still, (start,), "Nelder-Mead",
            options={"initial_simplex": simplex, "maxfev": MOST_TRIES, "xatol": 1e-3, "fatol": 1e-4},
        )  # fmt: skip
        if found.fun < least:
            best, least = changed(start, found.x, intrinsics), float(found.fun)
    return best


def changed(matrix: np.ndarray, change: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """`matrix` with its distance times exp(change[0]), its picture shifted by change[1:3] widths, its object turned."""
    moved = matrix.copy()
    moved[:3, 3] *= np.exp(change[0])
    moved[:2, 3] += change[1:3] * moved[2, 3] / intrinsics[0, 0]
    moved[:3, :3] = _turn(change[3:]) @ matrix[:3, :3]
    return moved


def _turn(vector: np.ndarray) -> np.ndarray:
    """Rotation [3,3] by a rotation vector in radians (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross)


def _as_large(surface: np.ndarray, wanted: np.ndarray, intrinsics: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The camera from where the object is seen as large as `wanted` [GRID,GRID] and in its place."""
    uv = np.nan_to_num(project(surface, intrinsics, matrix), nan=0.5)
    low, high = np.percentile(uv, [2, 98], axis=0)
    rows, columns = np.nonzero(wanted)
    ends = np.percentile(np.stack([columns, rows], axis=1) + 0.5, [2, 98], axis=0) / GRID
    grown = float(np.sqrt(np.prod(np.maximum(high - low, 1e-3)) / np.prod(np.maximum(ends[1] - ends[0], 1e-3))))
    nearer = changed(matrix, np.array([np.log(np.clip(grown, 0.1, 10.0)), *[0.0] * 5]), intrinsics)
    uv = project(surface, intrinsics, nearer)
    aside = np.nan_to_num((ends[0] + ends[1]) / 2 - (uv.min(axis=0) + uv.max(axis=0)) / 2)
    return changed(nearer, np.array([0.0, *aside, *[0.0] * 3]), intrinsics)

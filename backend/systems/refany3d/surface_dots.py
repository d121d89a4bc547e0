"""The object's surface as coloured dots, as its condition views show it, and how well a painted picture agrees with it.

Dots are quick to draw through any camera, on a coarse grid. They tell what the picture's own point map cannot know of
itself: whether outline and colours are those of the object there. A camera in doubt is moved by them
(`picture_pose.py`), and `miss` chooses the best of several tries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from backend.geometry.pose import project
from backend.rendering.image_metrics import best_gain
from backend.systems.refany3d.point_maps import Bounds, decode_points, foreground, from_bytes

GRID = 64  # cells a side of a drawing
DOTS = 4000
FAR = 0.4  # of the object's longest side: what a wrong place counts at most
COLORS_WEIGHT = 0.5  # of the colours beside outline and places, each between 0 and 1
WORST = 2.0 + COLORS_WEIGHT
LEAST_CELLS = 12
LEAST_VARIANCE = 1e-4  # of a colour channel: an even picture has nothing that could be explained


@dataclass(frozen=True)
class Surface:
    """points [M,3] in world axes and their base colours [M,3] in [0,1]."""

    points: np.ndarray
    colors: np.ndarray


def surface_of(views: np.ndarray, points: np.ndarray, bounds: Bounds, seed: int = 0) -> Surface:
    """At most DOTS places of the surface that `views` and point maps `points`, both [N,S,S,3] uint8, show."""
    values = from_bytes(points)
    shown = foreground(values)
    chosen = np.random.default_rng(seed).permutation(int(shown.sum()))[:DOTS]
    return Surface(decode_points(values[shown][chosen], bounds), from_bytes(views)[shown][chosen].astype(np.float64))


@dataclass(frozen=True)
class Target:
    """What a picture shows of the object, on the grid: cells [GRID*GRID] bool, their mean colours [GRID*GRID,3]."""

    cells: np.ndarray
    colors: np.ndarray


@dataclass(frozen=True)
class Drawn:
    """Dots drawn before a target. outline: one minus the IoU; dots, cells [K]: which dot is seen in which cell of the
    object."""

    outline: float
    dots: np.ndarray
    cells: np.ndarray


def target_of(picture: np.ndarray, mask: np.ndarray) -> Target:
    """`picture` [S,S,3] of an object that covers `mask` [S,S]."""
    return Target(coarse(mask).ravel(), _means(np.where(mask[..., None], picture, 0.0), mask))


def drawn_before(target: Target, points: np.ndarray, intrinsics: np.ndarray, matrix: np.ndarray) -> Drawn:
    """Dots `points` [M,3] drawn through a camera before `target`."""
    nearest, covered = _nearest(points, intrinsics, matrix)
    union = int((covered | target.cells).sum())
    cells = np.flatnonzero((nearest >= 0) & target.cells)
    overlap = float((covered & target.cells).sum()) / union if union else 0.0
    return Drawn(1.0 - overlap, nearest[cells], cells)


def unexplained(target: Target, colors: np.ndarray, drawn: Drawn) -> float:
    """The share of the variance of the target's colours that the best gains, none below 0, and offsets of the dots'
    `colors` [M,3] leave; 1 where they hardly meet."""
    if len(drawn.cells) < LEAST_CELLS:
        return 1.0
    surface, picture = colors[drawn.dots], target.colors[drawn.cells]
    shown, seen = surface - surface.mean(axis=0), picture - picture.mean(axis=0)
    left = seen - best_gain(surface, picture, LEAST_VARIANCE) * shown
    return float((left**2).mean(axis=0).sum() / max(float((seen**2).mean(axis=0).sum()), 3 * LEAST_VARIANCE))


def miss(
    surface: Surface, picture: np.ndarray, values: np.ndarray, bounds: Bounds, matrix: np.ndarray,
    intrinsics: np.ndarray,
) -> float:  # fmt: skip
    """How far `picture` and its point map `values` [S,S,3] are from the object seen by a camera, 0 to WORST.

    One minus the outlines' IoU, plus the mean distance of the places over FAR, plus COLORS_WEIGHT times what the
    surface's colours leave unexplained.
    """
    mask = foreground(values)
    target = target_of(picture, mask)
    drawn = drawn_before(target, surface.points, intrinsics, matrix)
    if len(drawn.cells) < LEAST_CELLS:
        return WORST
    places = _means(np.where(mask[..., None], decode_points(values, bounds), 0.0), mask)[drawn.cells]
    off = np.linalg.norm(surface.points[drawn.dots] - places, axis=1) / (bounds.longest or 1.0)
    place = float(np.minimum(off, FAR).mean()) / FAR
    return drawn.outline + place + COLORS_WEIGHT * unexplained(target, surface.colors, drawn)


def coarse(mask: np.ndarray) -> np.ndarray:
    """`mask` [S,S] on the grid: cells that it covers by half."""
    own = np.bincount(_cells(len(mask)), mask.ravel(), GRID * GRID)
    return np.asarray(own > 0.5 * np.bincount(_cells(len(mask)), minlength=GRID * GRID)).reshape(GRID, GRID)


def _nearest(points: np.ndarray, intrinsics: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each cell [GRID*GRID] the dot that is seen there, -1 for none, and whether the surface covers it: the gaps
    between dots are closed."""
    depth = points @ matrix[2, :3] + matrix[2, 3]
    places = np.floor(np.nan_to_num(project(points, intrinsics, matrix), nan=-1.0) * GRID)
    order = np.flatnonzero(((places >= 0) & (places < GRID)).all(axis=1) & (depth > 0))
    order = order[np.argsort(-depth[order])]
    columns, rows = places[order].astype(np.int64).T
    nearest = np.full(GRID * GRID, -1)
    nearest[rows * GRID + columns] = order  # the last one written is the nearest
    return nearest, _closed(nearest >= 0).ravel()


def _closed(drawn: np.ndarray) -> np.ndarray:
    padded = np.pad(drawn.reshape(GRID, GRID), 2)
    return np.asarray(ndimage.binary_closing(padded, np.ones((3, 3)))[2:-2, 2:-2])


def _cells(size: int) -> np.ndarray:
    """The cell of each pixel [S*S] of a picture."""
    places = (np.arange(size) * GRID) // size
    return np.asarray((places[:, None] * GRID + places).ravel())


def _means(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Means [GRID*GRID,C] of `values` [S,S,C], 0 beyond `mask` [S,S], over the pixels of the mask in each cell."""
    cells = _cells(len(mask))
    count = np.maximum(np.bincount(cells, mask.ravel(), GRID * GRID), 1)
    sums = [np.bincount(cells, values[..., channel].ravel(), GRID * GRID) for channel in range(values.shape[-1])]
    return np.stack(sums, axis=1) / count[:, None]

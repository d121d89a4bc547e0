"""The view of a known mesh that a photo shows: every side is tried, the best outlines are fitted, and colours decide.

Coarse: silhouettes from directions all around (12 degrees apart, two distances), brought to the mask's box, compared at
48 pixels. Fine: the best that differ, and the first guesses of the caller, go through `contour_fit`. Where no outline
fits, all is done once more with directions 6 degrees apart: thin legs and spokes meet their picture only then. What an
outline cannot tell (front from back, left from right) the picture inside it can: a view's score is the overlap of the
masks plus the share of the photo's colours that the mesh's colours and normals explain under one soft light. Not in the
paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from scipy import ndimage

from backend.contract import frames
from backend.geometry import registration
from backend.geometry.registration import up_turn
from backend.geometry.surface_sampling import SurfacePoints
from backend.systems.cupid import mesh_view
from backend.systems.cupid.contour_fit import fit_contour, outline_of
from backend.systems.cupid.mesh_view import MeshView, overlap

STEP, SMALL_STEP = 12, 6  # degrees between the coarse views
HIGHEST = 84  # degrees of elevation
FITS, CLOSE = 0.85, 0.93  # overlaps from which on the smaller step, and a shake, are not needed
SOFT = 1.2  # pixels that coarse silhouettes are blurred by: thin parts need not meet exactly
DISTANCES = (1.6, 3.5)  # in longest sides: strong and usual perspective
COARSE_SIZE, COARSE_POINTS = 48, 1500
FIT_SIZE, FIT_POINTS, FIT_STEPS = 96, 6000, 20
FINAL_SIZE, FINAL_POINTS = 160, 25_000
COLOR_SIZE, COLOR_POINTS = 56, 20_000
ROUGH_SIZE, ROUGH_POINTS, ROUGH_STEPS = 64, 2500, 6  # a short fit sorts the coarse views
ROUGH = 64  # coarse views that are fitted roughly
FITTED = 16  # of them, that are fitted
SHAKEN, SHAKES = 3, 8  # fitted views that are fitted again from places around them, where the overlap is below CLOSE
SHAKE = np.array([0.12, 0.12, 0.12, 0.02, 0.02, 0.06, 0.25])  # radians, crop sizes, logs
POLISHED = 4  # fitted views that are fitted once more, finer
APART = np.radians(14)  # coarse views closer than this are one
SAME = np.radians(8)  # fitted views closer than this are one
BEST_OVERLAP = 1.03  # overlaps count by the logarithm of what they lack of this: near the best, little says much
COLOR_WEIGHT = 1.0  # of the explained share of the photo's colours, beside that
GUESS_BONUS = 0.1  # of a view that agrees with a first guess ...
GUESS_SPREAD = np.radians(25)  # ... within about this angle
LEVEL = 0.5  # taken off the score of a camera on its side, in proportion to the square of the slant's sine
BOTTOM = 0.02  # taken off views from below, which photos seldom are
TIPPED = 0.05  # taken off views in which the mesh does not stand upright


@dataclass(frozen=True)
class Found:
    """A fitted view with its scores; `origin` is "search" or the name of the first guess that it started from."""

    view: MeshView
    iou: float
    color: float
    score: float
    origin: str


@dataclass(frozen=True)
class Guess:
    """A first guess: a view of the mesh, and what to call it."""

    view: MeshView
    origin: str


@dataclass(frozen=True)
class Picture:
    """The crop of a photo: rgba [S,S,4] uint8, straight alpha.

    principal [2] in crop coordinates or None (see `mesh_view`); focal in crop sizes where it is known.
    """

    rgba: np.ndarray
    principal: np.ndarray | None = None
    focal: float | None = None

    def mask(self, size: int) -> np.ndarray:
        """The object's mask [size,size]."""
        alpha = Image.fromarray(self.rgba[..., 3]).resize((size, size), Image.Resampling.BOX)
        return np.asarray(alpha) >= 128

    def colors(self, size: int) -> np.ndarray:
        """Linear colours [size,size,3], as they are inside the mask."""
        small = Image.fromarray(np.ascontiguousarray(self.rgba)).resize((size, size), Image.Resampling.BOX)
        return (np.asarray(small, np.float64)[..., :3] / 255.0) ** 2.2


def find_views(
    surface: SurfacePoints,
    picture: Picture,
    guesses: Sequence[Guess] = (),
    up_axes: Sequence[np.ndarray] = (np.eye(3),),
    step: Callable[[int, int], None] = lambda index, count: None,
) -> list[Found]:
    """The views of the mesh (points in the cube, shuffled) that the picture may show, best first.

    up_axes: rotations [3,3] of the mesh that stand it upright, the likely one first. Errors: ValueError for an empty
    mask.
    """
    judge = _Judge(surface, picture, guesses, up_axes)
    starts = [Guess(_held(guess.view, picture), guess.origin) for guess in guesses]
    found: list[Found] = []
    for number, degrees in enumerate((STEP, SMALL_STEP)):
        starts += [Guess(view, "search") for view in rough_views(surface, picture, up_axes, degrees)]
        found += _fitted(starts, surface.points[:FIT_POINTS], picture, FIT_SIZE, judge)
        found += _fitted(_around(_apart(found)), surface.points[:FIT_POINTS], picture, FIT_SIZE, judge)
        step(number + 1, 3)
        if max(item.iou for item in found) >= FITS:
            break
        starts = []
    if surface.colors is not None:  # a shape may look the same from several sides although its colours do not
        mask = picture.mask(FIT_SIZE)
        turned = _turned(_apart(found)[:SHAKEN], symmetry(surface.points))
        found += [judge.score(guess.view, surface.points[:FIT_POINTS], mask, guess.origin) for guess in turned]
    best = [Guess(item.view, item.origin) for item in _apart(found)[:POLISHED]]
    polished = _fitted(best, surface.points[:FINAL_POINTS], picture, FINAL_SIZE, judge)
    step(3, 3)
    return sorted(polished, key=lambda item: -item.score)


def _around(found: list[Found]) -> list[Guess]:
    """Places around the best views that fit only half: a fit may have stopped before it got there."""
    if not found or found[0].iou >= CLOSE:
        return []
    rng = np.random.default_rng(0)
    return [
        Guess(item.view.moved(rng.normal(size=7) * SHAKE), item.origin) for item in found[:SHAKEN]
        for _ in range(SHAKES)
    ]  # fmt: skip


def _turned(found: list[Found], same: int) -> list[Guess]:
    """The views from the sides from which the shape looks the same, as often as `same` says."""
    return [
        Guess(replace(item.view, rotation=item.view.rotation @ up_turn(2 * np.pi * step / same)), item.origin)
        for item in found for step in range(1, same)
    ]  # fmt: skip


def _fitted(
    starts: Sequence[Guess], points: np.ndarray, picture: Picture, size: int, judge: _Judge
) -> list[Found]:
    outline = outline_of(picture.mask(size))
    found = []
    for start in starts:
        view = fit_contour(points, start.view, outline, FIT_STEPS, picture.focal)
        found.append(judge.score(view, points, outline.mask, start.origin))
    return found


def rough_views(
    surface: SurfacePoints, picture: Picture, up_axes: Sequence[np.ndarray] = (np.eye(3),), degrees: int = STEP
) -> list[MeshView]:
    """The coarse views, each fitted for a few steps; those with the best overlap, apart from each other."""
    outline, points = outline_of(picture.mask(ROUGH_SIZE)), surface.points[:ROUGH_POINTS]
    tried = []
    for view in coarse_views(surface, picture, up_axes, degrees):
        fitted = fit_contour(points, view, outline, ROUGH_STEPS, picture.focal)
        shown = mesh_view.silhouette(mesh_view.project(points, fitted)[0], ROUGH_SIZE)
        tried.append((overlap(shown, outline.mask), fitted))
    chosen: list[MeshView] = []
    for _, view in sorted(tried, key=lambda item: -item[0]):
        if all(angle_between(view.rotation, other.rotation) >= SAME for other in chosen):
            chosen.append(view)
        if len(chosen) == FITTED:
            break
    return chosen


def coarse_views(
    surface: SurfacePoints, picture: Picture, up_axes: Sequence[np.ndarray] = (np.eye(3),), degrees: int = STEP
) -> list[MeshView]:
    """The views from all around, `degrees` apart, whose silhouettes, brought to the mask's box, overlap it best."""
    wanted, centre, extent = _boxed(picture.mask(2 * FIT_SIZE))
    points = surface.points[:COARSE_POINTS]
    rotations, penalties = _directions(up_axes, symmetry(surface.points), degrees)
    wanted = ndimage.gaussian_filter(wanted.astype(np.float32), SOFT)
    apart = APART if degrees == STEP else APART / 2
    tried: list[tuple[float, MeshView]] = []
    for distance in DISTANCES:
        for rotation, penalty in zip(rotations, penalties, strict=True):
            seen = points @ rotation.T
            uv = seen[:, :2] / np.maximum(seen[:, 2:] + distance, 0.1)
            low, high = uv.min(axis=0), uv.max(axis=0)
            span = max(float((high - low).max()), 1e-6)
            boxed = (uv - (low + high) / 2) / span * _BOXED + 0.5
            shown = ndimage.gaussian_filter(mesh_view.silhouette(boxed, COARSE_SIZE).astype(np.float32), SOFT)
            score = float(np.minimum(shown, wanted).sum() / np.maximum(shown, wanted).sum()) - penalty
            size = extent / span * distance
            place = centre - (low + high) / 2 * extent / span
            tried.append((score, MeshView(rotation, place, size / distance, distance, picture.principal)))
    chosen: list[MeshView] = []
    for _, view in sorted(tried, key=lambda item: -item[0]):
        if all(angle_between(view.rotation, other.rotation) >= apart for other in chosen):
            chosen.append(_held(view, picture))
        if len(chosen) == ROUGH:
            break
    return chosen


_BOXED = 0.85  # share of the coarse picture that the longer side of the box takes


class _Judge:
    """Scores views: overlap of the masks, colours, agreement with the first guesses, a level camera."""

    def __init__(
        self, surface: SurfacePoints, picture: Picture, guesses: Sequence[Guess], up_axes: Sequence[np.ndarray]
    ) -> None:
        colors = None if surface.colors is None else surface.colors[:COLOR_POINTS]
        self._surface = SurfacePoints(surface.points[:COLOR_POINTS], surface.normals[:COLOR_POINTS], colors)
        self._inside = ndimage.binary_erosion(picture.mask(COLOR_SIZE))
        self._colors = picture.colors(COLOR_SIZE)
        self._guesses = guesses
        self._ups = [axis[2] for axis in up_axes]

    def score(self, view: MeshView, points: np.ndarray, mask: np.ndarray, origin: str) -> Found:
        """`points` [N,3] make the silhouette that is compared with `mask` [S,S]."""
        iou = overlap(mesh_view.silhouette(mesh_view.project(points, view)[0], len(mask)), mask)
        color = explained(self._surface, view, self._inside, self._colors)
        angles = [angle_between(guess.view.rotation, view.rotation) for guess in self._guesses]
        agreed = max((float(np.exp(-((angle / GUESS_SPREAD) ** 2))) for angle in angles), default=0.0)
        slant = min(float(view.rotation[0] @ up) ** 2 for up in self._ups)
        score = COLOR_WEIGHT * color + GUESS_BONUS * agreed - LEVEL * slant - float(np.log(BEST_OVERLAP - iou))
        return Found(view, iou, color, score, origin)


def explained(surface: SurfacePoints, view: MeshView, mask: np.ndarray, colors: np.ndarray) -> float:
    """Share of the variance of the photo's linear `colors` [S,S,3] inside both masks that colours and normals explain.

    The model is the mesh's colour times a light that depends linearly on the normal, its strengths fitted.
    """
    nearest = mesh_view.nearest_points(surface.points, view, len(mask))
    inside = mask & (nearest >= 0)
    index = nearest[inside]
    if len(index) < 30:
        return 0.0
    normals = surface.normals[index]
    camera = view.camera().world_to_camera
    eye = -camera[:3, :3].T @ camera[:3, 3]
    facing = ((eye - surface.points[index]) * normals).sum(axis=1) < 0
    normals = np.where(facing[:, None], -normals, normals)
    light = np.concatenate([np.ones((len(index), 1)), normals], axis=1)
    left, total = 0.0, 0.0
    for channel in range(3):
        seen = colors[inside][:, channel]
        albedo = np.ones(len(index)) if surface.colors is None else surface.colors[index, channel] ** 2.2 + 0.02
        basis = light * albedo[:, None]
        solution = np.linalg.lstsq(basis, seen, rcond=None)[0]
        left += float(((basis @ solution - seen) ** 2).sum())
        total += float(((seen - seen.mean()) ** 2).sum())
    return float(np.clip(1.0 - left / max(total, 1e-9), 0.0, 1.0)) if total > 1e-6 * len(index) else 0.0


def symmetry(points: np.ndarray) -> int:
    """How many turns about the up axis, the same angle apart, leave the shape of `points` [N,3] as it is."""
    turns = np.rint(np.array(registration.symmetric_turns(points)) / (2 * np.pi) * registration.TURNS).astype(int)
    counts = [count for count in range(2, registration.TURNS + 1) if registration.TURNS % count == 0]
    whole = [n for n in counts if set(range(0, registration.TURNS, registration.TURNS // n)) <= set(turns.tolist())]
    return max(whole, default=1)


def _apart(found: list[Found]) -> list[Found]:
    """Best first, without those that ended where a better one did."""
    kept: list[Found] = []
    for item in sorted(found, key=lambda item: -item.score):
        if all(angle_between(item.view.rotation, other.view.rotation) >= SAME for other in kept):
            kept.append(item)
    return kept


def _directions(up_axes: Sequence[np.ndarray], same: int, degrees: int) -> tuple[list[np.ndarray], list[float]]:
    """World-to-camera rotations [3,3] from all around, `degrees` apart, and what is taken off the score of each.

    A mesh that looks the same after each of `same` turns about its own z is looked at from one share of a turn.
    """
    rotations, penalties, steps = [], [], 360 // degrees
    for number, axis in enumerate(up_axes):
        for elevation in np.radians(np.arange(-HIGHEST, HIGHEST + 1, degrees)):
            eye = np.array([np.cos(elevation), 0.0, np.sin(elevation)])
            level = frames.look_at(eye, np.zeros(3))[:3, :3]
            for step in range(steps if number else max(steps // same, 1)):
                rotations.append(level @ up_turn(2 * np.pi * step / steps) @ axis)
                penalties.append((BOTTOM if elevation < -0.1 else 0.0) + (TIPPED if number else 0.0))
    return rotations, penalties


def _boxed(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The mask with its box in the middle of a coarse picture; the box's centre [2] and longer side in crop sizes."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        raise ValueError("There is nothing to fit to; the object's mask is empty.")
    low = np.array([columns.min(), rows.min()]) / len(mask)
    high = np.array([columns.max() + 1, rows.max() + 1]) / len(mask)
    centre, extent = (low + high) / 2, float((high - low).max())
    # Read the mask at the places that the coarse picture's pixels come from.
    place = ((np.arange(COARSE_SIZE) + 0.5) / COARSE_SIZE - 0.5) / _BOXED * extent
    row = np.floor((centre[1] + place) * len(mask)).astype(int)
    column = np.floor((centre[0] + place) * len(mask)).astype(int)
    inside = ((row >= 0) & (row < len(mask)))[:, None] & ((column >= 0) & (column < len(mask)))[None]
    picked = mask[row.clip(0, len(mask) - 1)[:, None], column.clip(0, len(mask) - 1)[None]]
    return picked & inside, centre, extent


def _held(view: MeshView, picture: Picture) -> MeshView:
    """The view with the picture's principal point and, if it is locked, its focal length."""
    view = replace(view, principal=picture.principal)
    if picture.focal is None:
        return view
    distance = max(picture.focal / view.size, mesh_view.NEAREST)
    return replace(view, distance=distance, size=picture.focal / distance)


def angle_between(first: np.ndarray, second: np.ndarray) -> float:
    """Angle in radians between two rotations [3,3]."""
    return float(np.arccos(np.clip((np.trace(first.T @ second) - 1.0) / 2.0, -1.0, 1.0)))

"""A similarity (turn, uniform scale, shift) that lays one surface onto another, coarse to fine.

Coarse: both point sets are brought to one centre and size, then every turn of 15 degrees about each of the six axes
that may be up is scored by the truncated distance between few points, both ways. Fine: the best few that differ go
through a trimmed iterated-closest-point fit with scale (pairs from both sides, so that nothing shrinks onto a part of
the other; each step is Umeyama's closed form). The truncated mean distance decides in the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from backend.geometry.similarity import Similarity, fit_similarity

TURNS = 24  # of 15 degrees about an up axis
COARSE_POINTS = 300
MIDDLE_POINTS, MIDDLE_ITERATIONS = 900, 15
FINE_POINTS = 2500
REFINED = 6  # coarse candidates that are refined
DIFFERENT = np.radians(25)  # turns closer than this are one candidate
TRUNCATED = 0.15  # of the size: a point farther away than this counts as this far
TRIMMED = 0.85  # share of the pairs that a fit uses, the closest ones
ITERATIONS = 50
STILL = 1e-5  # a step that moves points less than this, in sizes, is the last
UPRIGHT_MARGIN = 0.004  # of the size: an upright answer is preferred unless another is closer by this much
TRUSTED_RESIDUAL = 0.015  # of the size; noised copies were seen below 0.008, other shapes from 0.02 on
SYMMETRY_MARGIN = (1.12, 0.003)  # a turn is as good when its distance is at most this times the best, plus this
EXACT_MARGIN = (1.1, 0.001)  # the same where a shape is compared with itself


@dataclass(frozen=True)
class Registration:
    """target ~ similarity(source).

    residual: mean truncated distance, both ways, in units of the target's longest side, less what two samplings of one
    surface have. symmetric: turns [radians]
    about the target's up axis, through its middle, after which the source fits as well; 0 is always the first.
    upright: whether the source's z axis stays up. message: why the answer should not be trusted, else empty.
    """

    similarity: Similarity
    residual: float
    symmetric: tuple[float, ...]
    upright: bool
    message: str

    @property
    def trusted(self) -> bool:
        """Whether the two shapes agree."""
        return self.residual <= TRUSTED_RESIDUAL

    @property
    def matrix(self) -> np.ndarray:
        """source_to_target [4,4]."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.similarity.scale * self.similarity.rotation
        matrix[:3, 3] = self.similarity.translation
        return matrix


def up_turn(angle: float) -> np.ndarray:
    """Rotation [3,3] about z by `angle` radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def up_axes() -> list[np.ndarray]:
    """Six rotations [3,3] that bring each of the axes z, -z, x, -x, y, -y to z; the first is none."""
    flips = [np.eye(3), np.diag([1.0, -1.0, -1.0])]
    onto_z = [np.eye(3), np.array([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]]), np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])]
    return [flip @ turn for turn in onto_z for flip in flips]


def register(source: np.ndarray, target: np.ndarray) -> Registration:
    """The similarity from the surface points `source` [N,3] to those of `target` [M,3].

    Errors: ValueError with a sentence when one of them is empty, not finite, or has no extent.
    """
    source, from_source = _normalised(source)
    target, from_target = _normalised(target)
    size = float(np.ptp(target, axis=0).max())
    few = _Pair(_some(source, COARSE_POINTS), _some(target, COARSE_POINTS * 4), size)
    middle = _Pair(_some(source, MIDDLE_POINTS), _some(target, MIDDLE_POINTS), size)
    pair = _Pair(_some(source, FINE_POINTS), _some(target, FINE_POINTS), size)
    starts = [up_turn(2 * np.pi * step / TURNS) @ axis for axis in up_axes() for step in range(TURNS)]
    scores = np.array([few.distance(Similarity(1.0, start, np.zeros(3))) for start in starts])
    scores[TURNS:] += UPRIGHT_MARGIN
    fitted = []
    for index in _distinct(starts, scores):
        answer = middle.refined(Similarity(1.0, starts[index], np.zeros(3)), MIDDLE_ITERATIONS)
        upright = index < TURNS
        fitted.append((middle.distance(answer) + (0.0 if upright else UPRIGHT_MARGIN), upright, answer))
    _, upright, best = min(fitted, key=lambda item: item[0])
    best = pair.refined(best, ITERATIONS)
    distance = pair.distance(best)
    symmetric = _symmetric_turns(pair, best, SYMMETRY_MARGIN[0] * distance + SYMMETRY_MARGIN[1])
    residual = max(distance - _sampling_distance(pair.target, size), 0.0)
    message = "" if residual <= TRUSTED_RESIDUAL else (
        f"The shapes do not agree (they are {100 * residual:.0f} % of the size apart); check that the mesh shows the "
        "photo's object."
    )
    whole = _joined(from_target, best, from_source)
    return Registration(whole, residual, symmetric, upright, message)


def symmetric_turns(points: np.ndarray) -> tuple[float, ...]:
    """Turns [radians] about the up axis that leave the surface of `points` [N,3] exactly as it is; 0 is the first.

    Errors: ValueError as for `register`.
    """
    points, _ = _normalised(points)
    points = _some(points, 2 * FINE_POINTS)
    size = float(np.ptp(points, axis=0).max())
    pair = _Pair(points[::2], points[1::2], size)
    still = Similarity(1.0, np.eye(3), np.zeros(3))
    return _symmetric_turns(pair, still, EXACT_MARGIN[0] * pair.distance(still) + EXACT_MARGIN[1])


class _Pair:
    """Two point sets with their search trees; distances are in units of `size`."""

    def __init__(self, source: np.ndarray, target: np.ndarray, size: float) -> None:
        self.source, self.target, self.size = source, target, size
        self.source_tree, self.target_tree = cKDTree(source), cKDTree(target)

    def distance(self, similarity: Similarity) -> float:
        """Mean truncated distance both ways under `similarity`, in sizes."""
        limit = TRUNCATED * self.size
        there = self.target_tree.query(similarity.apply(self.source), distance_upper_bound=limit)[0]
        scale = similarity.scale
        back = self.source_tree.query(_undone(similarity, self.target), distance_upper_bound=limit / scale)[0] * scale
        return float((np.minimum(there, limit).mean() + np.minimum(back, limit).mean()) / 2 / self.size)

    def refined(self, similarity: Similarity, iterations: int) -> Similarity:
        """Trimmed iterated closest points with scale, from `similarity`."""
        for _ in range(iterations):
            moved = similarity.apply(self.source)
            there, partner = self.target_tree.query(moved)
            back, origin = self.source_tree.query(_undone(similarity, self.target))
            near_there = there <= np.quantile(there, TRIMMED)
            near_back = back <= np.quantile(back, TRIMMED)
            first = np.concatenate([self.source[near_there], self.source[origin[near_back]]])
            second = np.concatenate([self.target[partner[near_there]], self.target[near_back]])
            try:
                answer = fit_similarity(first, second)
            except ValueError:
                return similarity
            if not 0.4 < answer.scale < 2.5:
                return similarity
            change = float(np.abs(answer.apply(self.source) - moved).max()) / self.size
            similarity = answer
            if change < STILL:
                break
        return similarity


def _sampling_distance(points: np.ndarray, size: float) -> float:
    """How far two samplings of this surface, each as dense as `points` [N,3], are apart, in sizes."""
    halves = _Pair(points[::2], points[1::2], size)
    return halves.distance(Similarity(1.0, np.eye(3), np.zeros(3))) / float(np.sqrt(2.0))  # half as dense


def _symmetric_turns(pair: _Pair, best: Similarity, limit: float) -> tuple[float, ...]:
    """Turns about z through the middle of the fitted source under which the distance is at most `limit`."""
    moved = best.apply(pair.source)
    middle = (moved.min(axis=0) + moved.max(axis=0)) / 2
    found = [0.0]
    for step in range(1, TURNS):
        angle = 2 * np.pi * step / TURNS
        turn = up_turn(angle)
        turned = Similarity(best.scale, turn @ best.rotation, turn @ (best.translation - middle) + middle)
        if pair.distance(turned) <= limit:
            found.append(angle)
    return tuple(found)


def _distinct(starts: list[np.ndarray], scores: np.ndarray) -> list[int]:
    """Indices of the best few starts that are turned well apart."""
    chosen: list[int] = []
    for index in np.argsort(scores, kind="stable"):
        if all(_angle(starts[index], starts[other]) >= DIFFERENT for other in chosen):
            chosen.append(int(index))
        if len(chosen) == REFINED:
            break
    return chosen


def _angle(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.arccos(np.clip((np.trace(first.T @ second) - 1.0) / 2.0, -1.0, 1.0)))


def _normalised(points: np.ndarray) -> tuple[np.ndarray, Similarity]:
    """`points` around their middle with a mean square distance of 1 from it, and the similarity back."""
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or len(points) < 4:
        raise ValueError("There are too few points to compare shapes; choose a mesh with a surface.")
    if not np.isfinite(points).all():
        raise ValueError("The mesh has places that are not finite numbers; repair it and try again.")
    middle = points.mean(axis=0)
    spread = float(np.sqrt(((points - middle) ** 2).sum(axis=1).mean()))
    if spread <= 1e-12:
        raise ValueError("The mesh has no size; choose another object.")
    return (points - middle) / spread, Similarity(spread, np.eye(3), middle)


def _some(points: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the points, evenly picked."""
    return points[np.linspace(0, len(points) - 1, min(count, len(points))).astype(int)]


def _undone(similarity: Similarity, points: np.ndarray) -> np.ndarray:
    """`points` [N,3] moved back by the similarity."""
    return np.asarray((points - similarity.translation) @ similarity.rotation / similarity.scale)


def _joined(from_target: Similarity, best: Similarity, from_source: Similarity) -> Similarity:
    """Source to target in their own units: normalise, register, and undo the target's normalisation."""
    scale = best.scale / from_source.scale
    shift = best.translation - scale * best.rotation @ from_source.translation
    return Similarity(
        scale * from_target.scale, best.rotation, from_target.scale * shift + from_target.translation
    )

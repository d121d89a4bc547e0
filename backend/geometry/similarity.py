"""Closed-form similarity between paired points (Umeyama), for composing a scene (specs/cupid.md 9)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ROBUST_ROUNDS = 15
TUKEY = 4.685  # deviations beyond which a pair counts nothing: 95 % efficient where all are good (Huber)


@dataclass(frozen=True)
class Similarity:
    """target ~ ``scale`` * ``rotation`` [3,3] @ source + ``translation`` [3]."""

    scale: float
    rotation: np.ndarray
    translation: np.ndarray

    def apply(self, points: np.ndarray) -> np.ndarray:
        """``points`` [N,3] moved."""
        return self.scale * points @ self.rotation.T + self.translation

    @property
    def matrix(self) -> np.ndarray:
        """The same as a matrix [4,4]."""
        result = np.eye(4)
        result[:3, :3], result[:3, 3] = self.scale * self.rotation, self.translation
        return result


def fit_similarity(source: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> Similarity:
    """Least-squares similarity from ``source`` [N,3] to ``target`` [N,3], optional ``weights`` [N] >= 0.

    Raises ValueError for fewer than three pairs, or points that are all on a line.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 3:
        raise ValueError(f"Points {source.shape} and {target.shape} do not pair up; give [N,3] twice.")
    share = np.ones(len(source)) if weights is None else np.asarray(weights, np.float64)
    if (share > 0).sum() < 3:
        raise ValueError("A similarity needs at least three pairs of points; the surfaces do not overlap.")
    share = share / share.sum()
    source_mean, target_mean = share @ source, share @ target
    from_source, from_target = source - source_mean, target - target_mean
    u, spread, vt = np.linalg.svd((from_target * share[:, None]).T @ from_source)
    if spread[1] <= 1e-12 * max(spread[0], 1e-300):
        raise ValueError("A similarity needs points that are not on one line; choose a larger overlap.")
    mirror = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * mirror) @ vt
    scale = float((spread * mirror).sum() / (share @ from_source**2).sum())
    return Similarity(scale, rotation, target_mean - scale * rotation @ source_mean)


def fit_similarity_robust(source: np.ndarray, target: np.ndarray, start: Similarity) -> Similarity:
    """`fit_similarity` with the pairs reweighted by Tukey's biweight of their distances, from ``start`` on.

    Raises ValueError like `fit_similarity`.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    found = start
    for _ in range(ROBUST_ROUNDS):
        distance = np.linalg.norm(found.apply(source) - target, axis=1)
        width = TUKEY * max(1.4826 * float(np.median(distance)), 1e-6 * float(np.ptp(target, axis=0).max()), 1e-12)
        found = fit_similarity(source, target, (1.0 - np.minimum(distance / width, 1.0) ** 2) ** 2)
    return found


def align_camera(similarity: Similarity, world_to_camera: np.ndarray) -> np.ndarray:
    """[R|t] [R0 | s t0]: the pose [4,4] of an object whose vertices were multiplied by the similarity's scale."""
    move = np.eye(4)
    move[:3, :3], move[:3, 3] = similarity.rotation, similarity.translation
    scaled = np.array(world_to_camera, np.float64)
    scaled[:3, 3] *= similarity.scale
    return move @ scaled

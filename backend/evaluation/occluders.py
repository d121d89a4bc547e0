"""Occluders for the evaluation: something in front that hides a given share of the object in a picture."""

from __future__ import annotations

import numpy as np

SOLID = 128  # alpha from which a pixel counts as object
KINDS = ("ellipse", "box", "edge")
ASPECT = (0.6, 1.7)
HALVINGS = 20


def occluder(rgba: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Mask [H,W] bool that hides `share` of the solid pixels of `rgba` [H,W,4] uint8, of one random kind.

    An ellipse or a box grows around a random point of the object until it hides enough; an edge is a half-plane, as of
    something tall in front. Raises ValueError when the picture shows no object or the share is not inside (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"A share of {share} cannot be hidden; use a number between 0 and 1.")
    solid = rgba[..., 3] >= SOLID
    places = np.argwhere(solid)
    if not len(places):
        raise ValueError("The picture shows no object to hide.")
    rng = np.random.default_rng(seed)
    kind = KINDS[rng.integers(len(KINDS))]
    angle, aspect = rng.uniform(0, 2 * np.pi), rng.uniform(*ASPECT)
    centre = places[rng.integers(len(places))]
    rows, columns = np.indices(solid.shape)
    y, x = rows - centre[0], columns - centre[1]
    along, across = x * np.cos(angle) + y * np.sin(angle), (y * np.cos(angle) - x * np.sin(angle)) * aspect
    distance = {"ellipse": np.hypot(along, across), "box": np.maximum(abs(along), abs(across)), "edge": along}[kind]
    low, high = float(distance.min()) - 1.0, float(distance.max()) + 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if (distance[solid] < middle).mean() < share else (low, middle)
    return np.asarray(distance < high)

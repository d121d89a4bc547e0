"""Where the light in a picture comes from, told from how it shades a surface that is known.

The mesh says the base colour and the normal of every pixel; what is left of the picture is shading. A surface without
shine under a sun and an even sky has the radiance `albedo * (sky + sun * max(0, normal . direction))`; sky, sun and
direction are fitted to it by least squares (Lambert's law; Ramamoorthi and Hanrahan 2001 for why four numbers suffice
to begin with).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MOST_PIXELS = 20_000  # more say nothing new
LEAST_PIXELS = 50
LEAST_EXPLAINED = 0.1  # of the variance that even light leaves; less is no sun
LEAST_UP = math.sin(math.radians(10.0))  # a sun below the ground throws no shadow on it
ROUNDS = 8
# What a photographer would set up who knows nothing: from behind the camera's left shoulder, high up.
_USUAL = np.array([-0.5, -0.7, -0.5])  # in camera axes: to the left, up, towards the viewer
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


@dataclass(frozen=True)
class Light:
    """`direction` [3] points from the object to the light, in the world; `sun` and `sky` are radiances of a white
    surface that faces the light, 1 is white. `guessed`: the picture did not say."""

    direction: np.ndarray
    sun: float
    sky: float
    guessed: bool


def estimated_light(
    picture: np.ndarray, albedo: np.ndarray, normals: np.ndarray, mask: np.ndarray, world_to_camera: np.ndarray
) -> Light:
    """The light that falls on the object.

    `picture` [H,W,3] and `albedo` [H,W,3] sRGB in [0,1], `normals` [H,W,3] unit in world axes, `mask` [H,W] bool where
    the object is, `world_to_camera` [4,4].
    """
    fallback = guessed_light(world_to_camera)
    chosen = np.flatnonzero(mask.ravel())
    if len(chosen) < LEAST_PIXELS:
        return fallback
    chosen = chosen[:: max(1, len(chosen) // MOST_PIXELS)]
    color = _linear(albedo.reshape(-1, 3)[chosen]) @ _LUMINANCE
    seen = _linear(picture.reshape(-1, 3)[chosen]) @ _LUMINANCE
    turned = normals.reshape(-1, 3)[chosen].astype(np.float64)
    color = np.maximum(color, 0.02)  # what is black says nothing about light
    even = seen - color * (color @ seen) / (color @ color)
    sky, pull, left = _fitted(color, turned, seen)
    sun = float(np.linalg.norm(pull))
    if sun < 1e-3 or (left @ left) > (1.0 - LEAST_EXPLAINED) * (even @ even):
        return fallback
    return Light(_raised(pull / sun), sun, max(sky, 0.0), False)


def guessed_light(world_to_camera: np.ndarray) -> Light:
    """What suits most pictures that a camera at `world_to_camera` [4,4] takes."""
    usual = np.asarray(world_to_camera, np.float64)[:3, :3].T @ (_USUAL / np.linalg.norm(_USUAL))
    return Light(_raised(usual), 0.7, 0.3, True)


def _fitted(color: np.ndarray, normals: np.ndarray, seen: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Sky, sun times direction [3], and what is left of `seen` [N]. Alternates between which points the sun reaches
    and the least squares for those; a little damping settles what a few flat sides leave open."""
    lit = np.ones(len(color))
    rows = np.concatenate([color[:, None], color[:, None] * normals], axis=1)
    damping = 1e-4 * float(color @ color) * np.diag([0.0, 1.0, 1.0, 1.0])
    solved = np.zeros(4)
    for _ in range(ROUNDS):
        weighted = rows * np.stack([np.ones_like(lit), lit, lit, lit], axis=1)
        solved = np.linalg.solve(weighted.T @ weighted + damping + 1e-12 * np.eye(4), weighted.T @ seen)
        now = (normals @ solved[1:] > 0).astype(np.float64)
        if np.array_equal(now, lit):
            break
        lit = now
    model = color * (solved[0] + np.maximum(normals @ solved[1:], 0.0))
    return float(solved[0]), solved[1:], seen - model


def _raised(direction: np.ndarray) -> np.ndarray:
    """The unit direction [3], lifted over the horizon."""
    direction = direction / np.linalg.norm(direction)
    if direction[2] >= LEAST_UP:
        return direction
    length = float(np.linalg.norm(direction[:2]))
    flat = direction[:2] / length if length > 1e-6 else np.array([1.0, 0.0])
    return np.array([*(flat * math.sqrt(1.0 - LEAST_UP**2)), LEAST_UP])


def _linear(colors: np.ndarray) -> np.ndarray:
    """sRGB values as linear light."""
    colors = np.clip(colors.astype(np.float64), 0.0, 1.0)
    return np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)

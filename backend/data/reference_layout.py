"""Where the object of a training scene, its neighbours and the camera stand. Only numpy: Blender reads this too.

World: z up, ground at z = 0, the object upright over the origin with its longest side 1. Cameras: OpenCV.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..contract import frames
from .views import ViewCamera

FOV_DEGREES = (28.0, 52.0)
ELEVATION_DEGREES = (5.0, 38.0)
WALL_ELEVATION_DEGREES = (3.0, 14.0)  # from higher up a wall would not be seen
SHARE = (0.45, 0.8)  # of the picture's side that the object's longer side takes
MARGIN = 0.03  # of the picture that the object leaves free at each side
LOWEST_EYE = 0.12  # of the camera over the ground
NEIGHBOUR_SIZES = (0.5, 1.2)
NEIGHBOUR_TURN_DEGREES = 140.0  # off the line from the camera past the object: beside, behind, a little in front
NEIGHBOUR_GAP = (0.02, 0.5)
LEAST_INSIDE = 0.3  # of a neighbour's vertices in the picture; one with fewer is taken away
TRIES = 20


@dataclass(frozen=True)
class Layout:
    """object_to_world [4,4]; neighbours: one similarity [4,4] each, from its unit cube, None where none fits;
    the camera, its distance from the object's middle and `away` [2], the unit direction from it on the ground."""

    object_to_world: np.ndarray
    neighbours: list[np.ndarray | None]
    camera: ViewCamera
    distance: float
    away: np.ndarray


def plan(
    vertices: np.ndarray, neighbours: Sequence[np.ndarray], rng: np.random.Generator, wall: bool = False
) -> Layout:
    """A random layout for an object `vertices` [N,3] and neighbours [M,3], each in its cube. wall: one is behind."""
    standing = np.eye(4)
    standing[2, 3] = -float(vertices[:, 2].min())
    azimuth = rng.uniform(0.0, 2.0 * np.pi)
    away = -np.array([np.cos(azimuth), np.sin(azimuth)])
    elevation = np.radians(rng.uniform(*(WALL_ELEVATION_DEGREES if wall else ELEVATION_DEGREES)))
    camera, distance = camera_at(vertices + standing[:3, 3], azimuth, elevation, rng)
    return Layout(standing, stand_around(vertices, neighbours, away, rng), camera, distance, away)


def camera_at(
    points: np.ndarray, azimuth: float, elevation: float, rng: np.random.Generator,
    shares: tuple[float, float] = SHARE, spread: float = 1.0,
) -> tuple[ViewCamera, float]:  # fmt: skip
    """A camera and its distance, in this direction (radians); it sees `points` [N,3] at a random size and place.

    shares: from which the size is drawn. spread: of the free room, how much the place may take; 0 is the middle.
    """
    fov, share = np.radians(rng.uniform(*FOV_DEGREES)), rng.uniform(*shares)
    flat = np.cos(elevation)
    direction = np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])
    middle = (points.min(axis=0) + points.max(axis=0)) / 2.0
    focal = 0.5 / np.tan(fov / 2.0)
    intrinsics = np.array([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])

    def matrix(distance: float, offset: np.ndarray) -> np.ndarray:
        eye = middle + distance * direction
        eye[2] = max(eye[2], LOWEST_EYE)
        facing = frames.look_at(eye, middle)
        facing[:2, 3] += offset * distance / focal
        return facing

    def box(camera: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        uv, depth = frames.project(points, camera, intrinsics)
        return uv.min(axis=0), uv.max(axis=0), bool((depth > 0.05).all())

    near, far = 0.3, 12.0
    for _ in range(30):
        distance = (near + far) / 2.0
        low, high, before = box(matrix(distance, np.zeros(2)))
        near, far = (near, distance) if before and (high - low).max() < share else (distance, far)
    low, high, _ = box(matrix(far, np.zeros(2)))
    offset = rng.uniform(MARGIN - low, np.maximum(1.0 - MARGIN - high, MARGIN - low))
    centred = 0.5 - (low + high) / 2.0
    placed = matrix(far, centred + spread * (offset - centred))
    low, high, _ = box(placed)
    if (low < 0).any() or (high > 1).any():
        placed = matrix(far, np.zeros(2))
    return ViewCamera(placed, intrinsics, float(fov)), far


def stand_around(
    vertices: np.ndarray, neighbours: Sequence[np.ndarray], away: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray | None]:
    """A similarity [4,4] for each neighbour, beside or behind the object, upright, touching nothing; None if full."""
    taken = [(np.zeros(2), _reach(vertices))]
    placed: list[np.ndarray | None] = []
    for other in neighbours:
        scale, yaw = rng.uniform(*NEIGHBOUR_SIZES), rng.uniform(0.0, 2.0 * np.pi)
        reach = scale * _reach(other)
        for _ in range(TRIES):
            turn = np.radians(rng.uniform(-NEIGHBOUR_TURN_DEGREES, NEIGHBOUR_TURN_DEGREES))
            spot = (taken[0][1] + reach + rng.uniform(*NEIGHBOUR_GAP)) * (_turned(turn) @ away)
            if all(np.linalg.norm(spot - place) > reach + radius for place, radius in taken):
                break
        else:
            placed.append(None)
            continue
        taken.append((spot, reach))
        matrix = np.eye(4)
        matrix[:2, :2] = scale * _turned(yaw)
        matrix[2, 2] = scale
        matrix[:3, 3] = (*spot, -scale * float(other[:, 2].min()))
        placed.append(matrix)
    return placed


def is_seen(vertices: np.ndarray, matrix: np.ndarray, camera: ViewCamera) -> bool:
    """Whether a good part of `vertices` [N,3], placed by `matrix` [4,4], is in the camera's picture."""
    placed = vertices @ matrix[:3, :3].T + matrix[:3, 3]
    uv, depth = frames.project(placed, camera.world_to_camera, camera.intrinsics)
    inside = (depth > 0.05) & (uv > 0).all(axis=1) & (uv < 1).all(axis=1)
    return bool(inside.mean() > LEAST_INSIDE)


def _reach(vertices: np.ndarray) -> float:
    """Radius of the circle around the z axis that holds the footprint of all vertices [N,3]."""
    return float(np.linalg.norm(vertices[:, :2], axis=1).max())


def _turned(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

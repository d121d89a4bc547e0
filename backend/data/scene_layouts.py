"""Random scenes for tests: where objects stand on the ground z = 0, and a camera that sees all of them.

World: z up, metres up to scale. Cameras: OpenCV, intrinsics normalised to the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..contract import frames
from .views import ViewCamera

SIZES = (0.6, 1.2)  # longest side of an object
GAP = 0.06  # least distance between the circles around two objects' footprints
FIELD = 1.0  # radius within which objects are tried first; it grows until they fit
FOV_DEGREES = (35.0, 60.0)  # across the picture's width: 57 to 31 mm on full frame
ELEVATION_DEGREES = (12.0, 40.0)
MARGIN = 0.07  # of the picture that stays free at its edges
NEAREST, FARTHEST = 1.0, 60.0  # camera distances that are tried


def standing(footprints: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Where objects stand without touching: one similarity [4,4] an object, from its unit cube to the world.

    footprints: the vertices [N,3] of each object in its unit cube. Size, yaw and place are random, undersides on z = 0.
    """
    placed: list[tuple[np.ndarray, float]] = []
    matrices = []
    radius = FIELD
    for vertices in footprints:
        scale, yaw = rng.uniform(*SIZES), rng.uniform(0.0, 2.0 * np.pi)
        reach = scale * float(np.linalg.norm(vertices[:, :2], axis=1).max())
        while True:
            spot = rng.uniform(-radius, radius, 2)
            if all(np.linalg.norm(spot - other) > reach + other_reach + GAP for other, other_reach in placed):
                break
            radius *= 1.05
        placed.append((spot, reach))
        matrix = np.eye(4)
        cosine, sine = np.cos(yaw), np.sin(yaw)
        matrix[:3, :3] = scale * np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
        matrix[:3, 3] = (*spot, -scale * float(vertices[:, 2].min()))
        matrices.append(matrix)
    return matrices


def camera_for(points: np.ndarray, aspect: float, rng: np.random.Generator) -> ViewCamera:
    """A camera that looks down at `points` [N,3] (world) from somewhere around, as near as keeps all in the picture.

    aspect: width over height of the picture.
    """
    fov = np.radians(rng.uniform(*FOV_DEGREES))
    elevation, azimuth = np.radians(rng.uniform(*ELEVATION_DEGREES)), rng.uniform(0.0, 2.0 * np.pi)
    flat = np.cos(elevation)
    direction = np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])
    middle = (points.min(axis=0) + points.max(axis=0)) / 2.0
    focal = 0.5 / np.tan(fov / 2.0)
    intrinsics = np.array([[focal, 0.0, 0.5], [0.0, focal * aspect, 0.5], [0.0, 0.0, 1.0]])
    near, far = NEAREST, FARTHEST
    for _ in range(40):
        distance = (near + far) / 2.0
        camera = frames.look_at(middle + distance * direction, middle)
        uv, depth = frames.project(points, camera, intrinsics)
        inside = (depth > 0.1).all() and (uv > MARGIN).all() and (uv < 1.0 - MARGIN).all()
        near, far = (near, distance) if inside else (distance, far)
    return ViewCamera(frames.look_at(middle + far * direction, middle), intrinsics, float(fov))

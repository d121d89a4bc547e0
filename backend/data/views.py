"""Random viewpoints and focal lengths for training and test views (spec 12.1, step e).

Viewpoints follow a Hammersley sequence on the sphere with a random offset; the focal length is random with k = 1 / r^2
uniform, and the distance r is chosen so that the unit cube's bounding sphere just fills the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..contract import bundle_views, frames

FOV_RANGE_DEGREES = (10.0, 70.0)
_SPHERE_RADIUS = np.sqrt(3.0) / 2.0  # of the cube [-0.5, 0.5]^3


@dataclass(frozen=True)
class ViewCamera:
    """world_to_camera [4, 4], intrinsics [3, 3] normalised to the picture, fov in radians of the whole picture."""

    world_to_camera: np.ndarray
    intrinsics: np.ndarray
    fov: float


def radical_inverse(index: int, base: int = 2) -> float:
    """Van der Corput sequence: the digits of ``index`` mirrored behind the point."""
    value, scale = 0.0, 1.0 / base
    while index:
        index, digit = divmod(index, base)
        value += digit * scale
        scale /= base
    return value


def hammersley_directions(count: int, offset: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """``count`` unit directions [count, 3] spread evenly over the sphere; ``offset`` in [0, 1)^2 shifts the pattern."""
    steps = (np.arange(count) + offset[0]) / count
    turns = np.array([radical_inverse(i) for i in range(count)]) + offset[1]
    height = 1.0 - 2.0 * steps
    radius = np.sqrt(np.maximum(0.0, 1.0 - height * height))
    azimuth = 2.0 * np.pi * turns
    return np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), height], axis=-1)


def fov_to_distance(fov: float | np.ndarray) -> float | np.ndarray:
    """Camera distance at which the unit cube's bounding sphere fills a field of view in radians."""
    return _SPHERE_RADIUS / np.sin(np.asarray(fov) / 2.0)


def random_fovs(count: int, rng: np.random.Generator) -> np.ndarray:
    """Fields of view [count] in radians whose inverse squared distance is uniform over FOV_RANGE_DEGREES."""
    far, near = (fov_to_distance(np.radians(degrees)) for degrees in FOV_RANGE_DEGREES)
    k = rng.uniform(1.0 / far**2, 1.0 / near**2, count)
    return 2.0 * np.arcsin(_SPHERE_RADIUS * np.sqrt(k))


def random_cameras(count: int, seed: int) -> list[ViewCamera]:
    """``count`` cameras around the unit cube; the same seed gives the same cameras."""
    rng = np.random.default_rng(seed)
    directions = hammersley_directions(count, tuple(rng.uniform(size=2)))
    fovs = random_fovs(count, rng)
    cameras = []
    for direction, fov in zip(directions, fovs, strict=True):
        focal = 0.5 / np.tan(fov / 2.0)
        intrinsics = np.array([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])
        world_to_camera = frames.look_at(direction * fov_to_distance(fov), np.zeros(3))
        cameras.append(ViewCamera(world_to_camera, intrinsics, float(fov)))
    return cameras


def bundle_cameras() -> list[ViewCamera]:
    """The four cameras of a bundle picture, in the order of its tiles."""
    fov = float(np.radians(bundle_views.FOV_DEGREES))
    intrinsics = bundle_views.bundle_intrinsics()
    return [ViewCamera(matrix, intrinsics, fov) for matrix in bundle_views.bundle_cameras()]


def tighten(camera: ViewCamera, points: np.ndarray, ratio: float = 1.25) -> ViewCamera:
    """The camera's picture cut to a square around ``points`` [N, 3], ``ratio`` times their larger side.

    The pose stays; only the intrinsics change. Used to spend the render's pixels on the object.
    """
    uv, _depth = frames.project(points, camera.world_to_camera, camera.intrinsics)
    low, high = uv.min(axis=0), uv.max(axis=0)
    centre, half = (low + high) / 2.0, max(float((high - low).max()) * ratio / 2.0, 1e-3)
    box = (centre[0] - half, centre[1] - half, centre[0] + half, centre[1] + half)
    return ViewCamera(camera.world_to_camera, frames.crop_intrinsics(camera.intrinsics, box), camera.fov)

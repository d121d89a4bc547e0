"""Several photos of one object as one source of colour: every point takes most from the photo that faces it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

SHARPNESS = 4.0  # power of the cosine to the view ray: cameras never agree fully, and an even mix would be a blur


class Projection(Protocol):
    """A photo, or several, that can be asked what colour they give points of a surface."""

    def sample(self, points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Colours [N,3] at surface `points` [N,3] with `normals` [N,3], and how much to believe them [N] in [0,1]."""
        ...

    def softened(self) -> Projection:
        """The same, blurred: for colours that are to spread over a surface."""
        ...


class CameraProjection(Projection, Protocol):
    """One photo with its `world_to_camera` [4,4]."""

    @property
    def world_to_camera(self) -> np.ndarray: ...


@dataclass(frozen=True)
class PhotoBlend:
    """Photos of one object, each with its own camera, blended by angle and visibility (see `Projection`)."""

    views: tuple[CameraProjection, ...]

    def sample(self, points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Colours [N,3] and the belief [N] of the photo that sees each point best."""
        total, share = np.zeros((len(points), 3), np.float32), np.zeros(len(points), np.float32)
        weight = np.zeros(len(points), np.float32)
        for view in self.views:
            colors, believed = view.sample(points, normals)
            part = believed * facing(view.world_to_camera, points, normals) ** SHARPNESS
            total += part[:, None] * colors
            share += part
            weight = np.maximum(weight, believed)
        return total / np.maximum(share, 1e-12)[:, None], weight

    def softened(self) -> PhotoBlend:
        """The blend of the blurred photos."""
        return PhotoBlend(tuple(view.softened() for view in self.views))  # type: ignore[misc]


def facing(world_to_camera: np.ndarray, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Cosine [N] between `normals` [N,3] and the way from `points` [N,3] to the camera, 0 where turned away."""
    rotation, shift = world_to_camera[:3, :3], world_to_camera[:3, 3]
    ways = -(rotation.T @ shift) - points
    ways = ways / np.maximum(np.linalg.norm(ways, axis=1, keepdims=True), 1e-9)
    return np.einsum("nk,nk->n", normals, ways).clip(0.0, 1.0).astype(np.float32)

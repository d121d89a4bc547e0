"""A known mesh in a picture: its surface points, a view of it, and what of it the view shows.

Points stand for the mesh, so that a mesh of millions of triangles costs as much as one of a hundred. The picture is the
object's square crop. A view is written so that its unknowns hardly disturb each other: where the mesh's middle is seen,
how large, from which side, and from how far. With `principal` None the camera's axis passes through the middle (a
picture that was cut to its object); else the principal point is that of the whole photo and the axis points elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from backend.geometry import pose
from backend.geometry.pose import Camera

CLOSING = np.ones((3, 3), bool)
NEAREST = 0.55  # of the mesh's longest side: the camera stays outside


@dataclass(frozen=True)
class MeshView:
    """rotation [3,3] world to camera, up to the turn towards `centre` [2] (u, v of the mesh's middle in the crop).

    size: focal length over distance (the longest side's size in the crop, seen from the front); distance in longest
    sides; principal [2] in the crop, or None where it is `centre`.
    """

    rotation: np.ndarray
    centre: np.ndarray
    size: float
    distance: float
    principal: np.ndarray | None = None

    @property
    def focal(self) -> float:
        """In crop sizes."""
        return self.size * self.distance

    def camera(self) -> Camera:
        """The crop's camera of the mesh brought to the cube (middle at the origin, longest side 1)."""
        principal = self.centre if self.principal is None else self.principal
        intrinsics = np.array([[self.focal, 0.0, principal[0]], [0.0, self.focal, principal[1]], [0.0, 0.0, 1.0]])
        offset = (self.centre - principal) / self.focal
        matrix = np.eye(4)
        matrix[:3, :3] = _towards(offset) @ self.rotation
        matrix[:3, 3] = np.array([*offset, 1.0]) * self.distance
        return Camera(intrinsics, matrix, 0.0)

    def moved(self, step: np.ndarray) -> MeshView:
        """Changed by `step` [7]: turn about the camera's axes, centre, log size, log distance."""
        turned = pose.rotation_from_vector(step[:3]) @ self.rotation
        distance = max(self.distance * float(np.exp(step[6])), NEAREST)
        return MeshView(turned, self.centre + step[3:5], self.size * float(np.exp(step[5])), distance, self.principal)


def view_of_camera(camera: Camera, principal: np.ndarray | None) -> MeshView:
    """The view that shows what `camera` (of the crop, the mesh in the cube) shows, principal point as asked."""
    position = camera.world_to_camera[:3, 3]
    depth = max(float(position[2]), NEAREST)
    focal = float(camera.intrinsics[0, 0])
    offset = position[:2] / depth
    centre = camera.intrinsics[:2, 2] + focal * offset
    rotation = _towards(offset).T @ camera.world_to_camera[:3, :3]
    return MeshView(rotation, centre, focal / depth, depth, principal)


def _towards(offset: np.ndarray) -> np.ndarray:
    """The least rotation [3,3] that turns the camera's axis to the ray (`offset`, 1)."""
    length = float(np.linalg.norm(offset))
    if length < 1e-9:
        return np.eye(3)
    return pose.rotation_from_vector(np.array([-offset[1], offset[0], 0.0]) / length * np.arctan(length))


def project(points: np.ndarray, view: MeshView) -> tuple[np.ndarray, np.ndarray]:
    """Crop coordinates [N,2] and depths [N] of `points` [N,3]."""
    camera = view.camera()
    seen = points @ camera.world_to_camera[:3, :3].T + camera.world_to_camera[:3, 3]
    depth = np.maximum(seen[:, 2], 1e-3)
    return seen[:, :2] / depth[:, None] * view.focal + camera.intrinsics[:2, 2], depth


def cells(uv: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat pixel numbers [N] of `uv` [N,2] in a picture of size x size, and which lie in it [N]."""
    index = np.floor(uv * size).astype(np.int64)
    inside = ((index >= 0) & (index < size)).all(axis=1)
    return np.where(inside, index[:, 1] * size + index[:, 0], 0), inside


def silhouette(uv: np.ndarray, size: int) -> np.ndarray:
    """Mask [size,size] of the surface whose projected points are `uv` [N,2]; gaps between points are closed."""
    index, inside = cells(uv, size)
    mask = np.zeros(size * size, bool)
    mask[index[inside]] = True
    padded = np.pad(mask.reshape(size, size), 1)
    return np.asarray(ndimage.binary_closing(padded, CLOSING)[1:-1, 1:-1])


def nearest_points(points: np.ndarray, view: MeshView, size: int) -> np.ndarray:
    """Which of `points` [N,3] each pixel [size,size] shows, by a depth buffer; -1 where there is none."""
    uv, depth = project(points, view)
    index, inside = cells(uv, size)
    order = np.flatnonzero(inside)[np.argsort(-depth[inside], kind="stable")]
    nearest = np.full(size * size, -1, np.int64)
    nearest[index[order]] = order  # the nearest is written last
    return nearest.reshape(size, size)


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """IoU of two masks."""
    return float((first & second).sum() / max((first | second).sum(), 1))

"""An object of a scene and its pose in the camera that all objects share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backend.systems.cupid.scene_ground import arc, pixel_ray

UPRIGHT = np.radians(35.0)  # an object whose top is this near to the ground's normal stands on it


@dataclass(frozen=True)
class SceneObject:
    """A made object: vertices [V,3] and faces [F,3] in its own frame, the pose [4,4] and intrinsics [3,3] (of the whole
    picture) of its own solution, and the visible `mask` [H,W] bool."""

    vertices: np.ndarray
    faces: np.ndarray
    world_to_camera: np.ndarray
    intrinsics: np.ndarray
    mask: np.ndarray

    @property
    def middle(self) -> np.ndarray:
        """The middle [3] of its box."""
        return np.asarray((self.vertices.min(axis=0) + self.vertices.max(axis=0)) / 2.0, np.float64)

    @property
    def side(self) -> float:
        """The longest side of its box."""
        return float(np.ptp(self.vertices, axis=0).max())


@dataclass(frozen=True)
class Placement:
    """`object_to_camera` [4,4], a similarity; `depth_source` is depth, ground or mask_size; `message` what to know."""

    object_to_camera: np.ndarray
    depth_source: str
    message: str


def reframed(item: SceneObject, intrinsics: np.ndarray) -> np.ndarray:
    """The pose [4,4] under shared `intrinsics` [3,3] that shows the object as its own solution does.

    The rotation follows the direction to the object, the translation is the least-squares one for its vertices.
    """
    own = item.vertices[:: max(1, len(item.vertices) // 400)] @ item.world_to_camera[:3, :3].T
    own = own + item.world_to_camera[:3, 3]
    image = own @ item.intrinsics.T
    uv = image[:, :2] / image[:, 2:]
    middle = item.world_to_camera[:3, :3] @ item.middle + item.world_to_camera[:3, 3]
    pixel = item.intrinsics @ middle
    ray = pixel_ray(pixel[:2] / pixel[2], intrinsics)
    rotation = arc(middle / np.linalg.norm(middle), ray) @ item.world_to_camera[:3, :3]
    turned = item.vertices[:: max(1, len(item.vertices) // 400)] @ rotation.T
    offset = uv - intrinsics[:2, 2]
    rows = np.zeros((len(uv), 2, 3))
    rows[:, 0, 0], rows[:, 1, 1], rows[:, :, 2] = intrinsics[0, 0], intrinsics[1, 1], -offset
    wanted = offset * turned[:, 2:] - turned[:, :2] * np.diag(intrinsics)[:2]
    translation = np.linalg.lstsq(rows.reshape(-1, 3), wanted.reshape(-1), rcond=None)[0]
    if translation[2] + turned[:, 2].min() <= 0:  # the own solution has the camera inside the object
        translation = 2.0 * item.side * ray - rotation @ item.middle
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, translation
    return pose


def upright(item: SceneObject, pose: np.ndarray, up: np.ndarray) -> np.ndarray:
    """`pose` turned about the object's middle so that its top points along `up` [3]; as it is where that is far off."""
    if np.arccos(np.clip(pose[:3, 2] @ up, -1.0, 1.0)) > UPRIGHT:
        return pose
    turned = pose.copy()
    turned[:3, :3] = arc(pose[:3, 2], up) @ pose[:3, :3]
    turned[:3, 3] = pose[:3, :3] @ item.middle + pose[:3, 3] - turned[:3, :3] @ item.middle
    return turned


def scaled_from_camera(pose: np.ndarray, factor: float) -> np.ndarray:
    """`pose` [4,4] with everything `factor` times as far and as large: the picture stays."""
    return np.diag([factor, factor, factor, 1.0]) @ pose


def upright_axes(up: np.ndarray) -> np.ndarray:
    """Rows right, away from the camera, up [3,3] in the camera's frame."""
    away = np.array([0.0, 0.0, 1.0]) if abs(up[2]) < 0.99 else np.array([0.0, -1.0, 0.0])
    away = away - up * (away @ up)
    away /= np.linalg.norm(away)
    return np.stack([np.cross(away, up), away, up])


def drop_below_camera(item: SceneObject, pose: np.ndarray, up: np.ndarray) -> float:
    """How far the object's underside lies below the camera."""
    return -float((item.vertices @ (pose[:3, :3].T @ up)).min() + pose[:3, 3] @ up)

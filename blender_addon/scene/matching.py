"""A matched mesh: the camera comes to where the photo was taken, or the mesh goes to where the camera sees it so.

The mesh may have been moved since it was sent; the photo's camera belongs to where it stood then and goes along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix

from ...backend.contract import frames
from ...backend.contract.errors import MaquetteError
from . import cameras
from .cameras import SolvedCamera


@dataclass(frozen=True)
class SentObject:
    """An object that was sent: its `session_uid` while the scene with `scene_uid` is open, None after another start of
    Blender; its name; its world matrix then (16 numbers, row by row)."""

    uid: int | None
    scene_uid: int
    name: str
    matrix: tuple[float, ...]


@dataclass(frozen=True)
class MatchedMesh:
    """What came back for `targets`, the objects that were sent: `camera` in world coordinates of that moment.

    `move` is CAMERA or OBJECT; `picture` the file for the background or None.
    """

    targets: tuple[SentObject, ...]
    camera: SolvedCamera
    move: str
    set_render_size: bool
    picture: Path | None
    orientation: int = 1


def apply_match(scene: bpy.types.Scene, result: MatchedMesh) -> str:
    """Move the camera or the objects; returns a sentence to show, mostly empty.

    Errors: `MaquetteError` when an object is not in the scene any more, or was stretched so that no camera fits.
    """
    objects = find_targets(scene, result.targets)
    solved = result.camera
    if solved.world_to_camera is None or solved.intrinsics is None:
        raise MaquetteError("bad_input", solved.message or "The photo's camera could not be found. Try another mask.")
    world_to_camera = followed(solved.world_to_camera, result.targets[0].matrix, objects[0])
    had_camera = scene.camera is not None and scene.camera.type == "CAMERA"
    if result.move == "OBJECT" and not had_camera:
        raise MaquetteError("bad_input", "The scene has no camera to stay. Add one, then press Apply.")
    camera = cameras.ensure_camera(scene)
    if result.set_render_size:
        cameras.set_render_size(scene, solved.size, frames.blender_lens(solved.intrinsics, *solved.size).pixel_aspect)
    if result.move == "OBJECT":
        stays, lens = cameras.read_camera(camera, solved.size)
        shown = seen_with(world_to_camera, solved.intrinsics, lens, _middle(objects))
        _move(objects, np.linalg.inv(stays) @ shown)
    else:
        cameras.set_camera(camera, frames.blender_camera_matrix(world_to_camera), solved.intrinsics, solved.size)
    if result.picture is not None:
        cameras.set_background(scene, camera, result.picture, result.orientation, solved.size)
    return solved.message


def find_targets(scene: bpy.types.Scene, targets: Sequence[SentObject]) -> list[bpy.types.Object]:
    """The objects that were sent, whatever they are called now; by name once their file was opened anew.

    Errors: `MaquetteError` naming the one that is gone.
    """
    found = []
    for target in targets:
        item = find_target(scene, target)
        if item is None:
            text = f'"{target.name}" is not in this scene any more. Undo its removal, then press Apply.'
            raise MaquetteError("bad_input", text)
        found.append(item)
    return found


def find_target(scene: bpy.types.Scene, target: SentObject) -> bpy.types.Object | None:
    """The object that was sent, whatever it is called now, by name once its file was opened anew; None for none."""
    if target.uid is not None and target.scene_uid in {item.session_uid for item in bpy.data.scenes}:
        return next((item for item in scene.objects if item.session_uid == target.uid), None)
    return scene.objects.get(target.name)


def followed(world_to_camera: np.ndarray, before: Sequence[float], target: bpy.types.Object) -> np.ndarray:
    """The camera [4,4] that sees `target` now as `world_to_camera` saw it when its matrix was `before` (16 numbers).

    Errors: `MaquetteError` when the object was stretched meanwhile.
    """
    moved = np.array(target.matrix_world, np.float64) @ np.linalg.inv(np.array(before, np.float64).reshape(4, 4))
    scale = float(np.cbrt(abs(np.linalg.det(moved[:3, :3]))))
    turn = moved[:3, :3] / max(scale, 1e-12)
    if np.abs(turn @ turn.T - np.eye(3)).max() > 1e-3 or np.linalg.det(turn) < 0:
        text = f'"{target.name}" was stretched or mirrored since it was sent. Match it once more.'
        raise MaquetteError("bad_input", text)
    matrix = np.eye(4)
    matrix[:3, :3] = world_to_camera[:3, :3] @ turn.T
    matrix[:3, 3] = scale * world_to_camera[:3, 3] - matrix[:3, :3] @ moved[:3, 3]
    return matrix


def seen_with(world_to_camera: np.ndarray, intrinsics: np.ndarray, lens: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """`world_to_camera` [4,4] shifted so that a camera with `lens` [3,3] shows `middle` [3] where `intrinsics` do."""
    there = world_to_camera[:3, :3] @ middle + world_to_camera[:3, 3]
    image = intrinsics @ there
    shifted = np.array(world_to_camera, np.float64)
    ray = np.linalg.inv(lens) @ (image / image[2])
    shifted[:3, 3] += ray / ray[2] * there[2] - there
    return shifted


def _middle(objects: Sequence[bpy.types.Object]) -> np.ndarray:
    corners = [np.array(item.matrix_world) @ np.array([*corner, 1.0]) for item in objects for corner in item.bound_box]
    return np.asarray((np.min(corners, axis=0) + np.max(corners, axis=0))[:3] / 2)


def _move(objects: Sequence[bpy.types.Object], move: np.ndarray) -> None:
    """Move the objects by `move` [4,4]; those whose parents are moved too go along with them."""
    chosen = set(objects)
    wanted = {
        item: Matrix((move @ np.array(item.matrix_world, np.float64)).tolist())
        for item in objects if not _carried(item, chosen)
    }  # fmt: skip
    for item, matrix in wanted.items():
        item.matrix_world = matrix


def _carried(item: bpy.types.Object, chosen: set[bpy.types.Object]) -> bool:
    parent = item.parent
    while parent is not None:
        if parent in chosen:
            return True
        parent = parent.parent
    return False

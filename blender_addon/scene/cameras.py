"""Cameras between the systems' form (OpenCV `world_to_camera` and normalised intrinsics) and Blender's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix

from ...backend.contract import frames
from ...backend.contract.errors import MaquetteError

CAMERA_NAME = "Maquette Camera"
# What a viewer does with a stored picture (EXIF 2.3): mirror it from left to right, then turn it clockwise by an angle.
_EXIF_TURN = {
    2: (True, 0.0),
    3: (False, math.pi),
    4: (True, math.pi),
    5: (True, -math.pi / 2),
    6: (False, math.pi / 2),
    7: (True, math.pi / 2),
    8: (False, -math.pi / 2),
}


@dataclass(frozen=True)
class SolvedCamera:
    """A system's `camera.json`. `world_to_camera` [4,4] takes the object's own frame to the camera, None if unsolved.

    `intrinsics` [3,3] are normalised to the whole picture of `size` = (width, height) pixels.
    """

    world_to_camera: np.ndarray | None
    intrinsics: np.ndarray | None
    size: tuple[int, int]
    trusted: bool = True
    message: str = ""


def solved_camera_from_json(data: dict) -> SolvedCamera:
    """Check and convert `camera.json`. Errors: `MaquetteError` when it is not of the agreed form."""
    try:
        matrix, intrinsics = data["world_to_camera"], data["intrinsics"]
        width, height = (int(value) for value in data["image_size"])
        camera = SolvedCamera(
            None if matrix is None else np.asarray(matrix, np.float64).reshape(4, 4),
            None if intrinsics is None else np.asarray(intrinsics, np.float64).reshape(3, 3),
            (width, height),
            bool(data.get("trusted", True)),
            str(data.get("message", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise MaquetteError("internal", "This camera cannot be read. Press Retry.", repr(error), "retry") from error
    if matrix is not None and not (np.isfinite(camera.world_to_camera).all() and np.isfinite(camera.intrinsics).all()):
        raise MaquetteError("internal", "The result's camera has no usable numbers. Press Retry.", next_step="retry")
    return camera


def set_camera(
    camera: bpy.types.Object, matrix_world: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]
) -> None:
    """Pose the camera object and give it the lens of `intrinsics` [3,3] for a render of `size` pixels.

    `matrix_world` [4,4] is Blender's own camera matrix (looking along -z), free of scale.
    """
    lens = frames.blender_lens(intrinsics, *size)
    data = camera.data
    data.type = "PERSP"
    data.sensor_fit = "AUTO"
    data.sensor_width = lens.sensor_mm
    data.lens_unit = "MILLIMETERS"
    data.lens = lens.lens_mm
    data.shift_x, data.shift_y = lens.shift_x, lens.shift_y
    camera.matrix_world = Matrix(matrix_world.tolist())


def read_camera(camera: bpy.types.Object, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """`world_to_camera` [4,4] and normalised intrinsics [3,3] of a camera object for a render of `size` pixels."""
    matrix = np.array(camera.matrix_world.normalized(), np.float64)
    data = camera.data
    width, height = size
    # The sensor spans the longer side with AUTO; the fixed fits are brought to that form.
    sensor = data.sensor_height if data.sensor_fit == "VERTICAL" else data.sensor_width
    longer = max(width, height)
    spanned = {"AUTO": longer, "HORIZONTAL": width, "VERTICAL": height}[data.sensor_fit]
    lens = frames.BlenderLens(
        data.lens * spanned / longer, data.shift_x * spanned / longer, data.shift_y * spanned / longer, sensor
    )
    return frames.world_to_camera_from_blender(matrix), frames.intrinsics_from_blender(lens, width, height)


def ensure_camera(scene: bpy.types.Scene) -> bpy.types.Object:
    """The scene's camera; made and made active if the scene has none."""
    if scene.camera is None or scene.camera.type != "CAMERA":
        scene.camera = add_camera(scene, CAMERA_NAME)
    return scene.camera


def add_camera(scene: bpy.types.Scene, name: str) -> bpy.types.Object:
    """A camera of its own in the scene, beside the ones there are."""
    camera = bpy.data.objects.new(name, bpy.data.cameras.new(name))
    scene.collection.objects.link(camera)
    return camera


def framed(scene: bpy.types.Scene, intrinsics: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """Intrinsics [3,3] and size of the scene's render frame around a picture of `size` that is fitted into it.

    The frame belongs to one picture; the cameras of others see theirs with room beside it or above and below.
    """
    render = scene.render
    frame = (render.resolution_x * render.pixel_aspect_x) / (render.resolution_y * render.pixel_aspect_y)
    width, height = size
    beside, above = (max(height * frame / width, 1) - 1) / 2, (max(width / frame / height, 1) - 1) / 2
    box = (-beside, -above, 1 + beside, 1 + above)
    return frames.crop_intrinsics(intrinsics, box), (render.resolution_x, render.resolution_y)


def set_render_size(scene: bpy.types.Scene, size: tuple[int, int], pixel_aspect: float = 1.0) -> None:
    """Give the render the picture's size in pixels. `pixel_aspect` is fy / fx, as in `frames.BlenderLens`."""
    render = scene.render
    render.resolution_x, render.resolution_y = size
    render.resolution_percentage = 100
    # Blender wants both aspects at least 1; a pixel that is wider sees fewer of them across.
    render.pixel_aspect_x, render.pixel_aspect_y = max(1.0, pixel_aspect), max(1.0, 1.0 / pixel_aspect)


def set_background(
    scene: bpy.types.Scene, camera: bpy.types.Object, path: Path, orientation: int, size: tuple[int, int]
) -> None:
    """Show the picture behind the camera, half transparent, in place of an earlier one of ours.

    `orientation` is the picture's EXIF orientation: Blender ignores it, so the background is turned instead. `size` is
    (width, height) as displayed.
    """
    image = bpy.data.images.load(str(path), check_existing=True)
    show_behind(scene, camera, image, orientation, size)


def show_behind(
    scene: bpy.types.Scene, camera: bpy.types.Object, image: bpy.types.Image, orientation: int, size: tuple[int, int]
) -> None:
    """`set_background` for a picture that is in the file already."""
    data = camera.data
    mine = [item for item in data.background_images if item.image is not None and item.image.get("maquette_picture")]
    background = mine[0] if mine else data.background_images.new()
    if not image.get("maquette_picture"):
        image["maquette_picture"] = True
    background.image = image
    background.alpha = 0.5
    background.display_depth = "BACK"
    background.frame_method = "FIT"
    background.use_flip_x, background.rotation = _EXIF_TURN.get(orientation, (False, 0.0))
    background.use_flip_y = False
    background.scale = turned_scale(scene, size) if orientation >= 5 else 1.0
    data.show_background_images = True


def turned_scale(scene: bpy.types.Scene, size: tuple[int, int]) -> float:
    """How much larger a background turned by a quarter must be: Blender fits it into the frame before it turns it.

    `size` is (width, height) of the picture as displayed.
    """
    render = scene.render
    frame = (render.resolution_x * render.pixel_aspect_x) / (render.resolution_y * render.pixel_aspect_y)
    picture = size[0] / size[1]
    # In units of the frame's height: the picture's width when it fits, and its stored height when that fits.
    return min(frame, picture) / min(frame * picture, 1.0)

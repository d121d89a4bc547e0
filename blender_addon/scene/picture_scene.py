"""A picture that was made of a mesh, and the mesh put into it: camera, the picture behind it, ground and light.

The objects stay where they are and the camera comes to them. They may have been moved since they were looked at: the
camera belongs to where they are now. What is made here carries the job's name, so that another variant of the same
job moves the camera there is instead of adding one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix, Vector

from ...backend.contract import frames
from ...backend.contract.errors import MaquetteError
from . import cameras, capture, importing, matching, mesh_export, picture_compositing, picture_light
from .cameras import SolvedCamera
from .matching import SentObject

MARK = "maquette_picture_part"  # property of camera, ground and light: the job that they belong to
PICTURE = "maquette_picture"  # property of an image: job and variant; cameras know our backgrounds by it
GROUND_SIZE = 12.0  # sides of the object: a low sun's shadow ends on it
SUN_ANGLE = 0.05  # radians; a shadow with a soft edge
LENS_RANGE = 1000.0  # nearest and farthest distance seen, as a part and a multiple of that to the object
MOST_STRETCH = 1e6  # longest over shortest axis of an object that says how it was moved
NO_CAMERA = "No camera fits this picture. Choose another variant, or render again with another seed."
GONE = "The objects are not in this scene any more; the camera sees the place where they stood."
STRETCHED = '"{}" was stretched or mirrored since it was looked at. Render the scene once more.'
PARTS_GONE = "Some of the objects are not in this scene any more."
GUESSED_LIGHT = "The picture does not say where its light comes from; the light is a guess."
NEEDS_CYCLES = "The shadow shows in renders by Cycles."


@dataclass(frozen=True)
class PictureResult:
    """One variant of a finished job. `png` is the picture's file, `size` its (width, height), `points` the file of its
    point map or None. `camera` saw the `targets` where they stood then, in world coordinates, None if there is none;
    `residual_px` and `inliers` (a share) say how well it fits. `bounds` [2,3] is the box of what was looked at."""

    job_id: str
    title: str
    variant: int
    png: bytes
    path: Path
    size: tuple[int, int]
    points: Path | None
    camera: SolvedCamera | None
    residual_px: float | None
    inliers: float | None
    targets: tuple[SentObject, ...]
    bounds: np.ndarray

    @property
    def name(self) -> str:
        """What the picture is called."""
        return f"{self.title} Picture {self.variant + 1}"


@dataclass(frozen=True)
class PlaceOptions:
    """What else is done when the mesh is put into its picture."""

    ground: bool = True
    light: bool = True
    compositing: bool = True
    set_render_size: bool = True


def picture_image(result: PictureResult) -> bpy.types.Image:
    """The picture as an image of the file, packed; the one that is there already if there is one."""
    mark = f"{result.job_id} {result.variant}"
    for image in bpy.data.images:
        if image.get(PICTURE) == mark:
            return image
    image = importing.packed_image(result.name, result.png)
    image[PICTURE] = mark
    return image


def show_in_editors(image: bpy.types.Image) -> bool:
    """Show the image in the open image editors that show nothing, a render or a picture of ours; whether there is one.

    An editor that shows something else of the artist's is left alone.
    """
    shown = False
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            space = area.spaces.active
            if area.type != "IMAGE_EDITOR" or area.ui_type != "IMAGE_EDITOR":
                continue
            current = space.image
            if current is None or current.type == "RENDER_RESULT" or current.get(PICTURE):
                space.image = image
                shown = True
    return shown


def show_behind_camera(scene: bpy.types.Scene, result: PictureResult) -> bpy.types.Object:
    """The picture behind the scene's camera, which stays where it is and is made if there is none. Returns it."""
    camera = cameras.ensure_camera(scene)
    cameras.show_behind(scene, camera, picture_image(result), 1, result.size)
    return camera


def put_into_picture(scene: bpy.types.Scene, result: PictureResult, options: PlaceOptions) -> str:
    """Make the scene's camera the one that took the picture, with the picture behind it. Returns sentences to show.

    Errors: `MaquetteError` when no camera was found or an object was stretched since.
    """
    objects = [item for item in (matching.find_target(scene, target) for target in result.targets) if item is not None]
    messages = [] if len(objects) == len(result.targets) else [PARTS_GONE if objects else GONE]
    world_to_camera, intrinsics = picture_camera(scene, result)
    image = picture_image(result)
    if options.set_render_size:
        aspect = frames.blender_lens(intrinsics, *result.size).pixel_aspect
        cameras.set_render_size(scene, result.size, aspect)
    camera = _part_of(scene, result, "CAMERA")
    if camera is None:
        camera = cameras.add_camera(scene, f"{result.title} Picture Camera")
        camera[MARK] = result.job_id
    lens, frame = (intrinsics, result.size) if options.set_render_size else cameras.framed(
        scene, intrinsics, result.size
    )  # fmt: skip
    cameras.set_camera(camera, frames.blender_camera_matrix(world_to_camera), lens, frame)
    low, high = world_bounds(result, objects)
    distance = float(np.linalg.norm(np.array(camera.matrix_world.translation) - (low + high) / 2))
    camera.data.clip_start = min(camera.data.clip_start, distance / LENS_RANGE)
    camera.data.clip_end = max(camera.data.clip_end, distance * LENS_RANGE)
    cameras.show_behind(scene, camera, image, 1, result.size)
    scene.camera = camera
    if options.ground:
        _add_ground(scene, result, low, high)
        messages += [NEEDS_CYCLES] if scene.render.engine != "CYCLES" else []
    if options.light:
        light = light_in(result, objects, world_to_camera)
        _add_light(scene, result, light, low, high)
        messages += [GUESSED_LIGHT] if light.guessed else []
    if options.compositing and options.set_render_size:
        messages.append(picture_compositing.render_over(scene, image))
    if not result.camera.trusted:
        messages.append(result.camera.message)
    return " ".join(message for message in messages if message)


def follow_variant(scene: bpy.types.Scene, result: PictureResult, options: PlaceOptions) -> str:
    """Where this job's mesh is in its picture already, put it into this variant. Returns sentences to show."""
    if _part_of(scene, result, "CAMERA") is None:
        return ""
    parts = {kind: _part_of(scene, result, kind) is not None for kind in ("MESH", "LIGHT")}
    compositing = picture_compositing.is_over_picture(scene)
    kept = PlaceOptions(parts["MESH"], parts["LIGHT"], compositing, options.set_render_size)
    return put_into_picture(scene, result, kept)


def picture_camera(scene: bpy.types.Scene, result: PictureResult) -> tuple[np.ndarray, np.ndarray]:
    """`world_to_camera` [4,4] and intrinsics [3,3] that see the objects, where they are now, as the picture shows them.

    Errors: `MaquetteError` when no camera was found, or an object was stretched since.
    """
    solved = result.camera
    if solved is None or solved.world_to_camera is None or solved.intrinsics is None:
        raise MaquetteError("bad_input", NO_CAMERA, solved.message if solved is not None else "")
    for target in result.targets:
        item = matching.find_target(scene, target)
        turned = np.array(target.matrix, np.float64).reshape(4, 4)[:3, :3]
        if item is not None and np.linalg.cond(turned) < MOST_STRETCH:  # what is scaled flat says no turn
            try:
                return matching.followed(solved.world_to_camera, target.matrix, item), solved.intrinsics
            except MaquetteError as error:
                raise MaquetteError("bad_input", STRETCHED.format(item.name), str(error)) from error
    return solved.world_to_camera, solved.intrinsics


def world_bounds(result: PictureResult, objects: Sequence[bpy.types.Object]) -> np.ndarray:
    """Least and greatest corner [2,3] of the objects in the world, as they are now; of what was looked at if none."""
    if objects:
        depsgraph = bpy.context.evaluated_depsgraph_get()
        with contextlib.suppress(MaquetteError):  # nothing left of their surface
            vertices = mesh_export.world_mesh(objects, depsgraph, colored=False).vertices.astype(np.float64)
            return np.stack([vertices.min(axis=0), vertices.max(axis=0)])
    return result.bounds


def light_in(
    result: PictureResult, objects: Sequence[bpy.types.Object], world_to_camera: np.ndarray
) -> picture_light.Light:
    """The light in the picture. Renders the objects once from its camera, which holds Blender as long."""
    pixels = picture_pixels(picture_image(result))
    height, width = pixels.shape[:2]
    if not objects or not height:
        return picture_light.guessed_light(world_to_camera)
    middle = world_bounds(result, objects).mean(axis=0)
    distance = float(np.linalg.norm(world_to_camera[:3, :3] @ middle + world_to_camera[:3, 3]))
    view = capture.CaptureCamera(
        world_to_camera, result.camera.intrinsics, (width, height), (distance / LENS_RANGE, distance * LENS_RANGE)
    )
    (seen,) = capture.capture(objects, [view], samples=1)
    facing = seen.mask & (np.linalg.norm(seen.normals, axis=-1) > 0.5)
    return picture_light.estimated_light(pixels, seen.albedo, seen.normals, facing, world_to_camera)


def picture_pixels(image: bpy.types.Image) -> np.ndarray:
    """The image [H,W,3] as stored, rows from the top; [0,0,3] for one that cannot be read."""
    width, height = image.size
    if width * height == 0 or len(image.pixels) != width * height * image.channels:
        return np.zeros((0, 0, 3), np.float32)
    values = np.empty(len(image.pixels), np.float32)
    image.pixels.foreach_get(values)
    return np.repeat(values.reshape(height, width, -1)[::-1], 3, axis=-1)[..., :3] if image.channels < 3 else (
        values.reshape(height, width, -1)[::-1, :, :3]
    )  # fmt: skip


def _part_of(scene: bpy.types.Scene, result: PictureResult, kind: str) -> bpy.types.Object | None:
    """Camera, ground (MESH) or light of the job in the scene."""
    return next((item for item in scene.objects if item.type == kind and item.get(MARK) == result.job_id), None)


def _add_ground(scene: bpy.types.Scene, result: PictureResult, low: np.ndarray, high: np.ndarray) -> None:
    """A plane under the objects that shows only the shadows on it."""
    ground = _part_of(scene, result, "MESH")
    if ground is None:
        half = GROUND_SIZE / 2 * max(float((high - low).max()), 1e-6)
        mesh = bpy.data.meshes.new("Shadow Catcher")
        mesh.from_pydata([(-half, -half, 0), (half, -half, 0), (half, half, 0), (-half, half, 0)], [], [(0, 1, 2, 3)])
        ground = bpy.data.objects.new("Shadow Catcher", mesh)
        ground[MARK] = result.job_id
        ground.is_shadow_catcher = True
        ground.display_type = "WIRE"
        scene.collection.objects.link(ground)
    middle = (low + high) / 2
    ground.matrix_world = Matrix.Translation((float(middle[0]), float(middle[1]), float(low[2])))


def _add_light(
    scene: bpy.types.Scene, result: PictureResult, light: picture_light.Light, low: np.ndarray, high: np.ndarray
) -> None:
    """A sun that shines as the picture's does; it stands beside the objects, where it can be found."""
    sun = _part_of(scene, result, "LIGHT")
    if sun is None:
        sun = bpy.data.objects.new("Picture Light", bpy.data.lights.new("Picture Light", "SUN"))
        sun[MARK] = result.job_id
        scene.collection.objects.link(sun)
    # A white surface that faces a sun of strength pi has radiance 1.
    sun.data.energy = float(np.clip(np.pi * light.sun, 0.1, 20.0))
    sun.data.angle = SUN_ANGLE
    place = (low + high) / 2 + light.direction * 1.5 * float(np.linalg.norm(high - low))
    turn = Vector(light.direction.tolist()).to_track_quat("Z", "Y").to_matrix().to_4x4()
    sun.matrix_world = Matrix.Translation(place.tolist()) @ turn

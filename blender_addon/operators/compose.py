"""Compose: several objects of one photo, put before its camera. Plain functions first; the buttons call them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bpy

from ...backend.contract.errors import MaquetteError
from ..runtime import session
from ..runtime.intent import intent_to_json
from ..runtime.job_store import JobRecord
from ..runtime.pictures import inspect_picture, normalised_focal
from ..scene import mask_images
from . import mask_files, requesting
from .common import ChoosesPictures, reports_failures

TASK = "photo_to_scene"
MOST_OBJECTS = 12  # of one photo; the engine takes no more
DEPTH_ENDINGS = (".npy", ".png", ".exr")


def compose_job(scene: bpy.types.Scene) -> JobRecord:
    """Start the job that the Compose panel describes. Errors: `MaquetteError` with one sentence."""
    settings = scene.maquette_compose
    picture = requesting.picture_path(settings)
    info = inspect_picture(picture)
    job_id = uuid.uuid4().hex
    inputs = mask_inputs(settings, job_id) | depth_input(settings)
    focal = normalised_focal(settings.focal_mm, info.size) if settings.focal_mode == "LOCKED" else None
    parameters = {
        "seed": settings.seed, "steps": settings.steps or None, "weights": settings.weights, "focal": focal,
    } | object_names(settings)  # fmt: skip
    intent = requesting.intent_of(scene, settings, "CAMERA")
    record = JobRecord(
        job_id, picture.stem, settings.engine, TASK, parameters, intent_to_json(intent), str(picture), time.time(),
        more_inputs=inputs,
    )  # fmt: skip
    return session.get().submit(record)


def mask_inputs(settings: bpy.types.PropertyGroup, job_id: str) -> dict[str, str]:
    """The inputs mask_0, mask_1, ... of the list, as absolute paths; painted ones are written into the job's folder.

    Errors: `MaquetteError` when one is no picture, is empty, or there are too many.
    """
    if len(settings.masks) > MOST_OBJECTS:
        text = f"There are {len(settings.masks)} masks; {MOST_OBJECTS} can be used. Remove some from the list."
        raise MaquetteError("bad_input", text)
    inputs = {}
    for number, item in enumerate(settings.masks):
        if item.painted is not None:
            inputs[f"mask_{number}"] = _painted_file(settings, item, job_id, number)
        elif item.image.strip():
            path = Path(bpy.path.abspath(item.image))
            inspect_picture(path, "mask")
            inputs[f"mask_{number}"] = str(path)
        else:
            text = f"Mask {number + 1} in the list is empty. Choose a file or a painted image, or remove it."
            raise MaquetteError("bad_input", text, next_step="give_mask")
    return inputs


def object_names(settings: bpy.types.PropertyGroup) -> dict[str, list[str]]:
    """The parameter names: what the objects are called, empty where the engine may say; nothing when it may for all."""
    names = [item.name.strip() for item in settings.masks]
    return {"names": names} if any(names) else {}


def depth_input(settings: bpy.types.PropertyGroup) -> dict[str, str]:
    """The input depth, if one is chosen. Errors: `MaquetteError` when the file is not there or of another kind."""
    if not settings.depth.strip():
        return {}
    path = Path(bpy.path.abspath(settings.depth))
    if path.suffix.lower() not in DEPTH_ENDINGS:
        raise MaquetteError("bad_input", "The depth must be an EXR, a 16-bit PNG or an .npy file. Choose another one.")
    if not path.is_file():
        raise MaquetteError("bad_input", f'The depth image "{path.name}" was not found. Choose another one.')
    return {"depth": str(path)}


def restore_scene(settings: bpy.types.PropertyGroup, inputs: Mapping[str, str], parameters: Mapping[str, Any]) -> None:
    """Make masks, depth and numbers of the panel what they were when a job had the `inputs` and `parameters`."""
    settings.masks.clear()
    names = parameters.get("names") or []
    for number in range(MOST_OBJECTS):
        if inputs.get(f"mask_{number}"):
            item = settings.masks.add()
            item.image, item.name = inputs[f"mask_{number}"], names[number] if number < len(names) else ""
    settings.depth = inputs.get("depth", "")
    settings.focal_mode = "LOCKED" if parameters.get("focal") else "FREE"


def add_masks(settings: bpy.types.PropertyGroup, paths: list[Path]) -> int:
    """Add `paths` to the list as far as there is room; returns how many were left out."""
    room = max(0, MOST_OBJECTS - len(settings.masks))
    for path in paths[:room]:
        settings.masks.add().image = str(path)
    settings.mask_index = max(0, len(settings.masks) - 1)
    return len(paths[room:])


def mask_to_paint(settings: bpy.types.PropertyGroup) -> bpy.types.Image:
    """The image to paint the chosen object's mask in, which then is the artist's own; made if there is none.

    Errors: `MaquetteError` when there is no photo to paint over, or the mask is an image of another kind.
    """
    if not settings.masks:
        raise MaquetteError("bad_input", "There is no mask to paint. Add one to the list first.")
    item = settings.masks[min(settings.mask_index, len(settings.masks) - 1)]
    if item.painted is not None and not mask_images.is_mask_image(item.painted):
        text = f'"{item.painted.name}" was not made over this photo. Take it out of the field to paint a new mask.'
        raise MaquetteError("bad_input", text)
    slot = SimpleNamespace(image=settings.image, mask_image=item.painted)
    item.painted = mask_files.mask_to_paint(slot, "mask")
    item.proposed = False
    return item.painted


def _painted_file(settings: bpy.types.PropertyGroup, item: bpy.types.PropertyGroup, job_id: str, number: int) -> str:
    painted = mask_images.painted_mask(SimpleNamespace(image=settings.image, mask_image=item.painted), "mask")
    if painted is None:
        text = f'Nothing is painted in "{item.painted.name}". Paint the object white, or remove the mask.'
        raise MaquetteError("bad_input", text, next_step="give_mask")
    return str(mask_files.write_painted(job_id, f"mask_{number}", painted))


class MAQUETTE_OT_generate_scene(bpy.types.Operator):
    bl_idname = "maquette.generate_scene"
    bl_label = "Generate Scene"
    bl_description = "Make every object of the photo in the background, and put all of them before the photo's camera"

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        record = compose_job(context.scene)
        self.report({"INFO"}, f'The scene of "{record.title}" is being made. You can go on working.')
        return {"FINISHED"}


class MAQUETTE_OT_add_masks(ChoosesPictures, bpy.types.Operator):
    bl_idname = "maquette.add_masks"
    bl_label = "Add Masks"
    bl_description = "Add mask files, one for each object of the photo"
    bl_options = {"REGISTER", "UNDO"}

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        left = add_masks(context.scene.maquette_compose, self.chosen("mask"))
        if left:
            self.report({"WARNING"}, f"{left} of the masks are left out: {MOST_OBJECTS} can be used.")
        return {"FINISHED"}


class MAQUETTE_OT_add_painted_mask(bpy.types.Operator):
    bl_idname = "maquette.add_painted_mask"
    bl_label = "Add Painted Mask"
    bl_description = "Add an object whose mask is an image of this file, painted white where the object is"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        settings = context.scene.maquette_compose
        settings.masks.add()
        settings.mask_index = len(settings.masks) - 1
        return {"FINISHED"}


class MAQUETTE_OT_remove_object_mask(bpy.types.Operator):
    bl_idname = "maquette.remove_object_mask"
    bl_label = "Remove Mask"
    bl_description = "Take the chosen mask out of the list; its file stays"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return len(context.scene.maquette_compose.masks) > 0

    def execute(self, context: bpy.types.Context) -> set[str]:
        settings = context.scene.maquette_compose
        settings.masks.remove(min(settings.mask_index, len(settings.masks) - 1))
        settings.mask_index = max(0, min(settings.mask_index, len(settings.masks) - 1))
        return {"FINISHED"}


CLASSES = (
    MAQUETTE_OT_generate_scene,
    MAQUETTE_OT_add_masks,
    MAQUETTE_OT_add_painted_mask,
    MAQUETTE_OT_remove_object_mask,
)

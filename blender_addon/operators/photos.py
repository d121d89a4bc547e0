"""Further photos of the object in the Create panel: adding, removing, and from the list to a job's inputs and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import bpy

from ...backend.contract.errors import MaquetteError
from ..runtime.pictures import inspect_picture
from .common import ChoosesPictures, reports_failures

MOST_PHOTOS = 8  # of one object, the first included; the engine takes no more


def further_inputs(settings: bpy.types.PropertyGroup) -> dict[str, str]:
    """The inputs image_1, mask_1, image_2, ... of the photos in the list, by name, as absolute paths.

    Errors: `MaquetteError` when one of them is not a picture or there are too many.
    """
    if len(settings.photos) >= MOST_PHOTOS:
        text = f"There are {len(settings.photos) + 1} photos; {MOST_PHOTOS} can be used. Remove some from the list."
        raise MaquetteError("bad_input", text)
    inputs = {}
    for number, photo in enumerate(settings.photos, start=1):
        if not photo.image.strip():
            text = f"Photo {number + 1} in the list is empty. Choose a picture for it, or remove it."
            raise MaquetteError("bad_input", text, next_step="choose_image")
        inputs[f"image_{number}"] = _checked(photo.image, "picture")
        if photo.mask.strip():
            inputs[f"mask_{number}"] = _checked(photo.mask, "mask")
    return inputs


def restore_photos(settings: bpy.types.PropertyGroup, inputs: Mapping[str, str]) -> None:
    """Make the list of further photos what it was when a job had the `inputs`."""
    settings.photos.clear()
    for number in range(1, MOST_PHOTOS):
        if inputs.get(f"image_{number}"):
            photo = settings.photos.add()
            photo.image, photo.mask = inputs[f"image_{number}"], inputs.get(f"mask_{number}", "")


def add_photos(settings: bpy.types.PropertyGroup, paths: list[Path]) -> int:
    """Add `paths` to the list as far as there is room; returns how many were left out."""
    room = max(0, MOST_PHOTOS - 1 - len(settings.photos))
    for path in paths[:room]:
        settings.photos.add().image = str(path)
    settings.photo_index = max(0, len(settings.photos) - 1)
    return len(paths[room:])


def _checked(path: str, what: str) -> str:
    absolute = Path(bpy.path.abspath(path))
    inspect_picture(absolute, what)
    return str(absolute)


class MAQUETTE_OT_add_photos(ChoosesPictures, bpy.types.Operator):
    bl_idname = "maquette.add_photos"
    bl_label = "Add Photos"
    bl_description = "Add further photos of the same object, taken from other sides"
    bl_options = {"REGISTER", "UNDO"}

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        left = add_photos(context.scene.maquette_create, self.chosen("photo"))
        if left:
            self.report({"WARNING"}, f"{left} of the photos are left out: {MOST_PHOTOS} can be used.")
        return {"FINISHED"}


class MAQUETTE_OT_remove_photo(bpy.types.Operator):
    bl_idname = "maquette.remove_photo"
    bl_label = "Remove Photo"
    bl_description = "Take the chosen photo out of the list; its file stays"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return len(context.scene.maquette_create.photos) > 0

    def execute(self, context: bpy.types.Context) -> set[str]:
        settings = context.scene.maquette_create
        settings.photos.remove(min(settings.photo_index, len(settings.photos) - 1))
        settings.photo_index = max(0, min(settings.photo_index, len(settings.photos) - 1))
        return {"FINISHED"}


CLASSES = (MAQUETTE_OT_add_photos, MAQUETTE_OT_remove_photo)

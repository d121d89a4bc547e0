"""Further photos of the object in the Create panel: adding, removing, and from the list to a job's inputs and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np

from ...backend.contract.errors import MaquetteError
from ..runtime.pictures import inspect_picture
from .common import ChoosesPictures, reports_failures
from .mask_files import checked_masks, write_masks

MOST_PHOTOS = 8  # of one object, the first included; the engine takes no more


@dataclass(frozen=True)
class FurtherPhoto:
    """A further photo, looked at: its picture, and its mask and occluder as `mask_files.checked_masks` gives them."""

    picture: Path
    masks: Mapping[str, Path | np.ndarray]


def checked_photos(settings: bpy.types.PropertyGroup) -> list[FurtherPhoto]:
    """The photos in the list with their masks. Nothing is written.

    Errors: `MaquetteError` when one of them cannot be used or there are too many.
    """
    if len(settings.photos) >= MOST_PHOTOS:
        text = f"There are {len(settings.photos) + 1} photos; {MOST_PHOTOS} can be used. Remove some from the list."
        raise MaquetteError("bad_input", text)
    found = []
    for number, photo in enumerate(settings.photos, start=2):
        if not photo.image.strip():
            text = f"Photo {number} in the list is empty. Choose a picture for it, or remove it."
            raise MaquetteError("bad_input", text, next_step="choose_image")
        picture = Path(bpy.path.abspath(photo.image))
        inspect_picture(picture)
        try:
            found.append(FurtherPhoto(picture, checked_masks(photo)))
        except MaquetteError as error:
            failure = error.failure
            text = f"Photo {number}: {failure.message}"
            raise MaquetteError(failure.code, text, failure.detail, failure.next_step) from error
    return found


def further_inputs(photos: list[FurtherPhoto], job_id: str) -> dict[str, str]:
    """The inputs image_1, mask_1, occluder_1, image_2, ... by name, as absolute paths; what is painted is written.

    Errors: `MaquetteError` when the job's folder cannot be written.
    """
    inputs = {}
    for number, photo in enumerate(photos, start=1):
        inputs[f"image_{number}"] = str(photo.picture)
        inputs |= write_masks(photo.masks, job_id, f"_{number}")
    return inputs


def restore_photos(settings: bpy.types.PropertyGroup, inputs: Mapping[str, str]) -> None:
    """Make the list of further photos what it was when a job had the `inputs`."""
    settings.photos.clear()
    for number in range(1, MOST_PHOTOS):
        if inputs.get(f"image_{number}"):
            photo = settings.photos.add()
            photo.image, photo.mask = inputs[f"image_{number}"], inputs.get(f"mask_{number}", "")
            photo.occluder = inputs.get(f"occluder_{number}", "")


def add_photos(settings: bpy.types.PropertyGroup, paths: list[Path]) -> int:
    """Add `paths` to the list as far as there is room; returns how many were left out."""
    room = max(0, MOST_PHOTOS - 1 - len(settings.photos))
    for path in paths[:room]:
        settings.photos.add().image = str(path)
    settings.photo_index = max(0, len(settings.photos) - 1)
    return len(paths[room:])


def chosen_photo(settings: bpy.types.PropertyGroup) -> bpy.types.PropertyGroup:
    """The photo that is chosen in the list. Errors: `MaquetteError` when the list is empty."""
    if not settings.photos:
        raise MaquetteError("bad_input", "There is no further photo. Add one to the list first.")
    return settings.photos[min(settings.photo_index, len(settings.photos) - 1)]


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

"""The masks of a job: painted in Blender and written into the job's folder, or files that the artist chose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import bpy
import numpy as np

from ...backend.contract.errors import MaquetteError
from ..runtime import inputs, session
from ..runtime.pictures import inspect_picture
from ..scene import mask_images


def mask_files(settings: bpy.types.PropertyGroup, job_id: str) -> dict[str, str]:
    """The inputs mask and occluder that there are, by name; what is painted comes before a chosen file.

    Errors: `MaquetteError` when a file is not a picture, when something was painted over another photo, or when the
    job's folder cannot be written.
    """
    return write_masks(checked_masks(settings), job_id)


def checked_masks(settings: bpy.types.PropertyGroup) -> dict[str, Path | np.ndarray]:
    """The mask and occluder that there are, by kind: chosen files, or what is painted [H,W] bool. Writes nothing.

    Errors: `MaquetteError` when a file is not a picture, or when something was painted over another photo.
    """
    found: dict[str, Path | np.ndarray] = {}
    for kind in mask_images.KINDS:
        painted, chosen = mask_images.painted_mask(settings, kind), getattr(settings, kind).strip()
        if painted is not None:
            found[kind] = painted
        elif chosen:
            path = Path(bpy.path.abspath(chosen))
            inspect_picture(path, inputs.word_for(kind))
            found[kind] = path
    return found


def write_masks(masks: Mapping[str, Path | np.ndarray], job_id: str, ending: str = "") -> dict[str, str]:
    """The inputs that `masks` are, by kind and `ending` (_1 for the second photo); what is painted is written.

    Errors: `MaquetteError` when the job's folder cannot be written.
    """
    files = {}
    for kind, mask in masks.items():
        if not isinstance(mask, Path):
            mask = write_painted(job_id, f"{kind}{ending}", mask)
        files[f"{kind}{ending}"] = str(mask)
    return files


def mask_to_paint(settings: bpy.types.PropertyGroup, kind: str) -> bpy.types.Image:
    """The image to paint the mask or occluder (`kind`) of the chosen photo in; made if there is none.

    Errors: `MaquetteError` when there is no photo to paint over.
    """
    path = Path(bpy.path.abspath(settings.image)) if settings.image.strip() else None
    info = inspect_picture(path)
    if not all(info.size):
        raise MaquetteError("bad_input", "The picture's size cannot be read. Save it as PNG and choose it again.")
    return mask_images.ensure_mask_image(settings, kind, path, info.size, info.orientation)


def write_painted(job_id: str, name: str, painted: np.ndarray) -> Path:
    """Write what is painted [H,W] bool as the input `name` of a job. Errors: `MaquetteError` disk_full."""
    store = session.get().open_folder()
    try:
        path = inputs.new_input_path(store, job_id, name, ".png")
        path.write_bytes(mask_images.mask_png(painted))
    except OSError as error:
        text = f"The painted {inputs.word_for(name)} cannot be written. Free some space and try again."
        raise MaquetteError("disk_full", text, repr(error), "free_disk") from error
    return path

"""The masks of a job: painted in Blender and written into the job's folder, or files that the artist chose."""

from __future__ import annotations

from pathlib import Path

import bpy

from ...backend.contract.errors import MaquetteError
from ..runtime import inputs, session
from ..runtime.pictures import inspect_picture
from ..scene import mask_images


def mask_files(settings: bpy.types.PropertyGroup, job_id: str) -> dict[str, str]:
    """The inputs mask and occluder that there are, by name; what is painted comes before a chosen file.

    Errors: `MaquetteError` when a file is not a picture, when something was painted over another photo, or when the
    job's folder cannot be written.
    """
    painted = {kind: mask_images.painted_mask(settings, kind) for kind in mask_images.KINDS}
    files = {}
    for kind in mask_images.KINDS:
        chosen = getattr(settings, kind).strip()
        if painted[kind] is None and chosen:
            path = Path(bpy.path.abspath(chosen))
            inspect_picture(path, inputs.word_for(kind))
            files[kind] = str(path)
    for kind, values in painted.items():
        if values is not None:
            files[kind] = str(_written(job_id, kind, mask_images.mask_png(values)))
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


def _written(job_id: str, kind: str, png: bytes) -> Path:
    store = session.get().open_folder()
    try:
        path = inputs.new_input_path(store, job_id, kind, ".png")
        path.write_bytes(png)
    except OSError as error:
        text = f"The painted {inputs.word_for(kind)} cannot be written. Free some space and try again."
        raise MaquetteError("disk_full", text, repr(error), "free_disk") from error
    return path

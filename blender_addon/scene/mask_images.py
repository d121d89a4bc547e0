"""Masks that are painted in Blender: an image of the photo's size, white where the artist painted, sent as a PNG.

A mask image is kept in the .blend file and knows its photo, so that it can be shown over it and is never sent with
another one.
"""

from __future__ import annotations

import logging
from pathlib import Path

import bpy
import numpy as np

from ...backend.contract.errors import MaquetteError
from .png import png_bytes

logger = logging.getLogger(__name__)

PHOTO = "maquette_photo"  # property of a mask image: the photo's path, absolute
PICTURE = "maquette_picture_shown"  # property of a mask image: the image that shows the photo over it
ORIENTATION = "maquette_orientation"  # property of a mask image: the photo's EXIF orientation
KIND = "maquette_kind"  # property of a mask image: mask or occluder
LONGEST = 2048  # pixels of a painted mask's longer side; the backend brings masks to the photo's size
KINDS = ("mask", "occluder")


def ensure_mask_image(
    settings: bpy.types.PropertyGroup, kind: str, path: Path, size: tuple[int, int], orientation: int
) -> bpy.types.Image:
    """The image to paint the mask or occluder (`kind`) of the photo at `path` in; an earlier one of that photo stays.

    `size` is (width, height) of the photo as displayed, `orientation` its EXIF orientation.
    """
    image = getattr(settings, f"{kind}_image")
    if image is None or image.get(PHOTO) != str(path):
        factor = min(1.0, LONGEST / max(size))
        sides = [max(1, round(side * factor)) for side in size]
        image = bpy.data.images.new(f"{path.stem} {kind}", *sides, alpha=False)
        image.colorspace_settings.name = "Non-Color"
        image[PHOTO], image[KIND], image[ORIENTATION] = str(path), kind, orientation
        image.pack()
        setattr(settings, f"{kind}_image", image)
    if image.get(PICTURE) is None:
        image[PICTURE] = _picture(path)
    return image


def is_mask_image(image: bpy.types.Image | None) -> bool:
    """Whether the image is one of ours to paint in."""
    return image is not None and PHOTO in image


def painted_mask(settings: bpy.types.PropertyGroup, kind: str) -> np.ndarray | None:
    """What is painted, [H,W] bool, top row first; None when there is no mask image or nothing is painted in it.

    Errors: `MaquetteError` when it was painted over another photo.
    """
    image = getattr(settings, f"{kind}_image")
    if image is None or not image.has_data and not image.packed_file:
        return None
    photo = image.get(PHOTO)
    if photo is not None and Path(photo) != Path(bpy.path.abspath(settings.image)):
        text = f"The painted {kind} belongs to another picture. Paint it again, or remove it."
        raise MaquetteError("bad_input", text, f"{photo} is not {settings.image}")
    width, height = image.size
    if not width or not height:
        return None
    values = np.empty(width * height * image.channels, np.float32)
    image.pixels.foreach_get(values)
    painted = values.reshape(height, width, image.channels)[::-1, :, 0] >= 0.5
    return painted if painted.any() else None


def mask_png(painted: np.ndarray) -> bytes:
    """`painted` [H,W] bool as a PNG with one channel of 8 bits."""
    return png_bytes(np.where(painted, 255, 0).astype(np.uint8))


@bpy.app.handlers.persistent
def keep_painted(*_: object) -> None:
    """Pack what was painted: Blender saves only the packed file of an image, not what was painted since."""
    for image in bpy.data.images:
        if is_mask_image(image) and image.is_dirty:
            image.pack()


def _picture(path: Path) -> bpy.types.Image:
    """The photo to be shown over a mask. Its own image: values are drawn as they are, without colour management."""
    image = bpy.data.images.load(str(path), check_existing=False)
    image.colorspace_settings.name = "Non-Color"
    return image

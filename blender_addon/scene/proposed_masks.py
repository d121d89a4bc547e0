"""Proposed object masks into the list of the Compose panel: images of the .blend file, which can be painted on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import bpy

from ...backend.contract.errors import MaquetteError
from . import mask_images


@dataclass(frozen=True)
class ProposedMasks:
    """Masks as PNG `files` in the order of their numbers, for the `photo` with its EXIF `orientation`.

    `most` is how many masks the list takes.
    """

    photo: Path
    orientation: int
    files: tuple[Path, ...]
    most: int


def apply_masks(scene: bpy.types.Scene, result: ProposedMasks) -> str:
    """Put the masks into the list, in place of those proposed before; all others stay. Returns a sentence to show.

    Errors: `MaquetteError` when the panel shows another photo by now.
    """
    settings = scene.maquette_compose
    if not settings.image.strip() or Path(bpy.path.abspath(settings.image)) != result.photo:
        text = f'The Compose panel shows another photo now. Choose "{result.photo.name}" there, then press Apply.'
        raise MaquetteError("bad_input", text, str(result.photo))
    for index in reversed(range(len(settings.masks))):
        if settings.masks[index].proposed:
            settings.masks.remove(index)
    room = result.most - len(settings.masks)
    first = len(settings.masks)
    for number, file in enumerate(result.files[:room], start=1):
        item = settings.masks.add()
        item.painted = _mask_image(file, f"{result.photo.stem} mask {number}", result)
        item.name, item.proposed = f"Object {number}", True
    settings.mask_index = min(first, max(len(settings.masks) - 1, 0))
    left = len(result.files[room:])
    return f"{left} of the masks are left out: {result.most} can be used." if left else ""


def _mask_image(file: Path, name: str, result: ProposedMasks) -> bpy.types.Image:
    """The mask as an image that needs its file no more."""
    image = bpy.data.images.load(str(file), check_existing=False)
    image.name = name
    image.colorspace_settings.name = "Non-Color"
    image[mask_images.PHOTO], image[mask_images.KIND] = str(result.photo), "mask"
    image[mask_images.ORIENTATION] = result.orientation
    image.pack()
    return image

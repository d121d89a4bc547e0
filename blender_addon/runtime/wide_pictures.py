"""A picture twice as wide as high, the four views of a bundle, as two square ones: Blender's panels draw squares.

Reads and writes files, touches no bpy data: the connection's thread calls it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import imbuf

from .pictures import inspect_picture

logger = logging.getLogger(__name__)

LARGEST = 256  # pixels of a half's side; Blender's icons have no more
ENDINGS = ("_left.png", "_right.png")


def half_paths(path: Path) -> tuple[Path, Path]:
    """Where the halves of the picture at `path` are."""
    left, right = (path.with_name(path.stem + ending) for ending in ENDINGS)
    return left, right


def write_halves(path: Path) -> bool:
    """Write the halves of a PNG that is twice as wide as high beside it; whether it is one.

    Errors: OSError when they cannot be written.
    """
    width, height = inspect_picture(path).size
    if height == 0 or width != 2 * height:
        return False
    picture = imbuf.load(str(path))
    try:
        if height > LARGEST:
            picture.resize((2 * LARGEST, LARGEST), method="BILINEAR")
        side = picture.size[1]
        for number, half in enumerate(half_paths(path)):
            _write_part(picture, number * side, side, half)
    finally:
        picture.free()
    return True


def _write_part(picture: imbuf.types.ImBuf, left: int, side: int, path: Path) -> None:
    part = picture.copy()
    temporary = path.with_name(f"part_{path.name}")
    try:
        part.crop((left, 0), (left + side - 1, side - 1))
        imbuf.write(part, filepath=str(temporary))
    finally:
        part.free()
    os.replace(temporary, path)  # whoever draws it meets a whole file

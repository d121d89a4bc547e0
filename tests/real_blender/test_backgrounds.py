"""A photo of any EXIF orientation stands upright behind the camera and fills its frame, as Blender draws it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import build
from tests.real_blender import debian_blender, window

QUARTERS = np.array([[[230, 20, 20], [20, 200, 20]], [[30, 30, 230], [230, 230, 230]]], np.uint8)
"""The upright picture: red and green above, blue and white below."""

# How the upright picture is stored under each orientation (EXIF 2.3, tag 0x0112): the inverse of what a viewer does.
STORE = {
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_90),  # counter-clockwise; a viewer turns it clockwise
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
}
SIZES = {"wide": (300, 200), "tall": (160, 240)}


@pytest.fixture(scope="module", params=sorted(debian_blender.SUITES))
def seen(request: pytest.FixtureRequest, archive: Path) -> dict:
    """What the driver saw, and where its screenshots are."""
    folder = build.BUILD / "test" / f"backgrounds-{request.param}"
    window.clear(folder)
    photos = []
    for name, size in SIZES.items():
        upright = Image.fromarray(QUARTERS).resize(size, Image.Resampling.NEAREST)
        for orientation, store in STORE.items():
            exif = Image.Exif()
            exif[0x0112] = orientation
            path = folder / f"{name}-{orientation}.jpg"
            store(upright).save(path, exif=exif, quality=95)
            photos.append((str(path), orientation, size))
    seen = window.run_script(request.param, folder, archive, "drive_backgrounds.py", {"photos": photos})
    assert "failure" not in seen, seen["failure"]
    return {**seen, "folder": folder}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("orientation", STORE)
def test_the_background_is_upright_and_fills_the_frame(seen: dict, name: str, orientation: int):
    screen = np.asarray(Image.open(seen["folder"] / f"{name}-{orientation}.png").convert("RGB")).astype(int)
    left, top, right, bottom = seen["frames"][f"{name}-{orientation}"]
    for row in (0, 1):
        for column in (0, 1):
            for depth in (0.06, 0.44):  # near the frame's corner, and near its middle
                u, v = (column - (2 * column - 1) * depth, row - (2 * row - 1) * depth)
                pixel = screen[round(top + v * (bottom - top)), round(left + u * (right - left))]
                assert colour_of(pixel) == colour_of(QUARTERS[row, column].astype(int)), (row, column, depth, pixel)


def colour_of(pixel: np.ndarray) -> str:
    """The name of a pixel's colour; the background is half transparent, so only differences tell."""
    if pixel.max() - pixel.min() > 40:
        return ("red", "green", "blue")[int(pixel.argmax())]
    return "white" if pixel.min() > 110 else "nothing"

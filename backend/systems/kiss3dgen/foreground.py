"""From a cut-out photo to the square picture that the multi-view model was trained on (spec 6.1, step 1).

Arrays are uint8; rgba [H,W,4] has straight alpha.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

RATIO = 0.85  # of the square's side that the object spans
GREY = 127
WHITE = 255
SOLID = 127  # alpha above which a pixel belongs to the object, as for the bundle's masks


def on_color(rgba: np.ndarray, value: int = GREY) -> np.ndarray:
    """The picture over a plain grey [H,W,3]."""
    height, width = rgba.shape[:2]
    picture = Image.new("RGB", (width, height), (value,) * 3)
    source = Image.fromarray(np.ascontiguousarray(rgba), "RGBA")
    picture.paste(source, mask=source.getchannel("A"))
    return np.asarray(picture)


def resize_foreground(rgba: np.ndarray, ratio: float = RATIO, pad_value: int = WHITE) -> np.ndarray:
    """The published framing: what has alpha, cropped, squared and padded so that it spans `ratio` [S,S,4].

    As published the last row and column of the box are left out and all four channels are padded with `pad_value`.
    Raises ValueError when nothing, or no more than one row or column, has alpha.
    """
    rows, columns = np.nonzero(rgba[..., 3] > 0)
    if not len(rows) or rows.min() == rows.max() or columns.min() == columns.max():
        raise ValueError("No object was found in the picture; give a mask that covers it.")
    return _square(rgba[rows.min() : rows.max(), columns.min() : columns.max()], ratio, pad_value)


def prepare_photo(rgba: np.ndarray, published: bool = False) -> np.ndarray:
    """A cut-out photo as the multi-view model's input [S,S,3] on white.

    The object is cropped by its alpha and spans 0.85 of the frame. The published program loses the alpha before it
    crops, so that the whole photo is squared and spans 0.85; `published` does so too. Raises ValueError when nothing is
    opaque enough.
    """
    if published:
        return resize_foreground(_opaque(on_color(rgba, WHITE)))[..., :3]
    rows, columns = np.nonzero(rgba[..., 3] > SOLID)
    if not len(rows):
        raise ValueError("No object was found in the picture; give a mask that covers it.")
    cut = rgba[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return on_color(_square(cut, RATIO, 0), WHITE)


def _opaque(rgb: np.ndarray) -> np.ndarray:
    return np.concatenate([rgb, np.full((*rgb.shape[:2], 1), 255, np.uint8)], axis=-1)


def _square(cut: np.ndarray, ratio: float, pad_value: int) -> np.ndarray:
    """`cut` [h,w,4] in the middle of a square whose side is its longer side divided by `ratio`."""
    size = max(cut.shape[:2])
    total = int(size / ratio)
    inner = [(size - side) // 2 for side in cut.shape[:2]]
    start = [(total - size) // 2 + offset for offset in inner]
    square = np.full((total, total, 4), pad_value, np.uint8)
    square[start[0] : start[0] + cut.shape[0], start[1] : start[1] + cut.shape[1]] = cut
    return square

"""Square crops around the object of a picture with alpha, as the networks see it (spec section 5, step 3)."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from ..contract import frames

CROP_RATIO = 1.2
_SOLID_ALPHA = 0.8 * 255


def crop_box(alpha: np.ndarray, ratio: float = CROP_RATIO) -> tuple[int, int, int, int]:
    """Pixel box (left, top, right, bottom), square, around alpha [H, W] uint8 above 0.8; may reach outside the picture.

    Raises ValueError when nothing is opaque enough.
    """
    rows, columns = np.nonzero(alpha > _SOLID_ALPHA)
    if not len(rows):
        raise ValueError("The picture shows no object; use one with an opaque subject.")
    top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
    half = max(int(max(bottom - top, right - left) * ratio) // 2, 2)
    centre_x, centre_y = (left + right + 1) // 2, (top + bottom + 1) // 2
    return int(centre_x - half), int(centre_y - half), int(centre_x + half), int(centre_y + half)


def crop_view(color: np.ndarray, intrinsics: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Crop a picture [H, W, 4] uint8 (straight alpha) around its object and resize it to ``size`` pixels.

    Returns the crop [size, size, 4] uint8 and its normalised intrinsics [3, 3]. Outside is transparent.
    """
    height, width = color.shape[:2]
    left, top, right, bottom = crop_box(color[..., 3])
    # Pillow resizes RGBA premultiplied, so the colour of transparent pixels does not bleed in.
    picture = Image.fromarray(color).crop((left, top, right, bottom)).resize((size, size), Image.Resampling.LANCZOS)
    box = (left / width, top / height, right / width, bottom / height)
    return np.asarray(picture), frames.crop_intrinsics(intrinsics, box).astype(np.float32)


def encode_image(rgba: np.ndarray) -> bytes:
    """RGBA [H, W, 4] uint8 as lossless WebP (the colour under zero alpha is not kept)."""
    stream = io.BytesIO()
    Image.fromarray(rgba).save(stream, "WEBP", lossless=True, quality=20, method=1)
    return stream.getvalue()


def decode_image(data: bytes) -> np.ndarray:
    """RGBA [H, W, 4] uint8 of an encoded picture; black where it is fully transparent."""
    rgba = np.array(Image.open(io.BytesIO(data)).convert("RGBA"))
    rgba[rgba[..., 3] == 0] = 0
    return rgba

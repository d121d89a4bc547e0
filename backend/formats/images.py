"""Decode whatever picture an artist drops, safely, into RGBA; encode PNG.

Everything becomes 8-bit straight-alpha RGBA in the upright orientation, at most `LONGEST_SIDE` pixels long. Anything
that
cannot be used raises `MaquetteError("bad_input", ...)` with one sentence that says what to do.
"""

from __future__ import annotations

import io
import logging
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from backend.contract.errors import MaquetteError

logger = logging.getLogger(__name__)

LONGEST_SIDE = 2048  # larger pictures are shrunk: the networks see a few hundred pixels, the texture at most this
LARGEST_PIXELS = 450_000_000  # 20,000 x 20,000 is 400 million; beyond this the file is refused before decoding
LARGEST_BYTES = 512 * 1024 * 1024
SMALLEST_SIDE = 8
SOLID_ALPHA = 0.8 * 255  # a pixel above this belongs to the object (spec section 5)


@dataclass(frozen=True)
class Picture:
    """A decoded picture: `rgba` [H,W,4] uint8, its `original_size` (width, height) upright, and whether alpha cuts
    it."""

    rgba: np.ndarray
    original_size: tuple[int, int]
    has_alpha: bool

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of `rgba`."""
        return self.rgba.shape[1], self.rgba.shape[0]


def bad_image(message: str, detail: str = "", next_step: str = "choose_image") -> MaquetteError:
    """The error for a picture that cannot be used."""
    return MaquetteError("bad_input", message, detail=detail, next_step=next_step)


def decode_image(data: bytes, longest_side: int = LONGEST_SIDE) -> Picture:
    """Decode a picture file. Errors: `MaquetteError` bad_input for empty, unknown, broken, too large or invisible
    ones."""
    if not data:
        raise bad_image("The picture file is empty; choose another picture.")
    if len(data) > LARGEST_BYTES:
        raise bad_image("The picture file is larger than 512 MB; save a smaller copy and choose that.")
    try:
        image, original_size = _open(data, longest_side)
        has_alpha = _has_alpha(image)
        rgba = np.array(_to_rgba(image), dtype=np.uint8)
    except MaquetteError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large() from error
    except MemoryError as error:
        raise MaquetteError(
            "out_of_memory", "The picture needs more memory than there is; save a smaller copy and choose that.",
            next_step="choose_image",
        ) from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError) as error:
        raise bad_image(
            "The picture is damaged or cut short; open it in a picture editor and save it again.", detail=repr(error)
        ) from error
    if min(rgba.shape[:2]) < SMALLEST_SIDE:
        raise bad_image(f"The picture is smaller than {SMALLEST_SIDE} pixels; choose a larger one.")
    if has_alpha and not rgba[..., 3].any():
        raise bad_image("The picture is fully transparent; choose one that shows an object.")
    return Picture(rgba, original_size, bool(has_alpha and (rgba[..., 3] < 255).any()))


def decode_mask(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """Decode a mask picture to [H,W] uint8 at `size` (width, height): its alpha if it has one, else its last channel.

    Errors: `MaquetteError` bad_input when it cannot be read or marks nothing.
    """
    try:
        picture = decode_image(data)
    except MaquetteError as error:
        raise bad_image(f"The mask cannot be used. {error}", error.failure.detail, "give_mask") from error
    channel = picture.rgba[..., 3] if picture.has_alpha else picture.rgba[..., 2]
    mask = np.asarray(Image.fromarray(channel).resize(size, Image.Resampling.BILINEAR))
    if not (mask > SOLID_ALPHA).any():
        raise bad_image("The mask marks no pixel; paint the object white and try again.", next_step="give_mask")
    return mask


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of [H,W], [H,W,3] or [H,W,4]; uint8, or float in [0,1]."""
    if image.dtype != np.uint8:
        image = np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def on_white(rgba: np.ndarray) -> np.ndarray:
    """A picture [H,W,4] uint8 with straight alpha on white [H,W,3] float32 in [0,1]."""
    pixels = rgba.astype(np.float32) / 255.0
    return np.asarray(pixels[..., :3] * pixels[..., 3:] + (1.0 - pixels[..., 3:]), np.float32)


def photo_on_white(rgba: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A cut-out photo [H,W,4] uint8 on white at `size` (width, height): colour [h,w,3] in [0,1] and alpha [h,w]."""
    resized = np.asarray(Image.fromarray(rgba).resize(size, Image.Resampling.BOX))  # Pillow resizes RGBA premultiplied
    return on_white(resized), resized[..., 3].astype(np.float32) / 255.0


def _open(data: bytes, longest_side: int) -> tuple[Image.Image, tuple[int, int]]:
    """Open, refuse bombs, shrink while loading, turn upright. Returns the image and its upright size before
    shrinking."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit below replaces Pillow's warning
        try:
            image = Image.open(io.BytesIO(data))
        except Image.UnidentifiedImageError as error:
            raise bad_image(
                "This file is not a picture that can be read; choose a PNG, JPEG, WebP or TIFF file.", detail=str(error)
            ) from error
        width, height = image.size
        if width * height > LARGEST_PIXELS:
            raise _too_large()
        image.seek(0)  # animations: the first frame
        if image.format == "JPEG":
            image.draft(None, (longest_side, longest_side))  # decode at 1/2, 1/4 or 1/8 where that still is enough
        image.load()
    if max(image.size) > longest_side:
        image = _shrink(image, longest_side)
    upright = ImageOps.exif_transpose(image)
    turned = (upright.size[0] > upright.size[1]) != (width > height) and width != height
    return upright, (height, width) if turned else (width, height)


def _shrink(image: Image.Image, longest_side: int) -> Image.Image:
    """Shrink so that the long side is `longest_side`; cheap whole-number reduction first keeps memory low."""
    exif = image.getexif()
    factor = max(image.size) // (2 * longest_side)
    if image.mode in ("P", "PA", "1"):
        if factor > 1:  # palettes cannot be averaged; drop pixels first, then convert the small rest
            image = image.resize((image.size[0] // factor, image.size[1] // factor), Image.Resampling.NEAREST)
        image = image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")
    elif factor > 1 and not image.mode.startswith("I;16"):
        image = image.reduce(factor)
    if image.mode.startswith("I;16"):
        image = _from_16_bit(image)
    image.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    image.info["exif"] = exif.tobytes()
    result: Image.Image = image
    return result


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _to_rgba(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGBA with 8 bits."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _from_16_bit(image)
    if image.mode == "CMYK" or image.mode in ("YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    return image.convert("RGBA")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Wide grey modes (I;16, I, F) to 8-bit grey: plain convert() would clip them to white."""
    values = np.asarray(image, dtype=np.float32)
    top = float(np.nanmax(values)) if values.size else 0.0
    if image.mode == "F" and top <= 1.0:
        scale = 255.0
    elif image.mode == "F" or image.mode == "I":
        scale = 255.0 / 65535.0 if top > 255.0 else 1.0
    else:
        scale = 255.0 / 65535.0
    return Image.fromarray(np.nan_to_num(values * scale).clip(0, 255).astype(np.uint8))


def _too_large() -> MaquetteError:
    return bad_image("The picture has more than 450 million pixels; save a smaller copy and choose that.")

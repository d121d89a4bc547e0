"""Where the object is in the photo: the given mask, the picture's own alpha, or a plain cut-out that knows its limits.

Before a busy background `grab_cut.py` is asked, or the network of `background_removal.py` where that is installed.

The cut-out needs no network. It models the background from the picture's border (a smooth colour surface plus its
noise),
marks what differs, keeps the largest component and fills its holes. It refuses when the border is not plain or the
result does not look like one object, because a wrong mask costs more than a question.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from backend.contract.errors import MaquetteError
from backend.formats.images import SOLID_ALPHA, Picture, decode_mask
from backend.systems.cutout import background_removal
from backend.systems.cutout.grab_cut import stable_object

logger = logging.getLogger(__name__)

WORK_SIDE = 256  # the cut-out is decided at this size and its soft edge enlarged
BORDER = 0.04  # width of the border strip that shows background, as a part of the image side
LEAST_DIFFERENCE = 0.07  # colour distance (RGB in [0,1]) below which nothing counts as object, however calm the border
NOISE_FACTOR = 4.0  # an object pixel differs by more than this many standard deviations of the border
DARKEST_SHADOW = 0.45  # of the background's light: what is darker was not made so by a soft shadow
BUSY_BORDER = 0.12  # a border that deviates more than this from a smooth surface is not plain
SMALLEST_PART, LARGEST_PART = 0.004, 0.85  # plausible share of the picture for one object
MOST_ON_BORDER = 0.25  # share of the border strip an object may cover (cut by the frame, standing on it)
LEAST_SHARE = 0.6  # the largest component must hold this much of everything that differs

BUSY_SIDE = 128  # the cut before a busy background takes a second at this size

ASK = "choose a picture with a transparent background or give a mask"


@dataclass(frozen=True)
class Cutout:
    """The object's coverage `alpha` [H,W] uint8, its `source` (mask, alpha or cut_out) and a `message` for the
    report."""

    alpha: np.ndarray
    source: str
    message: str


def find_object(picture: Picture, mask: bytes | None = None) -> Cutout:
    """Decide the object's alpha. Errors: `MaquetteError` bad_input, next step give_mask, when unsure or nothing is
    there."""
    if mask is not None:
        alpha = decode_mask(mask, picture.size)
        if picture.has_alpha:
            alpha = np.minimum(alpha, picture.rgba[..., 3])
            _require_object(alpha)
        return Cutout(alpha, "mask", "The given mask was used.")
    if picture.has_alpha:
        alpha = picture.rgba[..., 3].copy()
        _require_object(alpha)
        return Cutout(alpha, "alpha", "The picture's own transparency was used as the mask.")
    try:
        alpha = cut_out(picture.rgba[..., :3])
    except MaquetteError as unsure:
        return _removed(picture, unsure)
    message = "The object was cut out from its plain background; give a mask if the cut is wrong."
    return Cutout(alpha, "cut_out", message)


def _removed(picture: Picture, unsure: MaquetteError) -> Cutout:
    """What can be cut out where the plain way is `unsure`: by the optional network, else before a busy background by
    colour models if those are sure. Errors: `MaquetteError` bad_input."""
    if not background_removal.available():
        alpha = cut_out_busy(picture.rgba[..., :3]) if isinstance(unsure, _BusyBackground) else None
        if alpha is not None:
            message = "The object was cut out from a busy background; give a mask if the cut is wrong."
            return Cutout(alpha, "cut_out", message)
        text = str(unsure)
        if background_removal.package_there():
            text = text.replace("give a mask", "give a mask, or install U2-Net under Models")
        raise _unsure(text, unsure.failure.detail) from unsure
    alpha = background_removal.remove_background(picture.rgba[..., :3])
    share = float((alpha > SOLID_ALPHA).mean())
    if not SMALLEST_PART <= share <= LARGEST_PART:
        raise _unsure(f"The object and the background cannot be told apart; {ASK}.", f"U2-Net: share {share:.3f}")
    return Cutout(alpha, "cut_out", "The object was cut out with U2-Net; give a mask if the cut is wrong.")


def cut_out(rgb: np.ndarray) -> np.ndarray:
    """Alpha [H,W] uint8 of the one object before a plain background. rgb [H,W,3] uint8. Errors: `MaquetteError`."""
    height, width = rgb.shape[:2]
    differs, noise, threshold = stands_out(rgb)
    strip = _border_strip(differs.shape)
    if noise > BUSY_BORDER:
        text = f"The background is too busy to cut the object out; {ASK}."
        raise _BusyBackground("bad_input", text, f"border noise {noise:.3f}", "give_mask")
    labels, count = ndimage.label(differs)
    if count == 0:
        raise _unsure(f"No object stands out from the background; {ASK}.", f"threshold {threshold:.3f}")
    sizes = np.bincount(labels.ravel())[1:]
    largest = int(sizes.argmax()) + 1
    solid = ndimage.binary_fill_holes(ndimage.binary_closing(labels == largest, iterations=2) | (labels == largest))
    share, on_border, leading = solid.mean(), solid[strip].mean(), sizes.max() / sizes.sum()
    detail = f"share {share:.3f}, on border {on_border:.3f}, leading component {leading:.2f}, noise {noise:.3f}"
    logger.info("cut-out: %s", detail)
    if share < SMALLEST_PART:
        raise _unsure(f"No object stands out from the background; {ASK}.", detail)
    if share > LARGEST_PART or on_border > MOST_ON_BORDER:
        raise _unsure(f"The object and the background cannot be told apart; {ASK}.", detail)
    if leading < LEAST_SHARE:
        raise _unsure(f"Several things stand out and it is not clear which one is meant; {ASK}.", detail)
    return _enlarged(solid, (width, height))


def stands_out(rgb: np.ndarray) -> tuple[np.ndarray, float, float]:
    """What differs from a plain background, small [h,w] bool; how noisy that is, and from which difference on."""
    small, background, noise = _before_background(rgb)
    threshold = max(LEAST_DIFFERENCE, NOISE_FACTOR * noise)
    return _differing(small - background, threshold), noise, threshold


def stands_out_of_shadow(rgb: np.ndarray) -> np.ndarray:
    """What differs from a plain background otherwise than a shadow does, which keeps its hue; [h,w] bool, small."""
    small, background, noise = _before_background(rgb)
    light = (small * background).sum(-1) / np.maximum((background**2).sum(-1), 1e-6)
    shadowed = background * np.clip(light, DARKEST_SHADOW, 1.0)[..., None]
    return _differing(small - shadowed, max(LEAST_DIFFERENCE, NOISE_FACTOR * noise))


def _before_background(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The picture [h,w,3] in [0,1] at the size of the work, its background [h,w,3], and how noisy that is."""
    height, width = rgb.shape[:2]
    scale = min(1.0, WORK_SIDE / max(height, width))
    small_size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(rgb).resize(small_size, Image.Resampling.BOX), np.float64) / 255.0
    background, noise = _fit_background(small, _border_strip(small.shape[:2]))
    return small, background, noise


def _differing(difference: np.ndarray, threshold: float) -> np.ndarray:
    """Where colours [h,w,3] differ by more than the threshold, without specks; [h,w] bool."""
    return np.asarray(ndimage.binary_opening(np.sqrt((difference**2).sum(-1)) > threshold, iterations=1))


class _BusyBackground(MaquetteError):
    """The border of the picture is not plain."""


def cut_out_busy(rgb: np.ndarray) -> np.ndarray | None:
    """Alpha [H,W] uint8 of the one object in `rgb` [H,W,3] uint8 before any background, or None when in doubt."""
    small = Image.fromarray(rgb)
    small.thumbnail((BUSY_SIDE, BUSY_SIDE), Image.Resampling.BOX)
    strip = _border_strip((small.height, small.width))
    solid = stable_object(np.asarray(small, np.float64) / 255.0, strip)
    if solid is None or not SMALLEST_PART <= solid.mean() <= LARGEST_PART:
        return None
    logger.info("cut from a busy background: share %.3f", solid.mean())
    return _enlarged(solid, (rgb.shape[1], rgb.shape[0]))


def _enlarged(solid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`solid` [h,w] bool as alpha [H,W] uint8 of `size` (width, height) with a soft edge."""
    soft = ndimage.gaussian_filter(solid.astype(np.float64), 0.6)
    enlarged = Image.fromarray(np.rint(soft * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    alpha = np.asarray(enlarged).astype(np.float64)
    return np.clip((alpha - 64.0) * 2.0, 0, 255).astype(np.uint8)  # steeper edge, still antialiased


def _border_strip(shape: tuple[int, int]) -> np.ndarray:
    """The border's pixels [H,W] bool."""
    inside = max(1, round(BORDER * min(shape)))
    strip = np.ones(shape, bool)
    strip[inside:-inside, inside:-inside] = False
    return strip


def _fit_background(image: np.ndarray, strip: np.ndarray) -> tuple[np.ndarray, float]:
    """A quadratic colour surface through the border, fitted robustly: background [H,W,3] and its deviation (scalar)."""
    height, width = strip.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    basis = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=-1)
    rows, colors = basis[strip], image[strip]
    keep = np.ones(len(rows), bool)
    coefficients = np.zeros((6, 3))
    for _ in range(4):  # an object that touches the border is an outlier of the border's surface
        coefficients = np.linalg.lstsq(rows[keep], colors[keep], rcond=None)[0]
        residual = np.sqrt(((rows @ coefficients - colors) ** 2).sum(-1))
        keep = residual <= max(0.02, 2.5 * float(np.median(residual)))
    noise = 1.4826 * float(np.median(residual))  # median deviation as a standard deviation
    return (basis @ coefficients).clip(0, 1), noise


def _require_object(alpha: np.ndarray) -> None:
    if not (alpha > SOLID_ALPHA).any():
        raise _unsure("The picture shows no solid object; choose another picture or give a mask.", "alpha below 0.8")


def _unsure(message: str, detail: str) -> MaquetteError:
    return MaquetteError("bad_input", message, detail=detail, next_step="give_mask")

"""Which pixels belong to which object of a scene: the given masks, or a plain proposal; and what hides what."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

from backend.contract.errors import MaquetteError
from backend.formats.images import SOLID_ALPHA, Picture, decode_mask
from backend.systems.cupid.scene_depth import DepthMap
from backend.systems.cutout.masking import BUSY_BORDER, SMALLEST_PART, stands_out, stands_out_of_shadow

MOST_OBJECTS = 12
MASK_NAME = re.compile(r"mask_(0|[1-9][0-9]?)")
TOUCH = 4  # pixels: masks this near touch
SHADOWLESS_SHARE = 0.25  # of a part that stands out: what is left of it without shadows is taken if it is as much
CUT_PART = 0.02  # of the picture: what the frame cuts off and is smaller is a corner of something, no object
REACH = 0.2  # of the object's longer side: an occluder farther off hides nothing and would only widen the crop
NEARER = 0.97  # of an object's depth: what is nearer than this along their border stands in front
SHADES = ((230, 60, 60), (60, 170, 80), (70, 110, 230), (235, 175, 40), (160, 80, 200), (60, 190, 200))
ASK = "Give one mask an object."


def scene_masks(inputs: Mapping[str, bytes], picture: Picture) -> tuple[list[np.ndarray], bool]:
    """Masks [H,W] uint8, one an object, and whether they are only proposed. Errors: `MaquetteError` bad_input."""
    names = sorted((name for name in inputs if MASK_NAME.fullmatch(name)), key=lambda name: int(name[5:]))
    if len(names) > MOST_OBJECTS:
        raise MaquetteError("bad_input", f"A scene takes {MOST_OBJECTS} objects; remove the other masks.")
    if not names:
        return propose_masks(picture), True
    masks = []
    for number, name in enumerate(names, start=1):
        try:
            masks.append(decode_mask(inputs[name], picture.size))
        except MaquetteError as error:
            failure = error.failure
            text = f"Mask {number}: {failure.message}"
            raise MaquetteError(failure.code, text, failure.detail, failure.next_step) from error
    return masks, False


def propose_masks(picture: Picture) -> list[np.ndarray]:
    """Masks [H,W] uint8 of what stands apart in the picture's alpha or before its plain background, left to right.

    Errors: `MaquetteError` bad_input when the background is busy or nothing stands out.
    """
    if picture.has_alpha:
        solid = picture.rgba[..., 3] > SOLID_ALPHA
    else:
        small, noise, _ = stands_out(picture.rgba[..., :3])
        if noise > BUSY_BORDER:
            raise _ask(f"The background is too busy to tell the objects apart. {ASK}", f"border noise {noise:.3f}")
        parts = _without_shadows(_filled(small), _filled(stands_out_of_shadow(picture.rgba[..., :3])))
        solid = np.asarray(Image.fromarray(parts).resize(picture.size, Image.Resampling.NEAREST))
    labels, count = ndimage.label(solid)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    large = [index + 1 for index in np.argsort(-sizes) if sizes[index] >= SMALLEST_PART * solid.size]
    edge = set(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]).tolist())
    whole = [label for label in large if label not in edge or sizes[label - 1] >= CUT_PART * solid.size]
    chosen = (whole or large)[:MOST_OBJECTS]
    if not chosen:
        raise _ask(f"Nothing stands out of the background. {ASK}", f"{count} parts, all small")
    chosen.sort(key=lambda label: float(np.nonzero(labels == label)[1].mean()))
    return [np.where(labels == label, 255, 0).astype(np.uint8) for label in chosen]


def _filled(mask: np.ndarray) -> np.ndarray:
    """The mask [h,w] bool without gaps of a pixel and without holes."""
    return np.asarray(ndimage.binary_fill_holes(ndimage.binary_closing(mask, iterations=1) | mask))


def _without_shadows(mask: np.ndarray, unshaded: np.ndarray) -> np.ndarray:
    """The mask [h,w] bool with each part as `unshaded` has it, where that leaves enough of it to be believed.

    A grey thing before a grey background looks like a shadow all over: such a part stays as it is.
    """
    labels, count = ndimage.label(mask)
    kept = np.bincount(labels[unshaded], minlength=count + 1) >= SHADOWLESS_SHARE * np.bincount(labels.ravel())
    return np.asarray(mask & (unshaded | ~kept[labels]))


def masks_picture(picture: Picture, masks: Sequence[np.ndarray]) -> np.ndarray:
    """The picture [H,W,3] uint8 with every mask in a colour of its own, so that an artist sees what is meant."""
    shown = picture.rgba[..., :3].astype(np.float32)
    for index, mask in enumerate(masks):
        covered = mask > SOLID_ALPHA
        shown[covered] = 0.5 * shown[covered] + 0.5 * np.array(SHADES[index % len(SHADES)], np.float32)
    return np.asarray(shown.astype(np.uint8))


def occluder_of(index: int, masks: Sequence[np.ndarray], depth: DepthMap | None) -> np.ndarray | None:
    """Where other objects hide the object `index` [H,W] bool: those that touch it and are nearer there; None if none.

    Without depth nobody knows which of two that touch is in front, so nothing is taken for hidden.
    """
    if depth is None:
        return None
    solid = [mask > SOLID_ALPHA for mask in masks]
    height, width = solid[index].shape
    values = depth.resized((width, height))
    square = np.ones((3, 3), bool)
    around = ndimage.binary_dilation(solid[index], square, iterations=TOUCH)
    hidden = np.zeros((height, width), bool)
    for other, mask in enumerate(solid):
        border = mask & around & (values > 0)
        if other == index or not border.any():
            continue
        facing = solid[index] & ndimage.binary_dilation(border, square, iterations=TOUCH) & (values > 0)
        if facing.any() and np.median(values[border]) < NEARER * np.median(values[facing]):
            hidden |= mask & ~solid[index]
    rows, columns = np.nonzero(solid[index])
    reach = round(REACH * max(np.ptp(rows), np.ptp(columns)))
    near = np.zeros_like(hidden)
    top, left = max(rows.min() - reach, 0), max(columns.min() - reach, 0)
    near[top : rows.max() + reach + 1, left : columns.max() + reach + 1] = True
    hidden &= near
    return hidden if hidden.any() else None


def _ask(message: str, detail: str) -> MaquetteError:
    return MaquetteError("bad_input", message, detail=detail, next_step="give_mask")

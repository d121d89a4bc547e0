"""The picture of a job, prepared: the object's alpha, its crop and the networks' inputs (spec section 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from backend.contract.errors import MaquetteError
from backend.formats.images import Picture, decode_image, decode_mask
from backend.systems.cupid import preprocess
from backend.systems.cupid.model import CupidModel
from backend.systems.cupid.occlusion import OCCLUDER_CHANNELS, hide
from backend.systems.cutout.crop import Crop, crop_like, crop_to_content
from backend.systems.cutout.masking import Cutout, find_object

MOST_PHOTOS = 8  # of one object


@dataclass(frozen=True)
class Photo:
    """The prepared picture: rgba [H,W,4] with the object's alpha, its crop, and both network inputs [1,C,S,S].

    `occluder` [S,S] bool, like the crop, and `hidden` [H,W] bool, like the picture, are where something hides whatever
    is behind it; None if nothing does.
    """

    picture: Picture
    cutout: Cutout
    rgba: np.ndarray
    crop: Crop
    encoder_input: Tensor
    visual_input: Tensor
    occluder: np.ndarray | None = None
    hidden: np.ndarray | None = None

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The crop in units of the picture (left, top, right, bottom)."""
        width, height = self.picture.size
        left, top, right, bottom = self.crop.box
        return left / width, top / height, right / width, bottom / height

    @property
    def seen_alpha(self) -> np.ndarray:
        """The crop's alpha [S,S] float32 in [0,1]; NaN under the occluder, where nobody knows."""
        alpha = self.crop.image[..., 3].astype(np.float32) / 255
        return alpha if self.occluder is None else np.where(self.occluder, np.float32("nan"), alpha)


def prepare_image(image: bytes, mask: bytes | None, networks: CupidModel, occluder: bytes | None = None) -> Photo:
    """Decode, find the object, crop and resize for `networks`.

    `occluder` is a picture that is white where something stands in front: what it covers of the object is taken out,
    and the crop leaves room for what may be behind it. Errors: `MaquetteError` bad_input.
    """
    settings, channels = networks.settings, getattr(networks["image_encoder"], "in_channels", 3)
    picture = decode_image(image)
    cutout = find_object(picture, mask)
    alpha, hidden = cutout.alpha, None
    if occluder is not None:
        hidden = decode_mask(occluder, picture.size) >= 128
        alpha = np.where(hidden, 0, alpha).astype(alpha.dtype)
    rgba = np.dstack([picture.rgba[..., :3], alpha])
    try:
        crop = crop_to_content(rgba, also=hidden)
    except ValueError as error:
        raise MaquetteError("bad_input", str(error), next_step="give_mask") from error
    in_crop = None if hidden is None else crop_like(hidden, crop)
    encoder_input, visual_input = (
        torch.from_numpy(preprocess.premultiplied_tensor(crop.image, size, alpha))[None]
        for size, alpha in ((settings.encoder_size, channels >= 4), (settings.visual_size, False))
    )
    if channels == OCCLUDER_CHANNELS:
        shown = torch.zeros_like(encoder_input[:, :1]) if in_crop is None else _resized(in_crop, settings.encoder_size)
        encoder_input = hide(encoder_input, shown)
    return Photo(picture, cutout, rgba, crop, encoder_input, visual_input, in_crop, hidden)


def prepare_photos(inputs: Mapping[str, bytes], networks: CupidModel) -> list[Photo]:
    """The photos of one object: inputs image, image_1, image_2, ... and a mask_k and occluder_k for any of them.

    Errors: `MaquetteError` bad_input, naming the photo if there are several.
    """
    endings = ["", *(f"_{number}" for number in range(1, MOST_PHOTOS))]
    count = sum(f"image{ending}" in inputs for ending in endings)
    if f"image_{MOST_PHOTOS}" in inputs:
        raise MaquetteError("bad_input", f"CUPID takes {MOST_PHOTOS} photos of one object; remove the others.")
    known = {f"{kind}{ending}" for ending in endings[:count] for kind in ("image", "mask", "occluder")}
    if set(inputs) - known or "image" not in inputs:
        raise MaquetteError(
            "bad_input", "CUPID needs one picture, or several of one object numbered from 1; choose an image.",
            detail=", ".join(sorted(set(inputs) - known)), next_step="choose_image",
        )  # fmt: skip
    photos = []
    for number, ending in enumerate(endings[:count], start=1):
        try:
            photos.append(prepare_image(
                inputs[f"image{ending}"], inputs.get(f"mask{ending}"), networks, inputs.get(f"occluder{ending}")))
        except MaquetteError as error:
            failure = error.failure
            text = failure.message if count == 1 else f"Photo {number}: {failure.message}"
            raise MaquetteError(failure.code, text, failure.detail, failure.next_step) from error
    return photos


def _resized(occluder: np.ndarray, size: int) -> Tensor:
    """[S,S] bool to [1,1,size,size] in {0,1}."""
    values = torch.from_numpy(occluder)[None, None].float()
    return (functional.interpolate(values, (size, size), mode="area") >= 0.5).float()

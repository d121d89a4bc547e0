"""The picture of a job, prepared: the object's alpha, its crop and the networks' inputs (spec section 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from backend.contract.errors import MaquetteError
from backend.formats.images import Picture, decode_image, decode_mask
from backend.systems.cupid import preprocess
from backend.systems.cupid.masking import Cutout, find_object
from backend.systems.cupid.model import CupidModel
from backend.systems.cupid.occlusion import OCCLUDER_CHANNELS, hide


@dataclass(frozen=True)
class Photo:
    """The prepared picture: rgba [H,W,4] with the object's alpha, its crop, and both network inputs [1,C,S,S].

    `occluder` [S,S] bool, like the crop, is where something hides whatever is behind it; None if nothing does.
    """

    picture: Picture
    cutout: Cutout
    rgba: np.ndarray
    crop: preprocess.Crop
    encoder_input: Tensor
    visual_input: Tensor
    occluder: np.ndarray | None = None

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The crop in units of the picture (left, top, right, bottom)."""
        width, height = self.picture.size
        left, top, right, bottom = self.crop.box
        return left / width, top / height, right / width, bottom / height


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
        crop = preprocess.crop_to_content(rgba, also=hidden)
    except ValueError as error:
        raise MaquetteError("bad_input", str(error), next_step="give_mask") from error
    in_crop = None if hidden is None else preprocess.crop_like(hidden, crop)
    encoder_input, visual_input = (
        torch.from_numpy(preprocess.premultiplied_tensor(crop.image, size, alpha))[None]
        for size, alpha in ((settings.encoder_size, channels >= 4), (settings.visual_size, False))
    )
    if channels == OCCLUDER_CHANNELS:
        shown = torch.zeros_like(encoder_input[:, :1]) if in_crop is None else _resized(in_crop, settings.encoder_size)
        encoder_input = hide(encoder_input, shown)
    return Photo(picture, cutout, rgba, crop, encoder_input, visual_input, in_crop)


def _resized(occluder: np.ndarray, size: int) -> Tensor:
    """[S,S] bool to [1,1,size,size] in {0,1}."""
    values = torch.from_numpy(occluder)[None, None].float()
    return (functional.interpolate(values, (size, size), mode="area") >= 0.5).float()

"""The picture of a job, prepared: the object's alpha, its crop and the networks' inputs (spec section 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backend.contract.errors import MaquetteError
from backend.formats.images import Picture, decode_image
from backend.systems.cupid import preprocess
from backend.systems.cupid.masking import Cutout, find_object
from backend.systems.cupid.model import CupidSettings


@dataclass(frozen=True)
class Photo:
    """The prepared picture: rgba [H,W,4] with the object's alpha, its crop, and both network inputs [1,C,S,S]."""

    picture: Picture
    cutout: Cutout
    rgba: np.ndarray
    crop: preprocess.Crop
    encoder_input: Tensor
    visual_input: Tensor

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The crop in units of the picture (left, top, right, bottom)."""
        width, height = self.picture.size
        left, top, right, bottom = self.crop.box
        return left / width, top / height, right / width, bottom / height


def prepare_image(image: bytes, mask: bytes | None, settings: CupidSettings, with_alpha: bool = False) -> Photo:
    """Decode, find the object, crop and resize; `with_alpha` gives the encoder a fourth channel.

    Errors: `MaquetteError` bad_input.
    """
    picture = decode_image(image)
    cutout = find_object(picture, mask)
    rgba = np.dstack([picture.rgba[..., :3], cutout.alpha])
    try:
        crop = preprocess.crop_to_content(rgba)
    except ValueError as error:
        raise MaquetteError("bad_input", str(error), next_step="give_mask") from error
    encoder_input, visual_input = (
        torch.from_numpy(preprocess.premultiplied_tensor(crop.image, size, alpha))[None]
        for size, alpha in ((settings.encoder_size, with_alpha), (settings.visual_size, False))
    )
    return Photo(picture, cutout, rgba, crop, encoder_input, visual_input)

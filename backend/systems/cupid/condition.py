"""What the flows are told of a photo: image tokens and how much of each patch is visible (specs/cupid.md 5, 8)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from backend.systems.cupid.image_encoder import SPECIAL_TOKENS
from backend.systems.cupid.model import CupidModel
from backend.systems.cupid.occlusion import token_weights
from backend.systems.cupid.photo import Photo


@dataclass(frozen=True)
class Condition:
    """What the flows see of one photo: `tokens` [1,M,C] and their visibility `weights` [1,M] (spec 8; None: all)."""

    tokens: Tensor
    weights: Tensor | None = None

    def repeated(self, count: int) -> Condition:
        """The same for each of `count` samples."""
        weights = None if self.weights is None else self.weights.expand(count, -1)
        return Condition(self.tokens.expand(count, -1, -1), weights)

    def empty(self) -> Condition:
        """The null condition: all zeros, nothing weighted."""
        return Condition(torch.zeros_like(self.tokens))


def encode_photo(networks: CupidModel, photo: Photo) -> Condition:
    """Stage encode_image: the tokens of the picture and, behind an occluder, how much of each patch is visible."""
    tokens = networks["image_encoder"](photo.encoder_input.to(networks.device))
    if photo.occluder is None:
        return Condition(tokens)
    occluder = torch.from_numpy(photo.occluder)[None, None].to(tokens.device)
    patches = math.isqrt(tokens.shape[1] - SPECIAL_TOKENS)
    return Condition(tokens, token_weights(occluder, patches, SPECIAL_TOKENS))

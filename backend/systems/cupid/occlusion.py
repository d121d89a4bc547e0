"""What stands in front of the object: token weights for the attention, and random occluders to train with (spec 8).

A picture is shown as [premultiplied RGB | alpha | occluder]: under an occluder colour and alpha are zero, and the fifth
channel tells "hidden" from "empty". Encoders that take fewer channels are given the first ones only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

OCCLUDER_CHANNELS = 5  # of an image encoder that is told what is hidden
SHAPES = 3  # occluders a picture at most
SHOWN_AT_LEAST = 0.35  # of the object; pictures that would show less are left whole
OBJECT_ALPHA = 0.5


def hide(image: Tensor, occluder: Tensor) -> Tensor:
    """`image` [B,4,S,S], premultiplied RGB and alpha, behind `occluder` [B,1,S,S] in {0,1}: [B,5,S,S]."""
    return torch.cat([image * (1 - occluder), occluder.to(image.dtype)], 1)


def token_weights(occluder: Tensor, patches: int, special: int) -> Tensor:
    """Share of visible pixels of every token's patch, [B, special + patches^2]; special tokens see everything (1).

    `occluder` [B,1,S,S] in [0,1], 1 where something hides what is behind.
    """
    shown = 1 - F.adaptive_avg_pool2d(occluder.float(), patches).flatten(1)
    return torch.cat([shown.new_ones(len(shown), special), shown], 1)


def random_occluders(alpha: Tensor, generator: torch.Generator, share: float = 0.5) -> Tensor:
    """Random occluders [B,1,S,S] in {0,1} over objects of `alpha` [B,1,S,S]: unions of ellipses, boxes and half-planes.

    A `share` of the pictures gets some (in the style of Amodal3R's training masks).
    """
    count, size = len(alpha), alpha.shape[-1]

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, SHAPES, 1, 1, generator=generator)

    axis = (torch.arange(size) + 0.5) / size
    x, y = axis.view(1, 1, 1, -1) - draw(0.1, 0.9), axis.view(1, 1, -1, 1) - draw(0.1, 0.9)
    angle = draw(0.0, torch.pi)
    along = (x * angle.cos() + y * angle.sin()) / draw(0.08, 0.35)
    across = (y * angle.cos() - x * angle.sin()) / draw(0.08, 0.35)
    ellipse = along.square() + across.square() < 1
    box = (along.abs() < 1) & (across.abs() < 1)
    half = along > 0.5
    kind = torch.randint(5, (count, SHAPES, 1, 1), generator=generator)
    shape = torch.where(kind < 2, ellipse, torch.where(kind < 4, box, half))
    wanted = torch.rand(count, SHAPES, 1, 1, generator=generator) < 0.6
    occluder = (shape & wanted).any(1, keepdim=True)
    occluder &= torch.rand(count, 1, 1, 1, generator=generator) < share
    solid = alpha.cpu() > OBJECT_ALPHA
    shown = (solid & ~occluder).sum((2, 3), keepdim=True)
    enough = shown >= SHOWN_AT_LEAST * solid.sum((2, 3), keepdim=True)
    return (occluder & enough).to(alpha.device, alpha.dtype)

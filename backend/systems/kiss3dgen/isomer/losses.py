"""The terms of ISOMER's losses (spec 8). Pictures are [V,H,W,4]; the last channel is alpha."""

from __future__ import annotations

from torch import Tensor

BOX = 0.99  # a coordinate beyond this counts as outside
BOX_WEIGHT = 10.0


def picture_loss(pictures: Tensor, target: Tensor, channels: int) -> Tensor:
    """Mean square difference of the first `channels` where the rendering is more than half covered; 0 where nothing
    is."""
    shown = pictures[..., -1] > 0.5
    if not bool(shown.any()):
        return pictures.sum() * 0
    return (pictures[shown][:, :channels] - target[shown][:, :channels]).square().mean()


def outline_loss(pictures: Tensor, target: Tensor, both_sides: bool = False) -> Tensor:
    """Mean square of alpha's error where the target shows background, as published; or everywhere (`both_sides`), which
    also keeps an outline from shrinking."""
    shown, wanted = pictures[..., -1], target[..., -1]
    if both_sides:
        return (shown - wanted).square().mean()
    empty = wanted < 0.5
    if not bool(empty.any()):
        return pictures.sum() * 0
    return (shown[empty] - wanted[empty]).square().mean()


def expansion_loss(vertices: Tensor, normals: Tensor) -> Tensor:
    """A constant push along the normals [N,3]: half the mean square way to where they point."""
    return 0.5 * ((vertices + normals).detach() - vertices).square().mean()


def box_loss(vertices: Tensor) -> Tensor:
    """The share of coordinates outside the box, weighted. A number to watch: it has no gradient."""
    return (vertices.detach().abs() > BOX).float().mean() * BOX_WEIGHT

"""What the LRM's planes say of a place: signed distance, colour, material, and FlexiCubes' deformation and weights.

Parameter names are those of the published checkpoint below `synthesizer.` (spec section 7). The planes lie in the LRM's
own z-up frame and reach from -1 to 1; outside them features are zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AXES = ((0, 1), (0, 2), (2, 1))  # what a plane's columns and rows run along: XY, XZ and ZY
CUBE_CORNERS = 8
WEIGHT_CHANNELS = 21
WEIGHT_FACTOR = 0.1
COLOR_REACH = 1.002  # colours leave [0,1] by 0.001 on both sides, so that the sigmoid can reach both ends
ROUGHNESS_LOWEST = 0.0016


def sample_planes(planes: Tensor, points: Tensor) -> Tensor:
    """Features [B,3,N,C] of points [B,N,3] on planes [B,3,C,H,W], bilinear."""
    places = torch.stack([points[..., list(axes)] for axes in AXES], dim=1)  # [B,3,N,2]
    found = F.grid_sample(
        planes.flatten(0, 1), places.flatten(0, 1)[:, :, None].to(planes.dtype), mode="bilinear", padding_mode="zeros",
        align_corners=False,
    )  # fmt: skip
    return found[..., 0].transpose(1, 2).unflatten(0, (len(planes), len(AXES)))


def perceptron(inputs: int, outputs: int, hidden: int, layers: int) -> nn.Sequential:
    """`layers` linear layers with ReLU between them."""
    widths = [inputs, *[hidden] * (layers - 1), outputs]
    parts: list[nn.Module] = []
    for index in range(layers):
        parts += [nn.Linear(widths[index], widths[index + 1])]
        parts += [nn.ReLU()] if index < layers - 1 else []
    return nn.Sequential(*parts)


class TriplaneDecoder(nn.Module):
    """Five perceptrons over the features of the three planes [...,3C], in this order: plane, channel."""

    def __init__(self, plane_channels: int = 80, hidden: int = 64, layers: int = 4) -> None:
        super().__init__()
        features = len(AXES) * plane_channels
        self.net_sdf = perceptron(features, 1, hidden, layers)
        self.net_rgb = perceptron(features, 3, hidden, layers)
        self.net_material = perceptron(features, 2, hidden, layers)
        self.net_deformation = perceptron(features, 3, hidden, layers)
        self.net_weight = perceptron(CUBE_CORNERS * features, WEIGHT_CHANNELS, hidden, layers)

    def distance(self, features: Tensor) -> Tensor:
        """Signed distance [...,1], positive inside."""
        return self.net_sdf(features)

    def deformation(self, features: Tensor) -> Tensor:
        """What moves a grid vertex [...,3], before tanh."""
        return self.net_deformation(features)

    def weights(self, corners: Tensor) -> Tensor:
        """FlexiCubes' raw weights [...,21] of the features of a cube's corners [...,8,3C]."""
        return self.net_weight(corners.flatten(-2)) * WEIGHT_FACTOR

    def color(self, features: Tensor) -> Tensor:
        """Colour [...,3], [0,1] and 0.001 beyond."""
        return torch.sigmoid(self.net_rgb(features)) * COLOR_REACH - (COLOR_REACH - 1) / 2

    def material(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Metallic [...] and roughness [...] in [0.0016,1]."""
        metallic, roughness = torch.sigmoid(self.net_material(features)).unbind(-1)
        return metallic, ROUGHNESS_LOWEST + (1 - ROUGHNESS_LOWEST) * roughness


class TriplaneField(nn.Module):
    """The decoder under the name that the checkpoint gives it, and features of places."""

    def __init__(self, plane_channels: int = 80, hidden: int = 64, layers: int = 4) -> None:
        super().__init__()
        self.decoder = TriplaneDecoder(plane_channels, hidden, layers)

    def features(self, planes: Tensor, points: Tensor) -> Tensor:
        """Features [B,N,3C] of points [B,N,3] on planes [B,3,C,H,W]."""
        return sample_planes(planes, points).transpose(1, 2).flatten(2)

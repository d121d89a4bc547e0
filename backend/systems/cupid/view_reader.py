"""Mini's view reader: which directions a photo of an object may have been taken from, to choose between hypotheses.

A small flow scatters its views; a network that is asked for nothing but the direction is right more often. It only
orders what the flow has sampled, and the published weights, whose samples need no such help, come without one. (Not in
the paper.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from backend.systems.cupid.image_encoder import SPECIAL_TOKENS, ImageEncoder

MIRRORED = np.array([-1.0, 1.0, 1.0])  # signs of a direction in the mirror image: columns run along the object's x
SHARPNESS = 40.0  # of a direction's likelihood about its grid point: a standard deviation of 9 degrees


class ViewReader(nn.Module):
    """An image encoder, and a head that answers with the logits [B,directions] of where the camera stands."""

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        channels: int,
        num_blocks: int,
        num_heads: int,
        in_channels: int = 3,
        directions: int = 512,
    ) -> None:
        super().__init__()
        self.encoder = ImageEncoder(image_size, patch_size, channels, num_blocks, num_heads, in_channels)
        self.head = nn.Sequential(
            nn.Linear(2 * channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, directions)
        )
        self.directions = directions

    def forward(self, image: Tensor) -> Tensor:
        """image: the image encoder's input [B,C,S,S]."""
        tokens = self.encoder(image)
        logits: Tensor = self.head(torch.cat([tokens[:, 0], tokens[:, SPECIAL_TOKENS:].mean(1)], 1))
        return logits

    def likelihoods(self, image: Tensor, eyes: np.ndarray) -> np.ndarray:
        """How likely the one photo [1,C,S,S] was taken from each of the directions `eyes` [N,3], unit vectors: [N].

        Relative to knowing nothing, for which all are 1. The photo and its mirror image are read, which errs less.
        """
        sphere = even_directions(self.directions)
        found = np.zeros(len(eyes))
        for seen, directions in ((image, eyes), (image.flip(3), eyes * MIRRORED)):
            with torch.inference_mode():
                read = torch.softmax(self(seen).float(), 1)[0].double().cpu().numpy()
            near = np.exp(SHARPNESS * (directions @ sphere.T - 1.0))
            found += self.directions * (near @ read) / near.sum(1) / 2
        return found


def even_directions(count: int) -> np.ndarray:
    """Unit vectors [count,3] spread evenly over the sphere (a Fibonacci lattice)."""
    index = np.arange(count) + 0.5
    height, turn = 1 - 2 * index / count, math.pi * (1 + math.sqrt(5)) * index
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), height], 1)


def camera_directions(world_to_camera: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Where the cameras [N,4,4] stand, unit vectors [N,3] in the object's frame."""
    cameras = np.asarray(world_to_camera)
    eyes = -np.einsum("nji,nj->ni", cameras[:, :3, :3], cameras[:, :3, 3])
    return np.asarray(eyes / np.linalg.norm(eyes, axis=1, keepdims=True))

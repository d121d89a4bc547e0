"""Training of mini's view reader, whose encoder is also what the flow's starts with: what DINOv2 brings along (spec 5).

From the flow's loss alone an encoder learns to tell views too late: the UV latent says the camera many times over, so
all but the first few steps of sampling read it from the noisy latent, and the picture is hardly asked (see
`train.NOISY_SHIFT`). Here the task is the camera's direction itself, as one of many on a sphere; several may stay
likely, as of a symmetric object.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from backend.data.shards import ShardDataset

from .model import build
from .occlusion import hide, random_occluders
from .structure_latents import in_random_light, premultiplied
from .train import Stage, TrainRequest
from .view_reader import MIRRORED, SHARPNESS, camera_directions, even_directions

ZOOM, SHIFT = (0.85, 1.15), 0.075  # how a crop varies, and by how much of its half side it moves
NEAR = 20.0  # degrees: a direction that counts as found


class ViewStage(Stage):
    """The view reader of a configuration that has one, on the shards' pictures."""

    batch = 96
    rate = 6e-4
    bf16_on_cpu = True
    muon = True
    most_workers = 8
    weight_decay = 0.05
    warmup = 100
    parts = {"view_reader": ""}

    def __init__(self, request: TrainRequest) -> None:
        super().__init__(request)
        self.module = build(self.models["view_reader"])
        self.train_set, self.held_out = (
            pictures_and_directions(ShardDataset(request.data, split, request.limit)) for split in ("train", "val")
        )
        self.sphere = torch.from_numpy(even_directions(self.module.directions)).float().to(self.device)

    def loss(self, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        pictures, directions = self.train_set
        chosen = torch.randint(len(pictures), (self.size,), generator=generator)
        rgba, direction = with_mirrored(pictures[chosen], directions[chosen], generator)
        image = moved(in_random_light(rgba.to(self.device), generator), generator)
        occluder = random_occluders(image[:, 3:], generator)
        logits = self._logits(image, occluder)
        wanted = functional.softmax(SHARPNESS * direction.to(self.device) @ self.sphere.T, 1)
        return functional.cross_entropy(logits.float(), wanted), {}

    def validate(self) -> dict[str, float]:
        """Cross entropy, and of the likeliest directions the median error (degrees) and the share that is near."""
        pictures, directions = (each[:1024] for each in self.held_out)
        answers = []
        for part in pictures.split(128):
            rgba = part.permute(0, 3, 1, 2).to(self.device).float() / 255
            image = premultiplied(rgba[:, :3], rgba[:, 3:])
            answers.append(self._logits(image, torch.zeros_like(image[:, 3:])).float())
        logits, truth = torch.cat(answers), directions.to(self.device)
        wanted = functional.softmax(SHARPNESS * truth @ self.sphere.T, 1)
        angle = ((self.sphere[logits.argmax(1)] * truth).sum(1)).clamp(-1, 1).acos().rad2deg()
        return {
            "loss": float(functional.cross_entropy(logits, wanted)),
            "degrees": float(angle.median()),
            "near": float((angle < NEAR).float().mean()),
        }

    def _logits(self, image: Tensor, occluder: Tensor) -> Tensor:
        logits: Tensor = self.module(hide(image, occluder)[:, : self.module.encoder.in_channels])
        return logits


def pictures_and_directions(shards: ShardDataset) -> tuple[Tensor, Tensor]:
    """All views: pictures [N,S,S,4] uint8 and where their cameras stand, unit vectors [N,3] in the object's frame."""
    eyes = camera_directions(shards.world_to_camera.reshape(-1, 4, 4))
    return torch.from_numpy(shards.images).flatten(0, 1), torch.from_numpy(eyes).float()


def with_mirrored(pictures: Tensor, directions: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures [B,S,S,4] uint8 as [B,4,S,S] in [0,1], half of them mirrored, which mirrors the object's x."""
    mirrored = torch.rand(len(pictures), generator=generator) < 0.5
    rgba = pictures.permute(0, 3, 1, 2).float() / 255
    rgba = torch.where(mirrored.view(-1, 1, 1, 1), rgba.flip(3), rgba)
    return rgba, torch.where(mirrored.view(-1, 1), directions * torch.from_numpy(MIRRORED).to(directions), directions)


def moved(image: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures [B,C,S,S] a little larger or smaller and off their middle."""
    low, high = ZOOM
    grid = torch.zeros(len(image), 2, 3)
    grid[:, 0, 0] = grid[:, 1, 1] = low + (high - low) * torch.rand(len(image), generator=generator)
    grid[:, :, 2] = SHIFT * (2 * torch.rand(len(image), 2, generator=generator) - 1)
    places = functional.affine_grid(grid.to(image.device), list(image.shape), align_corners=False)
    return functional.grid_sample(image, places, align_corners=False)

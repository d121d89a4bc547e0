"""The first stage: mini's autoencoder, on crops of true bundles' tiles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from backend.data.bundles import BundleDataset
from backend.training.checkpoints import load_strict
from backend.training.loop import TrainingLoop

from .train_stage import KissTrainRequest, Stage

LATENT_NOISE = 0.03  # added to latents before they are decoded: what the flow makes is never exact
LATENT_LIMIT = 12.0  # larger latents cost
LINEAR_TILES = 4000  # whose principal components the autoencoder starts as
CROP = 32  # pixels of what the autoencoder learns from: most of a tile is white
EDGE_WEIGHT = 0.25  # of the difference of neighbouring pixels, against the pixels themselves


class Vae(Stage):
    """The autoencoder, on single tiles of colours and normals alike."""

    parts = {"vae": ""}
    batch = 64
    rate = 1e-3

    def __init__(self, request: KissTrainRequest) -> None:
        super().__init__(request)
        self.module = self.new("vae").to(memory_format=torch.channels_last)
        self.tiles = self._tiles(BundleDataset(request.data, "train"))
        self.held_out = self._tiles(BundleDataset(request.data, "val"))
        self.boxes = self._boxes()
        some = self.tiles[torch.randperm(len(self.tiles))[:LINEAR_TILES]]
        self.module.start_linear(2.0 * (some.float() / 255.0) - 1.0)  # type: ignore[operator]
        self.latent_mean, self.latent_std = 0.0, 1.0

    def _boxes(self) -> Tensor:
        """Where a crop may have its corner so that it shows some of the object: [N,2,2], first place and extent."""
        shown = (self.tiles < 250).any(1)
        side = shown.shape[-1]
        boxes = []
        for lines in (shown.any(2), shown.any(1)):
            low = lines.int().argmax(1)
            high = side - 1 - lines.flip(1).int().argmax(1)
            first = (low - CROP // 4).clamp(0, side - CROP)
            last = (high - 3 * CROP // 4).clamp(0, side - CROP)
            boxes.append(torch.stack([first, (last - first).clamp(min=0) + 1], 1))
        return torch.stack(boxes, 2)

    def _tiles(self, dataset: BundleDataset) -> Tensor:
        """Every tile that is not empty: uint8 [N,3,S,S]."""
        pictures, side = torch.from_numpy(dataset.pictures()[..., :3]), dataset.size
        tiles = pictures.reshape(len(dataset), 2, side, 4, side, 3).permute(0, 1, 3, 5, 2, 4).reshape(-1, 3, side, side)
        shown = (tiles < 250).flatten(1).any(1)
        return tiles[shown].contiguous()

    def _reconstruct(self, tiles: Tensor, generator: torch.Generator, noise: float) -> tuple[Tensor, Tensor, Tensor]:
        """(decoded, given, latents) of tiles uint8 [B,3,S,S]; the latents are disturbed before they are decoded."""
        pictures = (2.0 * (tiles.float() / 255.0) - 1.0).to(self.device, memory_format=torch.channels_last)
        latents = self.module.encode(pictures).latent_dist.mode()  # type: ignore[operator]
        disturbed = latents + noise * torch.randn(latents.shape, generator=generator).to(latents)
        decoded = self.module.decode(disturbed).sample  # type: ignore[operator]
        return decoded.float(), pictures, latents.float()

    def loss(self, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen = torch.randint(len(self.tiles), (self.size,), generator=generator)
        corners = self.boxes[chosen, 0] + (torch.rand(self.size, 2, generator=generator) * self.boxes[chosen, 1]).long()
        tiles = torch.stack(
            [
                self.tiles[item, :, top : top + CROP, left : left + CROP]
                for item, (top, left) in zip(chosen.tolist(), corners.tolist(), strict=True)
            ]
        )
        if int(torch.randint(2, (1,), generator=generator)):
            tiles = tiles.flip(-1)
        decoded, pictures, latents = self._reconstruct(tiles, generator, LATENT_NOISE)
        squared = (decoded - pictures).square()
        pixels = (decoded - pictures).abs().mean() + 4.0 * squared.mean()
        edges = sum((decoded.diff(dim=axis) - pictures.diff(dim=axis)).abs().mean() for axis in (2, 3))
        size = functional.relu(latents.abs() - LATENT_LIMIT).mean()
        error = squared.detach().mean() / 4
        return pixels + EDGE_WEIGHT * edges + size, {"psnr": float(-10 * torch.log10(error))}

    def validate(self) -> dict[str, float]:
        generator = torch.Generator().manual_seed(1)
        chosen = torch.randint(len(self.held_out), (64,), generator=generator)
        decoded, pictures, latents = self._reconstruct(self.held_out[chosen], generator, 0.0)
        error = ((decoded.clamp(-1, 1) - pictures) / 2).square().mean()
        return {"psnr": float(-10 * torch.log10(error)), "latent_std": float(latents.std())}

    def arguments(self, role: str) -> dict[str, Any]:
        """The latents' mean and spread become the scaling that the flow sees."""
        return super().arguments(role) | {
            "scaling_factor": round(1.0 / self.latent_std, 5), "shift_factor": round(self.latent_mean, 5),
        }  # fmt: skip

    def export(self, loop: TrainingLoop) -> None:
        load_strict(self.module, loop.averaged_state(), "vae")
        chosen = torch.randint(len(self.tiles), (256,), generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            _, _, latents = self._reconstruct(self.tiles[chosen], torch.Generator().manual_seed(3), 0.0)
        self.latent_mean, self.latent_std = float(latents.mean()), float(latents.std())
        super().export(loop)

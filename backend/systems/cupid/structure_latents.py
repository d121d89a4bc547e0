"""Pictures and stage-1 latents of all views, made once by the frozen VAEs: what the structure flow trains on (12.3).

Every object is there twice, as it is and mirrored left to right (its x axis, the picture's columns), which is another
object with another camera at no cost. The latents are kept in a file below the run's folder: encoding takes minutes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from backend.data.shards import ShardDataset

logger = logging.getLogger(__name__)

Volumes = Callable[[Tensor, Tensor, int], Tensor]
Normalization = tuple[Tensor, Tensor]

BATCH_VOXELS = 64 * 32**3  # encoded at once
LEAST_SPREAD = 0.1  # of the widest channel: a channel that hardly moves must not become a target as loud as the others


def mirrored_views(volume: Tensor) -> Tensor:
    """UV cubes [B,3,R,R,R] = [support, u, v] of the mirrored object in the mirrored picture."""
    flipped = volume.flip(2)
    return torch.stack([flipped[:, 0], 1 - flipped[:, 1], flipped[:, 2]], 1)


class LatentSet:
    """Training pairs of one split. ``draw`` gives random ones; ``normalization`` is (mean, std), each [16]."""

    def __init__(
        self,
        data: Path,
        split: str,
        shape_encoder: nn.Module,
        uv_encoder: nn.Module,
        uv_volumes: Volumes,
        device: torch.device,
        cache: Path | None = None,
        limit: int | None = None,
        resolution: int = 32,
    ) -> None:
        """resolution: voxels along a side of what the encoders read, 32 or 64; limit: objects."""
        shards = ShardDataset(data, split, limit)
        self.resolution = resolution
        self.images = torch.from_numpy(shards.images)  # [n, V, S, S, 4]
        self.device = device
        path = cache and cache / f"latents-{split}-{_fingerprint(shards, shape_encoder, uv_encoder)}.safetensors"
        if path and path.exists():
            stored = load_file(path)
            self.shapes, self.cubes = stored["shapes"], stored["cubes"]
        else:
            self.shapes, self.cubes = self._encode(shards, shape_encoder, uv_encoder, uv_volumes)
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                save_file({"shapes": self.shapes, "cubes": self.cubes}, path)
        self.normalization = self._measure()
        logger.info("%s: %d objects, %d views, each also mirrored", split, *self.images.shape[:2])

    def _encode(
        self, shards: ShardDataset, shape_encoder: nn.Module, uv_encoder: nn.Module, uv_volumes: Volumes
    ) -> tuple[Tensor, Tensor]:
        """Latents of shapes [n,2,8,r,r,r] and of UV cubes [n,V,2,8,r,r,r] in half precision; second: mirrored."""
        occupancy = torch.from_numpy(shards.occupancy_at(self.resolution))
        cameras = torch.from_numpy(shards.world_to_camera)
        intrinsics = torch.from_numpy(shards.intrinsics)
        resolution, shapes, cubes = self.resolution, [], []
        batch = max(1, BATCH_VOXELS // resolution**3)
        with torch.inference_mode():
            for first in range(0, len(occupancy), batch):
                volume = occupancy[first : first + batch, None].float().to(self.device)
                shapes.append(torch.stack([shape_encoder(volume), shape_encoder(volume.flip(2))], 1).half().cpu())
            flat = cameras.flatten(0, 1), intrinsics.flatten(0, 1)
            for first in range(0, len(flat[0]), batch):
                camera, lens = (x[first : first + batch].to(self.device) for x in flat)
                volume = uv_volumes(camera, lens, resolution)
                cubes.append(torch.stack([uv_encoder(volume), uv_encoder(mirrored_views(volume))], 1).half().cpu())
        return torch.cat(shapes), torch.cat(cubes).unflatten(0, cameras.shape[:2])

    def _measure(self) -> Normalization:
        shapes, cubes = self.shapes[::2].float().flatten(0, 1), self.cubes[::4].float().flatten(0, 2)
        means, spreads = [], []
        for latents in (shapes, cubes):
            spread = latents.std((0, 2, 3, 4))
            means.append(latents.mean((0, 2, 3, 4)))
            spreads.append(spread.clamp_min(LEAST_SPREAD * float(spread.max())))
        return torch.cat(means), torch.cat(spreads)

    def draw(self, count: int, generator: torch.Generator, augment: bool = True) -> tuple[Tensor, Tensor]:
        """Random views: pictures [B,4,S,S] in [0,1], premultiplied RGB and alpha, and normalised latents [B,16,r,r,r].

        ``augment`` mirrors half of them and varies exposure and tint.
        """
        chosen = torch.randint(len(self.images), (count,), generator=generator)
        view = torch.randint(self.images.shape[1], (count,), generator=generator)
        mirrored = (torch.rand(count, generator=generator) < (0.5 if augment else 0.0)).long()
        rgba = self.images[chosen, view].permute(0, 3, 1, 2)
        rgba = torch.where(mirrored.view(-1, 1, 1, 1) > 0, rgba.flip(3), rgba).to(self.device).float() / 255
        image = in_random_light(rgba, generator) if augment else premultiplied(rgba[:, :3], rgba[:, 3:])
        latent = torch.cat([self.shapes[chosen, mirrored].float(), self.cubes[chosen, view, mirrored].float()], 1)
        mean, std = (x.view(1, -1, 1, 1, 1) for x in self.normalization)
        return image, ((latent - mean) / std).to(self.device)


def in_random_light(rgba: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures [B,4,S,S] in [0,1], straight alpha, of varied exposure and tint, premultiplied."""
    exposure = 0.6 + 0.8 * torch.rand(len(rgba), 1, 1, 1, generator=generator)
    tint = 0.85 + 0.3 * torch.rand(len(rgba), 3, 1, 1, generator=generator)
    return premultiplied((rgba[:, :3] * (exposure * tint).to(rgba.device)).clamp(0, 1), rgba[:, 3:])


def premultiplied(color: Tensor, alpha: Tensor) -> Tensor:
    """[B,4,S,S] of colour [B,3,S,S] and straight alpha [B,1,S,S]."""
    return torch.cat([color * alpha, alpha], 1)


def _fingerprint(shards: ShardDataset, *encoders: nn.Module) -> str:
    """Of the objects and of both encoders' weights, so that old latents are never taken for new ones."""
    digest = hashlib.sha256(repr((shards.ids, shards.views)).encode())
    for encoder in encoders:
        for tensor in encoder.state_dict().values():
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]

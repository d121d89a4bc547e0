"""What training draws at random, and pictures at the size a network reads (CUPID spec 12.1)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from backend.data.views import random_cameras


def resized(image: torch.Tensor, size: int) -> torch.Tensor:
    """``image`` [B,C,S,S] at another size."""
    return F.interpolate(image, (size, size), mode="bilinear", align_corners=False, antialias=True)


def random_crops(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cameras [N,4,4] and crop intrinsics [N,3,3] as in the shards: the crop follows a box of random proportions."""
    random = np.random.default_rng(seed)
    views = random_cameras(count, seed)
    cameras = np.stack([view.world_to_camera for view in views])
    intrinsics = np.stack([view.intrinsics for view in views])
    corners = np.array(np.meshgrid([-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5])).reshape(3, -1).T
    extents = random.uniform(0.1, 1.0, (count, 1, 3))
    extents /= extents.max(-1, keepdims=True)
    camera = corners * extents @ cameras[:, :3, :3].transpose(0, 2, 1) + cameras[:, None, :3, 3]
    pixels = camera @ intrinsics.transpose(0, 2, 1)
    uv = pixels[..., :2] / pixels[..., 2:]
    low, high = uv.min(1), uv.max(1)
    side = (high - low).max(1) * random.uniform(1.0, 1.3, count)
    left, top = ((low + high) / 2 - side[:, None] / 2).T
    windows = np.zeros((count, 3, 3))
    windows[:, 0, 0] = windows[:, 1, 1] = 1 / side
    windows[:, 0, 2], windows[:, 1, 2], windows[:, 2, 2] = -left / side, -top / side, 1
    return torch.from_numpy(cameras).float(), torch.from_numpy(windows @ intrinsics).float()


def random_quarter_turns(volumes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Volumes [B,R,R,R] turned about z by the same random quarter and maybe mirrored: more shapes for the VAE."""
    volumes = torch.rot90(volumes, int(torch.randint(4, (1,), generator=generator)), (1, 2))
    return volumes.flip(1) if torch.rand((), generator=generator) < 0.5 else volumes

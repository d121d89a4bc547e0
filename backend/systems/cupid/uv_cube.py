"""UV cubes: where a camera sees every voxel of the object cube (specs/cupid.md 3, 12.1)."""

from __future__ import annotations

import torch
from torch import Tensor

SUPPORT_MARGIN = 0.01  # a voxel this close to the picture's edge, or outside, has no support
LEAST_DEPTH = 1e-6  # points behind the camera land far outside of the picture


def uv_volumes(world_to_camera: Tensor, intrinsics: Tensor, resolution: int) -> Tensor:
    """UV cubes [B,3,R,R,R] = [support, u, v] of cameras [B,4,4] and normalised intrinsics [B,3,3].

    The support is where a voxel centre falls into the image, with the published margin.
    """
    axis = (torch.arange(resolution, device=intrinsics.device) + 0.5) / resolution - 0.5
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    camera = grid @ world_to_camera[:, :3, :3].transpose(1, 2) + world_to_camera[:, None, :3, 3]
    pixels = camera @ intrinsics.transpose(1, 2)
    uv = pixels[..., :2] / pixels[..., 2:].clamp_min(LEAST_DEPTH)
    support = ((uv >= SUPPORT_MARGIN) & (uv <= 1 - SUPPORT_MARGIN)).all(-1, keepdim=True).to(uv.dtype)
    volume = torch.cat([support, uv.clamp(0, 1)], -1)
    return volume.transpose(1, 2).reshape(len(intrinsics), 3, resolution, resolution, resolution)

"""From decoded logits to occupied voxels and their image coordinates (specs/cupid.md 3, 7.1, 7.5)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

MIN_ACTIVE = 10  # voxels the pose set must have
THRESHOLD_STEP = 0.05
FILLED_SHARE = 1 / 8  # of the grid: 32,768 of 64^3, as many as the published data have at most
COARSE_SHARE = 1 / 4  # of the cells of two voxels a side: a surface of that many voxels meets about so many


@dataclass(frozen=True)
class Structure:
    """``coords`` [L,4] int32 (b,x,y,z) of the object; ``uv_coords`` [P,4] and ``uv`` [P,2] for solving the camera.

    ``dropped`` voxels were left out of ``coords`` because there were too many.
    """

    coords: Tensor
    uv_coords: Tensor
    uv: Tensor
    dropped: int = 0


def active_voxels(logits: Tensor, threshold: float = 0.0) -> Tensor:
    """Rows (b,x,y,z) int32 of ``logits`` [B,1,R,R,R] above ``threshold``, in lexicographic order."""
    return torch.argwhere(logits[:, 0] > threshold).int()


def expanded_voxels(logits: Tensor, min_active: int = MIN_ACTIVE, step: float = THRESHOLD_STEP) -> Tensor:
    """As ``active_voxels``, each item with its threshold lowered by ``step`` until ``min_active`` voxels are active.

    Raises ValueError when the volume has fewer voxels than asked for, or a logit is not finite.
    """
    if logits[0].numel() < min_active:
        raise ValueError(f"A volume of {logits[0].numel()} voxels cannot have {min_active} active; lower the minimum.")
    if not torch.isfinite(logits).all():
        raise ValueError("The structure decoder answered numbers that are not finite; try another seed.")
    rows = []
    for item, volume in enumerate(logits[:, 0]):
        # The smallest number of steps that lets the min_active-th largest logit through, found without a loop per step.
        needed = float(volume.flatten().topk(min_active).values[-1])
        count = 0 if needed > 0 else int(-needed / step)
        while count > 0 and int((volume > -step * (count - 1)).sum()) >= min_active:
            count -= 1
        while int((volume > -step * count).sum()) < min_active:
            count += 1
        found = torch.argwhere(volume > -step * count)
        rows.append(torch.cat([torch.full_like(found[:, :1], item), found], dim=1))
    return torch.cat(rows).int()


def decode_structure(
    occupancy_logits: Tensor,
    uv_logits: Tensor,
    uv_from_occupancy: bool = True,
    min_active: int = MIN_ACTIVE,
    step: float = THRESHOLD_STEP,
) -> Structure:
    """Occupied voxels and UV correspondences.

    ``occupancy_logits`` [B,1,R,R,R], ``uv_logits`` [B,3,R,R,R] = support, u, v. The pose set is the occupancy's
    (default, as published) or the UV decoder's own support.
    """
    support = occupancy_logits if uv_from_occupancy else uv_logits[:, :1]
    uv_coords = expanded_voxels(support, min_active, step)
    b, x, y, z = uv_coords.long().unbind(1)
    uv = torch.sigmoid(uv_logits[:, 1:3])[b, :, x, y, z]
    return Structure(active_voxels(occupancy_logits), uv_coords, uv)


def most_certain(structure: Structure, logits: Tensor) -> Structure:
    """The structure of one object with at most so many voxels as stage 2 can take, those of the largest ``logits``.

    ``logits`` [1,1,R,R,R]. Stage 2's attention runs over cells of two voxels a side and its cost grows with their
    square: whole cells go first (those without any certain voxel), then single voxels. No published object has more,
    so that only noise loses anything.
    """
    coords, size = structure.coords.long(), logits.shape[-1]
    b, x, y, z = coords.unbind(1)
    certainty = logits[b, 0, x, y, z]
    cells = (x // 2 * size + y // 2) * size + z // 2
    names, owner = cells.unique(return_inverse=True)
    best = torch.full((len(names),), -torch.inf, dtype=certainty.dtype, device=certainty.device)
    best.scatter_reduce_(0, owner, certainty, reduce="amax")
    allowed = int(COARSE_SHARE * (size // 2) ** 3)
    kept = torch.zeros(len(names), dtype=torch.bool, device=certainty.device)
    kept[best.topk(min(allowed, len(names))).indices] = True
    certainty = torch.where(kept[owner], certainty, -torch.inf)
    count = min(int(FILLED_SHARE * size**3), int(kept[owner].sum()))
    rows = certainty.topk(count).indices.sort().values
    return replace(structure, coords=structure.coords[rows], dropped=len(coords) - count)


def voxel_centres(coords: Tensor, resolution: int) -> Tensor:
    """Object-space centres [L,3] of voxels ``coords`` [L,3] or [L,4] (batch index first)."""
    return (coords[:, -3:].float() + 0.5) / resolution - 0.5


def project_points(points: Tensor, world_to_camera: Tensor, intrinsics: Tensor) -> Tensor:
    """Image coordinates [N,2] of ``points`` [N,3] for one camera ([4,4], [3,3]) or one a point ([N,4,4], [N,3,3])."""
    camera = torch.einsum("...ij,...j->...i", world_to_camera[..., :3, :3], points) + world_to_camera[..., :3, 3]
    image = torch.einsum("...ij,...j->...i", intrinsics, camera)
    return image[..., :2] / image[..., 2:3]


def voxel_uv(coords: Tensor, world_to_camera: Tensor, intrinsics: Tensor, resolution: int) -> Tensor:
    """Where each voxel is seen, clamped to the image [L,2].

    ``coords`` [L,4] (b,x,y,z), ``world_to_camera`` [B,4,4], ``intrinsics`` [B,3,3] of the crop camera.
    """
    item = coords[:, 0].long()
    centres = voxel_centres(coords, resolution)
    return project_points(centres, world_to_camera[item], intrinsics[item]).clamp(0.0, 1.0)

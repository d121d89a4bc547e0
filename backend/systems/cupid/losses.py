"""Training losses of the UV-cube VAE and of the flows, and the dilation of a voxel set (specs/cupid.md 12.2, 12.3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from backend.systems.cupid.flow_sampler import noisy_sample, target_velocity

KERNEL_CHI2 = 7.814728  # 95 % of a 3D Gaussian lies within sigma * sqrt of this; the kernel's radius


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - (2 sum p q + 1) / (sum p + sum q + 1) over the whole batch, p = sigmoid(``logits``), same shapes."""
    p, q = torch.sigmoid(logits.float()), target.float()
    return 1 - (2 * (p * q).sum() + 1) / (p.sum() + q.sum() + 1)


def kl_loss(mean: Tensor, logvar: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence from the unit Gaussian, same shapes."""
    return 0.5 * (mean.square() + logvar.exp() - logvar - 1).mean()


def uv_vae_losses(
    logits: Tensor,
    ssuv: Tensor,
    uv: Tensor,
    mean: Tensor,
    logvar: Tensor,
    lambda_kl: float = 1e-3,
    lambda_uv: float = 1.0,
) -> dict[str, Tensor]:
    """Losses of the UV-cube VAE by name; ``loss`` is their weighted sum.

    ``logits`` [B,3,R,R,R], ``ssuv`` [B,1,R,R,R] 0/1, ``uv`` [B,2,R,R,R] in [0,1], ``mean`` and ``logvar`` alike. The L1
    is divided by the number of supported voxels, not by twice that (as published).
    """
    mask = ssuv.float()
    dice = dice_loss(logits[:, :1], mask)
    l1 = ((torch.sigmoid(logits[:, 1:3].float()) - uv).abs() * mask).sum() / mask.sum().clamp(min=1)
    kl = kl_loss(mean.float(), logvar.float())
    return {"loss": dice + lambda_uv * l1 + lambda_kl * kl, "ssuv_dice": dice, "uv_volume_l1": l1, "kl": kl}


def flow_training_pair(x_0: Tensor, t: Tensor, noise: Tensor, sigma_min: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Noisy sample and target velocity, like ``x_0`` [B,...]; ``t`` [B] flow times in [0,1]."""
    times = t.view(-1, *[1] * (x_0.dim() - 1))
    return noisy_sample(x_0, noise, times, sigma_min), target_velocity(x_0, noise, sigma_min)


def flow_times(count: int, generator: torch.Generator | None = None, mean: float = 1.0, std: float = 1.0) -> Tensor:
    """Training times [count]: the sigmoid of a normal draw, so noisy times are seen more often."""
    return torch.sigmoid(torch.randn(count, generator=generator) * std + mean)


def flow_loss(velocity: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of a predicted velocity, same shapes."""
    return functional.mse_loss(velocity.float(), target.float())


def dilate_voxels(coords: Tensor, resolution: int, sigma: float, min_weight: float) -> tuple[Tensor, Tensor]:
    """Grow a voxel set by a Gaussian kernel.

    ``coords`` [N,3] int64 -> (coords [M,3] in lexicographic order, weights [M]): each voxel within reach keeps the
    largest weight exp(-d^2 / (2 sigma^2)) of the given ones. Weights below ``min_weight`` and voxels outside the grid
    are left out.
    """
    radius = math.ceil(sigma * math.sqrt(KERNEL_CHI2))
    axis = torch.arange(-radius, radius + 1, device=coords.device)
    offsets = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    weights = torch.exp(-offsets.square().sum(dim=1).float() / (2 * sigma**2))
    offsets, weights = offsets[weights >= min_weight], weights[weights >= min_weight]
    grown = (coords.long()[:, None] + offsets[None]).reshape(-1, 3)
    inside = ((grown >= 0) & (grown < resolution)).all(dim=1)
    keys = (grown * torch.tensor([resolution**2, resolution, 1], device=coords.device)).sum(dim=1)[inside]
    unique, owner = keys.unique(return_inverse=True)
    best = torch.zeros(len(unique), device=coords.device)
    best.scatter_reduce_(0, owner, weights.repeat(len(coords))[inside], reduce="amax")
    x, rest = unique // resolution**2, unique % resolution**2
    return torch.stack([x, rest // resolution, rest % resolution], dim=1), best

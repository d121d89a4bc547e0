"""Embeddings of diffusion time and of grid positions (specs/cupid.md 4.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MAX_PERIOD = 10000.0


def timestep_frequencies(count: int, max_period: float = MAX_PERIOD) -> Tensor:
    """Frequencies max_period^(-k/count) [count] float32.

    The exponential is taken in float64 of the float32 exponents and rounded once: at t = 1000 the last bit of a
    frequency moves the embedding by 3e-5, and float32 exponentials differ in that bit between machines.
    """
    exponents = -math.log(max_period) * torch.arange(count, dtype=torch.float32) / count
    return torch.exp(exponents.double()).float()


def timestep_embedding(t: Tensor, dim: int = 256, max_period: float = MAX_PERIOD) -> Tensor:
    """Sinusoids [N, dim] of ``t`` [N] (1000 x flow time): cosines, then sines; an odd ``dim`` ends in a zero."""
    half = dim // 2
    angles = t.float()[:, None] * timestep_frequencies(half, max_period).to(t.device)[None]
    embedded = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return nn.functional.pad(embedded, (0, dim - 2 * half))


def position_embedding(positions: Tensor, channels: int, max_period: float = MAX_PERIOD) -> Tensor:
    """Absolute position embedding (APE).

    ``positions`` [N, D], integer grid coordinates -> [N, channels] float32: for each axis in order the sines then the
    cosines of F = channels // D // 2 frequencies, zeros at the end up to ``channels``.
    """
    axes = positions.shape[-1]
    count = channels // axes // 2
    steps = torch.arange(count, dtype=torch.float32, device=positions.device)
    frequencies = 1.0 / max_period ** (steps / count)
    angles = positions.float()[..., None] * frequencies  # [N, D, F]
    embedded = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)  # [N, D * 2F]
    return nn.functional.pad(embedded, (0, channels - embedded.shape[-1]))


def grid_positions(resolution: int) -> Tensor:
    """Coordinates [resolution^3, 3] of a cube in row-major ijk order."""
    axis = torch.arange(resolution)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)


class AbsolutePositionEmbedder(nn.Module):
    """``position_embedding`` as a module without parameters."""

    def __init__(self, channels: int, in_channels: int = 3) -> None:
        super().__init__()
        self.channels = channels
        self.in_channels = in_channels

    def forward(self, positions: Tensor) -> Tensor:
        """``positions`` [N, in_channels] -> [N, channels] float32."""
        if positions.shape[-1] != self.in_channels:
            raise ValueError(f"Positions have {positions.shape[-1]} axes; give {self.in_channels}.")
        return position_embedding(positions, self.channels)


class TimestepEmbedder(nn.Module):
    """Sinusoids of the time, then Linear-SiLU-Linear. Keys ``mlp.0.*`` and ``mlp.2.*``."""

    def __init__(self, channels: int, frequency_size: int = 256) -> None:
        super().__init__()
        self.frequency_size = frequency_size
        self.mlp = nn.Sequential(nn.Linear(frequency_size, channels), nn.SiLU(), nn.Linear(channels, channels))

    def initialize_weights(self) -> None:
        """Small normal weights (training start)."""
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)

    def forward(self, t: Tensor) -> Tensor:
        """``t`` [N] (1000 x flow time) -> [N, channels]."""
        dtype = next(self.mlp.parameters()).dtype
        return self.mlp(timestep_embedding(t, self.frequency_size).to(dtype))

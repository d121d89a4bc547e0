"""Embeddings of diffusion time and of grid positions (specs/cupid.md 4.1)."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

MAX_PERIOD = 10000.0
SERIES_TERMS = 5


@functools.lru_cache(maxsize=8)
def timestep_frequencies(count: int, max_period: float = MAX_PERIOD) -> Tensor:
    """Frequencies max_period^(-k/count) [count] float32, on the CPU: made in float64, which Apple's GPUs lack.

    At t = 1000 the last bit of a frequency moves the embedding by 3e-5, and float32 exponentials differ in that bit
    between machines. The one here is made of single additions and products, so it is the same everywhere.
    """
    exponents = -math.log(max_period) * torch.arange(count, dtype=torch.float32) / count
    return single_precision_exp(exponents)


def single_precision_exp(x: Tensor) -> Tensor:
    """exp(x) of float32 ``x`` [...] within 0.7 units in the last place, the usual way of vector libraries.

    x = n ln2 / 4 + r; quarter powers of two from a table in two parts, exp(r) - 1 from a series of five terms, every
    step rounded to float32 as a fused product and sum.
    """
    quarters = torch.round(x.double() * (4 / math.log(2)))
    rest = (x.double() - quarters * (math.log(2) / 4)).float().double()
    series = torch.zeros_like(rest)
    for term in range(SERIES_TERMS, 0, -1):
        series = (series * rest + torch.tensor(1 / math.factorial(term)).double()).float().double()
    series = (series * rest).float().double()
    part = torch.remainder(quarters, 4)
    exact = 2.0 ** (part / 4)
    high = exact.float().double()
    low = (exact - high).float().double()
    value = (high + (high * series + low).float().double()).float()
    return value * 2.0 ** ((quarters - part) / 4).float()


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

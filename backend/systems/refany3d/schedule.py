"""The flow-matching Euler schedule with dynamic shift as published (spec section 9), and its integration.

Noise levels (sigma) go from 1 to 0, evenly spaced and then shifted by the number of one picture's tokens: larger
pictures spend more steps on noise. Each step is one Euler step of both branches.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

FEW_TOKENS, MANY_TOKENS = 256, 4096
FEW_MU, MANY_MU = 0.5, 1.15
"""Flux's dynamic shift: mu is linear in the tokens of a picture through these two points."""

Pair = tuple[Tensor, Tensor | None]
"""Of the picture and of the point map, [B,T,C] each; None where the weights have no point maps."""
Velocity = Callable[[Tensor, Tensor | None, float], Pair]
"""(picture's latents, point map's, sigma) -> their velocities, from picture to noise."""
Watcher = Callable[[int, Tensor, Tensor | None], None]
"""(step from 1, picture's latents and point map's as estimated at sigma 0)."""


def shift_of(tokens: int) -> float:
    """mu for a picture of `tokens` tokens; only one branch's count."""
    return FEW_MU + (tokens - FEW_TOKENS) * (MANY_MU - FEW_MU) / (MANY_TOKENS - FEW_TOKENS)


def euler_sigmas(steps: int, tokens: int, dynamic: bool = True) -> Tensor:
    """Noise levels [steps + 1] float32, the final 0 included. `dynamic` off: evenly spaced, for bases without shift.

    Errors: ValueError for no steps.
    """
    if steps < 1:
        raise ValueError(f"sampling needs at least one step, got {steps}")
    sigmas = np.linspace(1.0, 1.0 / steps, steps)
    if dynamic:
        grown = math.exp(shift_of(tokens))
        sigmas = grown / (grown + (1.0 / sigmas - 1.0))
    return torch.from_numpy(np.append(sigmas, 0.0).astype(np.float32))


def integrate(
    velocity: Velocity, rgb: Tensor, coord: Tensor | None, sigmas: Tensor, watch: Watcher | None = None
) -> Pair:
    """Follow both flows from noise `rgb` and `coord` [B,T,C] to the picture's and the point map's latents."""
    levels = sigmas.tolist()
    for step, (now, after) in enumerate(zip(levels[:-1], levels[1:], strict=True), start=1):
        rgb_flow, coord_flow = velocity(rgb, coord, now)
        if watch is not None:
            watch(step, rgb - now * rgb_flow, _moved(coord, coord_flow, -now))
        rgb = rgb + (after - now) * rgb_flow
        coord = _moved(coord, coord_flow, after - now)
    return rgb, coord


def _moved(x: Tensor | None, flow: Tensor | None, step: float) -> Tensor | None:
    return None if x is None or flow is None else x + step * flow

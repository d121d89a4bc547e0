"""Sampling a rectified flow: Euler steps, classifier-free guidance inside a time interval (specs/cupid.md 6).

Works on anything that adds and multiplies like a tensor: a dense latent, or the features of sparse voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

TIME_SCALE = 1000.0  # networks are given 1000 x flow time

Velocity = Callable[[Tensor, Tensor, Any], Tensor]
"""``velocity(x, t [B] = 1000 x flow time, condition) -> tensor like x``."""

StepCallback = Callable[[int, int, Tensor], None]
"""``on_step(done, total, predicted x_0)`` after every step; raises to stop the sampling (cancelled)."""

Constraint = Callable[[Tensor, float], Tensor]
"""``constrain(x_t, t) -> x_t`` with what is known put in its place; called at every time of the sequence."""

SETTLED_TIME = 0.3  # from here on a sample is nearly made, and further rounds change nothing


@dataclass(frozen=True)
class Inpainting:
    """A sample of which a part is known: ``constrain`` puts it in place.

    Every step is tried in ``rounds`` until ``SETTLED_TIME``: what it predicts gets ``fresh_noise()``, like x, for the
    same time (RePaint, Lugmayr et al. 2022), so that the free part has more chances to agree with the known one.
    """

    constrain: Constraint
    fresh_noise: Callable[[], Tensor]
    rounds: int = 3


@dataclass(frozen=True)
class FlowSettings:
    """How to sample; the defaults are the shipped ones (both stages)."""

    steps: int = 25
    cfg_strength: float = 5.0
    cfg_interval: tuple[float, float] = (0.5, 1.0)
    rescale_t: float = 3.0
    sigma_min: float = 1e-5

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"{self.steps} steps cannot be sampled; use at least one.")
        if self.rescale_t <= 0:
            raise ValueError(f"A time rescale of {self.rescale_t} is not possible; use a positive number.")


@dataclass(frozen=True)
class FlowResult:
    """``samples`` like the noise; ``trajectory`` and ``predictions`` hold x_t and x_0 after every step if kept."""

    samples: Tensor
    trajectory: list[Tensor] = field(default_factory=list)
    predictions: list[Tensor] = field(default_factory=list)


def time_sequence(steps: int, rescale_t: float = 1.0) -> np.ndarray:
    """Times [steps + 1] from 1 to 0, float64; ``rescale_t`` above one spends more steps near the noise."""
    u = np.linspace(1.0, 0.0, steps + 1)
    return rescale_t * u / (1.0 + (rescale_t - 1.0) * u)


def with_steps(settings: FlowSettings, steps: int | None) -> FlowSettings:
    """``settings`` with another number of steps; None leaves it."""
    return settings if steps is None else replace(settings, steps=steps)


def denormalise(x: Tensor, normalization: Mapping[str, list[float]] | None) -> Tensor:
    """``x`` [B, C, ...] * std [C] + mean [C]; unchanged without a normalization."""
    if not normalization:
        return x
    mean, std = _statistics(x, normalization)
    return x * std + mean


def normalise(x: Tensor, normalization: Mapping[str, list[float]] | None, first: int = 0) -> Tensor:
    """The inverse of ``denormalise`` for ``x`` [B, C, ...] that holds the channels from ``first`` on."""
    if not normalization:
        return x
    mean, std = _statistics(x, normalization, first)
    return (x - mean) / std


def _statistics(x: Tensor, normalization: Mapping[str, list[float]], first: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the channels of ``x`` [B, C, ...], which begin at channel ``first``."""
    shape = (1, -1, *[1] * (x.ndim - 2))
    mean, std = (
        torch.tensor(normalization[key][first : first + x.shape[1]], dtype=x.dtype, device=x.device).view(shape)
        for key in ("mean", "std")
    )
    return mean, std


def noisy_sample(x_0: Tensor, noise: Tensor, t: Tensor, sigma_min: float = 1e-5) -> Tensor:
    """x_t = (1-t) x_0 + (s + (1-s) t) noise; ``t`` broadcasts against ``x_0``."""
    return (1 - t) * x_0 + (sigma_min + (1 - sigma_min) * t) * noise


def target_velocity(x_0: Tensor, noise: Tensor, sigma_min: float = 1e-5) -> Tensor:
    """v = (1-s) noise - x_0, what a flow network is trained to answer."""
    return (1 - sigma_min) * noise - x_0


def predicted_start(x_t: Tensor, t: float, velocity: Tensor, sigma_min: float = 1e-5) -> Tensor:
    """x_0 that a velocity at time ``t`` points to."""
    return (1 - sigma_min) * x_t - (sigma_min + (1 - sigma_min) * t) * velocity


def guided_velocity(
    velocity: Velocity, x: Tensor, t: float, cond: Any, neg_cond: Any, settings: FlowSettings
) -> Tensor:
    """(1+w) v_cond - w v_uncond inside the guidance interval, v_cond (one evaluation) outside or when w is zero.

    ``x`` [B, ...]; a ``neg_cond`` of None switches guidance off.
    """
    times = torch.full((x.shape[0],), TIME_SCALE * t, dtype=torch.float32, device=x.device)
    conditioned = velocity(x, times, cond)
    low, high = settings.cfg_interval
    strength = settings.cfg_strength
    if neg_cond is None or strength == 0.0 or not low <= t <= high:
        return conditioned
    return (1 + strength) * conditioned - strength * velocity(x, times, neg_cond)


@torch.no_grad()
def sample_flow(
    velocity: Velocity,
    noise: Tensor,
    cond: Any,
    neg_cond: Any = None,
    settings: FlowSettings | None = None,
    on_step: StepCallback | None = None,
    keep: bool = False,
    inpainting: Inpainting | None = None,
) -> FlowResult:
    """Integrate from ``noise`` [B, ...] at t = 1 to t = 0.

    ``on_step`` runs after every step: it reports progress and may raise to cancel. ``keep`` stores every step.
    With ``inpainting`` a part of x is known: at the start, wherever a step arrives, and so in the samples.
    """
    settings = settings or FlowSettings()
    times = time_sequence(settings.steps, settings.rescale_t).tolist()
    x = noise if inpainting is None else inpainting.constrain(noise, times[0])
    trajectory: list[Tensor] = []
    predictions: list[Tensor] = []
    for step, (t, t_next) in enumerate(zip(times[:-1], times[1:], strict=True), start=1):
        v = guided_velocity(velocity, x, t, cond, neg_cond, settings)
        for _ in range(inpainting.rounds - 1 if inpainting is not None and SETTLED_TIME < t < 1 else 0):
            x = noisy_sample(predicted_start(x, t, v, settings.sigma_min), inpainting.fresh_noise(), torch.tensor(t))
            x = inpainting.constrain(x, t)
            v = guided_velocity(velocity, x, t, cond, neg_cond, settings)
        x_0 = predicted_start(x, t, v, settings.sigma_min)
        x = x - (t - t_next) * v
        if inpainting is not None:
            x = inpainting.constrain(x, t_next)
        if keep:
            trajectory.append(x)
            predictions.append(x_0)
        if on_step is not None:
            on_step(step, settings.steps, x_0)
    return FlowResult(x, trajectory, predictions)

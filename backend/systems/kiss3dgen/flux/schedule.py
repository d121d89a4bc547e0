"""The flow-matching Heun schedule as published (spec section 6), and its integration.

Noise levels (sigma) go from 1 to 0. The static shift is applied twice: to the table of 1000 training levels, of which
only the ends are used, and to the evenly spaced levels between them. Each step is a predictor at its own level and a
corrector at the next one, the last step a predictor alone: n steps are 2 n - 1 evaluations of the transformer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

TRAINING_LEVELS = 1000

Velocity = Callable[[Tensor, float, int], Tensor]
"""(x, sigma, evaluation from 0) -> velocity of x, from picture to noise."""
Watcher = Callable[[int, Tensor | None], None]
"""(evaluation from 0, the picture as estimated from it, None at correctors)."""


@dataclass(frozen=True)
class HeunSchedule:
    """sigmas: level of every evaluation and the final 0. first: the evaluation to begin with, by strength."""

    sigmas: Tensor
    first: int

    @property
    def evaluations(self) -> int:
        """How often the transformer is asked."""
        return len(self.sigmas) - 1 - self.first

    @property
    def timesteps(self) -> Tensor:
        """The levels that the transformer is asked at, times 1000, those that strength skips included."""
        return self.sigmas[:-1] * TRAINING_LEVELS

    def start(self, latents: Tensor | None, noise: Tensor) -> Tensor:
        """Where sampling begins: `noise` mixed with what is kept of `latents` (none: noise alone)."""
        if latents is None:
            return noise
        if self.evaluations == 0:
            return latents
        sigma = self.sigmas[self.first].to(noise)
        return sigma * noise + (1 - sigma) * latents


def heun_schedule(steps: int, strength: float = 1.0, shift: float = 3.0) -> HeunSchedule:
    """The schedule of `steps` steps; `strength` in [0, 1] is the share of them that is done (0: none)."""
    lowest = np.float32(shifted(np.float32(1.0 / TRAINING_LEVELS), shift))
    levels = np.linspace(TRAINING_LEVELS, float(lowest) * TRAINING_LEVELS, steps) / TRAINING_LEVELS
    sigmas = torch.from_numpy(shifted(levels, shift).astype(np.float32))
    doubled = torch.cat([sigmas[:1], sigmas[1:].repeat_interleave(2), torch.zeros(1)])
    skipped = int(max(steps - min(steps * strength, steps), 0))
    return HeunSchedule(doubled, min(2 * skipped, 2 * steps - 1))


def single_step(level: float) -> HeunSchedule:
    """One predictor step from the noise `level` to the picture: the mean of what may be there, nothing invented."""
    return HeunSchedule(torch.tensor([level, 0.0]), 0)


def shifted(sigma: Any, shift: float) -> Any:
    """The static shift of noise levels, of numpy or torch: more than 1 moves them towards the noise."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def control_window(evaluations: int, end: float, start: float = 0.0) -> list[bool]:
    """Whether the ControlNet speaks at each evaluation: from `start` to `end` of all that are left after strength."""
    return [i / evaluations >= start and (i + 1) / evaluations <= end for i in range(evaluations)]


def integrate(velocity: Velocity, x: Tensor, schedule: HeunSchedule, watch: Watcher | None = None) -> Tensor:
    """Follow the flow from `x` at the schedule's first level to the picture."""
    sigmas = schedule.sigmas.tolist()
    before, slope = x, x
    for index in range(schedule.first, len(sigmas) - 1):
        done = index - schedule.first
        now = velocity(x, sigmas[index], done)
        if index % 2 == 0:
            estimate = x - sigmas[index] * now
            before, slope = x, now
            x = x + now * (sigmas[index + 1] - sigmas[index])
        else:
            estimate = None
            x = before + (slope + now) / 2 * (sigmas[index] - sigmas[index - 1])
        if watch is not None:
            watch(done, estimate)
    return x

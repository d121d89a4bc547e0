"""Replay of Kiss3DGen's Heun schedule: levels, strength, the ControlNet's window and a whole integration."""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor

from backend.systems.kiss3dgen.flux.schedule import TRAINING_LEVELS, control_window, heun_schedule, integrate
from tests.golden.replay import Arrays, Comparison, Manifest, Replay


def flux_heun_schedule(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Every stored number of steps, strength and end of the window; the toy model is x @ A + 0.001 t."""
    found: list[Comparison] = []
    for name, wanted in manifest["parameters"].items():
        steps, strength = re.fullmatch(r"n(\d+)_strength([\d.]+)", name).groups()  # type: ignore[union-attr]
        schedule = heun_schedule(int(steps), float(strength))
        found += [
            (f"{name} first", float(schedule.first), float(wanted["first_index"])),
            (f"{name} evaluations", float(schedule.evaluations), float(wanted["n_model_evals"])),
        ]
    for name, expected in arrays.items():
        if match := re.fullmatch(r"out_(timesteps|sigmas)_(\d+)", name):
            found.append((name, getattr(heun_schedule(int(match[2])), match[1]), expected))
        elif match := re.fullmatch(r"out_keep_n(\d+)_s([\d.]+)_end([\d.]+)", name):
            evaluations = heun_schedule(int(match[1]), float(match[2])).evaluations
            found.append((name, np.array(control_window(evaluations, float(match[3])), float), expected))
    latents, noise, matrix = (torch.from_numpy(arrays[f"in_{name}"]) for name in ("image_latents", "noise", "A"))
    seen: list[Tensor] = []

    def velocity(x: Tensor, sigma: float, evaluation: int) -> Tensor:
        seen.append(x)
        return x @ matrix + 0.001 * sigma * TRAINING_LEVELS

    schedule = heun_schedule(6, 5 / 6)
    start = schedule.start(latents, noise)
    last = integrate(velocity, start, schedule)
    found.append(("noised_start", start, arrays["out_noised_start"]))
    expected = arrays["out_trajectory_6steps_strength_from_index2"]
    return [*found, ("trajectory", torch.stack([*seen[1:], last])[: len(expected)], expected)]


REPLAYS: dict[str, Replay] = {"flux_heun_schedule": flux_heun_schedule}

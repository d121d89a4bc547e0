"""Sampling stage 1's latent: occupancy in the first half of its channels, the UV cube in the second (spec 3, 6).

A UV cube that is known, because the camera is, is held while the rest is sampled (inpainting): at every step its half
of x_t is what the path to the known latent has there. Path and noise are those of the sample, so the network sees
nothing that training did not show it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backend.systems.base import Hooks
from backend.systems.cupid.condition import Condition
from backend.systems.cupid.flow_sampler import Constraint, denormalise, noisy_sample, sample_flow, with_steps
from backend.systems.cupid.model import CupidModel

LATENT_CHANNELS = 8  # the first half of the structure latent is occupancy, the second the UV cube


def sample_structure(
    networks: CupidModel,
    condition: Condition,
    generator: torch.Generator,
    steps: int | None,
    hooks: Hooks,
    known_uv: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits of occupancy [N,1,R,R,R] and UV cube [N,3,R,R,R] of N hypotheses.

    `known_uv` [1,8,r,r,r] is the normalised latent of a known camera's UV cube, or None.
    """
    flow, settings = networks["structure_flow"], networks.settings
    side, count = flow.resolution, settings.hypotheses
    noise = torch.randn((count, flow.in_channels, side, side, side), generator=generator).to(networks.device)
    shown = condition.repeated(count)
    sampler = with_steps(settings.structure_sampler, steps)

    def velocity(x: Tensor, t: Tensor, seen: Condition) -> Tensor:
        answer: Tensor = flow(x, t, seen.tokens, seen.weights)
        return answer

    constrain = None if known_uv is None else hold(known_uv, noise, LATENT_CHANNELS, sampler.sigma_min)
    sampled = sample_flow(
        velocity, noise, shown, shown.empty(), sampler, on_step=lambda i, n, _: hooks.step(i, n), constrain=constrain
    ).samples
    return decode_latents(networks, sampled)


def decode_latents(networks: CupidModel, sampled: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of occupancy [N,1,R,R,R] and UV cube [N,3,R,R,R] of normalised latents [N,16,r,r,r]."""
    latent = denormalise(sampled, networks.settings.structure_normalization)
    occupancy = networks["ss_dec"](latent[:, :LATENT_CHANNELS])
    uv_logits = networks["uv_dec"](latent[:, LATENT_CHANNELS:])
    return occupancy.float(), uv_logits.float()


def hold(known: Tensor, noise: Tensor, first: int, sigma_min: float) -> Constraint:
    """Keep the channels from `first` on at `known` [1 or N,C,...]; `noise` [N,first+C,...] is the sample's own."""

    def constrain(x: Tensor, t: float) -> Tensor:
        last = first + known.shape[1]
        held = noisy_sample(known, noise[:, first:last], torch.tensor(t), sigma_min) if t > 0 else known.expand_as(
            noise[:, first:last]
        )
        return torch.cat([x[:, :first], held.to(x.dtype), x[:, last:]], dim=1)

    return constrain

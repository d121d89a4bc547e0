"""Sampling stage 1's latent: occupancy in the first half of its channels, the UV cube in the second (spec 3, 6).

A UV cube that is known, because the camera is, is held while the rest is sampled (inpainting): at every step its half
of x_t is what the path to the known latent has there. Path and noise are those of the sample, so the network sees
nothing that training did not show it. Each noisy step is tried three times, so that the shape follows the camera.

Several photos of one object share the occupancy half, each has a UV half of its own (spec 10): every step runs the
network once a photo on [occupancy | that photo's UV cube] with that photo's tokens; the occupancy moves with the mean
of its velocities, each UV half with its own. One photo after the other, so that many need no more memory than one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backend.nn.attention import PreparedContext
from backend.systems.base import Hooks
from backend.systems.cupid.condition import Condition
from backend.systems.cupid.flow_sampler import (
    Constraint,
    Inpainting,
    denormalise,
    noisy_sample,
    sample_flow,
    with_steps,
)
from backend.systems.cupid.model import CupidModel

LATENT_CHANNELS = 8  # the first half of the structure latent is occupancy, the second the UV cube


def sample_structure(
    networks: CupidModel,
    conditions: Sequence[Condition],
    generator: torch.Generator,
    steps: int | None,
    hooks: Hooks,
    known_uv: Tensor | None = None,
    count: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits of occupancy [N,1,R,R,R] and UV cubes [P,N,3,R,R,R] of N hypotheses from P photos, one condition each.

    `known_uv` [1,8,r,r,r] is the normalised latent of the UV cube of the first photo's known camera, or None. `count`
    is N, if not what the settings say.
    """
    flow, settings = networks["structure_flow"], networks.settings
    side, count = flow.resolution, count or settings.hypotheses

    def fresh_noise() -> Tensor:
        drawn = torch.randn((count, flow.in_channels, side, side, side), generator=generator)
        return with_views(drawn, len(conditions), generator).to(networks.device)

    noise = fresh_noise()
    shown = tuple(condition.repeated(count) for condition in conditions)
    sampler = with_steps(settings.structure_sampler, steps)

    def prepared(seen: Sequence[Condition]) -> list[PreparedContext]:
        return [flow.prepare(each.tokens, each.weights) for each in seen]  # the same in every step

    def velocity(x: Tensor, t: Tensor, seen: list[PreparedContext]) -> Tensor:
        views = zip(x.chunk(len(seen)), t.chunk(len(seen)), seen, strict=True)
        return with_shared_mean([flow(part, time, each) for part, time, each in views])

    held = None
    if known_uv is not None:
        held = Inpainting(hold(known_uv, noise[:count], LATENT_CHANNELS, sampler.sigma_min), fresh_noise)
    sampled = sample_flow(
        velocity, noise, prepared(shown), prepared([each.empty() for each in shown]), sampler,
        on_step=lambda i, n, _: hooks.step(i, n), inpainting=held,
    ).samples  # fmt: skip
    return decode_latents(networks, sampled, len(conditions))


def with_views(noise: Tensor, photos: int, generator: torch.Generator) -> Tensor:
    """Noise [N,16,r,r,r] of one photo as that of several [P*N,16,r,r,r], photo by photo: the occupancy's is shared."""
    shared, own = noise[:, :LATENT_CHANNELS], noise[:, LATENT_CHANNELS:]
    views = [torch.randn(own.shape, generator=generator, dtype=own.dtype) for _ in range(photos - 1)]
    return torch.cat([noise, *(torch.cat([shared, view], dim=1) for view in views)])


def with_shared_mean(velocities: Sequence[Tensor]) -> Tensor:
    """Velocities [N,16,r,r,r] of each photo, joined [P*N,16,r,r,r], their occupancy halves replaced by the mean."""
    if len(velocities) == 1:
        return velocities[0]
    shared = torch.stack([velocity[:, :LATENT_CHANNELS] for velocity in velocities]).mean(0)
    return torch.cat([torch.cat([shared, velocity[:, LATENT_CHANNELS:]], dim=1) for velocity in velocities])


def decode_latents(networks: CupidModel, sampled: Tensor, photos: int = 1) -> tuple[Tensor, Tensor]:
    """Logits of occupancy [N,1,R,R,R] and UV cubes [P,N,3,R,R,R] of normalised latents [P*N,16,r,r,r]."""
    views = denormalise(sampled, networks.settings.structure_normalization).chunk(photos)
    occupancy = networks["ss_dec"](views[0][:, :LATENT_CHANNELS])
    uv_logits = torch.stack([networks["uv_dec"](view[:, LATENT_CHANNELS:]) for view in views])
    return occupancy.float(), uv_logits.float()


def hold(known: Tensor, noise: Tensor, first: int, sigma_min: float) -> Constraint:
    """Keep the channels from `first` on at `known` [1 or N,C,...]; `noise` [N,first+C,...] is the sample's own.

    Only the first N rows of the sample are held: what follows belongs to other photos.
    """

    def constrain(rows: Tensor, t: float) -> Tensor:
        x, last = rows[: len(noise)], first + known.shape[1]
        held = noisy_sample(known, noise[:, first:last], torch.tensor(t), sigma_min) if t > 0 else known.expand_as(
            noise[:, first:last]
        )
        return torch.cat([torch.cat([x[:, :first], held.to(x.dtype), x[:, last:]], dim=1), rows[len(noise) :]])

    return constrain

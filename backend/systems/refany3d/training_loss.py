"""The loss of one training step and the draws that go before it (spec section 10).

Both branches share one time; their noises are drawn apart. The loss is the sum of both branches' mean squared errors,
without weights and without a mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from backend.systems.kiss3dgen.flux.schedule import shifted

from .transformer import Conditions, RefAny3DTransformer

GUIDANCE = 1.0
"""Told to every branch in training."""
DROP_TEXT = 0.1
"""Share of samples that are learnt without their sentence."""
DROP_PICTURES = 0.1
"""Share of samples that are learnt with black views and point maps; their targets stay."""


@dataclass(frozen=True)
class Draw:
    """What is random in a step. t [B] in 0..1, shared by the branches; rgb_noise, coord_noise [B, T, C]; no_text,
    no_pictures [B] bool: which samples lose their sentence, which their conditions."""

    t: Tensor
    rgb_noise: Tensor
    coord_noise: Tensor
    no_text: Tensor
    no_pictures: Tensor


def draw_step(
    shape: tuple[int, int, int], generator: torch.Generator, device: torch.device | str = "cpu", shift: float = 1.0
) -> Draw:
    """Times, noises and drops for latents of `shape` (B, T, C): t is the sigmoid of a normal number, as published.

    shift: more than 1 moves times towards the noise, as the sampler's schedule does.
    """
    batch = shape[0]
    t = shifted(torch.sigmoid(torch.randn(batch, generator=generator)), shift)
    rgb, coord = (torch.randn(shape, generator=generator) for _ in range(2))
    chances = torch.rand(2, batch, generator=generator)
    found = (t, rgb, coord, chances[0] < DROP_TEXT, chances[1] < DROP_PICTURES)
    return Draw(*(tensor.to(device) for tensor in found))


def dropped(kept: Tensor, gone: Tensor, which: Tensor) -> Tensor:
    """`kept` [B, ...] with the samples `which` [B] replaced by `gone` [...] or [B, ...]."""
    return torch.where(which.view(-1, *([1] * (kept.ndim - 1))), gone, kept)


def mixed(latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """(1 - t) latents + t noise, [B, T, C] and t [B]."""
    return torch.lerp(latents, noise, t.view(-1, 1, 1))


def training_loss(
    network: RefAny3DTransformer,
    rgb: Tensor,
    coord: Tensor | None,
    conditions: Conditions,
    text: Tensor,
    pooled: Tensor,
    draw: Draw,
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, its parts by branch without gradients) of clean latents `rgb`, `coord` [B, T, C].

    The other inputs are those of `RefAny3DTransformer.predict`, with the drops of `draw` already made (`dropped`).
    coord is None for weights without point maps, whose loss has one part.
    """
    noisy_coord = None if coord is None else mixed(coord, draw.coord_noise, draw.t)
    rgb_velocity, coord_velocity = network.predict(
        mixed(rgb, draw.rgb_noise, draw.t), noisy_coord, conditions, text, pooled, draw.t, GUIDANCE,
        condition_guidance=GUIDANCE,
    )  # fmt: skip
    parts = {"rgb": functional.mse_loss(rgb_velocity.float(), (draw.rgb_noise - rgb).float())}
    if coord is not None and coord_velocity is not None:
        parts["coord"] = functional.mse_loss(coord_velocity.float(), (draw.coord_noise - coord).float())
    return torch.stack(list(parts.values())).sum(), {name: part.detach() for name, part in parts.items()}

"""Sampling a picture and its point map together (spec section 9).

Image guidance asks once more with black pictures in place of the views, and as published lets everything see
everything there; `masked_black` keeps the trained table instead. Black views that share their positions are all alike,
so one of them goes through the network and counts for all, exactly. Bases whose guidance is not distilled are guided by
words in the classifier-free way, away from an empty sentence. Where it is said what the picture should not show, any
base is guided away from that instead; the published sampler has nothing of the kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from backend.formats.images import encode_png
from backend.systems.base import Hooks
from backend.systems.kiss3dgen.flux.config import PACK
from backend.systems.kiss3dgen.flux.text import TextFeatures
from backend.systems.refany3d.encoding import VAE_STRIDE, decode_tokens, pack
from backend.systems.refany3d.schedule import Pair, euler_sigmas, integrate

NEGATIVE_GUIDANCE = 2.5
"""How strongly a picture keeps away from what it should not show, where nothing else says how strongly words guide."""

Branch = Callable[[Tensor, Tensor | None, float], Pair]
"""One pass of the network: (picture's latents, point map's, sigma) -> velocities."""


class Networks(Protocol):
    """What sampling needs: the transformer and the autoencoder, and where they run."""

    @property
    def transformer(self) -> Any:
        """A `transformer.RefAny3DTransformer`."""
        ...

    @property
    def vae(self) -> Any:
        """As diffusers' AutoencoderKL."""
        ...

    @property
    def device(self) -> torch.device:
        """Where tensors go."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Precision of what goes through the transformer."""
        ...


@dataclass(frozen=True)
class SampleSettings:
    """How a picture is sampled.

    guidance: the distilled one (published 3.5), or by words where the base is not distilled (1 for none).
    image_guidance: 1 for none; published 2. masked_black: see the module. dynamic: the shift by picture size.
    condition_guidance: the distilled one that the views are told. negative: whether words were given for what should
    not be seen; they stand where the empty sentence else does. preview_every: steps between previews, 0 for none.
    """

    steps: int
    guidance: float
    image_guidance: float
    masked_black: bool = False
    dynamic: bool = True
    condition_guidance: float = 1.0
    negative: bool = False
    preview_every: int = 4


@dataclass(frozen=True)
class Conditions:
    """tokens [1,2N,T,C] of the views and then their point maps; black [1,T,C] of a black picture; size: its side."""

    tokens: Tensor
    black: Tensor
    size: int


@dataclass(frozen=True)
class Painted:
    """picture [S,S,3] and points [S,S,3], float32 in [0,1]; no points where the weights have no point maps."""

    picture: np.ndarray
    points: np.ndarray | None


@torch.no_grad()
def generate(
    networks: Networks,
    text: TextFeatures,
    conditions: Conditions,
    settings: SampleSettings,
    generator: torch.Generator,
    hooks: Hooks,
    first_step: int = 0,
    all_steps: int | None = None,
    velocity: Branch | None = None,
) -> Painted:
    """Paint what `text` says with the object of `conditions`.

    text: features of the prompt, and in a second row, where words guide (`words_guidance`), of the empty sentence or of
    what should not be seen.
    first_step, all_steps: where the steps of this picture stand among those that hooks are told of.
    velocity: what `velocity_of` makes of the same text, conditions and settings, where several pictures share it.
    Errors: `Cancelled`.
    """
    own, size = networks.transformer, conditions.size
    channels = networks.vae.config.latent_channels
    side = size // VAE_STRIDE // PACK * PACK

    def noise() -> Tensor:
        drawn = torch.randn((1, channels, side, side), generator=generator, device=generator.device)
        return pack(drawn).to(networks.device)

    rgb = noise()
    coord = noise() if own.points else None
    count = settings.steps if all_steps is None else all_steps

    def watch(step: int, picture: Tensor, points: Tensor | None) -> None:
        hooks.step(first_step + step, count)
        due = settings.preview_every and step % settings.preview_every == 0 and step < settings.steps
        if due and hooks.wants_preview():
            hooks.preview(side_by_side(*_decoded(networks, (picture, points), size)))

    velocity = velocity or velocity_of(networks, text, conditions, settings)
    sigmas = euler_sigmas(settings.steps, rgb.shape[1], settings.dynamic)
    picture, points = _decoded(networks, integrate(velocity, rgb, coord, sigmas, watch), size)
    return Painted(picture, points)


@torch.no_grad()
def velocity_of(networks: Networks, text: TextFeatures, conditions: Conditions, settings: SampleSettings) -> Branch:
    """What `generate` follows; all that is the same for every noise is done here."""
    pictures = 2 if networks.transformer.shared_positions else conditions.tokens.shape[1]
    black = conditions.black[:, None].expand(-1, pictures, -1, -1)
    return guided(networks, text, conditions.tokens, black, settings)


def words_guidance(networks: Networks, settings: SampleSettings) -> float:
    """How strongly words guide in the classifier-free way; 1 for not at all."""
    chosen = 1.0 if networks.transformer.guided else settings.guidance
    return NEGATIVE_GUIDANCE if settings.negative and chosen == 1.0 else chosen


def guided(networks: Networks, text: TextFeatures, tokens: Tensor, black: Tensor, settings: SampleSettings) -> Branch:
    """The velocity that is followed: conditions `tokens` are [1,2N,T,C], `black` too, or [1,2,T,C] for all of them."""
    words = words_guidance(networks, settings)
    plain = _branch(networks, text, 0, tokens, settings, True)
    passes = [(plain, 1.0)]
    if words != 1.0:
        passes.append((_branch(networks, text, 1, tokens, settings, True), 1.0 - words))
    if settings.image_guidance != 1.0:
        masked = settings.masked_black or networks.transformer.independent
        copies = tokens.shape[1] // black.shape[1]
        passes.append((_branch(networks, text, 0, black, settings, masked, copies), 1.0 - settings.image_guidance))
    passes[0] = (plain, 1.0 - sum(weight for _, weight in passes[1:]))

    def velocity(rgb: Tensor, coord: Tensor | None, sigma: float) -> Pair:
        answers = [(branch(rgb, coord, sigma), weight) for branch, weight in passes]
        picture = sum((weight * flows[0] for flows, weight in answers), torch.zeros_like(rgb))
        if coord is None:
            return picture, None
        return picture, sum((weight * flows[1] for flows, weight in answers), torch.zeros_like(coord))

    return velocity


def side_by_side(picture: np.ndarray, points: np.ndarray | None) -> bytes:
    """PNG of a picture and its point map next to each other."""
    return encode_png(picture if points is None else np.concatenate([picture, points], axis=1))


def _branch(
    networks: Networks,
    text: TextFeatures,
    row: int,
    tokens: Tensor,
    settings: SampleSettings,
    masked: bool,
    copies: int = 1,
) -> Branch:
    """One pass; what is the same in every step is done here, once. copies: of each view that `tokens` hold."""
    own, dtype, device = networks.transformer, networks.dtype, networks.device
    words, pooled = (part[row : row + 1].to(device, dtype) for part in (text.tokens, text.pooled))
    if not own.points:
        tokens = tokens[:, : tokens.shape[1] // 2]
    given = tokens.to(device, dtype)
    keep = own.cache_conditions if own.independent and masked else own.prepare
    prepared = keep(given, pooled, settings.condition_guidance, copies=copies)
    guidance = settings.guidance if own.guided else None

    def ask(rgb: Tensor, coord: Tensor | None, sigma: float) -> Pair:
        noisy = None if coord is None else coord.to(dtype)
        flows: Pair = own.predict(rgb.to(dtype), noisy, prepared, words, pooled, sigma, guidance, masked)
        return flows[0].float(), None if flows[1] is None else flows[1].float()

    return ask


def _decoded(networks: Networks, latents: Pair, size: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Pictures [S,S,3] float32 in [0,1] of both branches."""
    given = [part for part in latents if part is not None]
    pictures = [decode_tokens(networks.vae, part, size, size)[0].permute(1, 2, 0).cpu().numpy() for part in given]
    return pictures[0], pictures[1] if len(pictures) > 1 else None

"""Zero123++: a photo becomes four views in one 2 x 2 picture (spec 6.1, step 2).

Stable Diffusion 2's UNet paints the picture of all views. What it knows of the photo comes in twice: CLIP's embedding
is added to the empty sentence's tokens by a ramp, and at every step the photo's latent, noised like the picture, runs
through the same UNet first, whose self attention writes down what it attended to; the picture's self attention then
reads that too ("reference only").
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backend.systems.base import Hooks
from backend.systems.kiss3dgen.zero123_networks import ImagePreparation, Zero123Networks

logger = logging.getLogger(__name__)

STEPS = 50
GUIDANCE = 4.0
LATENT_SCALE, LATENT_SHIFT = 0.75, 0.22  # of the pictures' latents, so that they look like those of photographs
IMAGE_SCALE = 0.5 / 0.8  # less contrast, for the same reason
GRID = 2  # tiles a side
PAD_TOKEN = 0  # "!"; the sentence's begin and end are the vocabulary's last two tokens
REFERENCE_SUFFIX = "attn1.processor"


class ReferenceAttention:
    """Attention of one layer that writes its tokens down or reads those written; `memory` is shared by all layers."""

    def __init__(self, name: str, memory: ReferenceMemory) -> None:
        from diffusers.models.attention_processor import AttnProcessor2_0

        self.name, self.memory, self.plain = name, memory, AttnProcessor2_0()

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None, temb: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Self attention of tokens [B,N,C]; cross attention passes through."""
        context = encoder_hidden_states
        if context is None:
            context = self.memory.context(self.name, hidden_states)
        answer: Tensor = self.plain(attn, hidden_states, context, attention_mask, temb)
        return answer


class ReferenceMemory:
    """What the photo's pass wrote, by layer [B,M,C]. `writing` says which of the two passes runs."""

    def __init__(self, unet: Any) -> None:
        """Takes over the self attention of `unet`."""
        self.writing = False
        self.written: dict[str, Tensor] = {}
        processors = {}
        for name, present in unet.attn_processors.items():
            processors[name] = ReferenceAttention(name, self) if name.endswith(REFERENCE_SUFFIX) else present
        unet.set_attn_processor(processors)

    def context(self, name: str, tokens: Tensor) -> Tensor:
        """What a layer attends to: its own tokens, and when reading the photo's too."""
        if self.writing:
            self.written[name] = tokens
            return tokens
        return torch.cat([tokens, self.written.pop(name)], dim=1)


@torch.no_grad()
def generate_views(
    networks: Zero123Networks, picture: np.ndarray, seed: int = 0, steps: int = STEPS, guidance: float = GUIDANCE,
    hooks: Hooks | None = None,
) -> np.ndarray:  # fmt: skip
    """Four views [4,S,S,3] float32 in [0,1], row by row of the 2 x 2 picture, of a square photo [H,H,3] uint8.

    Random numbers are drawn on the CPU, the same on every device. Errors: ValueError for a photo that is not square;
    `Cancelled` between steps.
    """
    hooks = hooks or Hooks()
    if picture.ndim != 3 or picture.shape[0] != picture.shape[1] or picture.shape[2] != 3:
        raise ValueError(f"The photo must be square with three channels, not {picture.shape}.")
    draws = torch.Generator().manual_seed(seed)
    photo = photo_latents(networks, picture, draws)
    text = text_tokens(networks, picture)
    if guidance <= 1:
        photo, text = photo[1:], text[1:]
    latents = denoise(networks, photo, text, draws, steps, guidance, hooks)
    views = split_views(decode(networks, latents))
    logger.info("Zero123++ painted %d views of %d pixels in %d steps", len(views), views.shape[1], steps)
    return views


def denoise(
    networks: Zero123Networks, photo: Tensor, text: Tensor, draws: torch.Generator, steps: int, guidance: float,
    hooks: Hooks,
) -> Tensor:  # fmt: skip
    """Latents [1,4,h,w] of the picture. photo [B,4,..], text [B,T,C]: the condition, with B = 2 after the empty one."""
    scheduler = make_scheduler(networks.settings.scheduler)
    scheduler.set_timesteps(steps)
    memory = ReferenceMemory(networks.unet)
    factor = 2 ** (len(networks.vae.config.block_out_channels) - 1)
    side = networks.settings.size // factor
    shape = (1, networks.unet.config.in_channels, side, side)
    latents = _normal(shape, draws, photo) * scheduler.init_noise_sigma
    for index, time in enumerate(scheduler.timesteps):
        noised = scheduler.add_noise(photo, _normal(photo.shape, draws, photo), time.reshape(1).expand(len(photo)))
        memory.writing = True
        networks.unet(scheduler.scale_model_input(noised, time).to(photo.dtype), time, text)
        memory.writing = False
        doubled = scheduler.scale_model_input(latents.expand(len(photo), -1, -1, -1), time).to(photo.dtype)
        guess = networks.unet(doubled, time, text).sample
        if len(guess) == 2:
            guess = guess[:1] + guidance * (guess[1:] - guess[:1])
        latents = scheduler.step(guess, time, latents, generator=draws).prev_sample
        hooks.step(index + 1, steps)
    return latents


def make_scheduler(arguments: Mapping[str, Any]) -> Any:
    """Euler's method with fresh noise at every step, over times that end at the first noise level ("trailing")."""
    from diffusers import EulerAncestralDiscreteScheduler

    return EulerAncestralDiscreteScheduler.from_config({**arguments, "timestep_spacing": "trailing"})


def photo_latents(networks: Zero123Networks, picture: np.ndarray, draws: torch.Generator) -> Tensor:
    """Latents [2,4,h,w] of plain grey and of the photo; not scaled, as published."""
    pixels = prepare(picture, networks.settings.vae_image).to(_like(networks.vae))
    found = [networks.vae.encode(image).latent_dist for image in (torch.zeros_like(pixels), pixels)]
    return torch.cat([part.mean + part.std * _normal(part.mean.shape, draws, part.mean) for part in found])


def text_tokens(networks: Zero123Networks, picture: np.ndarray) -> Tensor:
    """Tokens [2,T,C]: the empty sentence's, and those with the photo's embedding added by the ramp."""
    config = networks.text_encoder.config
    ids = torch.full((1, config.max_position_embeddings), PAD_TOKEN)
    ids[0, :2] = torch.tensor([config.vocab_size - 2, config.vocab_size - 1])
    empty = networks.text_encoder(ids.to(_like(networks.text_encoder).device)).last_hidden_state
    pixels = prepare(picture, networks.settings.clip_image).to(_like(networks.vision_encoder))
    embedding = networks.vision_encoder(pixels).image_embeds[:, None]
    ramp = embedding.new_tensor(networks.settings.ramp)[None, :, None]
    return torch.cat([empty, empty + embedding * ramp])


def prepare(picture: np.ndarray, preparation: ImagePreparation) -> Tensor:
    """A square picture [H,H,3] uint8 as a network wants it [1,3,S,S] float32."""
    size = (preparation.size, preparation.size)
    resized = Image.fromarray(np.ascontiguousarray(picture), "RGB").resize(size, Image.Resampling.BICUBIC)
    values = np.asarray(resized, np.float32) / 255.0
    normal = (values - np.float32(preparation.mean)) / np.float32(preparation.std)
    return torch.from_numpy(normal.transpose(2, 0, 1)[None].astype(np.float32))


def decode(networks: Zero123Networks, latents: Tensor) -> np.ndarray:
    """The picture [S,S,3] float32 in [0,1] of latents [1,4,h,w]."""
    latents = (latents / LATENT_SCALE + LATENT_SHIFT) / networks.vae.config.scaling_factor
    picture = networks.vae.decode(latents.to(_like(networks.vae))).sample / IMAGE_SCALE
    values: np.ndarray = (picture[0].float() / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    return values


def split_views(picture: np.ndarray) -> np.ndarray:
    """The tiles [4,S/2,S/2,3] of a picture [S,S,3], row by row."""
    side = len(picture) // GRID
    tiles = picture[: GRID * side, : GRID * side].reshape(GRID, side, GRID, side, 3)
    return np.ascontiguousarray(tiles.transpose(0, 2, 1, 3, 4).reshape(GRID * GRID, side, side, 3))


def _normal(shape: tuple[int, ...] | torch.Size, draws: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(shape, generator=draws).to(like)


def _like(network: Any) -> Tensor:
    """A parameter, for its device and type."""
    parameter: Tensor = next(network.parameters())
    return parameter

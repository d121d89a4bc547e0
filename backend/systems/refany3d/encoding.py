"""Pictures and point maps to tokens and back (spec section 4): one autoencoder for both, tokens of 2 x 2 latents."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.systems.kiss3dgen.flux.latents import VAE_STRIDE, decode_tokens, pack, unpack

__all__ = [
    "VAE_STRIDE",
    "black_tokens",
    "condition_tokens",
    "decode_tokens",
    "encode_pictures",
    "pack",
    "to_tensor",
    "unpack",
]


def to_tensor(pictures: np.ndarray) -> Tensor:
    """[B,H,W,3], uint8 or float in [0,1] -> [B,3,H,W] float32 in [0,1]."""
    scaled = pictures.astype(np.float32) / 255.0 if pictures.dtype == np.uint8 else np.asarray(pictures, np.float32)
    return torch.from_numpy(np.ascontiguousarray(scaled)).permute(0, 3, 1, 2)


def encode_pictures(vae: Any, pictures: Tensor, noise: Tensor | None = None) -> Tensor:
    """Pictures [B,3,H,W] in [0,1] -> tokens [B,T,4C] float32.

    noise [B,C,H/8,W/8]: draws from the posterior as the published code does; without it the posterior's mean is taken,
    so that the same mesh always gives the same conditions.
    """
    first = next(vae.parameters())
    posterior = vae.encode((2 * pictures - 1).to(first.device, first.dtype)).latent_dist
    latents = posterior.mode().float()
    if noise is not None:
        latents = latents + posterior.std.float() * noise.to(latents)
    return pack((latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor)


@torch.no_grad()
def condition_tokens(vae: Any, views: np.ndarray, points: np.ndarray) -> Tensor:
    """Tokens [1,2N,T,C] of the colour views and then the point maps, each [N,S,S,3], uint8 or float in [0,1].

    Encoded one after the other: sixteen pictures at once would take more memory than sampling does.
    """
    pictures = to_tensor(np.concatenate([views, points]))
    return torch.cat([encode_pictures(vae, picture) for picture in pictures.split(1)])[None]


@torch.no_grad()
def black_tokens(vae: Any, size: int) -> Tensor:
    """Tokens [1,T,C] of a black picture of `size` pixels: what image guidance is measured against (spec section 9)."""
    return encode_pictures(vae, torch.zeros(1, 3, size, size))

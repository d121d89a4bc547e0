"""From pictures to Flux tokens and back (spec section 6): (z - shift) * scale, packed 2 x 2, ids (0, row, column)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backend.systems.kiss3dgen.flux.config import PACK

VAE_STRIDE = 8
"""Pixels along one latent: three halvings, in the published autoencoder and in ours."""


def pack(latents: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h/2 * w/2, 4 C]; within a token the order is channel, row, column."""
    batch, channels, height, width = latents.shape
    cells = latents.reshape(batch, channels, height // PACK, PACK, width // PACK, PACK)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, (height // PACK) * (width // PACK), channels * PACK**2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack` for a picture of `height` x `width` pixels: [B, N, 4 C] -> [B, C, h, w]."""
    rows, columns = (side // VAE_STRIDE // PACK for side in (height, width))
    batch, _, packed = tokens.shape
    cells = tokens.reshape(batch, rows, columns, packed // PACK**2, PACK, PACK)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(batch, packed // PACK**2, rows * PACK, columns * PACK)


def image_ids(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Positions [N, 3] of the tokens of a picture of `height` x `width` pixels."""
    rows, columns = (side // VAE_STRIDE // PACK for side in (height, width))
    grid = torch.zeros(rows, columns, 3, device=device)
    grid[..., 1] = torch.arange(rows, device=device)[:, None]
    grid[..., 2] = torch.arange(columns, device=device)
    return grid.reshape(rows * columns, 3)


def text_ids(count: int, device: torch.device | str = "cpu") -> Tensor:
    """Positions [count, 3] of text and Redux tokens: all zero."""
    return torch.zeros(count, 3, device=device)


def encode_pictures(vae: Any, pictures: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1] -> tokens [B, N, 4 C] for the transformer.

    The mean of the posterior; the published pipeline draws from it; its spread is small against the latents'.
    """
    first = next(vae.parameters())
    latents = vae.encode((2 * pictures - 1).to(first.device, first.dtype)).latent_dist.mode()
    return pack((latents.float() - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor)


def decode_tokens(vae: Any, tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens [B, N, 4 C] -> pictures [B, 3, H, W] float32 in [0, 1]."""
    first = next(vae.parameters())
    latents = unpack(tokens.float(), height, width) / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    pictures: Tensor = vae.decode(latents.to(first.device, first.dtype)).sample
    return ((pictures.float() + 1) / 2).clamp(0, 1)

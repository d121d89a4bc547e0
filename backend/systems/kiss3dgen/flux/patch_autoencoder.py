"""Mini's autoencoder: 8 x 8 pixels as 16 numbers, linearly to begin with, then better.

It answers as diffusers' `AutoencoderKL` does (`encode(x).latent_dist`, `decode(z).sample`, `config`), so that the same
sampler runs with either. Inside it is made for a CPU: pixels are folded into channels at once, so every convolution
is a wide one on few places, and a linear path (principal components of the patches, `start_linear`) carries the picture
from the first step; the convolutions learn what is left. No normalisation reaches across places: a crop is coded as it
is in the whole picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

PATCH = 8  # pixels along a latent
FOLD = 4  # pixels along a place of the finer convolutions
WHITENING = 0.125  # latents are divided by their variance to this power: 0.5 would make all equally loud


class Block(nn.Module):
    """A residual pair of 3 x 3 convolutions on [B,C,h,w], normalised place by place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        added: Tensor = x + self.second(functional.gelu(self.first(y)))
        return added


@dataclass(frozen=True)
class Exact:
    """A posterior without spread: what `encode` found [B,C,h,w]."""

    mean: Tensor

    @property
    def std(self) -> Tensor:
        """Zeros like the mean."""
        return torch.zeros_like(self.mean)

    def mode(self) -> Tensor:
        """The mean."""
        return self.mean


@dataclass(frozen=True)
class Encoded:
    """What `encode` answers."""

    latent_dist: Exact


@dataclass(frozen=True)
class Decoded:
    """What `decode` answers: pictures [B,3,H,W] in [-1,1]."""

    sample: Tensor


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """See the module. `scaling_factor` and `shift_factor` are those of the latents, as in `AutoencoderKL`."""

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        width: int = 96,
        blocks: int = 2,
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
    ) -> None:
        super().__init__()
        self.linear_in = nn.Conv2d(3 * PATCH**2, latent_channels, 1)
        self.linear_out = nn.Conv2d(latent_channels, 3 * PATCH**2, 1)
        self.fine_in = nn.Conv2d(3 * FOLD**2, width, 1)
        self.fine_encoder = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.down = nn.Conv2d(width, width, 2, stride=2)
        self.coarse_encoder = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.latent_out = nn.Conv2d(width, latent_channels, 1)
        self.latent_in = nn.Conv2d(latent_channels, width, 3, padding=1)
        self.coarse_decoder = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.up = nn.Conv2d(width, 4 * width, 1)
        self.fine_decoder = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.fine_out = nn.Conv2d(width, 3 * FOLD**2, 1)
        for last in (self.latent_out, self.fine_out):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def encode(self, pictures: Tensor) -> Encoded:
        """Pictures [B,3,H,W] in [-1,1], H and W multiples of PATCH, to latents [B,C,H/PATCH,W/PATCH]."""
        linear = self.linear_in(functional.pixel_unshuffle(pictures, PATCH))
        fine = self.fine_encoder(self.fine_in(functional.pixel_unshuffle(pictures, FOLD)))
        coarse = self.coarse_encoder(self.down(fine))
        return Encoded(Exact(linear + self.latent_out(coarse)))

    def decode(self, latents: Tensor) -> Decoded:
        """The inverse of `encode`, as far as it can be."""
        linear = functional.pixel_shuffle(self.linear_out(latents), PATCH)
        coarse = self.coarse_decoder(self.latent_in(latents))
        fine = self.fine_decoder(functional.pixel_shuffle(self.up(coarse), 2))
        return Decoded(linear + functional.pixel_shuffle(self.fine_out(fine), FOLD))

    @torch.no_grad()
    def start_linear(self, pictures: Tensor) -> None:
        """Set the linear path to the principal components of the patches of `pictures` [B,3,H,W] in [-1,1]."""
        patches = functional.pixel_unshuffle(pictures, PATCH).permute(0, 2, 3, 1).reshape(-1, 3 * PATCH**2).double()
        mean = patches.mean(0)
        variance, axes = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
        count = self.linear_in.out_channels
        loud = variance.flip(0)[:count].clamp(min=1e-8) ** WHITENING
        axes = axes.flip(1)[:, :count]
        read, write = (axes / loud).T, axes * loud
        self.linear_in.weight.copy_(read[:, :, None, None])
        self.linear_in.bias.copy_(-read @ mean)
        self.linear_out.weight.copy_(write[:, :, None, None])
        self.linear_out.bias.copy_(mean)

"""Dense convolutional VAEs: occupancy (SS, one channel) and UV cube (three channels) (specs/cupid.md 4.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from backend.nn.norms import FINAL_EPS, ChannelLayerNorm32


def pixel_shuffle_3d(x: Tensor, factor: int) -> Tensor:
    """``x`` [B, C * f^3, D, H, W] -> [B, C, fD, fH, fW]; channel c*f^3 + (dx*f^2 + dy*f + dz) fills (f i + dx, ...)."""
    batch, folded, d, h, w = x.shape
    channels = folded // factor**3
    x = x.reshape(batch, channels, factor, factor, factor, d, h, w)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(batch, channels, d * factor, h * factor, w * factor)


class ResBlock3d(nn.Module):
    """norm1-SiLU-conv1-norm2-SiLU-conv2 plus skip (``skip_connection`` only where the channels change)."""

    def __init__(self, channels: int, out_channels: int | None = None) -> None:
        super().__init__()
        out_channels = out_channels or channels
        self.norm1 = ChannelLayerNorm32(channels, eps=FINAL_EPS)
        self.norm2 = ChannelLayerNorm32(out_channels, eps=FINAL_EPS)
        self.conv1 = nn.Conv3d(channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1)
        self.skip_connection = nn.Conv3d(channels, out_channels, 1) if channels != out_channels else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        if self.conv2.bias is not None:
            nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [B, C, D, H, W] -> [B, C', D, H, W]."""
        h = self.conv1(nn.functional.silu(self.norm1(x)))
        h = self.conv2(nn.functional.silu(self.norm2(h)))
        return h + self.skip_connection(x)


class DownsampleBlock3d(nn.Module):
    """Halve every side with a stride-two convolution (``conv``, kernel 2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [B, C, D, H, W] -> [B, C', D/2, H/2, W/2]."""
        return self.conv(x)


class UpsampleBlock3d(nn.Module):
    """Double every side: a convolution to eight times the channels (``conv``), then a 3D pixel shuffle."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels * 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [B, C, D, H, W] -> [B, C', 2D, 2H, 2W]."""
        return pixel_shuffle_3d(self.conv(x), 2)


def _residual_stack(channels: int, count: int) -> list[nn.Module]:
    return [ResBlock3d(channels) for _ in range(count)]


class SparseStructureEncoder(nn.Module):
    """Volume to latent. ``channels`` from fine to coarse; every step but the last halves the sides.

    ``use_fp16`` of a published configuration is accepted and ignored; cast the module instead.
    """

    def __init__(
        self,
        in_channels: int,
        latent_channels: int,
        num_res_blocks: int,
        channels: Sequence[int],
        num_res_blocks_middle: int = 2,
        norm_type: str = "layer",
        use_fp16: bool = False,
    ) -> None:
        super().__init__()
        check_norm(norm_type)
        self.in_channels = in_channels
        self.latent_channels = latent_channels
        self.input_layer = nn.Conv3d(in_channels, channels[0], 3, padding=1)
        blocks: list[nn.Module] = []
        for level, width in enumerate(channels):
            blocks += _residual_stack(width, num_res_blocks)
            if level + 1 < len(channels):
                blocks.append(DownsampleBlock3d(width, channels[level + 1]))
        self.blocks = nn.ModuleList(blocks)
        self.middle_block = nn.Sequential(*_residual_stack(channels[-1], num_res_blocks_middle))
        self.out_layer = nn.Sequential(
            ChannelLayerNorm32(channels[-1], eps=FINAL_EPS),
            nn.SiLU(),
            nn.Conv3d(channels[-1], latent_channels * 2, 3, padding=1),
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SparseStructureEncoder:
        """Build from the ``args`` of a published or mini configuration."""
        return cls(**config)

    def distribution(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance [B, latent, r, r, r] of ``volume`` [B, in_channels, R, R, R]."""
        h = self.input_layer(volume.to(self.input_layer.weight.dtype))
        for block in self.blocks:
            h = block(h)
        mean, logvar = self.out_layer(self.middle_block(h)).float().chunk(2, dim=1)
        return mean, logvar

    def forward(self, volume: Tensor) -> Tensor:
        """The latent used by the flows: the mean, not normalised."""
        return self.distribution(volume)[0]

    def sample(self, volume: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """A posterior sample, the mean and the log-variance, for training the VAE."""
        mean, logvar = self.distribution(volume)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return mean + torch.exp(0.5 * logvar) * noise, mean, logvar


class SparseStructureDecoder(nn.Module):
    """Latent to raw logits. ``channels`` from coarse to fine; every step but the last doubles the sides."""

    def __init__(
        self,
        out_channels: int,
        latent_channels: int,
        num_res_blocks: int,
        channels: Sequence[int],
        num_res_blocks_middle: int = 2,
        norm_type: str = "layer",
        use_fp16: bool = False,
    ) -> None:
        super().__init__()
        check_norm(norm_type)
        self.out_channels = out_channels
        self.latent_channels = latent_channels
        self.input_layer = nn.Conv3d(latent_channels, channels[0], 3, padding=1)
        self.middle_block = nn.Sequential(*_residual_stack(channels[0], num_res_blocks_middle))
        blocks: list[nn.Module] = []
        for level, width in enumerate(channels):
            blocks += _residual_stack(width, num_res_blocks)
            if level + 1 < len(channels):
                blocks.append(UpsampleBlock3d(width, channels[level + 1]))
        self.blocks = nn.ModuleList(blocks)
        self.out_layer = nn.Sequential(
            ChannelLayerNorm32(channels[-1], eps=FINAL_EPS),
            nn.SiLU(),
            nn.Conv3d(channels[-1], out_channels, 3, padding=1),
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SparseStructureDecoder:
        """Build from the ``args`` of a published or mini configuration."""
        return cls(**config)

    def forward(self, latent: Tensor) -> Tensor:
        """``latent`` [B, latent, r, r, r] -> logits [B, out_channels, R, R, R] float32."""
        h = self.middle_block(self.input_layer(latent.to(self.input_layer.weight.dtype)))
        for block in self.blocks:
            h = block(h)
        return self.out_layer(h).float()


def check_norm(norm_type: str) -> None:
    """Raise ValueError for a norm that no published file uses."""
    if norm_type != "layer":
        raise ValueError(f"Norm {norm_type!r} is not supported; the published networks use 'layer'.")

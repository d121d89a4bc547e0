"""Stage 2: the flow over the structured latent (SLat), a sparse transformer (CUPID spec section 4.5).

``SLatFlowModel`` is the transformer; ``VisualLatentConditioningSLatFlowModel`` adds, beside every noisy voxel, what the
image shows where that voxel projects to. Those local features depend neither on time nor on the noise: compute them
once an image with :meth:`VisualLatentConditioningSLatFlowModel.local_features` and hand them to every step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backend.nn.attention import KeysValues, PreparedContext
from backend.nn.blocks import modulation_layer
from backend.nn.embeddings import AbsolutePositionEmbedder, TimestepEmbedder
from backend.nn.norms import FINAL_EPS
from backend.nn.sparse_blocks import SparseModulatedCrossBlock, SparseResBlock3d, convert_torso, torso_dtype
from backend.nn.sparse_tensor import SparseTensor
from backend.systems.cupid.slat_vae import SLatEncoder

SPECIAL_TOKENS = 5  # one class token and four registers come before the patch tokens
VISUAL_INPUT_CHANNELS = 3


class SLatFlowModel(nn.Module):
    """Velocity of noisy voxel features, given time and image tokens.

    Down and up blocks at the ends halve the resolution log2(patch_size) times. Raises ValueError for configurations
    that the published networks cannot have. With ``checkpointing`` a training step keeps only what goes into each
    block.
    """

    checkpointing = False

    def __init__(
        self,
        resolution: int,
        in_channels: int,
        model_channels: int,
        cond_channels: int,
        out_channels: int,
        num_blocks: int,
        num_heads: int | None = None,
        num_head_channels: int = 64,
        mlp_ratio: float = 4.0,
        patch_size: int = 2,
        num_io_res_blocks: int = 2,
        io_block_channels: Sequence[int] | None = None,
        pe_mode: str = "ape",
        use_fp16: bool = False,
        use_skip_connection: bool = True,
        share_mod: bool = False,
        qk_rms_norm: bool = False,
        qk_rms_norm_cross: bool = False,
    ) -> None:
        super().__init__()
        levels = list(io_block_channels or [])
        if levels and 2 ** len(levels) != patch_size:
            raise ValueError(f"Patch size {patch_size} needs log2 of it io block channels, got {levels}.")
        if levels and share_mod:
            raise ValueError("share_mod cannot be combined with io blocks; give each block its own modulation.")
        if pe_mode != "ape":
            raise ValueError(f'Position embedding "{pe_mode}" is unknown here; use "ape".')
        self.resolution, self.in_channels, self.out_channels = resolution, in_channels, out_channels
        self.use_skip_connection, self.share_mod = use_skip_connection, share_mod
        heads = num_heads or model_channels // num_head_channels
        widths = [*levels, model_channels]  # channels from the finest level to the torso
        self.t_embedder = TimestepEmbedder(model_channels)
        if share_mod:
            self.adaLN_modulation = modulation_layer(model_channels)
        self.pos_embedder = AbsolutePositionEmbedder(model_channels)
        self.input_layer = nn.Linear(in_channels, widths[0])
        self.input_blocks = nn.ModuleList()
        self.out_blocks = nn.ModuleList()
        for fine, coarse in zip(widths[:-1], widths[1:], strict=True):
            same = [SparseResBlock3d(fine, model_channels, fine) for _ in range(num_io_res_blocks - 1)]
            self.input_blocks.extend([*same, SparseResBlock3d(fine, model_channels, coarse, "down")])
        doubled = 2 if use_skip_connection else 1
        for fine, coarse in reversed(list(zip(widths[:-1], widths[1:], strict=True))):
            rest = [SparseResBlock3d(fine * doubled, model_channels, fine) for _ in range(num_io_res_blocks - 1)]
            self.out_blocks.extend([SparseResBlock3d(coarse * doubled, model_channels, fine, "up"), *rest])
        self.blocks = nn.ModuleList(
            SparseModulatedCrossBlock(
                model_channels, cond_channels, heads, mlp_ratio, qk_rms_norm, qk_rms_norm_cross, share_mod
            )
            for _ in range(num_blocks)
        )
        self.out_layer = nn.Linear(widths[0], out_channels)
        self._initialise()
        if use_fp16:
            self.set_compute_dtype(torch.float16)

    def _initialise(self) -> None:
        """Xavier linears; gates, modulations and the output start at zero, so that a fresh network predicts zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters():
            if name.startswith("t_embedder") and name.endswith("weight"):
                nn.init.normal_(parameter, std=0.02)
            if "adaLN_modulation" in name or name.startswith("out_layer"):
                nn.init.zeros_(parameter)

    def set_compute_dtype(self, dtype: torch.dtype) -> None:
        """Run the torso in another precision; the ends of the network stay float32 (spec section 1.2)."""
        for part in (self.input_blocks, self.blocks, self.out_blocks):
            convert_torso(part, dtype)

    def _positions(self, h: SparseTensor, dtype: torch.dtype) -> Tensor:
        """Position embeddings [L,C] of voxels; the same in every step."""
        key = ("positions", self.pos_embedder.channels, dtype)
        values: Tensor = h.cached(key, lambda: self.pos_embedder(h.coords[:, 1:]).to(dtype))
        return values

    def prepare(self, cond: Tensor, weight: Tensor | None = None) -> PreparedContext:
        """What every step would make of the tokens ``cond`` [B,N,Cc] and ``weight`` [B,N], made once."""
        return PreparedContext.of(
            (block.cross_attn for block in self.blocks), cond.to(torso_dtype(self.blocks)), weight
        )

    def forward(
        self, x: SparseTensor, t: Tensor, cond: Tensor | PreparedContext, weight: Tensor | None = None
    ) -> SparseTensor:
        """Velocity [L,out] of noisy features [L,in].

        t [B] is 1000 x flow time, cond [B,N,Cc] image tokens (or what :meth:`prepare` made of them, which has its
        weights), weight [B,N] of them (spec 8) or None.
        """
        dtype = torso_dtype(self.blocks)
        temb = self.t_embedder(t)
        mod = self.adaLN_modulation(temb) if self.share_mod else temb
        temb, mod = temb.to(dtype), mod.to(dtype)
        contexts: list[Tensor | KeysValues]
        if isinstance(cond, PreparedContext):
            contexts, weight = list(cond.blocks), cond.weight
        else:
            contexts = [cond.to(dtype)] * len(self.blocks)
        h = x.replace(self.input_layer(x.feats).to(dtype))
        skips = []
        for block in self.input_blocks:
            h = block(h, temb)
            skips.append(h.feats)
        h = h.replace(h.feats + self._positions(h, dtype))
        for block, context in zip(self.blocks, contexts, strict=True):
            if self.checkpointing and torch.is_grad_enabled():
                h = checkpoint(block, h, mod, context, weight, use_reentrant=False)
            else:
                h = block(h, mod, context, weight)
        for block in self.out_blocks:
            if self.use_skip_connection:
                h = h.replace(torch.cat([h.feats, skips.pop()], dim=1))
            h = block(h, temb)
        feats = F.layer_norm(h.feats.float(), h.feats.shape[-1:], eps=FINAL_EPS)
        return x.replace(self.out_layer(feats))


def sample_at(maps: Tensor, uv: Tensor, rows: Sequence[slice]) -> Tensor:
    """Bilinear samples (zero outside) of maps [B,C,H,W] at uv [L,2] in [0,1], ``rows`` of each item -> [L,C]."""
    parts = []
    for item, span in zip(maps, rows, strict=True):
        grid = (uv[span] * 2 - 1).to(maps.dtype)[None, None]  # [1,1,n,2]
        sampled = F.grid_sample(item[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        parts.append(sampled[0, :, 0].T)
    return torch.cat(parts)


class VisualLatentConditioningSLatFlowModel(SLatFlowModel):
    """The published second stage.

    [noisy latent | latent of the sampled image tokens | sampled image features] a voxel.
    """

    def __init__(
        self,
        resolution: int,
        in_channels: int,
        model_channels: int,
        cond_channels: int,
        cond_latent_channels: int,
        out_channels: int,
        num_blocks: int,
        visual_feat_channels: Sequence[int] = (4, 4, 4, 4),
        visual_feat_resolution: int = 256,
        visual_conv_kernel_size: int = 3,
        visual_input_channels: int = VISUAL_INPUT_CHANNELS,
        **settings: Any,
    ) -> None:
        local = cond_latent_channels + sum(visual_feat_channels)
        super().__init__(
            resolution, in_channels + local, model_channels, cond_channels, out_channels, num_blocks, **settings
        )
        self.latent_channels, self.cond_latent_channels = in_channels, cond_latent_channels
        self.visual_feat_resolution = visual_feat_resolution
        widths = [visual_input_channels, *visual_feat_channels]
        self.visual_conv_blocks = nn.ModuleList(
            nn.Conv2d(a, b, visual_conv_kernel_size, stride=1 if i == 0 else 2, padding=visual_conv_kernel_size // 2)
            for i, (a, b) in enumerate(zip(widths[:-1], widths[1:], strict=True))
        )

    def latent_features(self, x: SparseTensor, tokens: Tensor, uv: Tensor, encoder: SLatEncoder | None) -> Tensor:
        """f_h [L,cond_latent_channels]: patch tokens sampled at each voxel, through the frozen SLat encoder (its mean).

        tokens [B,5+s*s,C], uv [L,2]. Zero for items whose five special tokens are exactly zero (the null condition),
        and without an encoder.
        """
        absent = (tokens[:, :SPECIAL_TOKENS] == 0).flatten(1).all(1)  # [B]
        if encoder is None or bool(absent.all()):
            return x.feats.new_zeros(len(x), self.cond_latent_channels)
        side = math.isqrt(tokens.shape[1] - SPECIAL_TOKENS)
        if side * side != tokens.shape[1] - SPECIAL_TOKENS:
            raise ValueError(f"{tokens.shape[1]} image tokens are not 5 special ones and a square of patches.")
        patches = tokens[:, SPECIAL_TOKENS:].transpose(1, 2).reshape(tokens.shape[0], -1, side, side)
        with torch.no_grad():
            latent = encoder(x.replace(sample_at(patches, uv, x.layout))).feats
        return latent * x.spread((~absent).to(latent.dtype)[:, None])

    def visual_features(self, x: SparseTensor, image: Tensor, uv: Tensor) -> Tensor:
        """f_l [L,sum(visual_feat_channels)]: every map of the convolution chain sampled at each voxel.

        image [B,3,H,W] in [0,1]; there is no null handling, a zero image still gives the biases.
        """
        size = (self.visual_feat_resolution, self.visual_feat_resolution)
        if image.shape[-2:] != size:
            image = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
        maps, sampled = image, []
        for convolution in self.visual_conv_blocks:
            maps = convolution(maps)
            sampled.append(sample_at(maps, uv, x.layout))
        return torch.cat(sampled, dim=1)

    def local_features(
        self, x: SparseTensor, tokens: Tensor, image: Tensor, uv: Tensor, encoder: SLatEncoder | None
    ) -> Tensor:
        """[f_h | f_l] [L, cond_latent + visual channels] of the voxels of ``x`` for one condition."""
        latent = self.latent_features(x, tokens, uv, encoder)
        visual = self.visual_features(x, image, uv)
        return torch.cat([latent.to(visual.dtype), visual], dim=1)

    def forward(  # type: ignore[override]
        self, x: SparseTensor, t: Tensor, cond: Tensor | PreparedContext, local: Tensor, weight: Tensor | None = None
    ) -> SparseTensor:
        """Noisy latent [L,in], t [B], tokens [B,N,Cc] or prepared -> velocity [L,out].

        local [L,...] is what :meth:`local_features` made.
        """
        joined = torch.cat([x.feats, local.to(x.feats.dtype)], dim=1)
        return super().forward(x.replace(joined), t, cond, weight)


class ElasticVisualLatentConditioningSLatFlowModel(VisualLatentConditioningSLatFlowModel):
    """The name in the published configuration; "Elastic" was a training-only memory option of the authors."""

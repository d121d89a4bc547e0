"""Stage 1: the dense flow transformer over the occupancy and UV latents (specs/cupid.md 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from backend.nn.attention import KeysValues, PreparedContext
from backend.nn.blocks import ModulatedTransformerCrossBlock, modulation_layer
from backend.nn.embeddings import TimestepEmbedder, grid_positions, position_embedding
from backend.nn.norms import FINAL_EPS
from backend.nn.sparse_blocks import convert_torso, torso_dtype


def patchify(x: Tensor, patch: int) -> Tensor:
    """``x`` [B, C, R, R, R] -> [B, C * patch^3, R/patch, ...]; the channel index is (c, p0, p1, p2)."""
    if patch == 1:
        return x
    batch, channels, *size = x.shape
    d, h, w = (side // patch for side in size)
    x = x.reshape(batch, channels, d, patch, h, patch, w, patch)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(batch, channels * patch**3, d, h, w)


def unpatchify(x: Tensor, patch: int) -> Tensor:
    """The inverse of ``patchify``."""
    if patch == 1:
        return x
    batch, folded, d, h, w = x.shape
    channels = folded // patch**3
    x = x.reshape(batch, channels, patch, patch, patch, d, h, w)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(batch, channels, d * patch, h * patch, w * patch)


class SparseStructureFlowModel(nn.Module):
    """Velocity of the structure latent. Parameter names are those of the published files.

    ``use_fp16`` of a published configuration is accepted and ignored: call :meth:`set_compute_dtype` instead. With
    ``checkpointing`` a training step keeps only what goes into each block. Raises ValueError for a position mode that
    no published network uses.
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
        pe_mode: str = "ape",
        use_fp16: bool = False,
        share_mod: bool = False,
        qk_rms_norm: bool = False,
        qk_rms_norm_cross: bool = False,
    ) -> None:
        super().__init__()
        if pe_mode != "ape":
            raise ValueError(f"Position mode {pe_mode!r} is not supported; use a configuration with 'ape'.")
        if resolution % patch_size:
            raise ValueError(f"Resolution {resolution} is not a multiple of the patch size {patch_size}.")
        self.resolution = resolution
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.model_channels = model_channels
        self.cond_channels = cond_channels
        self.patch_size = patch_size
        self.share_mod = share_mod
        self.pos_emb: Tensor
        heads = num_heads or model_channels // num_head_channels

        self.t_embedder = TimestepEmbedder(model_channels)
        if share_mod:
            self.adaLN_modulation = modulation_layer(model_channels)
        self.register_buffer("pos_emb", position_embedding(grid_positions(resolution // patch_size), model_channels))
        self.input_layer = nn.Linear(in_channels * patch_size**3, model_channels)
        self.blocks = nn.ModuleList(
            ModulatedTransformerCrossBlock(
                model_channels, cond_channels, heads, mlp_ratio, qk_rms_norm, qk_rms_norm_cross, share_mod
            )
            for _ in range(num_blocks)
        )
        self.out_layer = nn.Linear(model_channels, out_channels * patch_size**3)
        self.initialize_weights()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SparseStructureFlowModel:
        """Build from the ``args`` of a published or mini configuration."""
        return cls(**config)

    def initialize_weights(self) -> None:
        """Training start: xavier linears, small time embedding, zero modulation and output (spec 12.3)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        self.t_embedder.initialize_weights()
        for name, parameter in self.named_parameters():
            if "adaLN_modulation." in name or name.startswith("out_layer."):
                nn.init.zeros_(parameter)

    def set_compute_dtype(self, dtype: torch.dtype) -> None:
        """Run the blocks in another precision; the ends of the network stay float32 (spec section 1.2)."""
        convert_torso(self.blocks, dtype)

    def prepare(self, cond: Tensor, weight: Tensor | None = None) -> PreparedContext:
        """What every step would make of the tokens ``cond`` [B, M, Cc] and ``weight`` [B, M], made once."""
        return PreparedContext.of(
            (block.cross_attn for block in self.blocks), cond.to(torso_dtype(self.blocks)), weight
        )

    def forward(
        self, x: Tensor, t: Tensor, cond: Tensor | PreparedContext, weight: Tensor | None = None
    ) -> Tensor:
        """Velocity [B, out_channels, R, R, R].

        ``x`` [B, in_channels, R, R, R] (occupancy latent, then UV latent), ``t`` [B] = 1000 x flow time, ``cond``
        [B, M, cond_channels] image tokens (or what :meth:`prepare` made of them, which has its weights), ``weight``
        [B, M] optional visibility of the tokens (spec 8).
        """
        size = self.resolution
        if tuple(x.shape[1:]) != (self.in_channels, size, size, size):
            raise ValueError(f"Latent {tuple(x.shape)} does not fit [B, {self.in_channels}, {size}, {size}, {size}].")
        dtype, ends = torso_dtype(self.blocks), self.input_layer.weight.dtype
        folded = patchify(x, self.patch_size)
        tokens = self.input_layer(folded.flatten(2).transpose(1, 2).to(ends))  # [B, N, C]
        h = (tokens + self.pos_emb.to(ends)).to(dtype)
        mod = self.t_embedder(t)
        if self.share_mod:
            mod = self.adaLN_modulation(mod)
        mod = mod.to(dtype)
        contexts: list[Tensor | KeysValues]
        if isinstance(cond, PreparedContext):
            contexts, weight = list(cond.blocks), cond.weight
        else:
            contexts = [cond.to(dtype)] * len(self.blocks)
        for block, context in zip(self.blocks, contexts, strict=True):
            if self.checkpointing and torch.is_grad_enabled():
                h = checkpoint(block, h, mod, context, weight, use_reentrant=False)
            else:
                h = block(h, mod, context, weight)
        h = functional.layer_norm(h.float(), h.shape[-1:], eps=FINAL_EPS)
        out = self.out_layer(h.to(ends)).to(x.dtype)
        return unpatchify(out.transpose(1, 2).unflatten(2, folded.shape[2:]), self.patch_size)


def load_structure_flow(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> SparseStructureFlowModel:
    """A flow in evaluation mode with ``weights`` loaded strictly. Raises RuntimeError when names or shapes differ."""
    model = SparseStructureFlowModel.from_config(config)
    model.load_state_dict({name: tensor.to(torch.float32) for name, tensor in weights.items()}, strict=True)
    return model.eval()

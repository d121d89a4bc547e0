"""Flux's two kinds of blocks over RefAny3D's sequence, on the modules of diffusers (spec sections 6-8).

Each function takes the place of its block's own forward, so whatever is hooked to a block (weights that visit the
device, 8-bit layers) goes on working.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from backend.nn.cpu_products import apply

from .attention import Mask, attend
from .kv_cache import ConditionCache, PreparedConditions
from .modulation import add_gated, may_overwrite, modulate
from .positions import MAIN, NOISE, VIEWS, Sizes
from .routing import Routing


@dataclass
class Forward:
    """Everything the blocks of one forward share.

    sizes: the sequence. vectors [B, kinds, D]: through SiLU, one a kind. turns [L, d/2]: of the rotary positions.
    prepared: what is kept of the views, None where nothing is.
    cache: keys and values of the views, which are then not in the sequence; or, with `filling`, where they go.
    copies: how many equal views each of the `views` stands for.
    """

    routing: Routing
    sizes: Sizes
    vectors: Tensor
    turns: Tensor
    views: int
    mask: Mask
    prepared: PreparedConditions | None = None
    cache: ConditionCache | None = None
    filling: bool = False
    copies: int = 1
    image: Sizes = field(init=False)

    def __post_init__(self) -> None:
        self.image = self.sizes._replace(text=0)

    def rows(self, layer: nn.Module, name: str, sizes: Sizes) -> Tensor:
        """What `layer` makes of the vectors of the kinds in `sizes` [B, kinds, out]."""
        kinds = sizes.present
        vectors = self.vectors[:, self.vectors.shape[1] - sum(kinds) :]
        if self.prepared is None or not kinds.views:
            return self.routing.linear(layer, name, vectors, kinds)
        main = self.routing.linear(layer, name, vectors[:, : kinds.main], kinds.only(*MAIN))
        kept = self.prepared.rows
        if name not in kept:
            kept[name] = self.routing.linear(layer, name, self.prepared.vectors, kinds.only(*VIEWS))
        return torch.cat([main, kept[name].expand(len(main), -1, -1)], 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, queries: Sizes, block: int) -> Tensor:
        """Attention [B, queries.total, D] in the block of this number."""
        keys = self.sizes
        if self.cache is not None and self.filling:
            self.cache.add(k, v)
        elif self.cache is not None:
            kept_k, kept_v = self.cache.keys[block], self.cache.values[block]
            k, v = (torch.cat([own, _for_each(kept, len(own))], 2) for own, kept in ((k, kept_k), (v, kept_v)))
        return attend(q, k, v, queries, keys, self.views, self.mask, self.copies)


def _for_each(kept: Tensor, batch: int) -> Tensor:
    """What is kept of one or more meshes [M, H, L, d] for `batch` pictures, as many of each mesh, in its order."""
    return kept.expand(batch, -1, -1, -1) if len(kept) == 1 else kept.repeat_interleave(batch // len(kept), 0)


def double_block(block: Any, name: str, number: int, image: Tensor, text: Tensor | None, run: Forward) -> Any:
    """(image, text) after a double block. image [B, run.image.total, D], text [B, run.sizes.text, D] or None."""
    sizes, linear = run.image, run.routing.linear
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = run.rows(
        block.norm1.linear, f"{name}.norm1.linear", sizes
    ).chunk(6, -1)
    x = modulate(block.norm1.norm(image), sizes, shift, scale)
    attn, heads = block.attn, block.attn.heads
    q, k, v = (
        linear(getattr(attn, part), f"{name}.attn.{part}", x, sizes).unflatten(-1, (heads, -1))
        for part in ("to_q", "to_k", "to_v")
    )
    q, k = heads_norm(attn.norm_q, q), heads_norm(attn.norm_k, k)
    if text is not None:
        rows = block.norm1_context.linear(run.vectors[:, :1]).chunk(6, -1)
        y = block.norm1_context.norm(text) * (1 + rows[1]) + rows[0]
        text_q, text_k, text_v = (
            part(y).unflatten(-1, (heads, -1)) for part in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        )
        q = torch.cat([heads_norm(attn.norm_added_q, text_q), q], 1)
        k = torch.cat([heads_norm(attn.norm_added_k, text_k), k], 1)
        v = torch.cat([text_v, v], 1)
    q, k = rotate(q, run.turns), rotate(k, run.turns)
    seen = run.attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), run.sizes, number)
    out = linear(attn.to_out[0], f"{name}.attn.to_out.0", seen[:, run.sizes.text :], sizes)
    image = add_gated(image, out, sizes, gate)
    x = modulate(block.norm2(image), sizes, shift_mlp, scale_mlp)
    x = linear(block.ff.net[2], f"{name}.ff.net.2", apply(block.ff.net[0].proj, x, gelu=True), sizes)
    image = add_gated(image, x, sizes, gate_mlp)
    if text is not None:
        text = text + rows[2] * attn.to_add_out(seen[:, : run.sizes.text])
        y = block.norm2_context(text) * (1 + rows[4]) + rows[3]
        text = text + rows[5] * block.ff_context(y)
    return image, text


def single_block(block: Any, name: str, number: int, hidden: Tensor, run: Forward, wanted: Sizes | None = None) -> Any:
    """The sequence [B, run.sizes.total, D] after a single block.

    wanted: the noise's sizes, where only its tokens are needed afterwards: the others give keys and values only.
    """
    sizes, linear = run.sizes, run.routing.linear
    rows = run.rows(block.norm.linear, f"{name}.norm.linear", sizes)
    shift, scale, gate = rows.chunk(3, -1)
    x = modulate(block.norm.norm(hidden), sizes, shift, scale)
    attn, heads = block.attn, block.attn.heads
    k, v = (
        linear(getattr(attn, part), f"{name}.attn.{part}", x, sizes).unflatten(-1, (heads, -1))
        for part in ("to_k", "to_v")
    )
    k = rotate(heads_norm(attn.norm_k, k), run.turns)
    turns = run.turns
    if wanted is not None:
        kept = slice(sizes.text, sizes.main)
        x, hidden = x[:, kept], hidden[:, kept]
        turns = turns[kept]
        text_rows = sizes.present.text
        gate = gate[:, text_rows : text_rows + wanted.present.total]
        sizes = wanted
    q = linear(attn.to_q, f"{name}.attn.to_q", x, sizes).unflatten(-1, (heads, -1))
    q = rotate(heads_norm(attn.norm_q, q), turns)
    seen = run.attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), sizes, number)
    x = _beside(seen, linear(block.proj_mlp, f"{name}.proj_mlp", x, sizes))
    x = linear(block.proj_out, f"{name}.proj_out", x, sizes)
    return add_gated(hidden, x, sizes, gate)


def noise_of(sizes: Sizes) -> Sizes:
    """The noise's part of a sequence."""
    return sizes.only(*NOISE)


def heads_norm(norm: Any, x: Tensor) -> Tensor:
    """`norm`, the root mean square's, of x [B, L, H, d], which is overwritten where no gradient is recorded."""
    if not (type(norm) is nn.RMSNorm and norm.weight is not None and may_overwrite(x, norm.weight)):
        out: Tensor = norm(x)
        return out
    eps = torch.finfo(x.dtype).eps if norm.eps is None else norm.eps
    squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    return x.mul_(squares.div_(x.shape[-1]).add_(eps).rsqrt_()).mul_(norm.weight)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn each pair of numbers of x [B, L, H, d] by `turns` [L, d/2], in float32; x is overwritten as in
    `heads_norm`."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    turned = torch.mul(pairs, turns[:, None], out=None if torch.is_grad_enabled() else pairs)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def _beside(seen: Tensor, x: Tensor) -> Tensor:
    """What a single block's attention saw [B, L, D] and, after it, GELU of x [B, L, M]: [B, L, D + M]."""
    if not may_overwrite(x, seen):
        return torch.cat([seen, functional.gelu(x, approximate="tanh")], 2)
    out = x.new_empty(*x.shape[:2], seen.shape[2] + x.shape[2])
    out[..., : seen.shape[2]] = seen
    torch.ops.aten.gelu.out(x, approximate="tanh", out=out[..., seen.shape[2] :])
    return out

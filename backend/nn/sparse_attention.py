"""Attention over sparse voxels: full, windowed (swin) and cross (CUPID spec sections 4.1, 4.4 and 8).

Voxels are put into groups (batch items, or windows of one batch item); groups of similar length are padded to one
length and go through one fused attention call. The grouping depends on the coordinates alone and is remembered by the
tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.attention import CrossAttention, KeysValues, product_attention, token_weight_bias
from backend.nn.norms import MultiHeadRMSNorm
from backend.nn.sparse_tensor import SparseTensor, bounds, voxel_keys

BUCKET_RATIO = 1.3  # groups of one bucket differ in length by at most this factor: bounds the work wasted on padding
BUCKET_SLACK = 4  # ... or by this many voxels, so that tiny windows do not make many tiny calls


@dataclass(frozen=True)
class Bucket:
    """Groups padded to one length.

    rows [n,m] int64 row of each token (row 0 where padded), groups [n] group ids, mask [n,1,1,m] bool or None when
    nothing is padded, kept [n*m] bool or None.
    """

    rows: Tensor
    groups: Tensor
    mask: Tensor | None
    kept: Tensor | None


@dataclass(frozen=True)
class GroupPlan:
    """All groups in buckets.

    ``inverse`` [L] finds each voxel again in the concatenation of the buckets' real tokens.
    """

    buckets: list[Bucket]
    inverse: Tensor


def group_ids(x: SparseTensor, window_size: int | None, shift: int = 0) -> Tensor:
    """Attention group of each voxel [L] int64: its batch item, or its window floor((coord + shift) / window) in it."""
    if window_size is None:
        return x.batch_index
    coords = x.coords.clone()
    coords[:, 1:] = torch.div(coords[:, 1:] + shift, window_size, rounding_mode="floor")
    lower, extent = bounds(coords)
    return torch.unique(voxel_keys(coords, lower, extent), return_inverse=True)[1]


def plan_groups(x: SparseTensor, window_size: int | None = None, shift: int = 0) -> GroupPlan:
    """The remembered :class:`GroupPlan` of these voxels."""
    return x.cached(("groups", window_size, shift), lambda: _plan(group_ids(x, window_size, shift)))


def _plan(groups: Tensor) -> GroupPlan:
    device = groups.device
    lengths = torch.bincount(groups).cpu()
    order = torch.argsort(groups, stable=True)
    starts = (torch.cumsum(lengths, 0) - lengths).to(device)
    by_length = torch.argsort(lengths, descending=True, stable=True)
    ranked = lengths[by_length].tolist()
    buckets, begin = [], 0
    while begin < len(ranked) and ranked[begin] > 0:
        longest, end = ranked[begin], begin
        shortest = max(1, min(int(longest / BUCKET_RATIO), longest - BUCKET_SLACK))
        while end < len(ranked) and ranked[end] >= shortest:
            end += 1
        chosen = by_length[begin:end].to(device)
        token = torch.arange(longest, device=device)
        real = token[None, :] < lengths[by_length[begin:end]].to(device)[:, None]
        place = torch.where(real, starts[chosen][:, None] + token[None, :], 0)
        padded = ranked[end - 1] < longest
        buckets.append(
            Bucket(order[place], chosen, real[:, None, None, :] if padded else None, real.flatten() if padded else None)
        )
        begin = end
    if buckets:
        visited = torch.cat([b.rows.flatten() if b.kept is None else b.rows.flatten()[b.kept] for b in buckets])
    else:
        visited = order
    return GroupPlan(buckets, torch.argsort(visited))


def _collect(parts: list[tuple[Bucket, Tensor]], plan: GroupPlan, like: Tensor) -> Tensor:
    """Buckets' outputs [n,H,m,D] -> rows [L,H,D] in voxel order."""
    rows = []
    for bucket, out in parts:
        flat = out.transpose(1, 2).flatten(0, 1)
        rows.append(flat if bucket.kept is None else flat[bucket.kept])
    return torch.cat(rows)[plan.inverse] if rows else torch.zeros_like(like)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention [n,H,m,D]; the fused kernel where a gradient is wanted."""
    attend = F.scaled_dot_product_attention if torch.is_grad_enabled() else product_attention
    return attend(q, k, v, mask)


def _one_group(plan: GroupPlan) -> bool:
    """Whether all voxels attend to each other in their own order, so that nothing need be gathered."""
    return len(plan.buckets) == 1 and len(plan.buckets[0].rows) == 1


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, plan: GroupPlan) -> Tensor:
    """Every voxel attends to all voxels of its group. q, k, v [L,H,D] -> [L,H,D]."""
    if _one_group(plan):  # a stable sort of one group keeps the order
        return _attend(*(rows[None].transpose(1, 2) for rows in (q, k, v)), None)[0].transpose(0, 1)
    parts = []
    for bucket in plan.buckets:
        queries, keys, values = (rows[bucket.rows].transpose(1, 2) for rows in (q, k, v))  # [n,H,m,D]
        parts.append((bucket, _attend(queries, keys, values, bucket.mask)))
    return _collect(parts, plan, v)


def cross_attention(q: Tensor, k: Tensor, v: Tensor, plan: GroupPlan, bias: Tensor | None = None) -> Tensor:
    """Voxels of item b attend to the tokens of item b. q [L,H,D], k and v [B,N,H,D], bias [B,N] added to the logits."""
    if _one_group(plan) and len(k) == 1:
        mask = None if bias is None else bias[:, None, None, :].to(q.dtype)
        return _attend(q[None].transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask)[0].transpose(0, 1)
    parts = []
    for bucket in plan.buckets:
        mask = None if bias is None else bias[bucket.groups][:, None, None, :].to(q.dtype)
        keys, values = (tokens[bucket.groups].transpose(1, 2) for tokens in (k, v))
        queries = q[bucket.rows].transpose(1, 2)
        parts.append((bucket, _attend(queries, keys, values, mask)))
    return _collect(parts, plan, q)


class SparseSelfAttention(nn.Module):
    """Self-attention of voxels, full or in windows.

    Parameters ``to_qkv``, ``to_out`` and, with qk-norm, ``{q,k}_rms_norm.gamma``.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window_size: int | None = None,
        shift: int = 0,
        qk_rms_norm: bool = False,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        _check_heads(channels, num_heads)
        self.num_heads, self.window_size, self.shift, self.qk_rms_norm = num_heads, window_size, shift, qk_rms_norm
        self.to_qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        if qk_rms_norm:
            self.q_rms_norm = MultiHeadRMSNorm(channels // num_heads, num_heads)
            self.k_rms_norm = MultiHeadRMSNorm(channels // num_heads, num_heads)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Features [L,C] -> [L,C]."""
        q, k, v = self.to_qkv(x.feats).view(len(x), 3, self.num_heads, -1).unbind(1)
        if self.qk_rms_norm:
            q, k = self.q_rms_norm(q), self.k_rms_norm(k)
        out = grouped_attention(q, k, v, plan_groups(x, self.window_size, self.shift))
        return x.replace(self.to_out(out.flatten(1)))


class SparseCrossAttention(CrossAttention):
    """Cross-attention of voxels to dense tokens. Parameters ``to_q``, ``to_kv``, ``to_out`` (and the qk-norm gammas).

    Token weights make it the occlusion-aware attention of spec section 8: log(w + 1e-7) is added to the logits.
    """

    def __init__(
        self,
        channels: int,
        context_channels: int,
        num_heads: int,
        qk_rms_norm: bool = False,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        _check_heads(channels, num_heads)
        self.num_heads, self.qk_rms_norm = num_heads, qk_rms_norm
        self.to_q = nn.Linear(channels, channels, bias=qkv_bias)
        self.to_kv = nn.Linear(context_channels, 2 * channels, bias=qkv_bias)
        if qk_rms_norm:
            self.q_rms_norm = MultiHeadRMSNorm(channels // num_heads, num_heads)
            self.k_rms_norm = MultiHeadRMSNorm(channels // num_heads, num_heads)
        self.to_out = nn.Linear(channels, channels)

    def forward(
        self, x: SparseTensor, context: Tensor | KeysValues, weight: Tensor | None = None
    ) -> SparseTensor:
        """Features [L,C], context [B,N,Cc] or prepared, weight [B,N] of the tokens in [0,1] or None -> [L,C]."""
        if isinstance(context, KeysValues) and context.values.shape[1] == 1 and weight is None:
            return x.replace(x.spread(self.to_out(context.values[:, 0].flatten(1))).expand(len(x), -1))
        q = self.to_q(x.feats).view(len(x), self.num_heads, -1)
        known = self.keys_values(context) if isinstance(context, Tensor) else context
        if self.qk_rms_norm:
            q = self.q_rms_norm(q)
        bias = None if weight is None else token_weight_bias(weight.float())
        out = cross_attention(q, known.keys, known.values, plan_groups(x), bias)
        return x.replace(self.to_out(out.flatten(1)))


def _check_heads(channels: int, num_heads: int) -> None:
    if channels % num_heads:
        raise ValueError(f"{channels} channels cannot be split over {num_heads} heads; change one of them.")

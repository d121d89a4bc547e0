"""Attention by RefAny3D's table without a mask: each group of queries meets exactly the keys it may see (spec 8).

Text and RGB noise meet everything; point-map noise everything but the text; view k of either kind meets text, noise,
itself and its partner, which is one attention of a pair's tokens, batched over the views. For 8 views a third of the
pairs of tokens is left, and no table of them is made.
"""

from __future__ import annotations

from enum import Enum
from math import log

import torch
from torch import Tensor

from backend.nn.cpu_products import attention

from .positions import Sizes


class Mask(Enum):
    """Who attends to whom."""

    TRAINED = "trained"
    """The table of the published weights."""
    INDEPENDENT = "independent"
    """Views see their pair only, so that their keys and values can be kept (`kv_cache.py`)."""
    NONE = "none"
    """Everybody sees everybody: the second pass of the reference's image guidance."""


def attend(
    q: Tensor, k: Tensor, v: Tensor, queries: Sizes, keys: Sizes, views: int, mask: Mask, copies: int = 1
) -> Tensor:
    """Attention of `q` [B, H, queries.total, d] over `k`, `v` [B, H, keys.total, d] -> [B, queries.total, H * d].

    Kinds may be missing among the queries (nothing is made for them) or among the keys. With views among the queries
    all of theirs must be there. copies: how many equal views each of the `views` stands for; who meets all views meets
    each of its keys so many times, which is its weight in the softmax times `copies`.
    """
    weight = _copies_bias(k, keys.main, copies)
    if mask is Mask.NONE:
        return _flat(attention(q, k, v, weight))
    found = []
    first, second = queries.text + queries.rgb, queries.main
    if first:
        found.append(_flat(attention(q[:, :, :first], k, v, weight)))
    if second > first:
        start = keys.text
        rest = None if weight is None else weight[start:]
        found.append(_flat(attention(q[:, :, first:second], k[:, :, start:], v[:, :, start:], rest)))
    if queries.views:
        seen = 0 if mask is Mask.INDEPENDENT else keys.main
        found.append(_by_view(q[:, :, second:], k, v, keys, views, seen))
    return found[0] if len(found) == 1 else torch.cat(found, 1)


def _copies_bias(k: Tensor, main: int, copies: int) -> Tensor | None:
    """What is added to the logits of keys `k` [B, H, M, d], of which those from `main` on stand for `copies`: [M]."""
    if copies == 1:
        return None
    bias = k.new_zeros(k.shape[2])
    bias[main:] = log(copies)
    return bias


def _flat(x: Tensor) -> Tensor:
    """[B, H, L, d] -> [B, L, H * d]."""
    return x.transpose(1, 2).flatten(2)


def _by_view(q: Tensor, k: Tensor, v: Tensor, keys: Sizes, views: int, seen: int) -> Tensor:
    """Each view's pair over the first `seen` keys and itself; q [B, H, keys.views, d] -> [B, keys.views, H * d]."""
    batch, heads, _, width = q.shape
    kinds = 2 if keys.point_views else 1

    def pairs(x: Tensor) -> Tensor:  # [B, H, kinds * views * T, d] -> [B, views, H, kinds * T, d]
        x = x.unflatten(2, (kinds, views, -1)).permute(0, 3, 1, 2, 4, 5)
        return x.flatten(3, 4)

    def with_seen(x: Tensor) -> Tensor:
        own = pairs(x[:, :, keys.main :])
        if not seen:
            return own.flatten(0, 1)
        shared = x[:, None, :, :seen].expand(-1, views, -1, -1, -1)
        return torch.cat([shared, own], 3).flatten(0, 1)

    out = attention(pairs(q).flatten(0, 1), with_seen(k), with_seen(v))
    out = out.unflatten(0, (batch, views)).unflatten(3, (kinds, -1))  # [B, views, H, kinds, T, d]
    return out.permute(0, 3, 1, 4, 2, 5).reshape(batch, -1, heads * width)

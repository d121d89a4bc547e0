"""Multi-head attention over dense token sequences (specs/cupid.md 4.1 and 8)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from backend.nn.devices import cpu_has_amx
from backend.nn.norms import MultiHeadRMSNorm

TOKEN_WEIGHT_EPS = 1e-7  # a token of weight zero keeps a finite logit
SPELLED_OUT = 1024**2  # logits a head: a training step with more of them needs the fused kernel's small memory
ROWS = 256  # queries a thread at once: their logits stay in the second cache


def token_weight_bias(weight: Tensor) -> Tensor:
    """Logit bias log(w + 1e-7) of per-token weights ``weight`` [B, M] in [0, 1] (occlusion-aware conditioning)."""
    return torch.log(weight + TOKEN_WEIGHT_EPS)


def scaled_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v.

    ``q`` [B, N, heads, d], ``k`` and ``v`` [B, M, heads, d], ``bias`` [B, M] over heads and queries.
    Answers [B, N, heads, d].
    """
    mask = None if bias is None else bias[:, None, None, :].to(q.dtype)
    out = product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask)
    return out.transpose(1, 2)


def product_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + mask) v of ``q`` [B, heads, N, d], ``k`` and ``v`` [B, heads, M, d].

    The fused kernel's gradient is slow on CPUs (half of a training step of mini), so training there spells it out
    unless the sequences are long. In bf16 on CPUs without AMX the fused kernel reaches a quarter of what the matrix
    product does; :func:`rows_attention` three quarters.
    """
    if q.device.type == "cpu":
        training = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
        if training and q.shape[-2] * k.shape[-2] <= SPELLED_OUT:
            logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
            return (logits if mask is None else logits + mask).softmax(-1).to(v.dtype) @ v
        of_keys = mask is None or (mask.is_floating_point() and mask.shape[-2] == 1)
        if q.dtype == torch.bfloat16 and not training and of_keys and q.shape[-2] >= ROWS and not cpu_has_amx():
            return rows_attention(q, k, v, mask)
    return functional.scaled_dot_product_attention(q, k, v, mask)


def rows_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention head by head and some rows at a time, of plain products; shapes as in :func:`product_attention`.

    ``mask`` [B or 1, heads or 1, 1, M] is added to the logits of every query. The logits are rounded to the type of
    ``q`` once. Answers [B, heads, N, d] laid out as [B, N, heads, d].
    """
    batch, heads, count, width = q.shape
    rows = ROWS * torch.get_num_threads()
    out = q.new_empty(batch, count, heads, width).transpose(1, 2)
    biases = None if mask is None else mask.expand(batch, heads, 1, -1)
    logits = q.new_empty(min(rows, count), k.shape[-2])
    weights = torch.empty_like(logits)
    for item in range(batch):
        for head in range(heads):
            queries = q[item, head].contiguous() * width**-0.5
            keys, values = k[item, head].contiguous().t(), v[item, head].contiguous()
            for first in range(0, count, rows):
                part = queries[first : first + rows]
                torch.mm(part, keys, out=logits[: len(part)])
                if biases is not None:
                    logits[: len(part)] += biases[item, head]
                torch.softmax(logits[: len(part)], -1, out=weights[: len(part)])
                out[item, head, first : first + rows] = weights[: len(part)] @ values
    return out


@dataclass(frozen=True)
class KeysValues:
    """What a cross attention makes of its context: ``keys`` and ``values`` [B, M, heads, d]."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class PreparedContext:
    """A context that does not change from step to step: the keys and values of every block; ``weight`` [B, M]."""

    blocks: tuple[KeysValues, ...]
    weight: Tensor | None = None

    @classmethod
    def of(cls, attentions: Iterable[CrossAttention], context: Tensor, weight: Tensor | None = None) -> PreparedContext:
        """For every one of the ``attentions``; ``context`` [B, M, Cc] in their type, ``weight`` [B, M] or None.

        Tokens that are all the same (the null condition) share one key and one value: one of them stands for all.
        """
        if weight is None and context.shape[1] > 1 and not context.any():
            context = context[:, :1]
        return cls(tuple(attention.keys_values(context) for attention in attentions), weight)


class CrossAttention(nn.Module):
    """What dense and sparse cross attention have in common."""

    num_heads: int
    qk_rms_norm: bool
    to_kv: nn.Linear
    k_rms_norm: nn.Module

    def keys_values(self, context: Tensor) -> KeysValues:
        """Of the tokens ``context`` [B, M, Cc]."""
        k, v = self.to_kv(context).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)
        return KeysValues(self.k_rms_norm(k) if self.qk_rms_norm else k, v)


class MultiHeadAttention(CrossAttention):
    """Self or cross attention with optional per-head RMS norm of queries and keys.

    Keys: self ``to_qkv``, cross ``to_q`` and ``to_kv``; ``q_rms_norm.gamma``, ``k_rms_norm.gamma``; ``to_out``.
    Raises ValueError when ``channels`` does not divide into ``num_heads``.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        ctx_channels: int | None = None,
        kind: Literal["self", "cross"] = "self",
        qkv_bias: bool = True,
        qk_rms_norm: bool = False,
    ) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"{channels} channels do not divide into {num_heads} heads.")
        self.channels = channels
        self.num_heads = num_heads
        self.kind = kind
        self.qk_rms_norm = qk_rms_norm
        head = channels // num_heads
        if kind == "self":
            self.to_qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        else:
            self.to_q = nn.Linear(channels, channels, bias=qkv_bias)
            self.to_kv = nn.Linear(ctx_channels or channels, 2 * channels, bias=qkv_bias)
        if qk_rms_norm:
            self.q_rms_norm = MultiHeadRMSNorm(head, num_heads)
            self.k_rms_norm = MultiHeadRMSNorm(head, num_heads)
        self.to_out = nn.Linear(channels, channels)

    def project(self, x: Tensor, context: Tensor | KeysValues | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values [..., heads, d] of ``x`` [..., C] and, for cross attention, ``context`` [..., Cc]."""
        if self.kind == "self":
            q, k, v = self.to_qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
            return (self.q_rms_norm(q), self.k_rms_norm(k), v) if self.qk_rms_norm else (q, k, v)
        if context is None:
            raise ValueError("Cross attention needs a context; pass the condition tokens.")
        q = self.to_q(x).unflatten(-1, (self.num_heads, -1))
        known = self.keys_values(context) if isinstance(context, Tensor) else context
        return self.q_rms_norm(q) if self.qk_rms_norm else q, known.keys, known.values

    def forward(
        self, x: Tensor, context: Tensor | KeysValues | None = None, weight: Tensor | None = None
    ) -> Tensor:
        """``x`` [B, N, C], ``context`` [B, M, Cc] or prepared, ``weight`` [B, M] of its tokens or None -> [B, N, C].

        [B, 1, C] where one prepared token is all there is: every query gets its value.
        """
        if isinstance(context, KeysValues) and context.values.shape[1] == 1 and weight is None:
            return self.to_out(context.values.flatten(-2))
        q, k, v = self.project(x, context)
        bias = None if weight is None else token_weight_bias(weight)
        return self.to_out(scaled_attention(q, k, v, bias).flatten(-2))

"""Multi-head attention over dense token sequences (specs/cupid.md 4.1 and 8)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from backend.nn.norms import MultiHeadRMSNorm

TOKEN_WEIGHT_EPS = 1e-7  # a token of weight zero keeps a finite logit


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

    The fused kernel's gradient is slow on CPUs (half of a training step of mini), so training there spells it out.
    """
    if q.device.type == "cpu" and torch.is_grad_enabled() and q.requires_grad:
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return (logits if mask is None else logits + mask).softmax(-1).to(v.dtype) @ v
    return functional.scaled_dot_product_attention(q, k, v, mask)


class MultiHeadAttention(nn.Module):
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

    def project(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values [..., heads, d] of ``x`` [..., C] and, for cross attention, ``context`` [..., Cc]."""
        if self.kind == "self":
            q, k, v = self.to_qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        else:
            if context is None:
                raise ValueError("Cross attention needs a context; pass the condition tokens.")
            q = self.to_q(x).unflatten(-1, (self.num_heads, -1))
            k, v = self.to_kv(context).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)
        if self.qk_rms_norm:
            q, k = self.q_rms_norm(q), self.k_rms_norm(k)
        return q, k, v

    def forward(self, x: Tensor, context: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """``x`` [B, N, C], ``context`` [B, M, Cc], optional ``weight`` [B, M] of the context tokens -> [B, N, C]."""
        q, k, v = self.project(x, context)
        bias = None if weight is None else token_weight_bias(weight)
        return self.to_out(scaled_attention(q, k, v, bias).flatten(-2))

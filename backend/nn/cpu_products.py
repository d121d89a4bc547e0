"""Float32 products on CPUs through oneDNN where torch's own way is slow: for inference, without gradients.

torch multiplies float32 matrices on x86 by MKL, which uses half the vector width of processors that are not Intel's.
oneDNN, which ships inside torch, uses all of it: on one core of an EPYC of Zen 5 (family 26) a linear layer of 4736
tokens, 512 to 512, runs at 209 instead of 86 GFLOP/s. Zen 4 (family 25) has units of half that width: there the layer
gains a sixth (209 instead of 180 on two cores), and attention loses by leaving torch's fused kernel (106 instead of
134 GFLOP/s, of 384 queries and 4736 keys). Elsewhere the functions here are torch's own.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from backend.nn.attention import product_attention
from backend.nn.devices import amd_family

WORTH = 2**22
"""Multiplications below which calling another library costs more than it saves."""
ROWS = 512
"""Queries at once: their logits stay in the cache."""
ZEN_5 = 26
"""The first of AMD's families whose units are as wide as AVX-512's registers."""


@cache
def onednn_is_quicker() -> bool:
    """Whether this is an x86 processor with AVX-512 that is not Intel's, and torch has oneDNN's linear layer."""
    return (
        amd_family() > 0
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _quick(work: int, *tensors: Tensor | None) -> bool:
    given = [tensor for tensor in tensors if tensor is not None]
    if work < WORTH or any(tensor.device.type != "cpu" or tensor.dtype != torch.float32 for tensor in given):
        return False
    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    return not recorded and onednn_is_quicker()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    """x [..., in] times weight [out, in] plus bias [out], as `functional.linear`; with `gelu` GELU of it, as tanh."""
    if not _quick(x.numel() * len(weight), x, weight, bias):
        plain = functional.linear(x, weight, bias)
        return functional.gelu(plain, approximate="tanh") if gelu else plain
    after = ("gelu", [], "tanh") if gelu else ("none", [], "")
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, *after)
    return out


def apply(layer: nn.Module, x: Tensor, gelu: bool = False) -> Tensor:
    """`layer(x)`, which is `linear` where the layer is nothing else; with `gelu` GELU of it, as tanh."""
    if type(layer) is nn.Linear:
        return linear(x, layer.weight, layer.bias, gelu)
    out: Tensor = layer(x)
    return functional.gelu(out, approximate="tanh") if gelu else out


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v of q [B, H, N, d], k and v [B, H, M, d], bias [M] -> [B, H, N, d]."""
    batch, heads, count, width = q.shape
    if amd_family() < ZEN_5 or not _quick(count * k.shape[2] * width, q, k, v, bias):
        return product_attention(q, k, v, None if bias is None else bias[None, None, None].to(q.dtype))
    out = q.new_empty(batch, count, heads, width).transpose(1, 2)
    for item in range(batch):
        for head in range(heads):
            queries, keys = q[item, head] * width**-0.5, k[item, head].contiguous()
            values = v[item, head].t().contiguous()
            for first in range(0, count, ROWS):
                part = slice(first, first + ROWS)
                out[item, head, part] = linear(linear(queries[part], keys, bias).softmax(-1), values)
    return out

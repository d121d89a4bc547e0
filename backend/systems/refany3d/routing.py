"""Which LoRA acts on which tokens, and linear layers that obey it (spec section 6).

A layer runs once over all tokens; what the LoRAs add is made for each group of tokens beside it, through its 16
numbers. No merged copy of a weight is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from backend.nn import cpu_products

from .lora import LoraSet
from .positions import Sizes

ADAPTERS: tuple[tuple[str, ...], ...] = ((), (), ("coord",), ("default",), ("default", "coord"))
"""The LoRAs of each kind of tokens, in the order of `Sizes`: the picture itself comes from unchanged weights."""


@dataclass(frozen=True)
class Routing:
    """The LoRAs in use. None switches one off everywhere (the ablations with one LoRA and with none)."""

    default: LoraSet | None
    coord: LoraSet | None

    def linear(self, layer: nn.Module, name: str, x: Tensor, sizes: Sizes) -> Tensor:
        """`layer` (called `name` in the transformer) over x [B, sizes.total, in], each kind with its LoRAs."""
        out = cpu_products.apply(layer, x)
        for kind, where in sizes.slices():
            for adapter in ADAPTERS[kind]:
                chosen: LoraSet | None = getattr(self, adapter)
                if chosen is None:
                    continue
                part = chosen.layer(name)
                if part is not None:
                    seen = functional.linear(x[:, where], part.lora_A)
                    gain = part.lora_B.t().to(seen.dtype)  # autocast leaves products in place alone
                    out[:, where].baddbmm_(seen, gain.expand(len(x), -1, -1))
        return out

"""What one pass at full size takes beside the weights: a trace on the device "meta" (see `kiss3dgen.flux.work`).

`python -m backend.systems.refany3d.work` prints the peaks of README.md.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from backend.systems.kiss3dgen.flux.config import build
from backend.systems.kiss3dgen.flux.latents import VAE_STRIDE
from backend.systems.kiss3dgen.flux.work import peak_bytes
from backend.systems.refany3d.config import read_config, read_settings
from backend.systems.refany3d.lora import new_domain_embedder, new_lora
from backend.systems.refany3d.transformer import RefAny3DTransformer

BF16 = torch.bfloat16


def one_pass(config: str, views: int, masked: bool = True, copies: int = 1) -> int:
    """Peak in bytes of preparing `views` views, each of which stands for `copies`, and one step with them."""
    values = read_config(config)
    settings, arguments = read_settings(values), values["networks"]["transformer"]["args"]
    with torch.device("meta"):
        base: Any = build(values["networks"]["transformer"]).to(BF16)
        loras = [new_lora(base, settings.rank).to(BF16) for _ in range(2)]
        network = RefAny3DTransformer(base, *loras, new_domain_embedder(base.inner_dim).to(BF16))
    tokens = (settings.size // VAE_STRIDE // 2) ** 2
    noise, coord = (_empty(1, tokens, arguments["in_channels"]) for _ in range(2))
    conditions = _empty(1, 2 * views, tokens, arguments["in_channels"])
    text = _empty(1, settings.text_tokens, arguments["joint_attention_dim"])
    pooled = _empty(1, arguments["pooled_projection_dim"])

    def work() -> None:
        prepared = network.prepare(conditions, pooled, copies=copies)
        network.predict(noise, coord, prepared, text, pooled, _empty(1), _empty(1), masked)

    return peak_bytes(work)


def decoding(config: str) -> int:
    """Peak of the autoencoder's decoder for one picture."""
    values = read_config(config)
    side = read_settings(values).size // VAE_STRIDE
    with torch.device("meta"):
        vae: Any = build(values["networks"]["vae"]).to(BF16)
    return peak_bytes(lambda: vae.decode(_empty(1, vae.config.latent_channels, side, side)))


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=BF16, device="meta")


if __name__ == "__main__":
    for name, peak in (
        ("one pass, 8 views", one_pass("full", 8)),
        ("one pass, a black view for 8, without a mask", one_pass("full", 1, masked=False, copies=8)),
        ("one pass, 4 views", one_pass("full", 4)),
        ("decoder", decoding("full")),
    ):
        sys.stdout.write(f"{name}: {peak / 1e9:.2f} GB\n")

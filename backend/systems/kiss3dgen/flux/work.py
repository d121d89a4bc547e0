"""What the work at full size takes beside the weights: a trace on the device "meta", where tensors have shapes only.

Every tensor that is alive is counted, so the peak is what an allocator must give at least. Attention is counted as the
fused kernels do it: nothing but its output. `python -m backend.systems.kiss3dgen.flux.work` prints the peaks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from backend.systems.kiss3dgen.flux.config import build, read_config, read_settings
from backend.systems.kiss3dgen.flux.latents import VAE_STRIDE, image_ids, text_ids
from backend.systems.kiss3dgen.flux.networks import TILE_PIXELS

REDUX_TOKENS = 729
"""A photo's tokens: 27 x 27 patches."""


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made inside it that are still alive; `peak` is the most there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in given:  # no views, no weights
                storage = leaf.untyped_storage()
                self.live.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.live = {key: entry for key, entry in self.live.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return result


def peak_bytes(work: Callable[[], Any]) -> int:
    """The most bytes that `work` has alive at once, beside what was there before."""
    with mock.patch("torch.nn.functional.scaled_dot_product_attention", _attention), torch.no_grad():
        with LiveBytes() as counter:
            work()
    return counter.peak


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    return query.new_empty((*query.shape[:-1], value.shape[-1]))


def meta_network(config: str, role: str, dtype: torch.dtype = torch.bfloat16) -> Any:
    """One network of a configuration without numbers."""
    with torch.device("meta"):
        network: nn.Module = build(read_config(config)["networks"][role]).to(dtype).eval()
    return network


def flux_step(config: str, with_control: bool, photo_tokens: int = REDUX_TOKENS) -> tuple[Tensor, int]:
    """One evaluation of the transformer, after the ControlNet's: the shape of its answer, and the peak in bytes."""
    settings, networks = read_settings(read_config(config)), read_config(config)["networks"]
    height, width = settings.size
    arguments = networks["transformer"]["args"]
    transformer = meta_network(config, "transformer")
    controlnet = meta_network(config, "controlnet") if with_control else None
    tokens = settings.text_tokens + photo_tokens
    positions = image_ids(height, width, "meta")
    common: dict[str, Any] = {
        "hidden_states": _empty(1, len(positions), arguments["in_channels"]),
        "encoder_hidden_states": _empty(1, tokens, arguments["joint_attention_dim"]),
        "pooled_projections": _empty(1, arguments["pooled_projection_dim"]),
        "timestep": _empty(1),
        "guidance": _empty(1) if arguments["guidance_embeds"] else None,
        "img_ids": positions,
        "txt_ids": text_ids(tokens, "meta"),
        "return_dict": False,
    }

    def work() -> Tensor:
        blocks = singles = None
        if controlnet is not None:
            blocks, singles = controlnet(
                **common,
                controlnet_cond=common["hidden_states"],
                controlnet_mode=torch.ones(1, 1, dtype=torch.long, device="meta"),
            )
        answer: Tensor = transformer(
            **common, controlnet_block_samples=blocks, controlnet_single_block_samples=singles
        )[0]
        return answer

    answers: list[Tensor] = []
    peak = peak_bytes(lambda: answers.append(work()))
    return answers[0], peak


def decoding(config: str, tiled: bool) -> int:
    """Peak of the autoencoder's decoder for a whole bundle, or one of its tiles."""
    height, width = (TILE_PIXELS, TILE_PIXELS) if tiled else read_settings(read_config(config)).size
    vae = meta_network(config, "vae")
    latents = _empty(1, vae.config.latent_channels, height // VAE_STRIDE, width // VAE_STRIDE)
    return peak_bytes(lambda: vae.decode(latents))


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device="meta")


if __name__ == "__main__":
    for name, peak in (
        ("transformer", flux_step("full", False)[1]),
        ("transformer with ControlNet", flux_step("full", True)[1]),
        ("decoder", decoding("full", False)),
        ("decoder, one tile", decoding("full", True)),
    ):
        sys.stdout.write(f"{name}: {peak / 1e9:.2f} GB\n")

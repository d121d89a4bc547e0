"""One forward by blocks against the same forward with a dense mask, for `build.py bench`.

`python -m backend.systems.refany3d.bench [--config mid] [--size PIXELS] [--threads N]` makes the network with random
weights, runs it on one sequence of random text, pictures and views, and prints a JSON line: seconds of both forms, how
much quicker blocks are, and the largest difference of their answers; and the same of a step of the published sampler,
which is that forward and one with black views that lets everything see everything (`guided_...`).

The dense form is what one writes first, and what the block form is held to: one sequence, attention of every token to
every token with a table [L, L] of who may, both LoRAs over every token with what does not apply set to zero, rows of
modulation by token, every block for every token.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from backend.nn.devices import best_device
from backend.systems.kiss3dgen.flux.config import build

from . import positions
from .blocks import rotate
from .config import Settings, read_config, read_settings
from .lora import LoraSet, adapted_layers, new_domain_embedder, new_lora
from .routing import ADAPTERS
from .transformer import RefAny3DTransformer


@dataclass(frozen=True)
class Inputs:
    """What a forward is told; shapes as in `RefAny3DTransformer.predict`."""

    rgb: Tensor
    coord: Tensor
    conditions: Tensor
    text: Tensor
    pooled: Tensor
    t: float = 0.63
    guidance: float = 3.5


def random_network(config: str, seed: int = 0) -> tuple[RefAny3DTransformer, Settings]:
    """The network of a configuration with random weights, in which every LoRA and the embedder have a say."""
    values = read_config(config)
    settings = read_settings(values)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    base: Any = build(values["networks"]["transformer"])
    embedder = new_domain_embedder(base.inner_dim)
    loras = [new_lora(base, settings.rank, generator) for _ in range(2)]
    with torch.no_grad():
        for lora in loras:
            for layer in lora.layers.values():
                layer.lora_B.normal_(0, 0.2, generator=generator)
        embedder[3].weight.normal_(0, base.inner_dim**-0.5, generator=generator)
    network = RefAny3DTransformer(base, loras[0], loras[1], embedder, shift=settings.shift)
    return network.eval().requires_grad_(False), settings


def random_inputs(network: RefAny3DTransformer, settings: Settings, side: int, seed: int = 1) -> Inputs:
    """Random text, noise and conditions of pictures of `side` x `side` tokens."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    config, tokens = network.base.config, side * side
    return Inputs(
        drawn(1, tokens, config.in_channels), drawn(1, tokens, config.in_channels),
        drawn(1, 2 * settings.views, tokens, config.in_channels),
        drawn(1, settings.text_tokens, config.joint_attention_dim), drawn(1, config.pooled_projection_dim),
    )  # fmt: skip


class DenseForm:
    """The same network as one sequence with a mask, batch 1; `masked` False lets everything see everything."""

    def __init__(self, network: RefAny3DTransformer, inputs: Inputs, masked: bool = True) -> None:
        self.network, self.base, self.given = network, network.base, inputs
        views, text, tokens = inputs.conditions.shape[1] // 2, inputs.text.shape[1], inputs.rgb.shape[1]
        self.sizes = positions.sequence(text, tokens, views)
        self.kinds = torch.repeat_interleave(torch.arange(5), torch.tensor(self.sizes))
        counts = torch.tensor([text, *([tokens] * (2 * views + 2))])
        branches = torch.repeat_interleave(torch.arange(2 * views + 3), counts)
        self.mask = positions.group_mask(views)[branches][:, branches] if masked else None
        self.acts = {
            name: torch.tensor([float(name in ADAPTERS[kind]) for kind in self.kinds.tolist()])[:, None]
            for name in ("default", "coord")
        }

    def linear(self, layer: Any, name: str, x: Tensor, first: int) -> Tensor:
        """`layer` over x [1, L - first, in], the tokens from `first` on, with the LoRAs that act on each."""
        out: Tensor = layer(x)
        for adapter, acts in self.acts.items():
            chosen: LoraSet | None = getattr(self.network, adapter)
            part = None if chosen is None else chosen.layer(name)
            if part is not None:
                out = out + acts[first:] * functional.linear(functional.linear(x, part.lora_A), part.lora_B)
        return out

    def rows(self, layer: Any, name: str, count: int, first: int) -> list[Tensor]:
        """What `layer` makes of each kind's vector, by token: `count` tensors [L - first, D]."""
        kinds = positions.Sizes(1, 1, 1, 1, 1)
        made = self.network.routing.linear(layer, name, self.vectors, kinds)[0]
        return list(made[self.kinds[first:]].chunk(count, -1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of all to all under the mask; [1, L, H, d] -> [1, L, H * d]."""
        q, k = rotate(q, self.turns), rotate(k, self.turns)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return functional.scaled_dot_product_attention(q, k, v, self.mask).transpose(1, 2).flatten(2)

    @torch.no_grad()
    def predict(self) -> tuple[Tensor, Tensor]:
        """Both velocities [1, T, C]."""
        given, base = self.given, self.base
        side = round(given.rgb.shape[1] ** 0.5)
        views = given.conditions.shape[1]
        ids = [positions.text_ids(self.sizes.text), *([positions.noise_ids(side, side)] * 2)]
        ids += [positions.condition_ids(side, side)] * views
        self.turns = positions.rotary_turns(torch.cat(ids), self.network.axes)
        told = torch.tensor([given.guidance]) if self.network.guided else None
        vectors = self.network.vectors(torch.tensor([given.t]), told, given.pooled, self.sizes)
        self.vectors = functional.silu(vectors)
        text = base.context_embedder(given.text)
        pictures = torch.cat([given.rgb, given.coord, given.conditions.flatten(1, 2)], 1)
        image = self.linear(base.x_embedder, "x_embedder", pictures, self.sizes.text)
        for number, block in enumerate(base.transformer_blocks):
            image, text = self._double(block, f"transformer_blocks.{number}", image, text)
        hidden = torch.cat([text, image], 1)
        for number, block in enumerate(base.single_transformer_blocks):
            hidden = self._single(block, f"single_transformer_blocks.{number}", hidden)
        noise = slice(self.sizes.text, self.sizes.main)
        rows = base.norm_out.linear(self.vectors)[0][self.kinds[noise]]
        scale, shift = rows.chunk(2, -1)
        out = base.proj_out(base.norm_out.norm(hidden[:, noise]) * (1 + scale) + shift)
        return out[:, : self.sizes.rgb], out[:, self.sizes.rgb :]

    def _double(self, block: Any, name: str, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        first, attn = self.sizes.text, block.attn
        shift, scale, gate, shift2, scale2, gate2 = self.rows(block.norm1.linear, f"{name}.norm1.linear", 6, first)
        c_rows = block.norm1_context.linear(self.vectors[:, :1]).chunk(6, -1)
        x = block.norm1.norm(image) * (1 + scale) + shift
        y = block.norm1_context.norm(text) * (1 + c_rows[1]) + c_rows[0]
        q, k, v = (
            self.linear(getattr(attn, part), f"{name}.attn.{part}", x, first).unflatten(-1, (attn.heads, -1))
            for part in ("to_q", "to_k", "to_v")
        )
        text_q, text_k, text_v = (
            part(y).unflatten(-1, (attn.heads, -1)) for part in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        )
        q = torch.cat([attn.norm_added_q(text_q), attn.norm_q(q)], 1)
        k = torch.cat([attn.norm_added_k(text_k), attn.norm_k(k)], 1)
        seen = self.attend(q, k, torch.cat([text_v, v], 1))
        image = image + gate * self.linear(attn.to_out[0], f"{name}.attn.to_out.0", seen[:, first:], first)
        text = text + c_rows[2] * attn.to_add_out(seen[:, :first])
        x = block.norm2(image) * (1 + scale2) + shift2
        image = image + gate2 * self.linear(block.ff.net[2], f"{name}.ff.net.2", block.ff.net[0](x), first)
        y = block.norm2_context(text) * (1 + c_rows[4]) + c_rows[3]
        return image, text + c_rows[5] * block.ff_context(y)

    def _single(self, block: Any, name: str, hidden: Tensor) -> Tensor:
        attn = block.attn
        shift, scale, gate = self.rows(block.norm.linear, f"{name}.norm.linear", 3, 0)
        x = block.norm.norm(hidden) * (1 + scale) + shift
        q, k, v = (
            self.linear(getattr(attn, part), f"{name}.attn.{part}", x, 0).unflatten(-1, (attn.heads, -1))
            for part in ("to_q", "to_k", "to_v")
        )
        seen = self.attend(attn.norm_q(q), attn.norm_k(k), v)
        x = block.act_mlp(self.linear(block.proj_mlp, f"{name}.proj_mlp", x, 0))
        return hidden + gate * self.linear(block.proj_out, f"{name}.proj_out", torch.cat([seen, x], 2), 0)


def compare(
    config: str,
    device: torch.device,
    repeats: int = 1,
    size: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Both forms of one forward and of one with black views, as numbers for JSON. size: pixels of a picture's side, by
    default the configuration's."""
    network, settings = random_network(config)
    size = size or settings.size
    inputs = random_inputs(network, settings, size // 16)
    network.to(device)
    inputs = Inputs(*(part.to(device) for part in (inputs.rgb, inputs.coord, inputs.conditions, inputs.text)),
                    inputs.pooled.to(device))  # fmt: skip
    black = inputs.conditions[:, :1]  # any one picture in place of all
    blacks = replace(inputs, conditions=black.expand_as(inputs.conditions))
    dense, dense_black = DenseForm(network, inputs), DenseForm(network, blacks, masked=False)
    prepared = network.prepare(inputs.conditions, inputs.pooled)
    prepared_black = network.prepare(black.expand(-1, 2, -1, -1), inputs.pooled, copies=settings.views)
    noisy, told = (inputs.rgb, inputs.coord), (inputs.text, inputs.pooled, inputs.t, inputs.guidance)
    runs: dict[str, Callable[[], Any]] = {
        "blocks": torch.no_grad()(lambda: network.predict(*noisy, prepared, *told)),
        "dense": dense.predict,
        "black_blocks": torch.no_grad()(lambda: network.predict(*noisy, prepared_black, *told, masked=False)),
        "black_dense": dense_black.predict,
    }
    took: dict[str, list[float]] = {name: [] for name in runs}
    answers: dict[str, Any] = {}
    for _ in range(repeats + 1):  # turn by turn, so that all meet the same machine
        for name, run in runs.items():
            started = clock()
            answers[name] = run()
            if device.type != "cpu":
                getattr(torch, device.type).synchronize()
            took[name].append(clock() - started)
    best = {name: min(times[1:]) for name, times in took.items()}
    step = {form: best[form] + best[f"black_{form}"] for form in ("blocks", "dense")}

    def difference(kind: str) -> float:
        pairs = zip(answers[f"{kind}blocks"], answers[f"{kind}dense"], strict=True)
        return max(float((mine - other).abs().max()) for mine, other in pairs)

    return {
        "config": config, "size": size, "device": str(device), "threads": torch.get_num_threads(),
        "tokens": dense.sizes.total, "adapted_layers": len(adapted_layers(network.base)),
        "blocks_seconds": round(best["blocks"], 4), "dense_seconds": round(best["dense"], 4),
        "times_quicker": round(best["dense"] / best["blocks"], 2), "largest_difference": difference(""),
        "largest_answer": round(max(float(part.abs().max()) for part in answers["dense"]), 3),
        "guided_blocks_seconds": round(step["blocks"], 4), "guided_dense_seconds": round(step["dense"], 4),
        "guided_times_quicker": round(step["dense"] / step["blocks"], 2),
        "guided_largest_difference": difference("black_"),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="mid", help="mini, mid or a JSON file")
    parser.add_argument("--size", type=int, help="pixels of a picture's side, by default the configuration's")
    parser.add_argument("--device", default=str(best_device()))
    parser.add_argument("--threads", type=int, default=0, help="threads of a CPU; default: as many as it has cores")
    parser.add_argument("--repeats", type=int, default=1, help="after a first round that is not counted")
    parser.add_argument(
        "--processor-time", action="store_true", help="count the processor's time: for a machine that is busy, 1 thread"
    )
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    clock = time.process_time if options.processor_time else time.perf_counter
    result = compare(options.config, torch.device(options.device), options.repeats, options.size, clock)
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How quick both flows are, against what the machine's matrix product reaches, for `build.py bench`.

`python -m backend.systems.cupid.bench [--config full] [--threads N]` makes the flows with random weights in the
precision that the device computes in, times one evaluation with a condition of image tokens (prepared, as the sampler
does it) and one with the null condition, and prints a JSON line.

Counted as operations are the products of linear layers, attention (logits and values) and convolutions (neighbours that
are there), a multiplication and an addition each; norms, activations and what is made once an image are not. The share
is operations a second over those of a product of matrices 4096 x 1024 and 1024 x 4096, measured in between.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from backend.nn.devices import best_device, inference_dtype
from backend.nn.sparse_conv import SparseConv3d, neighbour_map
from backend.nn.sparse_ops import downsample
from backend.nn.sparse_tensor import SparseTensor
from backend.systems.cupid import model
from backend.systems.cupid.image_encoder import SPECIAL_TOKENS

logger = logging.getLogger(__name__)

PEAK_SHAPE = (4096, 1024, 4096)
RADIUS = 0.375  # of the grid's side: stage 2 is timed on the surface of a ball that fills the picture
TERA = 1e12

Run = tuple[Callable[[], object], int, int]
"""One evaluation, its operations and the tokens of the transformer's blocks."""


def surface_voxels(resolution: int) -> Tensor:
    """Voxels [L,4] of a ball's surface, about one voxel thick."""
    axis = torch.arange(resolution) + 0.5 - resolution / 2
    distance = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).square().sum(0).sqrt()
    shell = (distance - RADIUS * resolution).abs() < 0.5
    return torch.nn.functional.pad(torch.argwhere(shell), (1, 0)).int()


def torso_operations(blocks: nn.ModuleList, tokens: int, seen: int) -> int:
    """Operations of the blocks over so many `tokens` that look at `seen` prepared image tokens."""
    total = 0
    for block in blocks:
        attention: Any = block.self_attn
        channels = attention.to_out.in_features
        linears = (attention.to_qkv, attention.to_out, *(part for part in block.mlp.mlp if isinstance(part, nn.Linear)))
        total += sum(2 * tokens * layer.in_features * layer.out_features for layer in linears)
        if seen > 1:  # one token's value goes to every voxel as it is
            total += 2 * tokens * channels * 2 * channels + 4 * tokens * seen * channels
        total += 4 * tokens * tokens * channels
    return total


def convolution_operations(blocks: nn.ModuleList, x: SparseTensor) -> int:
    """Operations of the convolutions in blocks that work on the voxels `x`."""
    neighbours = int((neighbour_map(x, 3) < len(x)).sum())
    kernels = [part for part in blocks.modules() if isinstance(part, SparseConv3d)]
    return sum(2 * neighbours * part.in_channels * part.out_channels for part in kernels)


def matrix_peak(device: torch.device, dtype: torch.dtype, clock: Callable[[], float], repeats: int) -> float:
    """Operations a second of the product of matrices."""
    rows, inner, columns = PEAK_SHAPE
    first, second = torch.randn(rows, inner), torch.randn(inner, columns)
    first, second = (matrix.to(device, dtype) for matrix in (first, second))
    return 2 * rows * inner * columns / seconds(lambda: first @ second, device, clock, repeats)


def seconds(run: Callable[[], object], device: torch.device, clock: Callable[[], float], repeats: int) -> float:
    """The shortest of `repeats` runs, after one that does not count."""
    took = []
    for _ in range(repeats + 1):
        started = clock()
        run()
        if device.type != "cpu":
            getattr(torch, device.type).synchronize()
        took.append(clock() - started)
    return min(took[1:])


def measure(
    config: str, device: torch.device, repeats: int = 3, clock: Callable[[], float] = time.perf_counter
) -> dict[str, object]:
    """Both flows of a configuration with random weights, as numbers for JSON."""
    dtype = inference_dtype(device)
    peaks: list[float] = []
    result: dict[str, object] = {
        "config": config, "device": str(device), "precision": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }
    with torch.inference_mode():
        networks = model.load_model("random", config, str(device), profile="offload")
        for stage, prepare in (("structure_flow", _structure_run), ("slat_flow", _latent_run)):
            peaks.append(matrix_peak(device, dtype, clock, repeats))
            result[stage] = _stage(prepare, networks, config, device, clock, repeats, peaks)
    result["peak_tflops"] = round(max(peaks) / TERA, 3)
    return result


def _stage(
    prepare: Callable[[model.CupidModel, str, bool], Run],
    networks: model.CupidModel,
    config: str,
    device: torch.device,
    clock: Callable[[], float],
    repeats: int,
    peaks: list[float],
) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, null in (("", False), ("null_", True)):
        run, operations, tokens = prepare(networks, config, null)
        took = seconds(run, device, clock, repeats)
        peaks.append(matrix_peak(device, inference_dtype(device), clock, repeats))
        values |= {
            f"{name}seconds": round(took, 6),
            f"{name}tflop": round(operations / TERA, 6),
            f"{name}share": round(operations / took / max(peaks), 3),
            "tokens": tokens,
        }
    return values


def _tokens(networks: model.CupidModel, config: str, channels: int, null: bool) -> Tensor:
    with torch.device("meta"):  # only its number of patches is wanted
        encoder = model.build(model.read_config(config)["models"]["image_encoder"])
    count = SPECIAL_TOKENS + int(encoder.patches) ** 2
    return (torch.zeros if null else torch.randn)(1, count, channels, device=networks.device)


def _structure_run(networks: model.CupidModel, config: str, null: bool) -> Run:
    flow = networks["structure_flow"]
    seen = flow.prepare(_tokens(networks, config, flow.cond_channels, null))
    side = flow.resolution
    x = torch.randn(1, flow.in_channels, side, side, side, device=networks.device)
    t = torch.full((1,), 700.0, device=networks.device)
    count = len(flow.pos_emb)
    operations = torso_operations(flow.blocks, count, seen.blocks[0].keys.shape[1])
    return lambda: flow(x, t, seen), operations, count


def _latent_run(networks: model.CupidModel, config: str, null: bool) -> Run:
    flow = networks["slat_flow"]
    seen = flow.prepare(_tokens(networks, config, flow.blocks[0].cross_attn.to_kv.in_features, null))
    coords = surface_voxels(flow.resolution).to(networks.device)
    width = flow.input_layer.in_features
    x = SparseTensor(coords, torch.randn(len(coords), flow.latent_channels, device=networks.device))
    local = torch.randn(len(coords), width - flow.latent_channels, device=networks.device)
    t = torch.full((1,), 700.0, device=networks.device)
    coarse = downsample(x)
    fine_blocks = nn.ModuleList([*flow.input_blocks[:-1], *flow.out_blocks])
    operations = torso_operations(flow.blocks, len(coarse), seen.blocks[0].keys.shape[1])
    operations += convolution_operations(fine_blocks, x) + convolution_operations(flow.input_blocks[-1:], coarse)
    return lambda: flow(x, t, seen, local), operations, len(coarse)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="full", help="mini, full or a JSON file")
    parser.add_argument("--device", default=str(best_device()))
    parser.add_argument("--threads", type=int, default=0, help="threads of a CPU; default: as many as it has cores")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--processor-time", action="store_true", help="count the processor's time: for a machine that is busy, 1 thread"
    )
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    clock = time.process_time if options.processor_time else time.perf_counter
    result = measure(options.config, torch.device(options.device), options.repeats, clock)
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The bench counts the operations that are done, and its numbers hang together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from backend.nn.sparse_ops import downsample
from backend.nn.sparse_tensor import SparseTensor
from backend.systems.cupid import bench
from tests.unit.test_fast_paths import dense_flow, sparse_flow, voxels
from tests.unit.test_networks import tiny_config  # noqa: F401


def counted(run) -> int:  # type: ignore[no-untyped-def]
    """What torch counts, gradients' way of attention: it is spelled out there."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_operations_are_those_torch_counts() -> None:
    flow, tokens = dense_flow(), torch.randn(1, 30, 32)
    x, t = torch.randn(1, 16, 8, 8, 8), torch.tensor([700.0])
    seen = flow.prepare(tokens)
    total = counted(lambda: flow(x, t, seen))  # a gradient is wanted: attention is products
    ends = 2 * 512 * 64 * 32 + 2 * (256 * 64 + 64 * 64) + 2 * 2 * 64 * 6 * 64  # in and out, time, modulation
    assert total - ends == bench.torso_operations(flow.blocks, 512, 30)
    null = flow.prepare(torch.zeros(1, 30, 32))
    one_row = 2 * 2 * 64 * 64  # the output layer of each block sees one value
    assert counted(lambda: flow(x, t, null)) - ends - one_row == bench.torso_operations(flow.blocks, 512, 1)


def test_convolutions_count_the_neighbours_that_are_there() -> None:
    flow = sparse_flow()
    x = SparseTensor(voxels(16**3), torch.zeros(16**3, 8))  # a full grid: 27 neighbours but for the border
    pairs = (3 * 16 - 2) ** 3
    fine = torch.nn.ModuleList(flow.input_blocks[:1])
    assert bench.convolution_operations(fine, x) == 2 * pairs * (16 * 16 + 16 * 16)
    coarse = downsample(x)
    assert bench.convolution_operations(flow.input_blocks[1:], coarse) == 2 * 22**3 * (16 * 64 + 64 * 64)


def test_the_bench_measures_both_flows(tiny_config: str, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    before = torch.get_num_threads()
    assert bench.main(["--config", tiny_config, "--device", "cpu", "--threads", "1", "--repeats", "1"]) == 0
    torch.set_num_threads(before)
    found = json.loads(capsys.readouterr().out)
    assert found["peak_tflops"] > 0 and found["threads"] == 1 and Path(found["config"]).name == "tiny.json"
    for stage in ("structure_flow", "slat_flow"):
        assert found[stage]["seconds"] > 0 and found[stage]["tflop"] >= found[stage]["null_tflop"] >= 0
    voxel_count = len(bench.surface_voxels(64))
    assert 5_000 < voxel_count < 9_000 and found["structure_flow"]["tokens"] == 2**3

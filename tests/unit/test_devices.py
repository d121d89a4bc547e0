"""The choice of device, precision and memory, with torch's answers faked; and imports without a GPU library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from backend.nn import devices
from tests.unit.test_fast_paths import dense_flow, sparse_flow, voxels

ROOT = Path(__file__).resolve().parents[2]
IMPORT_ALL = """
import importlib, pkgutil, sys, torch

def refuse(*arguments, **options):
    raise AssertionError("CUDA was asked for while importing")

torch.cuda.is_available = lambda: False
for name in ("_lazy_init", "init", "current_device", "device_count", "get_device_properties", "mem_get_info"):
    setattr(torch.cuda, name, refuse)
import backend
names = [module.name for module in pkgutil.walk_packages(backend.__path__, "backend.") if "__main__" not in module.name]
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "bpy":  # scripts that Blender runs
            raise
assert not torch.cuda.is_initialized()
print(len(names))
"""


def test_the_quickest_device_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps, wanted in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda answer=cuda: answer)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda answer=mps: answer)
        assert devices.best_device().type == wanted


def test_precision_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda, mps = (torch.device(name) for name in ("cpu", "cuda", "mps"))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for has, inference, training in ((True, torch.bfloat16, torch.bfloat16), (False, torch.float32, None)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda answer=has: answer)
        assert devices.inference_dtype(cpu) == inference and devices.autocast_dtype(cpu) == training
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert devices.inference_dtype(cpu) == torch.bfloat16
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert devices.inference_dtype(cpu) == torch.float32
    assert devices.inference_dtype(cuda) == devices.inference_dtype(mps) == torch.float16
    assert devices.autocast_dtype(cuda) == torch.bfloat16 and devices.autocast_dtype(mps) is None


def test_free_memory_is_asked_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.free_memory(torch.device("cpu")) > 2**20
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7 * 2**30, 24 * 2**30))
    assert devices.free_memory(torch.device("cuda")) == 7 * 2**30
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 10 * 2**30)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 2 * 2**30)
    assert devices.free_memory(torch.device("mps")) == 8 * 2**30
    monkeypatch.setattr(sys, "platform", "win32")  # without Windows' library nobody can say
    assert devices.free_memory(torch.device("cpu")) == 0


def test_every_module_imports_without_cuda() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 60


class _NoDoubles(TorchDispatchMode):
    """Fails on every answer in float64, which Apple's GPUs do not have."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        answer = func(*args, **(kwargs or {}))
        if isinstance(answer, torch.Tensor):
            assert answer.dtype != torch.float64, f"{func} answered in float64"
        return answer


def test_the_networks_compute_nothing_in_float64() -> None:
    from backend.nn.sparse_tensor import SparseTensor

    tokens, t = torch.randn(1, 30, 32), torch.tensor([700.0])
    dense, sparse = dense_flow(), sparse_flow()
    latent, local = SparseTensor(voxels(60), torch.randn(60, 8)), torch.randn(60, 24)
    with torch.no_grad():
        dense.t_embedder(t)  # the frequencies of the time are made once, on the CPU
        with _NoDoubles():
            assert dense(torch.randn(1, 16, 8, 8, 8), t, tokens).isfinite().all()
            assert sparse(latent, t, tokens, local).feats.isfinite().all()


def test_the_peak_of_this_process_is_told_in_mebibytes():
    before = devices.peak_mib()
    held = bytearray(b"x") * (64 * devices.MIB)
    assert 20 < before <= devices.peak_mib() < 64 * 1024 and len(held) == 64 * devices.MIB

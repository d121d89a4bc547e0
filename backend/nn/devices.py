"""Which device to compute on, in which precision, how much memory it has left, and how much this process has held.

ROCm builds of torch call themselves "cuda"; nothing here needs a GPU to be imported or asked.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from functools import cache

import torch

MIB = 2**20


def best_device() -> torch.device:
    """The quickest device there is: CUDA (or ROCm), Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def cpu_has_bf16() -> bool:
    """Whether products in bf16 are quick on this CPU (AMX or AVX512-BF16)."""
    quick = cpu_has_amx() or getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return bool(quick) and torch.backends.cpu.get_cpu_capability() != "DEFAULT"


def cpu_has_amx() -> bool:
    """Whether this CPU multiplies tiles (AMX)."""
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


@cache
def amd_family() -> int:
    """The family of AMD's processors that this one is of; 0 for others'."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            words = lines.read()
    except OSError:
        words = platform.processor()  # on Windows "AMD64 Family 25 Model 33 Stepping 2, AuthenticAMD"
    found = re.search(r"family\s*:?\s*(\d+)", words, re.IGNORECASE)
    return int(found[1]) if found and "AuthenticAMD" in words else 0


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Precision to train in: bf16 where products in it are quick, else None: stay in float32."""
    if device.type == "cuda":
        return torch.bfloat16
    return torch.bfloat16 if device.type == "cpu" and cpu_has_bf16() else None


def inference_dtype(device: torch.device) -> torch.dtype:
    """Precision of large networks' weights: float16 on GPUs (as published), bf16 on CPUs that have it, else float32."""
    if device.type == "cpu":
        return torch.bfloat16 if cpu_has_bf16() else torch.float32
    return torch.float16


def free_memory(device: torch.device) -> int:
    """Bytes that `device` can still give; for a CPU the machine's available memory. 0 when nobody can say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    if sys.platform == "win32":
        return _windows_memory()
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            known = dict(line.split(":", 1) for line in lines)
        return int(known["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass  # not Linux
    try:  # macOS tells the whole only; half of it is what an artist's other programs leave
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError):
        return 0


def peak_mib() -> float:
    """The largest memory this process has held, in MiB (0 where the system does not tell)."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return float(getattr(psutil.Process().memory_info(), "peak_wset", 0)) / MIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 2**10


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = [
        ("length", ctypes.c_ulong),
        ("load", ctypes.c_ulong),
        *((name, ctypes.c_ulonglong) for name in (
            "total", "available", "total_page", "available_page", "total_virtual", "available_virtual", "extended",
        )),
    ]  # fmt: skip


def _windows_memory() -> int:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    windows = getattr(ctypes, "windll", None)
    if windows is None or not windows.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return 0
    return int(status.available)

"""What the host, this process and each accelerator hold, now."""

from __future__ import annotations

import ctypes
import gc
import sys
from dataclasses import dataclass
from typing import Any

import psutil


@dataclass(frozen=True)
class Accelerator:
    """One CUDA or MPS device: `used` and `total` bytes, by whomever they are used."""

    name: str
    total: int
    used: int


@dataclass(frozen=True)
class Memory:
    """Bytes, at one moment. `process` is this process's RSS, mapped checkpoint pages included."""

    total: int
    available: int
    process: int
    accelerators: tuple[Accelerator, ...] = ()


def sample_memory() -> Memory:
    """Return what is held now. Never imports torch, and never wakes an accelerator that nobody uses."""
    host = psutil.virtual_memory()
    return Memory(host.total, host.available, psutil.Process().memory_info().rss, tuple(_accelerators()))


def _accelerators() -> list[Accelerator]:
    torch: Any = sys.modules.get("torch")
    # Half-imported torch (another thread is at it) has no cuda yet.
    cuda, backends = getattr(torch, "cuda", None), getattr(torch, "backends", None)
    found = []
    if cuda is not None and getattr(cuda, "is_initialized", lambda: False)():
        for index in range(cuda.device_count()):
            free, total = cuda.mem_get_info(index)
            found.append(Accelerator(f"cuda:{index}", total, total - free))
    mps = getattr(backends, "mps", None)
    if mps is not None and sys.platform == "darwin" and mps.is_available():
        found.append(
            Accelerator("mps", torch.mps.recommended_max_memory(), torch.mps.driver_allocated_memory()),
        )
    return found


def release_memory() -> None:
    """Give back what a load that ended early left: cycles to the collector, free pages to the system."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and getattr(cuda, "is_initialized", lambda: False)():
        cuda.empty_cache()
    if sys.platform == "linux":
        # glibc keeps freed chunks of up to 32 MB in the arenas of threads that are gone.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)

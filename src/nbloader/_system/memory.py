"""The memory of the host, this process and each accelerator, at this moment."""

from __future__ import annotations

import ctypes
import gc
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from nbloader._system import nvml
from nbloader._system.control_groups import OWN, ROOT, control_groups
from nbloader._system.modules import imported


@dataclass(frozen=True)
class Accelerator:
    """A CUDA or MPS device; `used` and `total` are bytes, and `used` counts all processes."""

    name: str
    total: int
    used: int


@dataclass(frozen=True)
class Memory:
    """Memory in bytes, at one moment. `process` is this process's RSS, mapped checkpoint pages included.

    `total` and `available` are those of the host or, if lower, of this process's control group (a container's limit).
    """

    total: int
    available: int
    process: int
    accelerators: tuple[Accelerator, ...] = ()
    # The peak since the process began; None if the system does not tell.
    process_peak: int | None = None


class Free(NamedTuple):
    """Free bytes on the host, and on each device other than the CPU by torch's name; None if not known."""

    host: int
    devices: Mapping[str, int | None]


def find_free() -> Free:
    """Return the memory that is free now. Never imports torch, and never initializes a device."""
    return Free(sample_memory().available, free_devices())


def free_devices() -> dict[str, int | None]:
    """Return the free bytes on each device other than the CPU; None if not known."""
    if sys.platform == "darwin":
        # An Apple GPU shares the host's memory.
        return {"mps": psutil.virtual_memory().available} if platform.machine() == "arm64" else {}
    free = dict(enumerate(nvml.free_bytes()))
    torch = imported("torch")
    with suppress(Exception):  # torch may be missing
        # torch knows the devices better: those of other vendors too, and none if it was built without GPU support.
        free = {index: free.get(index) for index in range(torch.cuda.device_count())}
        if torch.cuda.is_initialized():
            for index, left in free.items():
                unused = torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)
                free[index] = None if left is None else left + unused
    return {f"cuda:{index}": left for index, left in free.items()}


def sample_memory() -> Memory:
    """Return the memory in use now. Never imports torch, and never initializes an unused accelerator."""
    host = psutil.virtual_memory()
    total, available = host.total, host.available
    for limit, room in cgroup_limits(host.total):
        total, available = min(total, limit), min(available, room)
    process = psutil.Process().memory_info().rss
    return Memory(total, available, process, tuple(_accelerators()), _process_peak())


def _process_peak() -> int | None:
    """Return the peak that the kernel recorded: sampling would miss short peaks."""
    with suppress(OSError, ValueError, StopIteration):
        with open("/proc/self/status") as status:
            line = next(line for line in status if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return None


def cgroup_limits(host: int, own: Path = OWN, root: Path = ROOT) -> Iterator[tuple[int, int]]:
    """Yield (limit, remaining bytes) of each control group of this process with a memory limit below the host's memory.

    Reclaimable page cache counts as remaining. Source: cgroup v2,
    https://docs.kernel.org/admin-guide/cgroup-v2.html, and v1, https://docs.kernel.org/admin-guide/cgroup-v1/memory.html.
    """
    for group, is_second in control_groups("memory", own, root):
        names = _V2 if is_second else _V1
        with suppress(OSError, ValueError):  # without a limit, the file says "max" or does not exist
            limit = int((group / names[0]).read_text())
            if limit < host:
                used = int((group / names[1]).read_text())
                yield limit, max(0, limit - used + _file_pages(group / "memory.stat"))


_V2 = ("memory.max", "memory.current")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def _file_pages(path: Path) -> int:
    counts = dict(line.split() for line in path.read_text().splitlines())
    return int(counts.get("inactive_file", 0)) + int(counts.get("active_file", 0))


def _accelerators() -> list[Accelerator]:
    torch = imported("torch")
    found = []
    with suppress(Exception):  # torch may be missing, and a broken device may raise anything
        if torch.cuda.is_initialized():
            found = [_cuda_device(torch.cuda, index) for index in _used_devices(torch.cuda)]
    with suppress(Exception):
        if sys.platform == "darwin" and torch.backends.mps.is_available():
            total, used = torch.mps.recommended_max_memory(), torch.mps.driver_allocated_memory()
            found.append(Accelerator("mps", total, used))
    return found


def _used_devices(cuda: Any) -> list[int]:
    # Querying a device's memory creates a context there, of hundreds of MB: query only devices that have one.
    return [i for i in range(cuda.device_count()) if i == cuda.current_device() or cuda.memory_reserved(i)]


def _cuda_device(cuda: Any, index: int) -> Accelerator:
    free, total = cuda.mem_get_info(index)
    return Accelerator(f"cuda:{index}", total, total - free)


def memory_limit() -> int | None:
    """Return the bytes that a control group (a container) allows this process; None if there is no limit."""
    host = psutil.virtual_memory().total
    return min((limit for limit, _ in cgroup_limits(host)), default=None)


def memory_pressure() -> float | None:
    """Return the share of the last minute in which some process waited for memory; None if the system does not say.

    Source: https://docs.kernel.org/accounting/psi.html.
    """
    with suppress(OSError, ValueError, StopIteration), open("/proc/pressure/memory") as told:
        some = next(line for line in told if line.startswith("some"))
        return float(some.partition("avg60=")[2].split()[0]) / 100
    return None


def release_memory() -> None:
    """Free what a load that ended early left behind: reference cycles, and unused memory of the allocators."""
    gc.collect()
    torch = imported("torch")
    with suppress(Exception):
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
    trim_heap()


def trim_heap() -> None:
    """Give freed memory that the allocator keeps back to the system."""
    if sys.platform == "linux":
        # glibc keeps freed chunks of up to 32 MB in the arenas of threads that have ended.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)

"""The one door to NVML, NVIDIA's management library: what is free on CUDA devices, without waking one.

Asking through torch would import it and make a context on each device, of hundreds of MB.

Sources: https://docs.nvidia.com/deploy/nvml-api and, for what a process sees of the devices,
https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/environment-variables.html.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any


def free_bytes() -> list[int | None]:
    """Return the bytes that are free on each CUDA device of this process, in CUDA's order; None where not known.

    Empty where there is no driver, and where the devices that this process may see cannot be told.
    """
    nvml = _nvml()
    if nvml is None:
        return []
    try:
        every = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(nvml.nvmlDeviceGetCount())]
        devices = _visible(nvml, every)
        free = [_free(nvml, device) for device in devices]
        totals = {nvml.nvmlDeviceGetMemoryInfo(device).total for device in every}
    except nvml.NVMLError:
        return []
    if len(totals) > 1 and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        return [None] * len(free)  # CUDA counts the fastest first then, NVML by the slot
    return free


def capability() -> tuple[int, int] | None:
    """Return the compute capability of the first device that CUDA sees; None where there is none."""
    nvml = _nvml()
    if nvml is None:
        return None
    try:
        every = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(nvml.nvmlDeviceGetCount())]
        found = [tuple(nvml.nvmlDeviceGetCudaComputeCapability(device)) for device in _visible(nvml, every)]
    except nvml.NVMLError:
        return None
    return found[0] if found else None


def _visible(nvml: Any, every: list[Any]) -> list[Any]:
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return every if chosen is None else _chosen(nvml, every, chosen)


def _chosen(nvml: Any, every: list[Any], chosen: str) -> list[Any]:
    """Return the devices that CUDA_VISIBLE_DEVICES names: numbers and ids, up to the first that names none."""
    devices = []
    for name in (part.strip() for part in chosen.split(",")):
        if name.startswith("MIG-"):
            devices.append(nvml.nvmlDeviceGetHandleByUUID(name))
            continue
        found = [
            device
            for number, device in enumerate(every)
            if name == str(number) or (name.startswith("GPU-") and nvml.nvmlDeviceGetUUID(device).startswith(name))
        ]
        if not found:
            break
        devices.append(found[0])
    return devices


def _free(nvml: Any, device: Any) -> int | None:
    try:
        is_divided = nvml.nvmlDeviceGetMigMode(device)[0] == nvml.NVML_DEVICE_MIG_ENABLE
    except nvml.NVMLError:
        is_divided = False  # not a device that can be
    # Of a divided device CUDA uses a part, and this is what is free on all of it.
    return None if is_divided else int(nvml.nvmlDeviceGetMemoryInfo(device).free)


@lru_cache(maxsize=1)
def _nvml() -> Any:
    """Return the library, at work; None where there is none, which stays so as long as this process lives."""
    try:
        import pynvml
    except ImportError:
        return None  # the dependency is for Linux and Windows
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml

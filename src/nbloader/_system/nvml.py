"""All use of NVML, NVIDIA's management library: free memory of CUDA devices, without initializing them.

torch would have to be imported, and would create a context of hundreds of MB on each device.

Sources: https://docs.nvidia.com/deploy/nvml-api and, for what a process sees of the devices,
https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/environment-variables.html.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any


def free_bytes() -> list[int | None]:
    """Return the free bytes of each CUDA device of this process, in CUDA's order; None if not known.

    Empty if there is no driver, or if the devices that this process may use cannot be determined.
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
        return [None] * len(free)  # CUDA then lists the fastest device first, NVML orders by slot
    return free


def capability() -> tuple[int, int] | None:
    """Return the compute capability of CUDA's first device; None if there is none."""
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
    """Return the devices in CUDA_VISIBLE_DEVICES, by number or id, up to the first invalid entry, as CUDA does."""
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
        is_divided = False  # the device does not support MIG
    # CUDA uses one part of a MIG device, but NVML reports the free memory of the whole device.
    return None if is_divided else int(nvml.nvmlDeviceGetMemoryInfo(device).free)


@lru_cache(maxsize=1)
def _nvml() -> Any:
    """Return the initialized library; None if there is none. The answer is kept for the life of the process."""
    try:
        import pynvml
    except ImportError:
        return None  # it is installed on Linux and Windows only
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml

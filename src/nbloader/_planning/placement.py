"""Predict before a load how many bytes of weights go to the CPU, to each device and to disk.

Automatic device maps of transformers are computed here from the headers. Its rule is applied to layers, in the order of
their names. Source: transformers' ``integrations/accelerate.py`` (get_balanced_memory, infer_auto_device_map).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from nbloader._options.options import LoadOptions
from nbloader._options.values import DEVICE_MAPS
from nbloader._system.memory import Free

CPU = "cpu"
_DISK = "disk"

_LAYER = re.compile(r"(.*?\.\d+)\.")
_SHARE = 0.9
"""Share of the free memory for weights: on a single device and on the host; applied again for quantized weights."""


def device_name(device: object) -> str:
    """Return torch's full name of a device: ``0`` and ``"cuda"`` become ``"cuda:0"``."""
    name = str(device)
    return f"cuda:{name}" if name.isdigit() else "cuda:0" if name == "cuda" else name


class Placed(NamedTuple):
    """Bytes of weights on the CPU, on each device and on disk; `devices` is None if not known before the load."""

    cpu: int
    devices: Mapping[str, int] | None
    disk: int


def place_bytes(sizes: Mapping[str, int], options: LoadOptions, free: Free | None) -> Placed:
    """Return how many bytes of weights go to each place.

    Parameters
    ----------
    sizes
        Bytes of each tensor in the model, by its name, in the order of placing.
    free
        Free memory; None if it was not measured.
    """
    placed = _places(sizes, options, free)
    if placed is None:
        return Placed(0, None, 0)
    cpu, disk = placed.pop(CPU, 0), placed.pop(_DISK, 0)
    return Placed(cpu, placed, disk)


def _places(sizes: Mapping[str, int], options: LoadOptions, free: Free | None) -> dict[str, int] | None:
    placement = options.placement
    if placement is None:
        return {CPU: sum(sizes.values())}
    if isinstance(placement, Mapping):
        return _by_map(sizes, placement)
    if placement not in DEVICE_MAPS:
        return {device_name(placement): sum(sizes.values())}
    limits = None if free is None else _limits(options, free)
    if limits is None:
        return None
    units = _units(sizes)
    if placement != "sequential":
        _balance(limits, units, has_little_on_first=placement == "balanced_low_0")
    placed = _fill(units.values(), limits)
    # Quantized weights must all be on devices or all on the CPU: transformers refuses other maps.
    is_divided = placed.get(_DISK) or (placed.get(CPU) and len(placed) > 1)
    return None if options.quantization is not None and is_divided else placed


def _by_map(sizes: Mapping[str, int], device_map: Mapping[str, object]) -> dict[str, int] | None:
    placed: Counter[str] = Counter()
    for key, size in sizes.items():
        parents = [module for module in device_map if module == "" or f"{key}.".startswith(f"{module}.")]
        if not parents:
            return None  # the model's module names differ from the tensor names in the file
        placed[device_name(device_map[max(parents, key=len)])] += size
    return dict(placed)


def _limits(options: LoadOptions, free: Free) -> dict[str, int] | None:
    """Return how many bytes each place may hold, in the order of filling; None if that is not known."""
    given = options.max_memory
    assert not isinstance(given, str)  # checked options have sizes in bytes
    limits: dict[str, int] = {}
    for name, left in free.devices.items():
        number = name.partition(":")[2]
        limit = given.get(int(number) if number else name, 0) if isinstance(given, Mapping) else given
        limit = left if limit is None else limit
        if limit is None:
            return None
        if limit > 0:
            limits[name] = limit
    if given is None and len(limits) == 1 and "mps" not in limits and options.placement != "sequential":
        limits = {name: int(_SHARE * limit) for name, limit in limits.items()}
    if isinstance(given, Mapping):
        limits[CPU] = given.get(CPU, 0)
    elif "mps" not in limits:
        limits[CPU] = int(_SHARE * free.host) if given is None else given
    if options.quantization is not None:
        limits = {name: int(_SHARE * limit) for name, limit in limits.items()}
    return limits


def _units(sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the sizes of the units that stay together, in placing order: layers, and modules outside of layers."""
    units: Counter[str] = Counter()
    for key, size in sizes.items():
        layer = _LAYER.match(key)
        units[layer[1] if layer is not None else key.rpartition(".")[0]] += size
    return dict(units)


def _balance(limits: dict[str, int], units: Mapping[str, int], has_little_on_first: bool) -> None:
    """Lower the limits of all devices but the last, so that each device gets a similar amount."""
    devices = [name for name in limits if name != CPU]
    is_spared = has_little_on_first and len(devices) > 1
    total = sum(units.values())
    each = total // max(1, len(devices) - is_spared) + int(1.25 * max(units.values(), default=0))
    for name in devices[is_spared:-1]:
        limits[name] = min(each, limits[name])
    if is_spared:
        rest = sum(limits[name] for name in devices[1:])
        limits[devices[0]] = min(max(0, total - rest), limits[devices[0]])


def _fill(units: Iterable[int], limits: Mapping[str, int]) -> dict[str, int]:
    """Fill one place after the other; the first device and the CPU keep space for the largest remaining layer."""
    left, places = list(units), iter(limits.items())
    placed: dict[str, int] = {}
    place, limit = next(places, (_DISK, 0))
    keeping = {CPU, place}
    while left:
        needed = placed.get(place, 0) + left[0] + (max(left[1:], default=0) if place in keeping else 0)
        if place != _DISK and needed > limit:
            place, limit = next(places, (_DISK, 0))
            continue
        placed[place] = placed.get(place, 0) + left.pop(0)
    return placed

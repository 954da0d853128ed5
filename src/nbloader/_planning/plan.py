"""What a load will read and hold, from the headers, the options and the free memory, and whether it fits."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from nbloader._checkpoint.adapter import Adapter
from nbloader._checkpoint.checkpoint import Checkpoint, check_depth, placing_order
from nbloader._checkpoint.headers import FLOATS
from nbloader._errors import DependencyError, OptionError, WontFitError
from nbloader._options.as_code import options_code
from nbloader._options.options import LoadOptions
from nbloader._planning.kv_cache import kv_cache_of
from nbloader._planning.load_plan import TIGHT, LoadPlan
from nbloader._planning.placement import CPU, place_bytes
from nbloader._planning.quantization import CUSTOM, check_quantization, device_staging_bytes, method_of, staging_bytes
from nbloader._planning.sizes import FLOAT_NAMES, changes_type, placed_sizes, target_dtype
from nbloader._planning.stored import dequantized_dtype, find_stored, staging_size
from nbloader._system.memory import Free, find_free
from nbloader._text.catalogue import text
from nbloader._text.units import sentences, size_text

_SMALLER: tuple[Mapping[str, Any], ...] = ({"dtype": "bfloat16"}, {"quantization": "8bit"}, {"quantization": "4bit"})
"""Options to try, in this order, if a load does not fit."""
_FUSED = re.compile(r"\.experts\.\d+\.")
"""Tensors that placing copies into one: since transformers 5, the experts of a layer are one parameter."""
_DOWN = re.compile(r"\.(w2|down_proj)\.weight$")  # joined separately, after the larger tensor


def make_plan(
    checkpoint: Checkpoint,
    options: LoadOptions,
    bytes_to_download: int = 0,
    free: Free | None = None,
    adapter: Adapter | None = None,
) -> LoadPlan:
    """Return the plan for loading `checkpoint` with `options` and attaching `adapter` to it.

    `free` is the free memory; None if it was not measured.
    """
    check_quantization(str(checkpoint.folder), checkpoint.config, options.quantization)
    check_depth(str(checkpoint.folder), checkpoint.config, checkpoint.tensors)
    dtype, stored = target_dtype(checkpoint, options), find_stored(checkpoint.config, options.quantization)
    sizes = placed_sizes(checkpoint, options)
    to_place, by_dtype, copied = _sums(checkpoint, sizes, None if stored is not None else dtype)
    method = None if stored is not None else method_of(options.quantization)
    is_kept = stored is not None and not stored.is_dequantized
    limit = options.max_memory.get(CPU) if isinstance(options.max_memory, Mapping) else options.max_memory
    available = None if free is None else min(free.host, limit) if isinstance(limit, int) else free.host
    placed = place_bytes({key: sizes[key] for key in placing_order(sizes)}, options, free)
    stays = placed.devices is not None and not placed.devices
    host_memory: dict[str, int] = {"weights": placed.cpu, "files": checkpoint.bytes}
    if stays:
        host_memory = _host_memory(checkpoint, sizes, copied, dtype, method)
        dequantizing = 0 if stored is None else staging_size(checkpoint, stored, FLOATS[dtype or "float32"][1])
        host_memory |= {"dequantization": dequantizing} if dequantizing else {}
        host_memory["weights"] -= placed.disk
    adapter_bytes = 0 if adapter is None else adapter.weights.bytes
    adapter_bytes += 0 if checkpoint.beside is None else checkpoint.beside.file.bytes
    return LoadPlan(
        format=checkpoint.format,
        tensors=len(checkpoint.tensors),
        parameters=sum(tensor.elements for tensor in checkpoint.tensors.values()),
        bytes_by_dtype=dict(by_dtype.most_common()),
        bytes_to_download=bytes_to_download,
        bytes_to_read=tuple(shard.bytes for shard in checkpoint.shards),
        bytes_to_place=tuple(to_place),
        dtype=dtype if stored is None else None if is_kept else dequantized_dtype(checkpoint.tensors, stored, dtype),
        copies=copied > 0 or not stays,
        adapter_bytes=adapter_bytes,
        host_memory=host_memory | _adapter_memory(adapter, adapter_bytes, sizes, options),
        quantization=stored.name if stored is not None and is_kept else method,
        dequantized=stored.name if stored is not None and not is_kept else None,
        device_memory=_device_memory(placed.devices, device_staging_bytes(checkpoint, method)),
        bytes_to_offload=placed.disk,
        available=available,
        device_available={} if free is None else free.devices,
        kv_cache=kv_cache_of(checkpoint.config, dtype or next((name for name in by_dtype if name in FLOATS), None)),
    )


def _sums(checkpoint: Checkpoint, sizes: Mapping[str, int], cast_to: str | None) -> tuple[list[int], Counter[str], int]:
    """Return the bytes to place for each shard, the stored bytes of each type, and the stored bytes to copy."""
    to_place = [0] * len(checkpoint.shards)
    by_dtype: Counter[str] = Counter()
    copied = 0
    for key, tensor in checkpoint.tensors.items():
        to_place[tensor.shard] += sizes[key]
        by_dtype[FLOAT_NAMES.get(tensor.dtype, tensor.dtype)] += tensor.bytes
        is_copied = sizes[key] != tensor.bytes or changes_type(tensor, cast_to) or _FUSED.search(key)
        copied += tensor.bytes if is_copied else 0
    return to_place, by_dtype, copied


def check_fit(
    name: str, checkpoint: Checkpoint, plan: LoadPlan, options: LoadOptions, adapter: Adapter | None = None
) -> None:
    """Refuse a load that needs more memory than is free on the host or a device, unless ``force`` is set.

    Raises
    ------
    WontFitError
        If the load does not fit. The message says how much memory it needs, how much is free, and which options would
        fit.
    """
    if plan.verdict != "wont_fit" or options.force:
        return
    short = next(room for room in plan.rooms if room.verdict == "wont_fit")
    left = short.available or 0
    free = Free(plan.available or 0, plan.device_available)
    fitting = smaller(checkpoint, options, free, adapter, short.name)
    offloaded = _offloaded(checkpoint, options, free)
    if offloaded is not None:
        fitting.append((offloaded, int(TIGHT * left)))
    would = [
        text("hint", "would_fit", changes=options_code(changes), size=size_text(size)) for changes, size in fitting
    ]
    ways = [*fitting, ({"force": True}, short.needed)]
    known = {"name": name, "needed": size_text(short.needed)}
    raise WontFitError(
        text("error", "wont_fit_device", **known, free=size_text(left), device=short.name)
        if short.name != CPU
        else text("error", "wont_fit", **known, free=size_text(left))
        if options.max_memory is None
        else text("error", "wont_fit_limit", **known, limit=size_text(left), free=size_text(find_free().host)),
        sentences(*would, text("hint", "free_or_force")),
        [changes for changes, _ in ways],
        [size for _, size in ways],
        left,
    )


def smaller(
    checkpoint: Checkpoint, options: LoadOptions, free: Free, adapter: Adapter | None, place: str = CPU
) -> list[tuple[Mapping[str, Any], int]]:
    """Return options with which a load would fit, each with the bytes that it then needs at `place`."""
    found: list[tuple[Mapping[str, Any], int]] = []
    for changes in _SMALLER:
        with suppress(OptionError, DependencyError):
            made = make_plan(checkpoint, replace(options, **changes), 0, free, adapter)
            if made.verdict != "wont_fit":
                found += [(changes, room.needed) for room in made.rooms if room.name == place]
    return found


def _offloaded(checkpoint: Checkpoint, options: LoadOptions, free: Free) -> Mapping[str, Any] | None:
    """Return options that offload to the host or to disk what does not fit; None if that is not possible."""
    limit = int(TIGHT * free.host)
    largest = max(placed_sizes(checkpoint, options).values(), default=0)
    if isinstance(options.placement, Mapping) or options.quantization is not None or 2 * largest > limit:
        return None
    folder = str(Path(tempfile.gettempdir()) / "nbloader-offload")
    spread = {"device": None, "device_map": "auto", "offload_folder": folder}
    return {**spread, "max_memory": {"cpu": limit}} if options.placement in (None, CPU) else spread


def _joining_bytes(checkpoint: Checkpoint, sizes: Mapping[str, int], dtype: str | None) -> int:
    """Return the bytes that joining a layer's experts needs: twice the joined tensors if these are cast first."""
    layers: Counter[str] = Counter()
    for key, tensor in checkpoint.tensors.items():
        found = _FUSED.search(key)
        if found is not None and changes_type(tensor, dtype) and not _DOWN.search(key):
            layers[key[: found.start()]] += sizes[key]
    return 2 * max(layers.values(), default=0)


def _host_memory(
    checkpoint: Checkpoint,
    sizes: Mapping[str, int],
    copied: int,
    dtype: str | None,
    method: str | None,
) -> dict[str, int]:
    """Return the parts of the host memory for a load that uses no device."""
    to_place = sum(sizes.values())
    if not copied:
        return {"weights": checkpoint.bytes}
    parts = {"weights": to_place, "files": copied}
    joined = _joining_bytes(checkpoint, sizes, dtype)
    if joined:
        parts["joining"] = joined
    if method is None or method == CUSTOM:
        return parts
    return {**parts, "quantization": staging_bytes(checkpoint, method)}


def _adapter_memory(
    adapter: Adapter | None, size: int, sizes: Mapping[str, int], options: LoadOptions
) -> dict[str, int]:
    """Return the bytes for attaching and merging: merging temporarily needs four times the largest weight."""
    parts = {"adapter": size} if size else {}
    if adapter is not None and options.merge_adapter:
        taken = [sizes[f"{module}.weight"] for module in adapter.modules if f"{module}.weight" in sizes]
        parts["merge"] = 4 * max(taken, default=0)
    return parts


def _device_memory(weights: Mapping[str, int] | None, quantization: int) -> dict[str, dict[str, int]] | None:
    if weights is None:
        return None
    extra = {"quantization": quantization} if quantization else {}
    return {name: {"weights": size, **extra} for name, size in weights.items()}

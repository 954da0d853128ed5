"""LoadPlan: what a load will read and hold, and the same as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple

from nbloader._planning.kv_cache import KVCache
from nbloader._planning.placement import CPU
from nbloader._planning.quantization import CUSTOM
from nbloader._text.catalogue import text
from nbloader._text.units import columns, seconds_text, size_text, span_text, types_text

CONTEXT_LENGTH = 4096
"""The number of tokens for which the size of the KV cache is told by default."""


TIGHT = 0.9
"""The share of the free memory of which a load that needs more is a tight fit."""


class Room(NamedTuple):
    """Bytes that a load needs on the host or on a device, and bytes that are free there (None if not known)."""

    name: str
    needed: int
    available: int | None

    @property
    def verdict(self) -> str | None:
        """``"fits"``, ``"tight"`` or ``"wont_fit"``; None if the free memory is not known."""
        if self.available is None:
            return None
        if self.needed > self.available:
            return "wont_fit"
        return "fits" if self.needed <= TIGHT * self.available else "tight"


@dataclass(frozen=True)
class LoadPlan:
    """What a load will read and hold. Sizes are in bytes; tuples have one entry per shard.

    Parameters
    ----------
    format
        ``"safetensors"`` or ``"bin"``.
    tensors, parameters
        How many of each the headers describe.
    bytes_by_dtype
        Bytes of the tensors in the files, by type.
    bytes_to_download
        Bytes that are not on this machine yet, including tokenizer and config.
    bytes_to_read
        Sizes of the weight files.
    bytes_to_place
        Bytes of the shards' tensors in the model, after the cast to `dtype`.
    dtype
        The type that floating-point weights get, by torch's name; None if they keep their own.
    copies
        Whether placing copies the weights (for a cast or another device). If not, the model uses the mapped files.
    adapter_bytes
        Size of the adapters' weight files: the chosen adapter and one in the model's folder; 0 without adapters.
    host_memory
        The most memory that the load adds to this process, by part. ``"weights"`` stay. ``"files"`` are mapped while
        they are placed; the system frees them first if memory gets short. ``"quantization"`` and ``"dequantization"``
        are what converting one weight needs. ``"joining"`` is what joining a layer's experts needs. ``"adapter"`` is
        what an adapter adds, and ``"merge"`` what merging it needs.
    device_memory
        The most memory that the load adds to each device, by the device's name and by part, as on the host. Empty if
        all weights are on the host; None if a device map decides this only during the load.
    bytes_to_offload
        Bytes that a device map leaves on disk because memory is too small.
    available
        Free memory on the host when the plan was made, limited by the container and by ``max_memory``; None if it was
        not measured.
    device_available
        Free memory on each device, by its name; None if it is not known.
    kv_cache
        The memory that generating needs in addition to the weights; None if the config does not say.
    quantization
        How the weights are quantized: the option's name, or transformers' name if the checkpoint is and stays
        quantized. ``"custom"`` for a config whose sizes are not known before the load; the plan then uses the sizes
        without quantization. None if the weights are not quantized.
    dequantized
        The checkpoint's quantization method, if the load converts it to `dtype`. transformers does so on a machine
        without the hardware for it. None if the load does not convert it.
    seconds
        The shortest and the longest time that the load should take, from earlier loads of its kind on this machine;
        None if there are none.
    """

    format: str
    tensors: int
    parameters: int
    bytes_by_dtype: Mapping[str, int]
    bytes_to_download: int
    bytes_to_read: tuple[int, ...]
    bytes_to_place: tuple[int, ...]
    dtype: str | None
    copies: bool
    adapter_bytes: int
    host_memory: Mapping[str, int]
    device_memory: Mapping[str, Mapping[str, int]] | None
    bytes_to_offload: int = 0
    available: int | None = None
    device_available: Mapping[str, int | None] = field(default_factory=dict)
    kv_cache: KVCache | None = None
    quantization: str | None = None
    dequantized: str | None = None
    seconds: tuple[float, float] | None = None

    def __str__(self) -> str:
        return "\n".join(columns("plan_line", plan_texts(self)))

    def _repr_html_(self) -> str:
        rows = [(text("plan_line", key), said) for key, said in plan_texts(self).items()]
        cell = '<td style="text-align: left; padding: 2px 12px 2px 0">'
        lines = "".join(f"<tr>{cell}{escape(label)}</td>{cell}{escape(said)}</td></tr>" for label, said in rows)
        return f"<table>{lines}</table>"

    @property
    def placed_as(self) -> str:
        """The types of the weights in the model, as text; empty if they keep their own."""
        return " + ".join(filter(None, (self.quantization, self.dtype)))

    @property
    def peak_memory(self) -> int:
        """The most bytes that the load adds to this process."""
        return sum(self.host_memory.values())

    @property
    def needed_memory(self) -> int:
        """Bytes of the peak memory that the system cannot reclaim: all but mapped files."""
        return self.peak_memory - self.host_memory.get("files", 0)

    @property
    def verdict(self) -> str | None:
        """The worst of ``"fits"``, ``"tight"`` and ``"wont_fit"`` over host and devices; None if not known."""
        if self.device_memory is None or self.quantization == CUSTOM:
            return None
        found = {room.verdict for room in self.rooms}
        return next(verdict for verdict in ("wont_fit", None, "tight", "fits") if verdict in found)

    @property
    def rooms(self) -> tuple[Room, ...]:
        """The host, named ``"cpu"``, and each device on which the load needs memory."""
        devices = self.device_memory or {}
        return (
            Room(CPU, self.needed_memory, self.available),
            *(Room(name, sum(parts.values()), self.device_available.get(name)) for name, parts in devices.items()),
        )


def plan_texts(plan: LoadPlan, context_length: int = CONTEXT_LENGTH) -> dict[str, str]:
    """Return a text for each figure of a plan, by the key of its label among the texts of ``plan_line``."""
    host, *on_devices = plan.rooms
    texts = {
        "weights": text(
            "plan",
            "counts",
            format=plan.format,
            shards=len(plan.bytes_to_read),
            tensors=f"{plan.tensors:,}",
            parameters=f"{plan.parameters:,}",
        ),
        "files": types_text(plan.bytes_by_dtype),
        "download": size_text(plan.bytes_to_download) if plan.bytes_to_download else text("plan", "nothing"),
        "read": size_text(sum(plan.bytes_to_read)),
        "place": f"{size_text(sum(plan.bytes_to_place))} {plan.placed_as}".strip(),
        "host": _needs(host, _held(plan.host_memory)),
        "mapped": _mapped(plan),
        "devices": _devices(plan, on_devices),
    }
    if plan.kv_cache is not None:
        cache = size_text(plan.kv_cache.bytes(context_length))
        texts["kv_cache"] = text("plan", "at_length", size=cache, tokens=f"{context_length:,}")
    texts["time"] = text("plan", "no_seconds") if plan.seconds is None else span_text(*map(seconds_text, plan.seconds))
    return {key: said for key, said in texts.items() if said}


def _held(parts: Mapping[str, int]) -> dict[str, int]:
    """Return the parts of the host memory without mapped files, which the system takes back where it needs memory."""
    return {part: size for part, size in parts.items() if part != "files"}


def _mapped(plan: LoadPlan) -> str:
    size = plan.host_memory.get("files", 0)
    return text("plan", "mapped", size=size_text(size)) if size else ""


def _devices(plan: LoadPlan, rooms: list[Room]) -> str:
    if plan.device_memory is None:
        return text("plan", "unknown")
    told = [f"{room.name} {_needs(room, plan.device_memory[room.name])}" for room in rooms]
    offloaded = text("plan", "offloaded", size=size_text(plan.bytes_to_offload)) if plan.bytes_to_offload else ""
    return ", ".join(filter(None, [*told, offloaded]))


def _needs(room: Room, parts: Mapping[str, int]) -> str:
    """Return what is needed at a place, of what is free there: 4.71 of 21.4 GB free (weights 4.71 GB): it fits."""
    needed = size_text(room.needed)
    if room.available is not None:
        needed = text("plan", "needs", size=needed, free=size_text(room.available))
    told = ", ".join(f"{text('memory_part', part)} {size_text(size)}" for part, size in parts.items() if size)
    verdict = "" if room.verdict is None else f": {text('verdict', room.verdict)}"
    return f"{needed} ({told}){verdict}"

"""LoadPlan: what a load will move and hold, from the headers and the options alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nbloader._checkpoint import FLOATS, Checkpoint, Tensor
from nbloader._options import LoadOptions

_FLOAT_CODES = {code for code, _ in FLOATS.values()}


@dataclass(frozen=True)
class LoadPlan:
    """What a load will move. Sizes in bytes; the tuples have one entry a shard.

    Parameters
    ----------
    format
        ``"safetensors"`` or ``"bin"``.
    tensors, parameters
        How many of each the headers describe.
    bytes_to_read
        Sizes of the weight files.
    bytes_to_place
        What their tensors take in the model, after the cast to `dtype`.
    dtype
        The type that floating-point weights get, by torch's name; None where they keep their own.
    copies
        Whether placing makes copies (a cast, another device); if not, the model is the mapped files themselves.
    """

    format: str
    tensors: int
    parameters: int
    bytes_to_read: tuple[int, ...]
    bytes_to_place: tuple[int, ...]
    dtype: str | None
    copies: bool

    def peak_memory(self, on_cpu: bool) -> int:
        """Return the bytes that the load adds to this process at most: mapped files, and copies that stay here."""
        return sum(self.bytes_to_read) + (sum(self.bytes_to_place) if self.copies and on_cpu else 0)


def make_plan(checkpoint: Checkpoint, options: LoadOptions) -> LoadPlan:
    """Return what loading `checkpoint` with `options` will move."""
    dtype = target_dtype(checkpoint.config, options)
    to_place = [0] * len(checkpoint.shards)
    casts = False
    for tensor in checkpoint.tensors.values():
        placed = placed_bytes(tensor, dtype)
        casts = casts or (dtype is not None and _is_cast(tensor, dtype))
        to_place[tensor.shard] += placed
    return LoadPlan(
        format=checkpoint.format,
        tensors=len(checkpoint.tensors),
        parameters=sum(tensor.elements for tensor in checkpoint.tensors.values()),
        bytes_to_read=tuple(shard.bytes for shard in checkpoint.shards),
        bytes_to_place=tuple(to_place),
        dtype=dtype,
        copies=casts or not stays_on_cpu(options),
    )


def stays_on_cpu(options: LoadOptions) -> bool:
    """Tell whether the options leave the whole model on the CPU."""
    return options.placement in (None, "cpu")


def target_dtype(config: Mapping[str, Any], options: LoadOptions) -> str | None:
    """Return the type that floating-point weights will get; None where they keep the one they have."""
    if options.dtype != "auto":
        return options.dtype
    named = config.get("dtype") or config.get("torch_dtype")
    return named if isinstance(named, str) and named in FLOATS else None


def placed_bytes(tensor: Tensor, dtype: str | None) -> int:
    """Return what a tensor takes in the model when floating-point weights become `dtype`."""
    return tensor.elements * FLOATS[dtype][1] if dtype is not None and _is_cast(tensor, dtype) else tensor.bytes


def _is_cast(tensor: Tensor, dtype: str) -> bool:
    return tensor.dtype in _FLOAT_CODES and tensor.dtype != FLOATS[dtype][0]

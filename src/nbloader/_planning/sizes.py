"""The sizes of tensors in memory, by the type that they are loaded as."""

from __future__ import annotations

import re
from collections.abc import Mapping

from nbloader._checkpoint.checkpoint import Checkpoint
from nbloader._checkpoint.headers import FLOATS, Tensor
from nbloader._errors import CheckpointError
from nbloader._options.options import LoadOptions
from nbloader._planning.quantization import METHODS, is_quantized, method_of, quantized_bytes
from nbloader._planning.stored import find_stored, stored_size
from nbloader._text.catalogue import text

_FLOAT_CODES = {code for code, _ in FLOATS.values()}
FLOAT_NAMES = {code: name for name, (code, _) in FLOATS.items()}
_DTYPE_NAMES = {"half": "float16", "float": "float32", "double": "float64"}  # other names that torch has for them
_DTYPE = re.compile(r"u?int\d+|short|int|long|bool|c(half|float|double)|complex\d+|float\d+_\w+|float4\w*")


def target_dtype(checkpoint: Checkpoint, options: LoadOptions) -> str | None:
    """Return the type that floating-point weights will get; None if neither config nor headers give one.

    If the user chose no type, it is the one that transformers uses: the config's, else the index's, else the first
    floating type in the first shard. Types that a config gives for its parts do not count.

    Raises
    ------
    CheckpointError
        If the config names a type that torch does not have, or that a model cannot use.
    """
    config, index = checkpoint.config, checkpoint.index or {}
    named = next((value for value in (config.get("dtype"), config.get("torch_dtype")) if value is not None), None)
    if isinstance(named, Mapping):
        named = named.get("", "float32")
    is_chosen = options.dtype != "auto"
    if named is None and not is_chosen:
        named = index.get("dtype")
    if named is not None:
        dtype = _DTYPE_NAMES.get(named, named) if isinstance(named, str) else ""
        # If the user chose a type, any type of torch in the config is harmless.
        if dtype not in FLOATS and not (is_chosen and _DTYPE.fullmatch(dtype)):
            raise CheckpointError(
                text("error", "invalid_config_dtype", folder=checkpoint.folder, dtype=repr(named)),
                text("hint", "config_dtype"),
            )
        if not is_chosen:
            return dtype
    if is_chosen:
        return options.dtype
    first = [(key, tensor) for key, tensor in checkpoint.tensors.items() if tensor.shard == 0]
    if checkpoint.format == "safetensors":
        first.sort(key=lambda each: each[0])
    return next((FLOAT_NAMES[tensor.dtype] for _, tensor in first if tensor.dtype in _FLOAT_CODES), None)


def placed_sizes(checkpoint: Checkpoint, options: LoadOptions) -> dict[str, int]:
    """Return the bytes of each tensor in the model, by its name: cast, quantized, dequantized or unchanged."""
    config, dtype = checkpoint.config, target_dtype(checkpoint, options)
    stored = find_stored(config, options.quantization)
    method = None if stored is not None else method_of(options.quantization)
    width = FLOATS[dtype][1] if dtype is not None else 0

    def size(key: str, tensor: Tensor) -> int:
        if stored is not None and dtype is not None:
            return stored_size(key, tensor, checkpoint.tensors, stored, width)
        if method is not None and method in METHODS and is_quantized(key, tensor, config, method):
            return quantized_bytes(tensor, config, method)
        # An integer weight is cast like a float: nothing marks it as quantized.
        is_cast = changes_type(tensor, dtype) or (key.endswith(".weight") and tensor.dtype not in _FLOAT_CODES)
        return tensor.elements * width if is_cast and width else tensor.bytes

    return {key: size(key, tensor) for key, tensor in checkpoint.tensors.items()}


def changes_type(tensor: Tensor, dtype: str | None) -> bool:
    """Return whether loading changes a tensor's type."""
    return dtype is not None and tensor.dtype in _FLOAT_CODES and tensor.dtype != FLOATS[dtype][0]

"""Quantization while loading: the methods, why one is not available, and the sizes of the quantized weights.

Tensor names and shapes in the headers decide which tensors a method quantizes, so a load can be planned before any
library is imported. The rule was compared with transformers' own choice for the architectures in the tests. If a model
type gives its head an unusual name, the rule can be wrong about that tensor. The plan is then off by its size.

Sources: transformers' integrations of bitsandbytes and torchao (modules that are ``Linear``; not embeddings, the output
embedding, expert tensors and routers), bitsandbytes' blocks of 64 with a float32 maximum each, torchao's scale and zero
point for each row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

from nbloader._checkpoint.checkpoint import Checkpoint
from nbloader._checkpoint.headers import FLOATS, Tensor
from nbloader._errors import DependencyError, OptionError
from nbloader._planning.stored import KINDS, find_stored, has_cuda
from nbloader._text.catalogue import text


class Method(NamedTuple):
    """A way to quantize: the package for it, transformers' config class, and the extra memory that it needs.

    `staging` is the extra memory in bytes per element of the weight, measured on the CPU.
    """

    package: str
    config_class: str
    staging: int
    needs_cuda: bool = False


METHODS: Mapping[str, Method] = {
    "8bit": Method("bitsandbytes", "BitsAndBytesConfig", 10),
    "4bit": Method("bitsandbytes", "BitsAndBytesConfig", 15),
    "int8": Method("torchao", "TorchAoConfig", 8),
    "int4": Method("torchao", "TorchAoConfig", 8, needs_cuda=True),
}
CUSTOM = "custom"
"""The name of a quantization config whose sizes are not known here."""

_DEVICE_STAGING = 4  # bytes per element
_BLOCK = 64  # elements that share a maximum, in bitsandbytes' 4-bit
_CODE = 64  # bytes of the table with the 16 values of its 4-bit numbers
_FLOATS = {code for code, _ in FLOATS.values()}
_NOT_LINEAR = re.compile(
    r"embed|\bwte\b|\bwpe\b|\bshared\.weight$|relative_attention_bias|conv|^lm_head\.|\.lm_head\."
    r"|\bembed_out\.|output_projection\.|\.experts\.\d+\.|\.gate\.weight$|\.router\.weight$"
)
_TRANSPOSED = ("gpt2", "openai-gpt")  # Conv1D stores weights as (in, out); torchao does not quantize them
_KEPT = {"t5": re.compile(r"\.wo\.weight$"), "udop": re.compile(r"\.wo\.weight$")}  # bitsandbytes skips these


def method_of(quantization: Any) -> str | None:
    """Return the method's name for a value of the option: None, one of METHODS, or CUSTOM."""
    if quantization is None or isinstance(quantization, str):
        return quantization
    settings = quantization if isinstance(quantization, Mapping) else vars(quantization)
    if settings.get("load_in_8bit") or settings.get("_load_in_8bit"):
        return "8bit"
    if settings.get("load_in_4bit") or settings.get("_load_in_4bit"):
        return "4bit"
    return CUSTOM


def why_not(name: str, config: Mapping[str, Any]) -> str:
    """Return why a method is not available for a checkpoint with this config; empty if it is."""
    method = METHODS[name]
    stored = find_stored(config)
    if stored is not None and KINDS[stored.method].config_class != METHODS[name].config_class:
        return text("why_not", "quantized", method=stored.name)
    if find_spec(method.package) is None:
        return text("why_not", "missing", package=method.package)
    return text("why_not", "cuda") if method.needs_cuda and not has_cuda() else ""


def check_quantization(where: str, config: Mapping[str, Any], quantization: Any) -> None:
    """Refuse a quantization that is not available.

    Raises
    ------
    OptionError
        If the checkpoint is quantized already, or the machine does not support the method.
    DependencyError
        If a package is missing.
    """
    if quantization is None:
        return
    name = method_of(quantization)
    stored = find_stored(config)
    if stored is not None:
        given = METHODS[name].config_class if name is not None and name in METHODS else type(quantization).__name__
        if given != KINDS[stored.method].config_class or isinstance(quantization, Mapping):
            raise OptionError(
                text("error", "quantized_already", where=where, done=stored.name), text("hint", "leave_quantization")
            )
        return
    if name is None or name == CUSTOM:
        return
    package = METHODS[name].package
    if find_spec(package) is None:
        raise DependencyError(
            text("error", "quantization_needs_package", name=repr(name), package=package),
            text("hint", "pip", package=package),
        )
    reason = why_not(name, config)
    if reason:
        raise OptionError(
            text("error", "quantization_unavailable", name=repr(name), reason=reason), text("hint", "quantizations")
        )


def is_quantized(key: str, tensor: Tensor, config: Mapping[str, Any], name: str) -> bool:
    """Return whether a method quantizes a tensor of the checkpoint."""
    kind = str(config.get("model_type"))
    if len(tensor.shape) != 2 or not key.endswith(".weight") or tensor.dtype not in _FLOATS:
        return False
    if _NOT_LINEAR.search(key):
        return False
    if METHODS[name].package == "torchao":
        return kind not in _TRANSPOSED
    kept = _KEPT.get(kind)
    return kept is None or not kept.search(key)


def quantized_bytes(tensor: Tensor, config: Mapping[str, Any], name: str) -> int:
    """Return the bytes of a tensor after a method has quantized it, including its scales."""
    rows = tensor.shape[1] if config.get("model_type") in _TRANSPOSED else tensor.shape[0]
    if name == "4bit":
        return (tensor.elements + 1) // 2 + 4 * -(-tensor.elements // _BLOCK) + _CODE
    if name == "8bit":
        return tensor.elements + 4 * rows
    return tensor.elements // (2 if name == "int4" else 1) + 5 * rows


def staging_bytes(checkpoint: Checkpoint, name: str) -> int:
    """Return the most extra bytes that a method needs, which is for the largest weight that it quantizes."""
    return METHODS[name].staging * _largest(checkpoint, name)


def _largest(checkpoint: Checkpoint, name: str) -> int:
    """Return the number of elements of the largest weight that a method quantizes."""
    taken = (
        tensor.elements
        for key, tensor in checkpoint.tensors.items()
        if is_quantized(key, tensor, checkpoint.config, name)
    )
    return max(taken, default=0)


def device_staging_bytes(checkpoint: Checkpoint, name: str | None) -> int:
    """Return the extra bytes that a method needs on a device: twice the largest weight in half precision.

    This follows the sources of transformers and bitsandbytes, which quantize one weight at a time there. It was not
    measured.
    """
    if name is None or name == CUSTOM:
        return 0
    return _DEVICE_STAGING * _largest(checkpoint, name)

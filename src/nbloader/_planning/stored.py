"""What a load does with a checkpoint's stored quantization: keep it, convert it to a float type, or ignore it.

The config and the headers decide this, before any library is imported. Sources: transformers' ``quantizers/`` (the
methods, their requirements, and when they dequantize) and ``integrations/`` (the resulting tensors). The sizes were
compared with those of real loads on the CPU.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, NamedTuple

from nbloader._checkpoint.checkpoint import Checkpoint
from nbloader._checkpoint.headers import FLOATS, Tensor
from nbloader._errors import CheckpointError, DependencyError, OptionError
from nbloader._system import nvml
from nbloader._system.memory import free_devices
from nbloader._text.catalogue import text


class Kind(NamedTuple):
    """A quantization method of transformers: its config class, and the packages and the device that it needs.

    A package is (module, name for ``pip install``). `device` is ``"cuda"``, ``"gpu"`` if another vendor's GPU works,
    too, or empty.
    """

    config_class: str
    packages: tuple[tuple[str, str], ...] = ()
    device: str = ""


_BITSANDBYTES = Kind("BitsAndBytesConfig", (("bitsandbytes", "bitsandbytes"),))
KINDS: Mapping[str, Kind] = {
    "aqlm": Kind("AqlmConfig", (("aqlm", "aqlm[gpu,cpu]"),)),
    "auto-round": Kind("AutoRoundConfig", (("auto_round", "auto-round"),)),
    "awq": Kind("AwqConfig", (("gptqmodel", "gptqmodel"),)),
    "bitnet": Kind("BitNetQuantConfig"),
    "bitsandbytes_4bit": _BITSANDBYTES,
    "bitsandbytes_8bit": _BITSANDBYTES,
    "compressed-tensors": Kind("CompressedTensorsConfig", (("compressed_tensors", "compressed-tensors"),)),
    "eetq": Kind("EetqConfig", (("kernels", "kernels"),), device="cuda"),
    "fbgemm_fp8": Kind("FbgemmFp8Config", device="gpu"),
    "fouroversix": Kind("FourOverSixConfig", (("fouroversix", "fouroversix"),)),
    "fp8": Kind("FineGrainedFP8Config"),
    "fp_quant": Kind("FPQuantConfig", device="gpu"),
    "gemma": Kind("GemmaQuantizationConfig"),
    "gguf": Kind("GgufConfig"),
    "gptq": Kind("GPTQConfig", (("optimum", "optimum"), ("gptqmodel", "gptqmodel"))),
    "higgs": Kind("HiggsConfig", (("flute", "flute-kernel"),), device="cuda"),
    "hqq": Kind("HqqConfig", (("hqq", "hqq"),)),
    "metal": Kind("MetalConfig"),
    "mxfp4": Kind("Mxfp4Config"),
    "mxfp8": Kind("FineGrainedFP8Config"),
    "nvfp4": Kind("NVFP4Config"),
    "quanto": Kind("QuantoConfig", (("optimum.quanto", "optimum-quanto"),)),
    "quark": Kind("QuarkConfig", (("quark", "amd-quark"),)),
    "sinq": Kind("SinqConfig", (("sinq", "sinq"),)),
    "spqr": Kind("SpQRConfig", (("spqr_quant", "spqr_quant"),), device="cuda"),
    "torchao": Kind("TorchAoConfig", (("torchao", "torchao"),)),
    "vptq": Kind("VptqConfig", (("vptq", "vptq"),), device="cuda"),
}
"""Every method that transformers has; it ignores others, and their weights load as they are."""

_NO_FLOATS = "nvfp4"  # transformers can quantize to this method, but cannot load it
_FP8 = ("fp8", "mxfp8")
_OTHER_GPUS_NOT = re.compile(r"[\d.]+(\+cpu|\+cu\d+)?")  # torch builds that do not support GPUs of other vendors
_PARTS = ("decoder", "generator", "text_config")  # parts that transformers may use as the text model's config
_DROPPED: Mapping[str, re.Pattern[str]] = {
    "fp8": re.compile(r"\.(weight_scale_inv|activation_scale|qscale_weight|scale)$"),
    "mxfp4": re.compile(r"_scales$"),
    "metal": re.compile(r"\.(scales|qbiases)$"),
    "bitsandbytes_4bit": re.compile(r"\.quant_state\."),
    "bitsandbytes_8bit": re.compile(r"\.weight_format$"),
    "gemma": re.compile(r"\.[kv]_cache_scale$"),
}
"""Tensors that the loaded model does not keep: scales that are multiplied in, and records of the packing."""

_OWN: Mapping[str, re.Pattern[str]] = {
    "bitsandbytes_4bit": re.compile(r"\.weight\."),
    "bitsandbytes_8bit": re.compile(r"\.SCB$"),
    "torchao": re.compile(r"\._weight_\w+$"),
    "gemma": re.compile(r"\.(weight_scale|(input|output)_activation_scale|embedding_scale)$"),
}
"""Floats that keep their own type."""

_OWN_WEIGHTS: Mapping[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "bitsandbytes_4bit": ((5, 21), (99, 0)),
    "bitsandbytes_8bit": ((5, 21), (99, 0)),
    "metal": ((5, 21), (99, 0)),
    "fp8": ((5, 21), (5, 24)),
}
"""Releases of transformers (first, end) in which weights stored as floats keep their own type, too; end is excluded."""

_FLOAT_CODES = {code for code, _ in FLOATS.values()}
_STAGING: Mapping[str, tuple[float, float]] = {"fp8": (8, 4), "mxfp4": (14.25, 16.25), "metal": (10.56, 10.56)}
"""Extra bytes that dequantizing one element needs: for a result of two bytes, and for one of four."""


class Stored(NamedTuple):
    """A stored quantization that transformers supports: `method` is its key there, `settings` are from the config.

    `is_dequantized` is True if the load converts the weights to a float type.
    """

    method: str
    settings: Mapping[str, Any]
    is_dequantized: bool

    @property
    def name(self) -> str:
        """The method as configs name it."""
        return "bitsandbytes" if self.method.startswith("bitsandbytes") else self.method


def find_stored(config: Mapping[str, Any], quantization: Any = None) -> Stored | None:
    """Return the stored quantization as a load with the option `quantization` uses it; None without one.

    Raises
    ------
    CheckpointError
        If the config has a quantization, but does not say which one.
    """
    settings = _settings(config)
    if settings is None:
        return None
    method = _method(settings)
    if method is None or (settings.get("load_in_4bit") and settings.get("load_in_8bit")):
        raise CheckpointError(text("error", "invalid_quantization_config"), text("hint", "no_quant_method"))
    if method not in KINDS:
        return None
    asked = settings.get("dequantize") or getattr(quantization, "dequantize", False)
    return Stored(method, settings, _is_dequantized(method, settings, bool(asked)))


def _settings(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the quantization settings of a config, or of its text model's config; None without any."""
    own = config.get("quantization_config")
    parts = [config[name] for name in _PARTS if isinstance(config.get(name), Mapping)]
    if not own and len(parts) == 1:
        own = parts[0].get("quantization_config") or own
    if own is None:
        return None
    if not isinstance(own, Mapping):
        raise CheckpointError(text("error", "invalid_quantization_config"), text("hint", "no_quant_method"))
    return own


def _method(settings: Mapping[str, Any]) -> str | None:
    for bits in ("4bit", "8bit"):
        if settings.get(f"load_in_{bits}"):
            return f"bitsandbytes_{bits}"
    named = settings.get("quant_method")
    return named if isinstance(named, str) else None


def unheeded(config: Mapping[str, Any]) -> str:
    """Return the quantization method that a config names but transformers ignores; empty if there is none."""
    settings = _settings(config)
    method = None if settings is None else _method(settings)
    return method if method is not None and method not in KINDS else ""


def _is_dequantized(method: str, settings: Mapping[str, Any], asked: bool) -> bool:
    """Return whether the load dequantizes a method's tensors. It depends on the machine, not on the chosen device."""
    if method == "bitnet":
        is_offline = settings.get("quantization_mode", "offline") == "offline"
        return settings.get("linear_class") == "autobitlinear" and is_offline
    if method in _FP8:
        return asked or not _has_capability(8, 9)
    if method == "mxfp4":
        return asked or not _has_capability(7, 5) or find_spec("triton") is None or find_spec("kernels") is None
    return method == "metal" and (asked or "mps" not in free_devices())


def _has_capability(*least: int) -> bool:
    """Return whether torch can use CUDA and the first device has at least this compute capability."""
    if not has_cuda() or "+cpu" in version("torch"):
        return False
    capability = nvml.capability()
    return capability is not None and capability >= least


def check_stored(where: str, config: Mapping[str, Any], quantization: Any, placement: Any) -> None:
    """Refuse a stored quantization that cannot be loaded here, before weights are downloaded.

    Raises
    ------
    DependencyError
        If a package is missing.
    CheckpointError, OptionError
        If transformers, this machine or the chosen placement does not support the quantization.
    """
    stored = find_stored(config, quantization)
    if stored is None:
        return
    kind, known = KINDS[stored.method], {"where": where, "method": stored.name}
    missing = [pip for module, pip in kind.packages if not _is_installed(module)]
    if missing:
        names = " ".join(missing)
        raise DependencyError(
            text("error", "stored_quantization_needs_package", **known, package=names),
            text("hint", "pip", package=names),
        )
    if stored.method == _NO_FLOATS:
        raise CheckpointError(text("error", "stored_quantization_unsupported", **known), text("hint", "unquantized"))
    if kind.device and not has_cuda() and (kind.device == "cuda" or _OTHER_GPUS_NOT.fullmatch(version("torch"))):
        raise CheckpointError(text("error", "stored_quantization_needs_cuda", **known), text("hint", "unquantized"))
    if stored.method == "metal" and stored.is_dequantized and placement is None:
        raise OptionError(text("error", "stored_quantization_needs_mps", **known), text("hint", "on_cpu"))


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False


def has_cuda() -> bool:
    """Return whether there is a CUDA device, as far as this is known without torch."""
    return any(name.startswith("cuda") for name in free_devices())


def _transformers() -> tuple[int, int]:
    major, minor = version("transformers").split(".")[:2]
    return int(major), int(minor)


def stored_size(key: str, tensor: Tensor, tensors: Mapping[str, Tensor], stored: Stored, width: int) -> int:
    """Return the bytes of a quantized checkpoint's tensor in the model; a float in the model has `width` bytes."""
    method = "fp8" if stored.method in _FP8 else stored.method
    dropped, own = _DROPPED.get(method), _OWN.get(method)
    is_float = tensor.dtype in _FLOAT_CODES
    as_float = tensor.elements * width
    if key.endswith(".nested_absmax"):
        return tensor.bytes + 4  # plus an offset, for bitsandbytes' double quantization
    first, end = _OWN_WEIGHTS.get(method, ((99, 0), (99, 0)))
    is_own = is_float and key.endswith(".weight") and first <= _transformers() < end
    is_kept = not stored.is_dequantized and method in _STAGING
    if dropped is not None and dropped.search(key) and not is_kept:
        return 0
    if is_own:
        return tensor.bytes
    if not stored.is_dequantized:
        return as_float if is_float and not (own is not None and own.search(key)) else tensor.bytes
    if method == "fp8":
        return as_float * (2 if tensor.dtype == "I8" else 1)  # each byte holds two 4-bit numbers
    if method == "mxfp4":
        if not key.endswith("_blocks"):
            return as_float
        return 2 * tensor.elements * (width if _transformers() >= (5, 23) else 2)
    if method == "bitnet" and tensor.dtype == "U8":
        return 4 * as_float
    scales = tensors.get(f"{key.rpartition('.')[0]}.scales")  # for metal; its other weights stay as they are
    if scales is None:
        return as_float if is_float else tensor.bytes
    return tensor.elements * 32 // int(stored.settings.get("bits", 4)) * (scales.bytes // max(1, scales.elements))


def dequantized_dtype(tensors: Mapping[str, Tensor], stored: Stored, dtype: str | None) -> str | None:
    """Return the type of dequantized weights: `dtype`, or for metal the type of their scales."""
    scales = (tensor.dtype for key, tensor in tensors.items() if key.endswith(".scales"))
    names = {code: name for name, (code, _) in FLOATS.items()}
    return names.get(next(scales, ""), dtype) if stored.method == "metal" else dtype


def staging_size(checkpoint: Checkpoint, stored: Stored, width: int) -> int:
    """Return the most extra bytes that dequantizing needs, which is for the largest weight."""
    method = "fp8" if stored.method in _FP8 else stored.method
    if not stored.is_dequantized or method not in _STAGING:
        return 0
    tensors = checkpoint.tensors
    largest = max((stored_size(key, tensor, tensors, stored, 1) for key, tensor in tensors.items()
                   if tensor.dtype not in _FLOAT_CODES), default=0)  # fmt: skip
    return int(largest * _STAGING[method][width >= 4])

"""The values of single options: names and aliases, sizes, folders, and what is refused."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nbloader._errors import OptionError, did_you_mean
from nbloader._safety.redaction import keep_secret
from nbloader._text.catalogue import text

DTYPES = ("auto", "bfloat16", "float16", "float32")
QUANTIZATIONS = ("8bit", "4bit", "int8", "int4")
KEEPS = ("one", "all")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
MOST_READERS = 64

_DTYPE_ALIASES = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32"}
_QUANTIZATION_ALIASES = {"nf4": "4bit", "8-bit": "8bit", "4-bit": "4bit", "none": None, "": None}
_DEVICE = re.compile(r"cpu|mps|(cuda|xpu)(:[0-9]{1,4})?")
_LIMITED = re.compile(r"cpu|disk|mps|((cuda|xpu):)?([0-9]{1,4})")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([kmgt]?)(i?)b", re.IGNORECASE)
_MOST_BYTES = 1 << 62
_MOST_SECONDS = 1e9


def dtype_name(dtype: object) -> str:
    """Return torch's name for a type."""
    name = str(dtype).removeprefix("torch.").lower() if dtype is not None else "auto"
    name = _DTYPE_ALIASES.get(name, name)
    if name not in DTYPES:
        raise OptionError(text("error", "invalid_dtype", dtype=repr(dtype)), did_you_mean(name, DTYPES))
    return name


def quantization_name(value: Any) -> Any:
    """Return the name of a quantization method; a config is returned unchanged."""
    return _QUANTIZATION_ALIASES.get(value.lower(), value.lower()) if isinstance(value, str) else value


def check_quantization(value: Any) -> None:
    """Refuse a value that is neither a method nor a config."""
    is_config = "quant_method" in value if isinstance(value, Mapping) else hasattr(value, "quant_method")
    if value is not None and value not in QUANTIZATIONS and not is_config:
        raise OptionError(
            text("error", "invalid_quantization", value=repr(value)), did_you_mean(str(value), QUANTIZATIONS)
        )


def device_name(device: object) -> str | None:
    """Return the name of a device, such as a ``torch.device``."""
    return None if device is None else str(device)


def check_device(device: str | None) -> None:
    """Refuse a value that is not the name of a device."""
    if device is not None and not _DEVICE.fullmatch(device):
        raise OptionError(text("error", "invalid_device", device=repr(device)), text("hint", "devices"))


def check_device_map(device_map: Any) -> None:
    """Refuse a name that accelerate does not know."""
    if isinstance(device_map, str) and device_map not in DEVICE_MAPS and not _DEVICE.fullmatch(device_map):
        raise OptionError(
            text("error", "invalid_device_map", device_map=repr(device_map)), did_you_mean(device_map, DEVICE_MAPS)
        )


def limits(value: Any) -> Any:
    """Return memory limits in bytes: one for every device, or by device as accelerate names it."""
    if not isinstance(value, Mapping):
        return None if value is None else _bytes_of(value, value)
    found: dict[int | str, int] = {}
    for device, limit in value.items():
        named = _LIMITED.fullmatch(str(device))
        if named is None:
            raise OptionError(
                text("error", "invalid_max_memory_device", value=repr(value), device=repr(device)),
                text("hint", "places"),
            )
        found[int(named[3]) if named[3] else str(device)] = _bytes_of(limit, value)
    return found


def _bytes_of(limit: Any, whole: Any) -> int:
    if isinstance(limit, int) and not isinstance(limit, bool) and 0 < limit < _MOST_BYTES:
        return limit
    found = _SIZE.fullmatch(limit.strip()) if isinstance(limit, str) else None
    if found is None:
        raise OptionError(
            text("error", "invalid_max_memory_size", whole=repr(whole), limit=repr(limit)), text("hint", "limit")
        )
    return int(float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2].lower() or " "))


def path(value: Any) -> Any:
    """Return a path as text, with ``~`` expanded."""
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    return os.path.expanduser(value) if isinstance(value, str) else value


def token(value: Any) -> Any:
    """Return a token without the white space around it that copying adds; from now on it is hidden in all output."""
    if isinstance(value, str):
        value = value.strip()
        if not value.isascii() or not value.isprintable() or " " in value:
            raise OptionError(text("error", "invalid_token"), text("hint", "copy_token"))
    keep_secret(value)
    return value


def check_consent(consent: bool | str) -> None:
    """Refuse a text that is not the hash of a commit."""
    if isinstance(consent, str) and not re.fullmatch("[0-9a-f]{40}", consent):
        raise OptionError(text("error", "invalid_trust_remote_code", consent=repr(consent)), text("hint", "consent"))


def check_subfolder(subfolder: str) -> None:
    """Refuse a folder outside of the checkpoint."""
    if os.path.isabs(subfolder) or ".." in re.split(r"[/\\]", subfolder):
        raise OptionError(
            text("error", "subfolder_outside_checkpoint", subfolder=repr(subfolder)), text("hint", "inside")
        )


def check_variant(variant: str | None) -> None:
    """Refuse a variant that cannot be part of a file name."""
    if variant is not None and not re.fullmatch(r"[\w-]+", variant):
        raise OptionError(text("error", "invalid_variant", variant=repr(variant)), text("hint", "variant"))


def one_of(name: str, values: Sequence[Any]) -> Callable[[Any], None]:
    """Return a check for the option `name` that refuses all other values."""

    def check(value: Any) -> None:
        if value not in values:
            names = ", ".join(map(repr, values))
            raise OptionError(
                text("error", "invalid_choice", name=name, value=repr(value)), text("hint", "one_of", names=names)
            )

    return check


def check_readers(readers: int | None) -> None:
    """Refuse an invalid number of readers."""
    if readers is not None and not 1 <= readers <= MOST_READERS:
        raise OptionError(
            text("error", "invalid_readers", readers=repr(readers)), text("hint", "readers", most=MOST_READERS)
        )


def check_seconds(seconds: float) -> None:
    """Refuse a value that is not a duration."""
    if not 0 < seconds < _MOST_SECONDS:
        raise OptionError(text("error", "invalid_stall_seconds", stall_seconds=repr(seconds)), text("hint", "seconds"))

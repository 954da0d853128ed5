"""Options as Python code: the call that loads a model with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nbloader._options.options import LoadOptions, changed_options


def as_code(model: str, options: LoadOptions, flags: Mapping[str, bool] | None = None) -> str:
    """Return the lines that load `model` with these options, without a token; `flags` are further arguments."""
    more = "".join(f", {name}={value}" for name, value in (flags or {}).items())
    return f"w = LoaderWidget({as_arguments(model, options)}{more}).show()\nmodel, tokenizer = w.result()"


def as_arguments(model: str, options: LoadOptions) -> str:
    """Return the arguments of such a call, or of ``nbloader.load``, without the parentheses."""
    changed = changed_options(options)
    if "max_memory" in changed:
        limits = options.max_memory
        changed["max_memory"] = limits_code(limits) if isinstance(limits, Mapping) else size_code(limits)
    return ", ".join([quoted(model), *(f"{name}={quoted(value)}" for name, value in changed.items())])


def quoted(value: Any) -> str:
    """Return the Python code of an option's value."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{quoted(key)}: {quoted(part)}" for key, part in value.items()) + "}"
    return repr(value)


def limits_code(limits: Mapping[Any, Any]) -> dict[Any, str]:
    """Return the memory limits by device, each in the form of `size_code`."""
    return {device: size_code(limit) for device, limit in limits.items()}


def size_code(limit: Any) -> str:
    """Return a number of bytes in the form that an option accepts: ``"8GB"``."""
    for unit, factor in (("GB", 10**9), ("GiB", 2**30), ("MB", 10**6), ("MiB", 2**20)):
        if limit % factor == 0:
            return f"{limit // factor}{unit}"
    return f"{limit}B"


def options_code(changes: Mapping[str, Any]) -> str:
    """Return options as keyword arguments of a call."""
    return ", ".join(f"{name}={value!r}" for name, value in changes.items())

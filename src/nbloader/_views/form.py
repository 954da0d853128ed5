"""The form of options: its fields, what they may be now, and the call that reproduces them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nbloader._errors import OptionError
from nbloader._options.as_code import limits_code, size_code
from nbloader._options.options import (
    DEVICE_MAPS,
    DTYPES,
    KEEPS,
    QUANTIZATIONS,
    LoadOptions,
    merge_options,
    parse_option,
)
from nbloader._planning.quantization import METHODS, why_not
from nbloader._planning.stored import has_cuda
from nbloader._system.memory import free_devices
from nbloader._text.catalogue import text

_GROUPS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "weights": (("dtype", "choice"), ("quantization", "choice"), ("attn_implementation", "choice")),
    "placement": (("placement", "choice"), ("max_memory", "text"), ("offload_folder", "text")),
    "adapter": (("adapter", "text"), ("merge_adapter", "flag")),
    "files": (
        ("use_safetensors", "choice"),
        ("variant", "text"),
        ("revision", "text"),
        ("subfolder", "text"),
        ("cache_dir", "text"),
        ("local_files_only", "flag"),
    ),
    "loading": (
        ("auto_class", "text"),
        ("tokenizer", "choice"),
        ("readahead", "choice"),
        ("readers", "number"),
        ("keep", "choice"),
        ("force", "flag"),
    ),
}
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "dtype": DTYPES,
    "quantization": ("", *QUANTIZATIONS),
    "attn_implementation": ("", "sdpa", "eager", "flash_attention_2"),
    "placement": ("", "cuda", "mps", "auto", "balanced"),
    "use_safetensors": ("", "true", "false"),
    "tokenizer": ("auto", "true", "false"),
    "readahead": ("auto", "true", "false"),
    "keep": KEEPS,
}
_HUB_ONLY = ("revision", "cache_dir", "local_files_only")
_CODE = "code"
"""Stands in the form for a value that only code can give; it stays as it is."""


def fields_of(options: LoadOptions, is_on_hub: bool, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the form's groups of fields, with their values as text and, of what cannot be chosen, why not."""
    return [
        {"name": group, "fields": [_field(name, kind, options, is_on_hub, config) for name, kind in fields]}
        for group, fields in _GROUPS.items()
    ]


def _field(name: str, kind: str, options: LoadOptions, is_on_hub: bool, config: Mapping[str, Any]) -> dict[str, Any]:
    value = _text_of(name, options)
    choices = [{"value": choice, "why": _why_no_choice(name, choice, config)} for choice in _CHOICES.get(name, ())]
    if kind == "choice" and value not in _CHOICES[name]:
        choices.append({"value": value, "why": ""})
    return {
        "name": name,
        "kind": kind,
        "value": value,
        "choices": choices,
        "why": _why_not(name, options, is_on_hub),
    }


def _why_not(name: str, options: LoadOptions, is_on_hub: bool) -> str:
    """Return why a field does not apply; empty where it does."""
    is_spread = options.placement not in (None, "cpu") and options.device is None
    if name == "offload_folder" and not is_spread:
        return text("why_not", "offload")
    if name == "readers" and options.readahead is False:
        return text("why_not", "readers")
    if name == "merge_adapter" and options.adapter is None:
        return text("why_not", "adapter")
    if name in _HUB_ONLY and not is_on_hub:
        return text("why_not", "folder")
    return ""


def _why_no_choice(name: str, choice: str, config: Mapping[str, Any]) -> str:
    if name == "quantization" and choice in METHODS:
        return why_not(choice, config)
    if choice == "cuda" and not has_cuda():
        return text("why_not", "cuda")
    if choice == "mps" and "mps" not in free_devices():
        return text("why_not", "mps")
    if choice == "flash_attention_2" and not has_cuda():
        return text("why_not", "cuda")
    return ""


def changed_by(options: LoadOptions, texts: Mapping[str, Any]) -> LoadOptions:
    """Return `options` with what a form says on top; an empty text is the default.

    Raises
    ------
    OptionError
        For a field that does not exist or a value that it cannot take.
    """
    known = {name for fields in _GROUPS.values() for name, _ in fields}
    changes: dict[str, Any] = {}
    for name, said in texts.items():
        if name not in known or not isinstance(said, str) or len(said) > 4096:
            raise OptionError(text("error", "no_field", name=repr(name), value=repr(str(said)[:100])))
        if said != _text_of(name, options):
            changes.update(_choice(name, said.strip()))
    return merge_options(options, changes)


def _choice(name: str, said: str) -> dict[str, Any]:
    if name == "placement":
        return {"device_map": said} if said in DEVICE_MAPS else {"device": said or None}
    return {name: parse_option(name, said, name) if said else getattr(LoadOptions(), name)}


def _text_of(name: str, options: LoadOptions) -> str:
    value = options.placement if name == "placement" else getattr(options, name)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if name == "max_memory":
        return json.dumps(limits_code(value)) if isinstance(value, Mapping) else size_code(value)
    return str(value) if isinstance(value, (str, int)) else _CODE

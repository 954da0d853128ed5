"""Compares what is sent to a page with the types that say what is sent."""

from __future__ import annotations

import typing
from types import UnionType
from typing import Any


def misfits(value: Any, hint: Any, place: str = "") -> list[str]:
    """Return where a value differs from its type: in missing or further keys, or by what stands there."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return []
    if origin in (typing.Union, UnionType):
        found = [misfits(value, part, place) for part in parts]
        return [] if [] in found else min(found, key=len)
    if origin is typing.Literal:
        return [] if value in parts else [f"{place}: {value!r}"]
    if typing.is_typeddict(hint):
        fields = typing.get_type_hints(hint)
        if not isinstance(value, dict) or value.keys() != fields.keys():
            return [f"{place}: {sorted(set(value) ^ set(fields)) if isinstance(value, dict) else value!r}"]
        return [line for name, part in fields.items() for line in misfits(value[name], part, f"{place}.{name}")]
    if origin is dict:
        pairs = value.items() if isinstance(value, dict) else [("", value)]
        return [line for key, part in pairs for line in misfits(part, parts[1], f"{place}.{key}")]
    if origin in (list, tuple):
        if not isinstance(value, list):
            return [f"{place}: {value!r}"]
        kinds = parts if origin is tuple else parts * len(value)
        if len(kinds) != len(value):
            return [f"{place}: {len(value)} of {len(kinds)}"]
        return [line for part, kind in zip(value, kinds, strict=True) for line in misfits(part, kind, f"{place}[]")]
    allowed = (int, float) if hint is float else hint
    is_fitting = isinstance(value, allowed) and (hint is bool or not isinstance(value, bool))
    return [] if is_fitting else [f"{place}: {value!r}"]

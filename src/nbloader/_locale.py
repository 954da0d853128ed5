"""The texts a person reads, from ``locale/*.json``, which the front end shares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def texts() -> Mapping[str, Mapping[str, str]]:
    """Return the texts by group and key."""
    content = files("nbloader").joinpath("locale/en.json").read_text(encoding="utf-8")
    return json.loads(content)  # type: ignore[no-any-return]


def text(group: str, key: str, /, **arguments: Any) -> str:
    """Return a text with its ``{names}`` filled in."""
    return texts()[group][key].format(**arguments)


def size_text(size: float) -> str:
    """Return bytes in words, in decimal units and three figures: 1.07 GB, 250 MB."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            value = size / factor
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    return f"{size:.0f} B"

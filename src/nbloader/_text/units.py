"""Sizes, durations and lists as text, and aligned lines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from unicodedata import east_asian_width

from nbloader._text.catalogue import Text, text


def seconds_text(seconds: float) -> Text:
    """Return a duration as short text: 12 ms, 3.4 s, 2 min 5 s.

    Halves are rounded up, as in the front end, so a duration reads the same everywhere.
    """
    if seconds < 0.9995:
        return text("unit", "milliseconds", count=str(_rounded(1000 * seconds)))
    if seconds < 99.95:
        return text("unit", "seconds", count=f"{_rounded(10 * seconds) / 10:.1f}")
    return text("unit", "minutes", minutes=_rounded(seconds) // 60, seconds=_rounded(seconds) % 60)


def _rounded(value: float) -> int:
    return math.floor(value + 0.5)


def columns(group: str, lines: Mapping[str, str]) -> list[str]:
    """Return lines with aligned labels, which are texts of `group`."""
    labels = {key: text(group, key) for key in lines}
    width = max(map(_width, labels.values()))
    return [f"  {label}{' ' * (width - _width(label))}  {lines[key]}" for key, label in labels.items()]


def _width(said: str) -> int:
    """Return how many terminal columns a text takes; a Korean syllable takes two."""
    return sum(1 + (east_asian_width(letter) in "WF") for letter in said)


def sentences(*said: str) -> str:
    """Return the sentences joined, as a `Text` if one of them is one."""
    first, *others = [sentence for sentence in said if sentence] or [""]
    for sentence in others:
        first = text("unit", "sentences", first=first, then=sentence)
    return first


def first_few(names: Sequence[str], most: int = 3) -> str:
    """Return the first names of a sequence as text."""
    return ", ".join([*names[:most], "…"] if len(names) > most else names)


def span_text(low: str, high: str) -> Text:
    """Return the expected duration of a load as text, from its two bounds."""
    return text("plan", "one_second" if low == high else "seconds", low=low, high=high)


def types_text(bytes_by_dtype: Mapping[str, int]) -> str:
    """Return the sizes of a checkpoint's tensors as text, by type."""
    return ", ".join(f"{dtype} {size_text(size)}" for dtype, size in bytes_by_dtype.items())


def size_text(size: float) -> str:
    """Return a size as text, in decimal units with three digits: 1.07 GB, 250 MB."""
    return " ".join(_in_unit(size, size))


def share_texts(done: float, total: float) -> dict[str, str]:
    """Return how much of a size is done, for a text that says both in one unit: 0.74 of 1.99 GB."""
    return {"done": _in_unit(done, total)[0], "total": size_text(total)}


def _in_unit(size: float, whole: float) -> tuple[str, str]:
    """Return a size as a number and a unit, both as they suit `whole`."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        value = whole / factor
        if value >= 0.9995:  # would round to 1000 of the smaller unit
            return f"{size / factor:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}", unit
    return f"{size:.0f}", "B"

"""The headline of a load: one line that says what it does, how far it is, how fast, and how long it still takes."""

from __future__ import annotations

import math
from functools import reduce

from nbloader._progress.state import LoadState
from nbloader._text.catalogue import text
from nbloader._text.units import seconds_text, share_texts, size_text

_EXACT = 100  # seconds; a longer time is said in minutes and seconds
_SILENT_SECONDS = 2.0  # without a byte, where bytes should move, that are worth saying


def status_code(state: LoadState) -> str:
    """Return the key of a load's status among the texts of ``status``, which tell more kinds apart than `status`."""
    if state.gone is not None:
        return "gone"
    if state.question is not None:
        return "asking"
    if state.status == "running" and all(stage.name != "weights" for stage in state.stages):
        return "downloading"
    return state.status


def headline(state: LoadState) -> str:
    """Return what a load does now as one line, without the percentage: Placing shard 5 of 8 · 0.74 of 1.99 GB ….

    It is empty before the load and after it.
    """
    if state.status == "queued" and state.ahead:
        return text("line", "queued", name=state.ahead[0][1])
    if state.question is not None:
        return text("status", "asking")
    if state.status != "running" or state.stage is None:
        return ""
    parts = [_doing(state), _bytes(state), *_pace(state)]
    return reduce(lambda first, then: text("line", "part", first=first, then=then), filter(None, parts))


def _doing(state: LoadState) -> str:
    if state.phase == "download":
        missing = [file for file in state.downloads if file.bytes_cached < file.bytes]
        there = sum(file.bytes_downloaded >= file.bytes for file in missing)
        if len(missing) > 1:
            return text("line", "downloading", number=there + 1, count=len(missing))
        return text("doing", "download")
    if state.phase == "place" and len(state.shards) > 1:
        placed = sum(0 < shard.bytes_to_place <= shard.bytes_placed for shard in state.shards)
        used = sum(shard.bytes_to_place > 0 for shard in state.shards)
        return text("line", "placing", number=min(placed + 1, used), count=used)
    return text("doing", state.stage or "resolve")


def _bytes(state: LoadState) -> str:
    if state.phase is None:
        waits = any(stage.name == "weights" and stage.started is None for stage in state.stages)
        there = state.bytes_to_read if waits else 0
        return text("line", "resident", total=size_text(there)) if there else ""
    done, total = state.phase_bytes
    if not total:
        return ""
    sizes = share_texts(done, total)
    if state.phase == "download":
        return text("line", "download", **sizes)
    return text("line", "read", **sizes) if state.phase == "read" else text("line", "place", **sizes)


def _pace(state: LoadState) -> list[str]:
    """Return the rate and the time left, or since when nothing moves; nothing while it is said why."""
    if state.stall is not None:
        return []
    if state.phase in ("download", "place") and state.stalled_for >= _SILENT_SECONDS:
        return [text("panel", "stalled", seconds=int(state.stalled_for))]
    rate, left = state.rate, state.eta
    said: list[str] = [] if rate is None else [text("panel", "rate", rate=size_text(rate))]
    return said if left is None else [*said, text("panel", "eta", time=_left_text(left))]


def _left_text(seconds: float) -> str:
    """Return an estimate as text: no finer than it is good for."""
    whole = max(1, math.ceil(seconds))
    return seconds_text(whole) if whole >= _EXACT else text("unit", "seconds", count=whole)

"""StallWatch: detects that a load makes no progress, what it waits for, and whether it is slow or stuck."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import psutil

from nbloader._progress.events import Stall
from nbloader._progress.state import LoadState
from nbloader._system.frames import frames_of_threads
from nbloader._text.units import size_text

STALLED_SECONDS = 10.0
"""Seconds without progress after which the load reports what it waits for."""

_LOOK_SECONDS = STALLED_SECONDS / 2
"""Seconds between two looks at a load without progress: the change between them shows what the load waits for."""

_TRICKLE = 100_000
"""Bytes a second; fewer do not count as progress: a connection that breaks and resumes transfers a few each time."""

_BUSY = 0.2
"""Share of the time: a thread that computes for at least so long is slow, not stuck."""

_MOST_FRAMES = 12  # of each thread's stack, the innermost
_MOST_TEXT = 12_000  # characters of all stacks
_WAITING = ("threading", "queue", "selectors", "concurrent.futures._base", "importlib._bootstrap", "filelock._api")
"""Modules whose functions wait on behalf of their caller."""

_HELPERS = ("nbloader-download", "nbloader-fetch", "nbloader-survey", "nbloader-reader")


class ThreadActivity(NamedTuple):
    """What a thread has done since it started.

    `seconds` is its processor time, or that of the whole process if the system reports none for threads. `faults`
    counts the page faults that waited for storage. `waits_for_storage` is whether it waits for storage now. None means
    unknown.
    """

    seconds: float
    faults: int | None = None
    waits_for_storage: bool | None = None


class _Look(NamedTuple):
    t: float
    moved: int
    doing: ThreadActivity


class StallWatch:
    """Looks at a load repeatedly, and finds out what it waits for while it makes no progress.

    A load makes progress if enough bytes move, or if a stage begins or ends.

    Parameters
    ----------
    native_id
        The operating system's id of the loading thread.
    ident
        Python's id of the same thread.
    find
        Returns what the thread with a given operating-system id has done.
    """

    def __init__(self, native_id: int, ident: int, find: Callable[[int], ThreadActivity]) -> None:
        self._native_id = native_id
        self._ident = ident
        self._find = find
        self._stages: Any = None
        self._since = 0.0
        self._before: _Look | None = None
        self._moved = 0
        self._next = _LOOK_SECONDS

    def look(self, state: LoadState, offer_after: float) -> Stall | None:
        """Return what the load waits for; None while it makes progress, or waits for a person or its turn.

        Parameters
        ----------
        state
            The current state of the load.
        offer_after
            Seconds without progress after which to offer a cancel.
        """
        stages = state.stage, sum(stage.ended is not None for stage in state.stages)
        moved = state.bytes_done
        is_waiting = state.status != "running" or state.question is not None or state.cancelling
        if is_waiting or stages != self._stages or moved - self._moved >= _TRICKLE * _LOOK_SECONDS:
            self._stages, self._moved, self._since, self._before = stages, moved, state.now, None
            self._next = state.now + _LOOK_SECONDS
            return None
        if state.now < self._next:
            return state.stall
        before, self._before = self._before, _Look(state.now, moved, self._find(self._native_id))
        self._moved, self._next = moved, state.now + _LOOK_SECONDS
        return None if before is None else self._stall(state, before, self._before, offer_after)

    def _stall(self, state: LoadState, before: _Look, after: _Look, offer_after: float) -> Stall:
        passed, worked = after.t - before.t, after.doing.seconds - before.doing.seconds
        moved, faults = max(0, after.moved - before.moved), 0
        if before.doing.faults is not None and after.doing.faults is not None:
            faults = after.doing.faults - before.doing.faults
        with frames_of_threads() as frames:
            stack = frames.get(self._ident, [])
            where, lock = _where(stack), _import_lock(stack)
        is_working, reason = False, "unknown"
        details: Mapping[str, str] = {"function": where}
        if lock is not None:
            reason, details = "import", lock
        elif worked >= _BUSY * passed:
            is_working, reason = True, "computes"
            details = {"function": where, "worked": f"{worked:.1f}", "passed": f"{passed:.1f}"}
        elif faults or after.doing.waits_for_storage:
            # Placed weights are memory-mapped: touching a page that is not in memory reads it from storage.
            is_working, reason, details = bool(faults), "pages", {"pages": str(faults), "passed": f"{passed:.1f}"}
        else:
            is_working = moved > 0
            reason, details = _reason_in(state, moved / passed) or (reason, details)
        return Stall(
            since=self._since,
            reason=reason,
            arguments=details,
            stack=_stacks(self._ident),
            is_working=is_working,
            bytes=moved,
            offers_cancel=after.t - self._since >= offer_after,
        )


def find_thread_activity(native_id: int) -> ThreadActivity:
    """Return what a thread has done, from /proc/self/task on Linux; elsewhere, what the whole process has done."""
    with suppress(OSError, ValueError, IndexError):
        text = Path(f"/proc/self/task/{native_id}/stat").read_text(encoding="ascii", errors="replace")
        values = text.rpartition(")")[2].split()  # field 3 and the following, see proc(5)
        ticks = int(values[11]) + int(values[12])
        return ThreadActivity(ticks / os.sysconf("SC_CLK_TCK"), int(values[9]), values[0] == "D")
    times = psutil.Process().cpu_times()
    return ThreadActivity(times.user + times.system)


def _reason_in(state: LoadState, rate: float) -> tuple[str, Mapping[str, str]] | None:
    """Return what the load waits for according to its state; None if that does not show it."""
    waiting = {file.name: file.started is None for file in state.downloads if file.ended is None}
    for line in reversed(state.log):
        if line.code == "download_waits" and line.arguments["name"] in waiting:
            # A wait before a retry ends after its seconds, a wait for another process when the file's transfer begins.
            if waiting[line.arguments["name"]] or state.now < line.t + float(line.arguments["seconds"]):
                return "waits", {name: line.arguments[name] for name in ("name", "reason")}
            break
    files = [file for file in state.downloads if file.started is not None and file.ended is None]
    if files:
        return "network", {"names": _listed([file.name for file in files]), "rate": size_text(rate)}
    shards = [shard for shard in state.shards if shard.read_started is not None and shard.read_ended is None]
    if shards:
        return "storage", {"names": _listed([shard.name for shard in shards]), "rate": size_text(rate)}
    return None


def _listed(names: list[str]) -> str:
    return ", ".join(names[:2]) + (f" + {len(names) - 2}" if len(names) > 2 else "")


def _where(stack: list[FrameType]) -> str:
    """Return the function that waits, with its module, without the frames of threading and similar modules."""
    others = (frame for frame in stack if frame.f_globals.get("__name__") not in _WAITING)
    frame = next(others, stack[-1] if stack else None)
    if frame is None:
        return "?"
    return f"{frame.f_globals.get('__name__', '?')}.{_name_of(frame.f_code)}"


def _name_of(code: CodeType) -> str:
    return str(getattr(code, "co_qualname", code.co_name))  # 3.11


def _import_lock(stack: list[FrameType]) -> Mapping[str, str] | None:
    """Return the module that the thread waits for and the thread that imports it; None if it waits for none."""
    if not stack:
        return None
    frame = stack[0]
    if frame.f_globals.get("__name__") != "importlib._bootstrap" or frame.f_code.co_name != "acquire":
        return None
    lock = frame.f_locals.get("self")
    name, owner = getattr(lock, "name", None), getattr(lock, "owner", None)
    if name is None:
        return None
    threads = [thread.name for thread in threading.enumerate() if thread.ident == owner]
    return {"module": str(name), "thread": threads[0] if threads else "?"}


def _stacks(ident: int) -> str:
    """Return the stacks of the loading thread and of its helper threads; equal stacks appear once."""
    threads = sorted(threading.enumerate(), key=lambda thread: thread.ident != ident)
    with frames_of_threads() as frames:
        summaries = [
            (thread.name, _summary(frames[thread.ident]))
            for thread in threads
            if (thread.ident == ident or thread.name in _HELPERS) and thread.ident in frames
        ]
    names: dict[str, list[str]] = {}
    for name, summary in summaries:
        names.setdefault("".join(summary.format()), []).append(name)
    text = "\n".join(f"{', '.join(of)}:\n{stack}" for stack, of in names.items())
    return text if len(text) <= _MOST_TEXT else text[:_MOST_TEXT] + "…"


def _summary(stack: list[FrameType]) -> traceback.StackSummary:
    latest = reversed(stack[:_MOST_FRAMES])
    return traceback.StackSummary.extract(((frame, frame.f_lineno) for frame in latest), lookup_lines=False)

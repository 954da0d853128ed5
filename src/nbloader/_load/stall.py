"""Finds out that a load makes no progress, what it waits for, and whether it is slow or stuck."""

from __future__ import annotations

import os
import sys
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
from nbloader._text.units import size_text

STALLED_SECONDS = 10.0
"""Seconds without progress after which it is said what the load waits for."""

_LOOK_SECONDS = STALLED_SECONDS / 2
"""Seconds between two looks at a load that makes no progress: what it waits for is told by the change from one to the
next."""

_TRICKLE = 100_000
"""Bytes a second that are no progress yet: a connection that is taken up again and again brings a little each time."""

_BUSY = 0.2
"""Share of the time that a thread computes from which on it is slow, and not stuck."""

_MOST_FRAMES = 12  # of each thread's stack, the innermost
_MOST_TEXT = 12_000  # characters of all stacks
_WAITING = ("threading", "queue", "selectors", "concurrent.futures._base", "importlib._bootstrap", "filelock._api")
"""Modules in which a thread waits for what its caller wants."""

_HELPERS = ("nbloader-download", "nbloader-fetch", "nbloader-survey", "nbloader-reader")


class ThreadActivity(NamedTuple):
    """What a thread has done since it began.

    `seconds` are those of processor time, of the whole process where the system tells it of no thread; `faults` counts
    pages that it had to wait for storage for, and `waits_for_storage` says that it does so now. None is not known.
    """

    seconds: float
    faults: int | None = None
    waits_for_storage: bool | None = None


class _Look(NamedTuple):
    t: float
    moved: int
    doing: ThreadActivity


class StallWatch:
    """Looks at a load again and again, and says what it waits for while it makes no progress.

    Progress is bytes that move, more than a trickle, or a stage that begins or ends.

    Parameters
    ----------
    native_id
        The loading thread, as the system numbers it.
    ident
        The same thread, as Python numbers it.
    find
        Tells what a thread has done, by the number the system has for it.
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
            The load, as it is now.
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
        frame = sys._current_frames().get(self._ident)
        where = _where(frame)
        is_working, reason = False, "unknown"
        details: Mapping[str, str] = {"function": where}
        lock = _import_lock(frame)
        if lock is not None:
            reason, details = "import", lock
        elif worked >= _BUSY * passed:
            is_working, reason = True, "computes"
            details = {"function": where, "worked": f"{worked:.1f}", "passed": f"{passed:.1f}"}
        elif faults or after.doing.waits_for_storage:
            # Weights that are placed are mapped: what is not in memory is read by touching it.
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
    """Return what a thread has done: on Linux by /proc/self/task, elsewhere what the whole process has."""
    with suppress(OSError, ValueError, IndexError):
        text = Path(f"/proc/self/task/{native_id}/stat").read_text(encoding="ascii", errors="replace")
        values = text.rpartition(")")[2].split()  # from the third on, see proc(5)
        ticks = int(values[11]) + int(values[12])
        return ThreadActivity(ticks / os.sysconf("SC_CLK_TCK"), int(values[9]), values[0] == "D")
    times = psutil.Process().cpu_times()
    return ThreadActivity(times.user + times.system)


def _reason_in(state: LoadState, rate: float) -> tuple[str, Mapping[str, str]] | None:
    """Return what is under way by what the load has told."""
    waiting = {file.name: file.started is None for file in state.downloads if file.ended is None}
    for line in reversed(state.log):
        if line.code == "download_waits" and line.arguments["name"] in waiting:
            # Of a wait that ends by itself it is known when; one for somebody else lasts until the file is begun.
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


def _where(frame: FrameType | None) -> str:
    """Return the function that waits, by its module: what is below threading and its like is no news."""
    while frame is not None and frame.f_globals.get("__name__") in _WAITING and frame.f_back is not None:
        frame = frame.f_back
    if frame is None:
        return "?"
    return f"{frame.f_globals.get('__name__', '?')}.{_name_of(frame.f_code)}"


def _name_of(code: CodeType) -> str:
    return str(getattr(code, "co_qualname", code.co_name))  # 3.11


def _import_lock(frame: FrameType | None) -> Mapping[str, str] | None:
    """Return which module the thread waits for, because another thread imports it, and which thread that is."""
    if frame is None or frame.f_globals.get("__name__") != "importlib._bootstrap" or frame.f_code.co_name != "acquire":
        return None
    lock = frame.f_locals.get("self")
    name, owner = getattr(lock, "name", None), getattr(lock, "owner", None)
    if name is None:
        return None
    threads = [thread.name for thread in threading.enumerate() if thread.ident == owner]
    return {"module": str(name), "thread": threads[0] if threads else "?"}


def _stacks(ident: int) -> str:
    """Return where the loading thread is, and where those that work for it are: equal ones once."""
    frames = sys._current_frames()
    names: dict[str, list[str]] = {}
    try:
        for thread in sorted(threading.enumerate(), key=lambda thread: thread.ident != ident):
            if (thread.ident == ident or thread.name in _HELPERS) and thread.ident in frames:
                summary = traceback.extract_stack(frames[thread.ident])[-_MOST_FRAMES:]
                names.setdefault("".join(traceback.format_list(summary)), []).append(thread.name)
    finally:
        frames.clear()  # this frame is among them: a cycle that would keep what every thread works on
    text = "\n".join(f"{', '.join(of)}:\n{stack}" for stack, of in names.items())
    return text if len(text) <= _MOST_TEXT else text[:_MOST_TEXT] + "…"

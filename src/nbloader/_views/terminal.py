"""A load in a terminal: a tqdm bar, and beside it what the panel's headline says."""

from __future__ import annotations

import io
import math
import os
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, TextIO
from weakref import WeakSet

from tqdm import tqdm

from nbloader._planning.load_plan import plan_texts
from nbloader._text.catalogue import in_locale, locale, text
from nbloader._text.units import columns, seconds_text, size_text
from nbloader._views.headline import headline, status_code

if TYPE_CHECKING:
    from nbloader._load.job import LoadJob
    from nbloader._planning.load_plan import LoadPlan
from nbloader._progress.state import ErrorInfo, LoadState

_STEP = 0.1  # seconds
_LOG_SECONDS = 10.0  # seconds between two bars where a bar cannot replace the last one: in a file or a log


class _Bar(tqdm):  # type: ignore[type-arg]
    """A bar that stays usable after an interrupt: tqdm's own lock could stay taken, and block every bar."""

    monitor_interval = 0  # no monitor thread, which waits for that lock
    last_print_t = start_t = 0.0  # ``close`` reads them, even if an interrupt stopped ``__init__``
    _instances: ClassVar[WeakSet[Any]] = WeakSet()  # guarded by the lock
    _lock: ClassVar[Any]

    def __init__(self, **arguments: Any) -> None:
        self.start_t = time.time()  # the first line is drawn before tqdm sets it
        super().__init__(**arguments)

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> None:
        if nolock:
            super().refresh(nolock=True)
            return
        with self._lock:
            super().refresh(nolock=True)


def _begin_anew() -> None:
    """Set a new lock, which no thread of a parent process can hold."""
    _Bar.set_lock(threading.RLock())


_begin_anew()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def show_bar(job: LoadJob, file: TextIO | None = None) -> None:
    """Draw a bar until the load has ended; an interrupt cancels the load and is raised again.

    If the output is not a terminal, a bar is printed for each stage, and every few seconds. The log's warnings follow.
    """
    steady = _Steady(file or sys.stderr)
    is_seen = steady.isatty()
    spoken = job.options.locale or locale()
    bar: _Bar | None = None
    try:
        bar = _Bar(
            total=100,
            file=steady,
            desc=job.state.name,
            leave=True,
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}%|{bar:20}| {elapsed}{postfix}",
        )
        drawn: object = None
        while not job.done():
            state = job.state
            turn = state.stage, None if is_seen else state.elapsed // _LOG_SECONDS
            if is_seen or turn != drawn:
                drawn = turn
                _draw(bar, state, spoken)
            _wait(job)
        _draw(bar, job.state, spoken)
    except KeyboardInterrupt:
        job.cancel()
        raise
    finally:
        if bar is not None:
            bar.close()
        tell_warnings(job, file)


def print_over_bars(said: str, file: TextIO) -> None:
    """Print a line where bars may be drawn: they make room, and are drawn again below it."""
    with _Bar._lock:
        bars = [bar for bar in list(_Bar._instances) if not bar.disable]
        for bar in bars:
            bar.clear(nolock=True)
        print(said, file=_Steady(file), flush=True)
        for bar in bars:
            bar.refresh(nolock=True)


def tell_warnings(job: LoadJob, file: TextIO | None = None) -> None:
    """Print the warnings in the log of a load."""
    spoken = job.options.locale or locale()
    for line in job.state.log:
        if line.needs_attention:
            said = in_locale(text("log", line.code, **line.arguments), spoken)
            print(f"⚠ {said}", file=_Steady(file or sys.stderr))


class _Steady(io.TextIOBase):
    """A stream whose failures do not end a load: it may be missing, closed or unable to encode a character."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, said: str) -> int:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        with suppress(OSError, ValueError, AttributeError):
            try:
                self._stream.write(said)
            except UnicodeEncodeError:
                self._stream.write(said.encode(encoding, "backslashreplace").decode(encoding))
        return len(said)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            self._stream.flush()

    def isatty(self) -> bool:
        with suppress(OSError, ValueError, AttributeError):
            return bool(self._stream.isatty())
        return False

    def fileno(self) -> int:
        return int(self._stream.fileno())

    def close(self) -> None:
        """Do nothing: another owner closes the stream."""

    @property
    def encoding(self) -> Any:  # type: ignore[override]
        return getattr(self._stream, "encoding", None)


def _wait(job: LoadJob) -> None:
    with suppress(Exception):  # the load's result reports how it ended, not the bar
        job.result(_STEP)


def _draw(bar: _Bar, state: LoadState, spoken: str) -> None:
    bar.n = math.floor(100 * state.fraction)  # as the panel shows it
    told = headline(state) or text("status", status_code(state))
    if state.stall is not None:
        told = text("line", "part", first=told, then=text("stall", state.stall.reason, **state.stall.arguments))
    bar.set_description_str(state.name, refresh=False)
    bar.set_postfix_str(in_locale(told, spoken), refresh=False)
    bar.refresh()


def plan_lines(plan: LoadPlan, name: str, context_length: int) -> str:
    """Return a plan as text, one line for each figure; the KV cache is for one sequence of `context_length` tokens."""
    return "\n".join([name, *columns("plan_line", plan_texts(plan, context_length))])


def result_line(state: LoadState) -> str:
    """Return a load's outcome as text: one line, and the hint if there is one."""
    if state.status == "ready" and state.summary is not None:
        return text(
            "terminal",
            "ready",
            name=state.name,
            bytes=size_text(state.summary["bytes"]),
            seconds=seconds_text(state.elapsed),
            dtype=state.summary["dtype"],
            device=state.summary["device"],
        )
    if state.status == "downloaded":
        size = state.bytes_to_download - state.bytes_cached
        known = {"name": state.name, "bytes": size_text(size), "seconds": seconds_text(state.elapsed)}
        return text("terminal", "downloaded" if size else "nothing_to_download", folder=state.folder, **known)
    if state.error is not None:
        return error_lines(state.error)
    return text("terminal", "cancelled", seconds=seconds_text(state.elapsed))


def error_lines(error: ErrorInfo) -> str:
    """Return an error as text: what happened and, below it, what to do."""
    what = text("terminal", "error", kind=error.kind, code=error.code, message=error.message)
    return "\n".join(filter(None, (what, error.hint)))

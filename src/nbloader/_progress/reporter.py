"""Reporter: how a load's threads emit events, and learn that they should stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

from nbloader._errors import LoadCancelled
from nbloader._progress import events
from nbloader._system.threads import Flag
from nbloader._text.catalogue import text

Result = TypeVar("Result")
Details = ParamSpec("Details")

_TICK = 0.05  # seconds between two checks of whether to continue

PORTION_SECONDS = 0.05
"""Seconds for which byte counts are added up before they become an event."""

PORTION_SHARE = 0.01
"""Share of all bytes at which counts become an event earlier, so that a view is never far behind."""

PORTION_LEAST_SECONDS = 0.005
"""Seconds between two events at least: mapping a file places gigabytes in milliseconds."""


@dataclass
class StageNote:
    """A note that a stage fills in while it runs; `detail` is shown beside its name once it has ended."""

    detail: str = ""


class Reporter:
    """Stamps events with the load's time and passes them on.

    Parameters
    ----------
    sink
        Called with each event, on the thread that emits it.
    clock
        Returns the seconds since the load began.
    cancelled
        Set once the load should stop.
    """

    def __init__(self, sink: Callable[[events.Event], None], clock: Callable[[], float], cancelled: Flag) -> None:
        self._sink = sink
        self._clock = clock
        self._cancelled = cancelled
        self._part: str | None = None
        self._since = 0.0
        self._spent: dict[str, float] = {}

    def now(self) -> float:
        """Return the seconds since the load began."""
        return self._clock()

    def emit(
        self, kind: Callable[Concatenate[float, Details], events.Event], *details: Details.args, **more: Details.kwargs
    ) -> None:
        """Emit an event of this kind, stamped with the current time."""
        self._sink(kind(self._clock(), *details, **more))

    def log(self, level: str, code: str, **arguments: Any) -> None:
        """Emit a log line: `code` is a key of the locale files' ``log``."""
        self.emit(events.Logged, level, code, arguments)

    @contextmanager
    def stage(self, name: str) -> Iterator[StageNote]:
        """Emit that a stage began and, unless it fails, that it ended."""
        self.check_cancelled()
        self.emit(events.StageStarted, name)
        note = StageNote()
        yield note
        self.emit(events.StageEnded, name, note.detail)

    @contextmanager
    def spending(self, part: str) -> Iterator[None]:
        """Count the time in this context as spent on `part`, except for the time in such contexts inside it.

        Only for the loading thread: its parts add up to the duration of the load.
        """
        outer = self.turn_to(part)
        try:
            yield
        finally:
            self.turn_to(outer)
            if outer is None:
                spent, self._spent = self._spent, {}
                self.emit(events.Spent, spent)

    def turn_to(self, part: str | None) -> str | None:
        """Count the time from now on as spent on `part`, inside `spending`; return the previous part."""
        now, before = self._clock(), self._part
        if before is not None:
            self._spent[before] = self._spent.get(before, 0.0) + now - self._since
        self._part, self._since = part, now
        return before

    @property
    def is_cancelled(self) -> bool:
        """Whether the load should stop."""
        return self._cancelled.is_set()

    def check_cancelled(self) -> None:
        """Raise LoadCancelled once the load should stop."""
        if self.is_cancelled:
            raise LoadCancelled(text("panel", "cancelled"))

    def wait(self, future: Future[Result]) -> Result:
        """Wait for a future; return its result or raise its error. Raise LoadCancelled if the load should stop."""
        while not future.done():
            self.check_cancelled()
            wait([future], _TICK)
        return future.result()

    def tally(self, kind: Callable[..., events.Event], total: int) -> Tally:
        """Return a tally that emits its portions as events of this kind; it will count about `total` bytes."""
        return Tally(
            lambda *details: self._sink(kind(self._clock(), *details)), self._clock, int(total * PORTION_SHARE)
        )


class Tally:
    """Adds up byte counts by shard, and emits them in portions.

    A checkpoint of 10 000 tensors must not make 10 000 events. Call `flush` at the end, so that no count is lost. The
    first count for a shard emits zeros at once, which mark when work on the shard began.

    Parameters
    ----------
    emit
        Called with the shard and the sums of the counts that were passed to `add`.
    clock
        Seconds, monotonic.
    most
        Bytes (of the first count) at which a portion is emitted before `PORTION_SECONDS` have passed.
    """

    def __init__(self, emit: Callable[..., None], clock: Callable[[], float], most: int) -> None:
        self._emit = emit
        self._clock = clock
        self._most = most
        self._held = 0
        self._seen: set[int] = set()
        self._counts: dict[int, tuple[int, ...]] = {}
        self._flushed = clock()

    def begin(self, shard: int, width: int = 1) -> None:
        """Emit zeros, once for a shard, to mark that work on it begins; `width` is the number of its counts."""
        if shard not in self._seen:
            self._seen.add(shard)
            self._emit(shard, *(0,) * width)

    def add(self, shard: int, *counts: int) -> None:
        """Add counts for a shard."""
        self.begin(shard, len(counts))
        known = self._counts.get(shard, (0,) * len(counts))
        self._counts[shard] = tuple(total + count for total, count in zip(known, counts, strict=True))
        self._held += counts[0]
        waited = self._clock() - self._flushed
        if waited >= (PORTION_LEAST_SECONDS if self._held >= self._most else PORTION_SECONDS):
            self.flush()

    def flush(self) -> None:
        """Emit what has been counted since the last portion."""
        portions, self._counts = self._counts, {}
        for shard, counts in portions.items():
            self._emit(shard, *counts)
        self._flushed = self._clock()
        self._held = 0

"""How a load's threads tell what they do, and learn that they should stop."""

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

_TICK = 0.05  # seconds between two looks at whether to go on

PORTION_SECONDS = 0.05
"""Byte counts are joined for so long before they become an event, …"""

PORTION_SHARE = 0.01
"""… or until they are this share of all bytes, so that a view that looks in between is never far behind, …"""

PORTION_LEAST_SECONDS = 0.005
"""… but no sooner than this after the last: mapping a file places gigabytes in milliseconds."""


@dataclass
class StageNote:
    """Filled by a stage while it runs: `detail` is shown beside its name once it has ended."""

    detail: str = ""


class Reporter:
    """Stamps events with the load's time and passes them on.

    Parameters
    ----------
    sink
        Takes each event. It is called by whichever thread tells.
    clock
        Seconds since the load began.
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
        """Pass on an event of this kind that happens now."""
        self._sink(kind(self._clock(), *details, **more))

    def log(self, level: str, code: str, **arguments: Any) -> None:
        """Pass on a log line: `code` is a key of the locale files' ``log``."""
        self.emit(events.Logged, level, code, arguments)

    @contextmanager
    def stage(self, name: str) -> Iterator[StageNote]:
        """Tell that a stage began and, unless it fails, that it ended."""
        self.check_cancelled()
        self.emit(events.StageStarted, name)
        note = StageNote()
        yield note
        self.emit(events.StageEnded, name, note.detail)

    @contextmanager
    def spending(self, part: str) -> Iterator[None]:
        """Count the time until the context ends as spent on `part`, except where another such context is within it.

        For the loading thread only: what it spends adds up to what the load takes.
        """
        outer = self._turn_to(part)
        try:
            yield
        finally:
            self._turn_to(outer)
            if outer is None:
                spent, self._spent = self._spent, {}
                self.emit(events.Spent, spent)

    def _turn_to(self, part: str | None) -> str | None:
        """Count from now on as spent on `part`; return what was counted before."""
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
        """Return the result of a future, or raise its error; LoadCancelled once the load should stop before that."""
        while not future.done():
            self.check_cancelled()
            wait([future], _TICK)
        return future.result()

    def tally(self, kind: Callable[..., events.Event], total: int) -> Tally:
        """Return a tally whose portions become events of this kind; `total` is the bytes it will count, about."""
        return Tally(
            lambda *details: self._sink(kind(self._clock(), *details)), self._clock, int(total * PORTION_SHARE)
        )


class Tally:
    """Adds up byte counts by shard and passes them on in portions.

    A checkpoint of 10 000 tensors must not make 10 000 events. What was counted is never lost: call `flush` at the
    end. The first count for a shard passes on zeros at once, which marks when work on it began.

    Parameters
    ----------
    emit
        Takes (shard, counts), where counts are the sums of what `add` was given.
    clock
        Seconds, monotonic.
    most
        Bytes (of the first count) that a portion holds at most before it is passed on.
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
        """Mark that work on a shard begins, unless it has been marked; `width` is how many counts it will have."""
        if shard not in self._seen:
            self._seen.add(shard)
            self._emit(shard, *(0,) * width)

    def add(self, shard: int, *counts: int) -> None:
        """Count for a shard."""
        self.begin(shard, len(counts))
        known = self._counts.get(shard, (0,) * len(counts))
        self._counts[shard] = tuple(total + count for total, count in zip(known, counts, strict=True))
        self._held += counts[0]
        waited = self._clock() - self._flushed
        if waited >= (PORTION_LEAST_SECONDS if self._held >= self._most else PORTION_SECONDS):
            self.flush()

    def flush(self) -> None:
        """Pass on what has been counted since the last portion."""
        portions, self._counts = self._counts, {}
        for shard, counts in portions.items():
            self._emit(shard, *counts)
        self._flushed = self._clock()
        self._held = 0

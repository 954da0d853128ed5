"""Ending: how a load ends, what it made, and who waits for that."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from nbloader._errors import LoadCancelled, LoadError
from nbloader._progress import events as _events
from nbloader._system.threads import Flag
from nbloader._text.catalogue import text

if TYPE_CHECKING:
    from nbloader._load.event_log import EventLog
    from nbloader._load.heartbeat import Heartbeat
    from nbloader._registry.outcome import Outcome

_TICK = 0.05  # seconds between two looks at whether the load has ended


class Loaded(NamedTuple):
    """What a load gives. `tokenizer` is the processor where the model has one, None where it has neither.

    ::

        model, tokenizer = nbloader.load("demo", progress=False)
    """

    model: Any
    tokenizer: Any


class Ending:
    """The end of one load: it comes once, from whichever thread is first.

    Parameters
    ----------
    log
        The load's events; the last one is added here.
    heartbeat
        Stopped before anyone is told of the end.
    """

    def __init__(self, log: EventLog, heartbeat: Heartbeat) -> None:
        self.done = Flag()
        self._log = log
        self._heartbeat = heartbeat
        self._loaded: Loaded | None = None
        self._error: LoadError | LoadCancelled | None = None
        self._is_unloaded = False
        self._successor = ""
        self._expecting: list[list[Loaded]] = []
        self._told_by: int | None = None

    def wait(self, timeout: float | None) -> bool:
        """Wait for the end, at most `timeout` seconds, and tell whether it has come.

        In short turns: an interrupt that comes just before a lock is waited for, or on another thread, does not end
        that wait. A callback that is told the end must not wait for itself.
        """
        until = math.inf if timeout is None else time.monotonic() + timeout
        while self._told_by != threading.get_ident() and not self.done.wait(min(_TICK, until - time.monotonic())):
            if time.monotonic() >= until:
                return False
        return True

    @contextmanager
    def expecting(self) -> Iterator[list[Loaded]]:
        """Give a list that will hold what the load makes, even if another load has it unloaded at once."""
        given: list[Loaded] = []
        with self._log.lock:
            self._expecting.append(given)
        try:
            yield given
        finally:
            with self._log.lock:
                self._expecting = [other for other in self._expecting if other is not given]

    def result(self, given: list[Loaded]) -> Loaded:
        """Return what the load made, from `given` if it is unloaded by now; raise how it failed."""
        if isinstance(self._error, LoadError):
            raise self._error.fresh()
        if self._error is not None:
            raise LoadCancelled(str(self._error))
        loaded = given[0] if given else self._loaded
        if loaded is None:
            raise self._unloaded()
        return loaded

    def let_go(self, successor: str) -> None:
        """Forget what the load made, to make room for the model `successor`, if one is named."""
        with self._log.lock:
            self._loaded, self._is_unloaded, self._successor = None, True, successor

    def _unloaded(self) -> LoadError:
        name, successor = self._log.state.name, self._successor
        if successor:
            return LoadError(
                text("error", "replaced_by_other_model", name=name, successor=successor),
                text("hint", "keep_all"),
            )
        return LoadError(text("error", "model_unloaded", name=name), text("hint", "load_again"))

    def end(self, outcome: Outcome | None, failure: LoadError | LoadCancelled | None) -> None:
        """End the load: ready with an outcome, failed with an error, cancelled with neither. The first end counts."""
        with self._log.lock:
            if self._has_ended:
                return
            if self._is_unloaded:  # between its last step and this one
                outcome, failure = None, self._unloaded()
            event = self._log.record(self._set(outcome, failure))
            self._told_by = threading.get_ident()
        self._heartbeat.stop()
        # Told first, so that whoever waited finds everything told; and without the lock, which a callback may need.
        self._log.publish(event)
        self.done.set()

    @property
    def _has_ended(self) -> bool:
        return self._loaded is not None or self._error is not None

    def _set(self, outcome: Outcome | None, failure: LoadError | LoadCancelled | None) -> _events.Event:
        now = self._log.now()
        if isinstance(failure, LoadError):
            self._error = failure
            return _failed(now, failure)
        if outcome is None:
            self._error = failure or LoadCancelled(text("panel", "cancelled"))
            return _events.Cancelled(now)
        self._loaded = Loaded(outcome.model, outcome.tokenizer)
        for given in self._expecting:
            given.append(self._loaded)
        return _events.Ready(now, outcome.summary)

    def abandon(self) -> None:
        """End the load in a child that was forked meanwhile: its threads are not there, and may hold its locks."""
        self._log.renew_lock()
        self.done = Flag()
        self._heartbeat.forget()
        if not self._has_ended:
            self._error = LoadError(
                text("error", "forked_during_load", name=self._log.state.name), text("hint", "before_fork")
            )
            self._log.record(_failed(self._log.now(), self._error))
        self.done.set()


def _failed(now: float, error: LoadError) -> _events.Event:
    kind = type(error).__name__
    return _events.Failed(now, kind, error.message, error.hint, choices_of(error), files_of(error), error.code)


def choices_of(error: LoadError) -> tuple[tuple[Mapping[str, Any], int | None], ...]:
    """Return the changes of options that an error suggests, each with the bytes it needs where that is known."""
    needed = getattr(error, "needed", ()) or (None,) * len(error.suggestions)
    return tuple(zip(error.suggestions, needed, strict=True))


def files_of(error: LoadError) -> tuple[str, ...]:
    """Return the files that an error is about."""
    return tuple(getattr(error, "files", ()))

"""Ending: the end of a load, its result or error, and the callers that wait for it."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nbloader._errors import LoadCancelled, LoadError
from nbloader._progress import events as _events
from nbloader._registry.outcome import Downloaded, Outcome
from nbloader._system.threads import Flag
from nbloader._text.catalogue import text

if TYPE_CHECKING:
    from nbloader._load.event_log import EventLog
    from nbloader._load.heartbeat import Heartbeat

_TICK = 0.05  # seconds between two checks of whether the load has ended


class Loaded(NamedTuple):
    """The result of a load. `tokenizer` is the processor if the model has one, and None if it has neither.

    ::

        model, tokenizer = nbloader.load("demo", progress=False)
    """

    model: Any
    tokenizer: Any


class Ending:
    """The end of one load. Several threads may end the load; only the first end counts.

    Parameters
    ----------
    log
        The load's events; `Ending` adds the last one.
    heartbeat
        Stopped before subscribers and waiting callers learn of the end.
    """

    def __init__(self, log: EventLog, heartbeat: Heartbeat) -> None:
        self.done = Flag()
        self._log = log
        self._heartbeat = heartbeat
        self._loaded: Loaded | None = None
        self._folder: Path | None = None
        self._error: LoadError | LoadCancelled | None = None
        self._is_unloaded = False
        self._successor = ""
        self._expecting: list[list[Loaded]] = []
        self._told_by: int | None = None

    def wait(self, timeout: float | None) -> bool:
        """Wait for the end, at most `timeout` seconds; return whether the load has ended.

        The wait consists of short waits. A single wait for a lock would not end at an interrupt that arrives just
        before it, or on another thread. On the thread that publishes the end, this returns at once: a callback must
        not wait for itself.
        """
        until = math.inf if timeout is None else time.monotonic() + timeout
        while self._told_by != threading.get_ident() and not self.done.wait(min(_TICK, until - time.monotonic())):
            if time.monotonic() >= until:
                return False
        return True

    @contextmanager
    def expecting(self) -> Iterator[list[Loaded]]:
        """Yield a list that receives the load's result, even if another load unloads the model at once."""
        given: list[Loaded] = []
        with self._log.lock:
            self._expecting.append(given)
        try:
            yield given
        finally:
            with self._log.lock:
                self._expecting = [other for other in self._expecting if other is not given]

    def result(self, given: list[Loaded]) -> Loaded:
        """Return the result of a load that has succeeded, from `given` if the model is unloaded by now."""
        loaded = given[0] if given else self._loaded
        if loaded is None:
            raise self._only_downloaded() if self._folder is not None else self._unloaded()
        return loaded

    @property
    def folder(self) -> Path:
        """The folder of a download that has succeeded."""
        assert self._folder is not None
        return self._folder

    def check(self) -> None:
        """Raise the load's error if it failed, or was cancelled."""
        if isinstance(self._error, LoadError):
            raise self._error.fresh()
        if self._error is not None:
            raise LoadCancelled(str(self._error))

    def let_go(self, successor: str) -> None:
        """Drop the load's result. `successor` names the model that needs the room; it is empty if there is none."""
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

    def _only_downloaded(self) -> LoadError:
        return LoadError(text("error", "only_downloaded", name=self._log.state.name), text("hint", "load_it"))

    def end(self, outcome: Outcome | Downloaded | None, failure: LoadError | LoadCancelled | None) -> None:
        """End the load: ready with an outcome, failed with an error, else cancelled. Only the first call counts."""
        with self._log.lock:
            if self._has_ended:
                return
            if self._is_unloaded:  # another load unloaded the model after the last step of this load
                outcome, failure = None, self._unloaded()
            event = self._log.record(self._set(outcome, failure))
            self._told_by = threading.get_ident()
        self._heartbeat.stop()
        # Publish before `done` is set: callers that waited then find all subscribers informed. Do so without the lock,
        # because a callback may need it.
        self._log.publish(event)
        self.done.set()

    @property
    def _has_ended(self) -> bool:
        return self._loaded is not None or self._folder is not None or self._error is not None

    def _set(self, outcome: Outcome | Downloaded | None, failure: LoadError | LoadCancelled | None) -> _events.Event:
        now = self._log.now()
        if isinstance(failure, LoadError):
            self._error = failure
            return _failed(now, failure)
        if outcome is None:
            self._error = failure or LoadCancelled(text("panel", "cancelled"))
            return _events.Cancelled(now)
        if isinstance(outcome, Downloaded):
            self._folder = outcome.folder
            return _events.DownloadReady(now, os.fspath(outcome.folder))
        self._loaded = Loaded(outcome.model, outcome.tokenizer)
        for given in self._expecting:
            given.append(self._loaded)
        return _events.Ready(now, outcome.summary)

    def abandon(self) -> None:
        """End the load in a forked child: its threads do not exist there, and its locks may be held for ever."""
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
    return _events.Failed(
        now, kind, error.message, error.hint, choices_of(error), files_of(error), error.code, available_for(error)
    )


def choices_of(error: LoadError) -> tuple[tuple[Mapping[str, Any], int | None], ...]:
    """Return the option changes that an error suggests, each with the bytes that it needs, or None if unknown."""
    needed = getattr(error, "needed", ()) or (None,) * len(error.suggestions)
    return tuple(zip(error.suggestions, needed, strict=True))


def available_for(error: LoadError) -> int | None:
    """Return the bytes that a load may take, if an error is about them."""
    return getattr(error, "available", None)


def files_of(error: LoadError) -> tuple[str, ...]:
    """Return the files that an error is about."""
    return tuple(getattr(error, "files", ()))

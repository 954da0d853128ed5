"""EventLog: what has happened in a load, the state that it adds up to, and who is called with each event."""

from __future__ import annotations

import threading
from collections.abc import Callable

from nbloader._libraries.output import uncaptured
from nbloader._progress import events as _events
from nbloader._progress.fold import fold
from nbloader._progress.state import LoadState
from nbloader._safety.redaction import clean

_MOST_EVENTS = 10_000
_PASSING = (_events.Logged, _events.MemorySampled, _events.Stalled, _events.Queued)
"""Kinds that the rest can be understood without."""

Subscriber = Callable[[_events.Event], None]


class EventLog:
    """The events of one load, folded into its state.

    Parameters
    ----------
    state
        The state before the first event.
    now
        Returns the seconds since the load began.
    """

    def __init__(self, state: LoadState, now: Callable[[], float]) -> None:
        self.lock = threading.RLock()
        self.now = now
        self._state = state
        self._events: list[_events.Event] = []
        self._subscribers: list[Subscriber] = []

    @property
    def state(self) -> LoadState:
        """The state now."""
        return self._state.at(self.now())

    @property
    def events(self) -> tuple[_events.Event, ...]:
        """All events, but for the passing kinds behind the first 10 000."""
        with self.lock:
            return tuple(self._events)

    @property
    def is_final(self) -> bool:
        """Whether the load has ended. Unloading changes the status, and not that."""
        return self._state.ended is not None

    def add(self, event: _events.Event) -> None:
        """Record an event and call the subscribers, unless the load has ended.

        A load that was left behind still runs, and its events change nothing.
        """
        with self.lock:
            if self.is_final:
                return
        self.append(event)

    def append(self, event: _events.Event) -> None:
        """Record an event and call the subscribers, even if the load has ended."""
        self.publish(self.record(event))

    def record(self, event: _events.Event) -> _events.Event:
        """Fold an event into the state without calling anyone; return it without secrets."""
        event = clean(event)
        with self.lock:
            self._state = fold(self._state, event)
            if len(self._events) < _MOST_EVENTS or not isinstance(event, _PASSING):
                self._events.append(event)
        return event

    def publish(self, event: _events.Event) -> None:
        """Call every subscriber with a recorded event. One that raises is logged, and not called again."""
        with self.lock:
            subscribers = list(self._subscribers)
        for function in subscribers:
            try:
                with uncaptured():
                    function(event)
            except BaseException as error:  # noqa: BLE001, PERF203 - whatever a user's callback raises
                self._unsubscribe(function)
                self.add(_events.Logged(self.now(), "warning", "callback_failed", {"error": repr(error)}))

    def subscribe(self, function: Subscriber) -> Callable[[], None]:
        """Call `function` with every event from now on; return a function that ends this."""
        with self.lock:
            self._subscribers.append(function)
        return lambda: self._unsubscribe(function)

    def _unsubscribe(self, function: Subscriber) -> None:
        with self.lock:
            if function in self._subscribers:
                self._subscribers.remove(function)

    def renew_lock(self) -> None:
        """Replace the lock, in a forked child: a thread that is not there may hold it."""
        self.lock = threading.RLock()

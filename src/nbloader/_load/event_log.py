"""EventLog: the events of a load, the state that follows from them, and the subscribers."""

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
"""Kinds of events that the log may drop: the other events can be understood without them."""

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
        """All events. Log lines, memory samples, stalls and queue updates after the first 10 000 are dropped."""
        with self.lock:
            return tuple(self._events)

    @property
    def is_final(self) -> bool:
        """Whether the load has ended. This stays true after unloading, which changes the status."""
        return self._state.ended is not None

    def add(self, event: _events.Event) -> None:
        """Record an event and call the subscribers, unless the load has ended.

        The thread of a cancelled load that cannot stop may still emit events; they change nothing.
        """
        with self.lock:
            if self.is_final:
                return
        self.append(event)

    def append(self, event: _events.Event) -> None:
        """Record an event and call the subscribers, even if the load has ended."""
        self.publish(self.record(event))

    def record(self, event: _events.Event) -> _events.Event:
        """Fold an event into the state without calling the subscribers; return the event without secrets."""
        event = clean(event)
        with self.lock:
            self._state = fold(self._state, event)
            if len(self._events) < _MOST_EVENTS or not isinstance(event, _PASSING):
                self._events.append(event)
        return event

    def publish(self, event: _events.Event) -> None:
        """Call every subscriber with a recorded event; log and unsubscribe each one that raises."""
        with self.lock:
            subscribers = list(self._subscribers)
        for function in subscribers:
            try:
                with uncaptured():
                    function(event)
            except BaseException as error:  # noqa: BLE001, PERF203 - a user's callback may raise anything
                self._unsubscribe(function)
                self.add(_events.Logged(self.now(), "warning", "callback_failed", {"error": repr(error)}))

    def subscribe(self, function: Subscriber) -> Callable[[], None]:
        """Call `function` with every event from now on; return a function that unsubscribes it."""
        with self.lock:
            self._subscribers.append(function)
        return lambda: self._unsubscribe(function)

    def _unsubscribe(self, function: Subscriber) -> None:
        with self.lock:
            if function in self._subscribers:
                self._subscribers.remove(function)

    def renew_lock(self) -> None:
        """Replace the lock in a forked child: a thread that exists only in the parent may hold it."""
        self.lock = threading.RLock()

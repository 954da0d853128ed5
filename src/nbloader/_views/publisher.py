"""Sends a load's state to a view: at most 10 updates a second, and always the last state."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from nbloader._progress import events
from nbloader._system.threads import make_thread
from nbloader._views.view import view_of

if TYPE_CHECKING:
    from nbloader._load.job import LoadJob


INTERVAL = 0.1
"""The minimum number of seconds between two updates."""
_HEARTBEAT = 0.5  # seconds after which a view is updated even without an event
Send = Callable[[Mapping[str, Any]], None]
"""Takes a view's whole state by trait name; unchanged traits need not be sent."""


class Publisher:
    """Follows a job on a thread of its own, and sends its state to a view.

    An exception of `send` is logged once and ignored: a closed notebook must not end a load.
    """

    def __init__(self, job: LoadJob, send: Send) -> None:
        self._job = job
        self._send = send
        # A SimpleQueue is written in C: an interrupt cannot leave it locked, as it can an Event.
        self._changed: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._failed = False
        self._lock = threading.Lock()
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._unsubscribe = job.subscribe(self._notice)

    def start(self) -> None:
        """Send the current state, and continue in the background until the load has ended."""
        self._publish()
        self._thread = make_thread(self._run, "nbloader-publish")
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait at most `timeout` seconds until the last state has been sent."""
        if self._thread is not None:
            self._thread.join(timeout)

    def stop(self) -> None:
        """Send nothing more, because another load takes over the view."""
        with self._lock:
            self._stopped = True
        self._changed.put(None)

    def _notice(self, event: events.Event) -> None:
        if self._changed.empty():
            self._changed.put(None)

    def _run(self) -> None:
        ended = False
        while not ended and not self._stopped:
            time.sleep(INTERVAL)
            with suppress(queue.Empty):
                self._changed.get(timeout=_HEARTBEAT - INTERVAL)
                while True:
                    self._changed.get_nowait()
            ended = self._job.done()
            self._publish()
        self._unsubscribe()
        self._unsubscribe = lambda: None  # breaks a reference cycle that would keep the job alive

    def _publish(self) -> None:
        try:
            with self._lock:
                if not self._stopped:
                    self._send(view_of(self._job.state, self._job.number))
        except Exception as error:  # noqa: BLE001 - a front end can fail in any way
            if not self._failed:
                self._failed = True
                self._job._add_line("warning", "publish_failed", error=repr(error))

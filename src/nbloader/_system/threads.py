"""Background threads, and weak references to what they call."""

from __future__ import annotations

import contextvars
import math
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from nbloader._errors import LoadError
from nbloader._text.catalogue import text

_PREFIX = "nbloader-"
_LOOK = 0.05  # seconds between two checks by a thread that may have missed its wake-up
_TICK = 0.005  # seconds between two checks whether threads have ended

_begun: deque[int] = deque(maxlen=256)
"""The native ids of the latest threads."""


class Flag:
    """An event that stays usable after an interrupt.

    An interrupt inside ``threading.Event`` can leave its lock taken, and then every thread that sets it blocks forever.
    Here, one assignment sets the flag. The lock only wakes waiting threads, and a thread that misses it checks again
    soon.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._wakes = threading.Lock()
        self._wakes.acquire()

    def is_set(self) -> bool:
        """Return whether it has been set."""
        return self._is_set

    def set(self) -> None:
        """Set it permanently."""
        self._is_set = True
        with suppress(RuntimeError):  # it was set already
            self._wakes.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most `timeout` seconds until it is set; return whether it is."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        while not self._is_set and (left := until - time.monotonic()) > 0:
            if self._wakes.acquire(timeout=min(left, _LOOK)):
                with suppress(RuntimeError):
                    self._wakes.release()  # wakes the next waiting thread
        return self._is_set


class _Thread(threading.Thread):
    def start(self) -> None:
        try:
            super().start()
        except RuntimeError as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # threading hides an interrupt inside itself
                raise error.__context__ from None
            raise LoadError(text("error", "cannot_start_thread", error=str(error)), text("hint", "no_thread")) from None


def make_thread(target: Callable[..., None], name: str, *args: Any) -> threading.Thread:
    """Return a daemon thread that calls `target`, not yet started.

    It runs in a copy of the context, which keeps its output in the cell that made it. If the system cannot start
    another thread, ``start`` raises a LoadError.
    """
    context = contextvars.copy_context()
    return _Thread(target=_run, args=(context, target, *args), name=name, daemon=True)


def _run(context: contextvars.Context, target: Callable[..., None], *args: Any) -> None:
    _begun.append(threading.get_native_id())
    context.run(target, *args)


def wait_for_threads(seconds: float) -> None:
    """Wait at most `seconds` until the threads made here have ended.

    On Linux, until the system has removed them. A library may run code when its thread ends, after Python is done with
    the thread. That crashes the process if Python has already exited.
    """
    deadline = time.monotonic() + seconds
    while _are_there() and time.monotonic() < deadline:
        time.sleep(_TICK)


def _are_there() -> bool:
    if sys.platform == "linux":
        return any(os.path.exists(f"/proc/self/task/{number}") for number in _begun)
    return any(thread.name.startswith(_PREFIX) for thread in threading.enumerate())


def weak_method(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls a method but does not keep its object alive; None once the object is gone."""
    reference = weakref.WeakMethod(method)

    def call(*arguments: Any) -> Any:
        bound = reference()
        return None if bound is None else bound(*arguments)

    return call

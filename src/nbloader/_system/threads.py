"""Threads of the background, and what they call without keeping it alive."""

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
_LOOK = 0.05  # seconds between two looks of who may have missed being woken
_TICK = 0.005  # seconds between two looks at whether threads have ended

_begun: deque[int] = deque(maxlen=256)
"""What the system calls the threads that began last."""


class Flag:
    """An event that interrupts leave usable.

    An interrupt inside of ``threading.Event`` can keep its lock for ever, and with it every thread that sets it. Here
    one assignment sets, a lock of its own only wakes up who waits, and who misses that looks again soon.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._wakes = threading.Lock()
        self._wakes.acquire()

    def is_set(self) -> bool:
        """Return whether it has been set."""
        return self._is_set

    def set(self) -> None:
        """Set it, for good."""
        self._is_set = True
        with suppress(RuntimeError):  # it has been
            self._wakes.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, so many seconds at most; tell whether it is."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        while not self._is_set and (left := until - time.monotonic()) > 0:
            if self._wakes.acquire(timeout=min(left, _LOOK)):
                with suppress(RuntimeError):
                    self._wakes.release()  # for the next one
        return self._is_set


class _Thread(threading.Thread):
    def start(self) -> None:
        try:
            super().start()
        except RuntimeError as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # one inside of threading itself, which hides it
                raise error.__context__ from None
            raise LoadError(text("error", "cannot_start_thread", error=str(error)), text("hint", "no_thread")) from None


def make_thread(target: Callable[..., None], name: str, *args: Any) -> threading.Thread:
    """Return a thread that calls `target`, not started, and that Python does not wait for when it ends.

    A copy of the context pins what the thread prints to the cell that made it. Where the system has no thread left,
    starting it raises a LoadError.
    """
    context = contextvars.copy_context()
    return _Thread(target=_run, args=(context, target, *args), name=name, daemon=True)


def _run(context: contextvars.Context, target: Callable[..., None], *args: Any) -> None:
    _begun.append(threading.get_native_id())
    context.run(target, *args)


def wait_for_threads(seconds: float) -> None:
    """Wait until the threads made here have ended, so many seconds at most.

    On Linux until the system has none of them left: what a library does when its thread ends, after Python is through
    with it, takes the process down where Python has gone by then.
    """
    deadline = time.monotonic() + seconds
    while _are_there() and time.monotonic() < deadline:
        time.sleep(_TICK)


def _are_there() -> bool:
    if sys.platform == "linux":
        return any(os.path.exists(f"/proc/self/task/{number}") for number in _begun)
    return any(thread.name.startswith(_PREFIX) for thread in threading.enumerate())


def weak_method(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls a method as long as its object is there, and does not keep it; else returns None."""
    reference = weakref.WeakMethod(method)

    def call(*arguments: Any) -> Any:
        bound = reference()
        return None if bound is None else bound(*arguments)

    return call

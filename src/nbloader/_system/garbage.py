"""How often Python collects garbage, which it does for all threads of a process."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Iterator

_RARELY = 10_000  # allocations before a collection; Python's own number is 700 to 2 000

_looking = threading.Lock()
"""Lock that is held while collections are off."""

if hasattr(os, "register_at_fork"):
    # A forked process must not start with collections off, nor with a lock that no thread of it will release.
    os.register_at_fork(before=_looking.acquire, after_in_parent=_looking.release, after_in_child=_looking.release)


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """Turn collections off, briefly."""
    with _looking:
        was_on = gc.isenabled()
        try:
            gc.disable()
            yield
        finally:
            if was_on:
                gc.enable()


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """Collect less often while libraries are imported.

    What an import makes stays, so that collections find nothing, and look at all of it again and again: for torch and
    transformers 998 times, which is a tenth of the time.
    """
    before = gc.get_threshold()
    if not 0 < before[0] < _RARELY:  # off, or rare already
        yield
        return
    rare = (_RARELY, *before[1:])
    gc.set_threshold(*rare)
    try:
        yield
    finally:
        if gc.get_threshold() == rare:  # else somebody has changed it meanwhile
            gc.set_threshold(*before)

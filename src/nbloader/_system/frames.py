"""The frames of all threads, for a look at what other threads do."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from nbloader._system.garbage import without_collections

_COLLECTS_ANYWHERE = sys.version_info[:2] == (3, 11)
"""Whether a collection can start while ``f_back`` or ``f_locals`` reads the stack of another thread.

In Python 3.11, the stack is no Python object. Reading one of these attributes allocates an object, which may start a
collection, and a finalizer may let the other thread run. It then leaves the function whose memory is being read: this
process crashes, or continues with wrong objects. Before 3.11, frames are objects; since 3.12, collections start only
between bytecodes.
"""


def readable_frames() -> contextlib.AbstractContextManager[None]:
    """Return a context in which ``f_back`` and ``f_locals`` of other threads' frames can be read; be brief in it."""
    return without_collections() if _COLLECTS_ANYWHERE else contextlib.nullcontext()


@contextlib.contextmanager
def frames_of_threads() -> Iterator[dict[int, list[FrameType]]]:
    """Yield the frames of each thread, by its identifier, innermost first.

    Read what is needed of them inside the context, and briefly: on Python 3.11, collections are off there.
    """
    with readable_frames():
        innermost = sys._current_frames()
        innermost[threading.get_ident()] = sys._getframe(2)  # the caller's: this function was called by contextlib
        frames = {thread: list(_stack(frame)) for thread, frame in innermost.items()}
        innermost.clear()
        try:
            yield frames
        finally:
            frames.clear()  # a frame of this thread is among them: the cycle would keep every thread's objects alive


def _stack(innermost: FrameType) -> Iterator[FrameType]:
    frame: FrameType | None = innermost
    while frame is not None:
        yield frame
        frame = frame.f_back

"""Capture what libraries print, log and warn on one thread, and keep it out of the cell's output.

The output of other threads is not changed. What a library's C code writes to file descriptors is not captured.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from nbloader._libraries.isolation import patched_on_this_thread

Tell = Callable[[str, str], None]
"""A function that takes a level, ``"info"`` or ``"warning"``, and a line of output."""

_state = threading.local()


@contextlib.contextmanager
def uncaptured() -> Iterator[None]:
    """Turn capturing off on this thread while a user's own function runs."""
    before = getattr(_state, "is_let", False)
    _state.is_let = True
    try:
        yield
    finally:
        _state.is_let = before


@contextlib.contextmanager
def captured(tell: Tell) -> Iterator[None]:
    """Pass what this thread prints, logs and warns to `tell`, which is called on this thread."""

    def say(level: str, said: str) -> None:
        line = " ".join(said.split())
        if line:
            with uncaptured():
                tell(level, line)

    def log(record: logging.LogRecord) -> bool:
        if _is_shown(record):
            say("warning" if record.levelno >= logging.WARNING else "info", record.getMessage())
        return True

    def warn(message: warnings.WarningMessage) -> None:
        if getattr(_state, "is_let", False):
            show(message)
        else:
            say("warning", f"{message.category.__name__}: {message.message}")

    # ``warnings.warn`` always calls this function, even if ``showwarning`` was replaced.
    show: Any = vars(warnings)["_showwarnmsg"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(records_to(log))
        stack.enter_context(patched_on_this_thread(warnings, "_showwarnmsg", warn))
        for name in ("stdout", "stderr"):
            stack.enter_context(_stream_to(name, lambda line: say("info", line)))
        yield


@contextlib.contextmanager
def records_to(consume: Callable[[logging.LogRecord], bool]) -> Iterator[None]:
    """Pass the log records of this thread to `consume`; handle a record as usual if it returns False.

    Handlers that do not write to the process's console streams, such as file handlers, still get every record.
    """
    go_on = vars(logging.Logger)["callHandlers"]

    def call(logger: logging.Logger, record: logging.LogRecord) -> None:
        if getattr(_state, "is_let", False) or not consume(record):
            go_on(logger, record)
            return
        for handler in _handlers_of(logger):
            if not _is_console(handler) and record.levelno >= handler.level:
                handler.handle(record)

    with patched_on_this_thread(logging.Logger, "callHandlers", call):
        yield


def _handlers_of(logger: logging.Logger | None) -> Iterator[logging.Handler]:
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None


def _is_console(handler: logging.Handler) -> bool:
    if not isinstance(handler, logging.StreamHandler) or isinstance(handler, logging.FileHandler):
        return False
    streams = [sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__]
    streams += [stream._stream for stream in streams if isinstance(stream, _Stream)]
    return isinstance(handler.stream, _Stream) or any(handler.stream is stream for stream in streams)


def _is_shown(record: logging.LogRecord) -> bool:
    """Return whether a record would have been written to a console stream of the process."""
    handlers = list(_handlers_of(logging.getLogger(record.name)))
    if not handlers:
        return logging.lastResort is not None and record.levelno >= logging.lastResort.level
    return any(_is_console(handler) and record.levelno >= handler.level for handler in handlers)


@contextlib.contextmanager
def _stream_to(name: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Pass what this thread writes to ``sys.stdout`` or ``sys.stderr`` to `tell`, line by line."""
    kept = getattr(sys, name)
    if kept is None:  # a process without one
        yield
        return
    stream = _Stream(kept, tell)
    setattr(sys, name, stream)
    try:
        yield
    finally:
        stream.close_here()
        if getattr(sys, name) is stream:
            setattr(sys, name, kept)


class _Stream(io.TextIOBase):
    """A wrapper around a stream: lines of one thread go to `tell`, the output of other threads goes to the stream.

    A log handler that a library makes meanwhile keeps this object; after `close_here` it writes to the stream.
    """

    def __init__(self, stream: Any, tell: Callable[[str], None]) -> None:
        self._stream = stream
        self._tell = tell
        self._thread: int | None = threading.get_ident()
        self._line = ""

    def write(self, said: str) -> int:
        if threading.get_ident() != self._thread or getattr(_state, "is_let", False):
            return int(self._stream.write(said) or 0)
        *lines, self._line = (self._line + said).replace("\r", "\n").split("\n")
        for line in lines:
            self._tell(line)
        return len(said)

    def close_here(self) -> None:
        """Pass on the last unfinished line; from now on write everything to the stream."""
        line, self._line = self._line, ""
        if line:
            self._tell(line)
        self._thread = None

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        """Do nothing: this object does not own the stream."""

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return bool(self._stream.isatty())

    def fileno(self) -> int:
        return int(self._stream.fileno())

    @property
    def encoding(self) -> Any:  # type: ignore[override]
        return self._stream.encoding

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

"""Bring one file into its part file: ranges side by side, again after failures, and verified.

This module knows neither the Hub nor HTTP: its caller opens the file at an offset.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from nbloader._hub.part_file import PartFile, Range, StartedOverError
from nbloader._text.catalogue import text

_MOST_WAIT = 300.0  # seconds; a server that asks for a longer wait is reported as an error
_MOST_FAILURES = 5  # in a row, without a byte in between
LEAST_PIECE = 8 << 20  # bytes of a range
_MOST_PIECE = 64 << 20
_PIECES = 64  # of a large file
_CHUNK = 1 << 20  # bytes
_STORE_SECONDS = 0.1  # after this time, less than a chunk is stored and counted too


@dataclass(frozen=True)
class Reply:
    """A server's answer: bytes from `begin` on, of a file of `total` bytes (None if the server does not say).

    `is_whole` says that the server sends the whole file, whatever was asked for. `requests_left` is how many more
    requests it would answer now; None if it does not say.
    """

    begin: int
    total: int | None
    chunks: Iterator[bytes]
    is_whole: bool = False
    requests_left: int | None = None


Open = Callable[[int, int], AbstractContextManager[Reply]]
"""Called with the first byte to send and the end of the range."""


class BrokenOffError(Exception):
    """The connection broke, or the server asks for another try, after `wait` seconds if it says so.

    `is_busy` says that it is asked for too much.
    """

    def __init__(self, reason: str, wait: float | None = None, *, is_busy: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.is_busy = is_busy


class WrongContentError(Exception):
    """The content that arrived differs from what the repository lists."""


class Transfer:
    """The transfer of a file into a part file, by any number of threads.

    Bytes that the part file already holds are kept. If the complete file then has the wrong hash, everything is
    brought again.

    Parameters
    ----------
    part
        The part file.
    open_at
        Opens the file at an offset, once for each piece.
    on_bytes
        Called with the number of bytes received, negative if the file starts over. An exception that it raises ends
        the transfer; the bytes received so far are kept.
    on_wait
        Called with the seconds to wait and the reason; returns after the wait.
    open_stream
        Opens the file in a way that needs no pieces and no second thread; it is left for `open_at` if it breaks off.
    """

    def __init__(
        self,
        part: PartFile,
        open_at: Open,
        on_bytes: Callable[[int], None],
        on_wait: Callable[[float, str], None],
        open_stream: Open | None = None,
    ) -> None:
        self._part = part
        self._open_at = open_at
        self._open_stream = open_stream
        self._on_bytes = on_bytes
        self._on_wait = on_wait
        self._changed = threading.Condition()
        self._is_resumed = part.arrived > 0
        self._running = 0
        self._whole: _Piece | None = None  # the piece of the thread that takes the whole file
        self._error: BaseException | None = None
        self._left: deque[Range] = deque()
        self._plan()

    @property
    def has_piece(self) -> bool:
        """Whether there is a piece for one more thread."""
        return bool(self._left) and self._open_stream is None and self._error is None

    @property
    def is_stream(self) -> bool:
        """Whether the file comes in a way that needs no pieces."""
        return self._open_stream is not None

    def bring_piece(self) -> bool:
        """Bring one piece; return whether there was any.

        Raises
        ------
        BrokenOffError
            If the download keeps failing.
        WrongContentError
            If the server sends other content. None of that content is kept.
        OSError
            If the file cannot be written.
        """
        with self._changed:
            if not self._left or self._error is not None:
                return False
            piece = _Piece(*self._left.popleft())
            self._running += 1
        try:
            self._bring(piece)
        except StartedOverError:
            pass  # another thread brings the whole file
        except BaseException as error:
            with self._changed:
                self._error = self._error or error
            raise
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()
        return True

    def finish(self, check: Callable[[], None]) -> str | None:
        """Wait for the other threads; return the hash of the complete file, or None if there is more to bring.

        Raises
        ------
        WrongContentError
            If what arrived is not what is expected.
        """
        with self._changed:
            while self._running and self._error is None:
                self._changed.wait(0.05)
                check()
            if self._error is not None:
                raise self._error
        if not self._part.is_whole:
            return None
        found, key = self._part.hash_arrived(check), self._part.expected.key
        if key in (None, found):
            return found
        self._start_over()
        if not self._is_resumed:
            raise WrongContentError(text("reason", "other_hash", found=found, listed=key))
        self._is_resumed = False
        self._plan()
        return None

    def _plan(self) -> None:
        size = self._part.expected.bytes
        most = size if self._open_stream is not None else min(max(size // _PIECES, LEAST_PIECE), _MOST_PIECE)
        self._left.clear()
        for begin, end in self._part.gaps():
            self._left.extend((at, min(at + most, end)) for at in range(begin, end, most))

    def _bring(self, piece: _Piece) -> None:
        failures = 0
        while piece.at < piece.end:
            before = piece.received
            try:
                with (self._open_stream or self._open_at)(piece.at, piece.end) as reply:
                    self._take(reply, piece)
                if piece.received == before:
                    raise BrokenOffError(text("reason", "sent_nothing"))
            except BrokenOffError as error:
                if self._open_stream is not None:
                    with self._changed:
                        self._open_stream = None
                        self._plan()
                    self._on_wait(0.0, error.args[0])
                    return
                failures = 1 if piece.received > before else failures + 1
                # The waits are 0, 1, 2, 4, 8 seconds.
                wait = error.wait if error.wait is not None else 2.0 ** (failures - 2) if failures > 1 else 0.0
                if failures > _MOST_FAILURES or wait > _MOST_WAIT:
                    raise
                self._on_wait(wait, error.args[0])

    def _take(self, reply: Reply, piece: _Piece) -> None:
        size = self._part.expected.bytes
        if reply.total not in (None, size):
            raise WrongContentError(text("reason", "other_length", found=f"{reply.total:,}", listed=f"{size:,}"))
        if reply.begin != piece.at and (reply.begin != 0 or reply.total is None):
            raise BrokenOffError(text("reason", "other_part"))
        if reply.is_whole or reply.begin != piece.at:
            self._take_all(piece)
        portion, stored = bytearray(), time.monotonic()  # storing small chunks would wait for the GIL each time
        begin, generation = piece.at, self._part.generation

        def store() -> None:
            count = len(portion)
            if count:
                self._part.write(generation, begin, piece.at, portion)
                portion.clear()
                piece.at += count
                piece.received += count
                self._on_bytes(count)

        try:
            for chunk in reply.chunks:
                portion += chunk
                if piece.at + len(portion) > piece.end:
                    if piece.end == size:
                        portion.clear()
                        self._start_over()
                        raise WrongContentError(text("reason", "sends_more", listed=f"{size:,}"))
                    del portion[piece.end - piece.at :]
                    break
                if len(portion) >= _CHUNK or time.monotonic() - stored >= _STORE_SECONDS:
                    store()
                    stored = time.monotonic()
        finally:
            try:
                store()
            finally:
                self._part.leave(generation, begin, piece.at)

    def _take_all(self, piece: _Piece) -> None:
        """Have this piece be the whole file, and end all others: the server does not send parts."""
        with self._changed:
            if self._whole not in (None, piece):
                raise StartedOverError
            self._whole = piece
            self._left.clear()
        if self._part.arrived:
            self._start_over()
        piece.at, piece.end = 0, self._part.expected.bytes

    def _start_over(self) -> None:
        arrived = self._part.start_over()
        self._on_bytes(-arrived)


class _Piece:
    """A range that a thread brings, how far it is, and how many bytes the thread has received in all."""

    def __init__(self, begin: int, end: int) -> None:
        self.at = begin
        self.end = end
        self.received = 0

"""Download one file into a part file: resume where an earlier download stopped, and verify what arrives.

This module knows neither the Hub nor HTTP: its caller opens the file at an offset.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from nbloader._text.catalogue import text

_MOST_WAIT = 300.0  # seconds; a server that asks for a longer wait is reported as an error
_MOST_FAILURES = 5  # in a row, without a byte in between
_MOST_AT_ONCE = 32 << 30  # bytes of one request; CDNs refuse to send 50 GB in one response
_CHUNK = 1 << 20  # bytes
_STORE_SECONDS = 0.1  # after this time, less than a chunk is stored and counted too


class Expected(NamedTuple):
    """What a file should be: its size, and the hash that its repository lists (None for either, if unknown).

    A file in LFS or Xet storage is known by its SHA-256, any other by its git object id. That is the SHA-1 of "blob",
    the size and the content (https://git-scm.com/book/en/v2/Git-Internals-Git-Objects).
    """

    bytes: int
    sha256: str | None = None
    git_id: str | None = None

    @property
    def key(self) -> str | None:
        """The hash that names its content; None if the repository gives none."""
        return self.sha256 or self.git_id

    def hasher(self) -> Any:
        """Return a new hasher for the content; SHA-256 if the hash is not known."""
        if self.sha256 is None and self.git_id is not None:
            return hashlib.sha1(b"blob %d\0" % self.bytes, usedforsecurity=False)
        return hashlib.sha256()


@dataclass(frozen=True)
class Reply:
    """A server's answer: bytes from `begin` on, of a file of `total` bytes (None if the server does not say)."""

    begin: int
    total: int | None
    chunks: Iterator[bytes]


class BrokenOffError(Exception):
    """The connection broke, or the server asks for another try, after `wait` seconds if it says so."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class WrongContentError(Exception):
    """The content that arrived differs from what the repository lists."""


def bring(
    open_at: Callable[[int, int], AbstractContextManager[Reply]],
    part: Path,
    expected: Expected,
    on_bytes: Callable[[int], None],
    on_wait: Callable[[float, str], None],
) -> str:
    """Download a file into `part`, and return its hash when it is complete.

    Bytes that `part` already holds are kept and count as received. If the complete file then has the wrong hash,
    everything is downloaded again.

    Parameters
    ----------
    open_at
        Called with the first byte to send and the end of the range.
    on_bytes
        Called with the number of bytes received, negative if the file starts over. An exception that it raises ends
        the transfer; the bytes received so far are kept.
    on_wait
        Called with the seconds to wait and the reason; returns after the wait.

    Raises
    ------
    BrokenOffError
        If the download keeps failing.
    WrongContentError
        If the server sends other content. None of that content is kept.
    OSError
        If the file cannot be written.
    """
    transfer = _Transfer(part, expected, on_bytes)
    try:
        resumed = transfer.resume()
        while True:
            _bring_rest(transfer, open_at, on_wait)
            found = transfer.hash
            if expected.key in (None, found):
                return found
            transfer.start_over()
            if not resumed:
                raise WrongContentError(text("reason", "other_hash", found=found, listed=expected.key))
            resumed = False
    finally:
        transfer.close()


def _bring_rest(
    transfer: _Transfer,
    open_at: Callable[[int, int], AbstractContextManager[Reply]],
    on_wait: Callable[[float, str], None],
) -> None:
    failures = 0
    while not transfer.is_whole:
        before = transfer.arrived
        try:
            with open_at(before, min(before + _MOST_AT_ONCE, transfer.expected.bytes)) as reply:
                transfer.take(reply)
            if transfer.arrived == before:
                raise BrokenOffError(text("reason", "sent_nothing"))
        except BrokenOffError as error:
            failures = 1 if transfer.arrived > before else failures + 1
            # The waits are 0, 1, 2, 4, 8 seconds.
            wait = error.wait if error.wait is not None else 2.0 ** (failures - 2) if failures > 1 else 0.0
            if failures > _MOST_FAILURES or wait > _MOST_WAIT:
                raise
            on_wait(wait, error.args[0])


class _Transfer:
    """A part file, and the hash of its content."""

    def __init__(self, part: Path, expected: Expected, on_bytes: Callable[[int], None]) -> None:
        self.expected = expected
        self.arrived = 0
        self._part = part
        self._on_bytes = on_bytes
        self._hasher = expected.hasher()
        self._file = open(part, "r+b" if part.exists() else "w+b", buffering=0)  # noqa: SIM115

    @property
    def is_whole(self) -> bool:
        return self.arrived >= self.expected.bytes

    @property
    def hash(self) -> str:
        return str(self._hasher.hexdigest())

    def resume(self) -> bool:
        """Hash what the part file holds; return whether it holds anything."""
        left = os.fstat(self._file.fileno()).st_size
        while left > self.arrived and (chunk := self._file.read(_CHUNK)):
            self._hasher.update(chunk)
            self.arrived += len(chunk)
            self._on_bytes(0)  # a chance to cancel
        if self.arrived > self.expected.bytes:
            self._restart()
        return self.arrived > 0

    def start_over(self) -> None:
        self._on_bytes(-self.arrived)
        self._restart()

    def _restart(self) -> None:
        # A new file: on a file system without working locks, another process may have moved this one into the cache.
        self._file.close()
        self._part.unlink(missing_ok=True)
        self._file = open(self._part, "w+b", buffering=0)  # noqa: SIM115
        self._hasher = self.expected.hasher()
        self.arrived = 0

    def take(self, reply: Reply) -> None:
        size = self.expected.bytes
        if reply.total not in (None, size):
            raise WrongContentError(text("reason", "other_length", found=f"{reply.total:,}", listed=f"{size:,}"))
        if reply.begin != self.arrived:
            if reply.begin != 0 or reply.total is None:
                raise BrokenOffError(text("reason", "other_part"))
            self.start_over()  # the server cannot send only the rest
        portion = bytearray()  # storing small chunks one by one would wait for the GIL each time
        stored = time.monotonic()
        try:
            for chunk in reply.chunks:
                portion += chunk
                if self.arrived + len(portion) > size:
                    portion.clear()
                    self.start_over()
                    raise WrongContentError(text("reason", "sends_more", listed=f"{size:,}"))
                if len(portion) >= _CHUNK or time.monotonic() - stored >= _STORE_SECONDS:
                    self._store(portion)
                    stored = time.monotonic()
        finally:
            self._store(portion)

    def _store(self, portion: bytearray) -> None:
        while portion:
            count = self._file.write(portion)
            self._hasher.update(portion[:count])
            del portion[:count]
            self.arrived += count
            self._on_bytes(count)

    def close(self) -> None:
        self._file.close()
        if self.arrived == 0 and not self.is_whole:
            self._part.unlink(missing_ok=True)

"""A file while it is being downloaded: its bytes, and which of them have arrived."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

Range = tuple[int, int]  # the first byte, and the one after the last

_HASHED_AT_ONCE = 1 << 20  # bytes
_NOTED_AT_ONCE = 8 << 20  # bytes that arrive between two notes of it; a process that is killed loses no more of a range


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


class StartedOverError(Exception):
    """The file was started over, or closed, since its range was asked for."""


class PartFile:
    """A file that several threads write, each its own range, while what is there in order is hashed.

    Which ranges have arrived is noted in a file beside it, so that a later download brings only the others. Without
    such a note, all that the file holds has arrived.

    Parameters
    ----------
    path
        The file; it is opened as it is, or made.
    expected
        What it should be in the end.
    """

    def __init__(self, path: Path, expected: Expected) -> None:
        self.expected = expected
        self.path = path
        self.generation = 0
        self._lock = threading.Lock()
        self._hashing = threading.Lock()
        self._ranges: list[Range] = []
        self._noted: dict[int, int] = {}  # for each range that is being written: how far it is noted
        self._open("r+b" if path.exists() else "w+b")
        self._ranges = _ranges_of(path, self._size())
        if self._ranges and self._ranges[-1][1] > expected.bytes:
            self.start_over()

    @property
    def arrived(self) -> int:
        """How many bytes have arrived."""
        return sum(end - begin for begin, end in self._ranges)

    @property
    def is_whole(self) -> bool:
        """Whether all bytes have arrived."""
        return self.arrived >= self.expected.bytes

    def gaps(self) -> Sequence[Range]:
        """Return the ranges that have not arrived."""
        with self._lock:
            begins = [0, *(end for _, end in self._ranges)]
            ends = [*(begin for begin, _ in self._ranges), self.expected.bytes]
        return [(begin, end) for begin, end in zip(begins, ends, strict=True) if begin < end]

    def write(self, generation: int, begin: int, at: int, content: bytes | bytearray | memoryview) -> None:
        """Write bytes at an offset, of a range that is being written from `begin` on.

        Raises
        ------
        StartedOverError
            If this is not the file's generation any more.
        OSError
            If they cannot be written.
        """
        with self._lock:
            if generation != self.generation:
                raise StartedOverError
            left = memoryview(content)
            while left:
                self._file.seek(at)
                count = self._file.write(left)
                self._ranges = _merged([*self._ranges, (at, at + count)])
                at, left = at + count, left[count:]
            noted = self._noted.setdefault(begin, begin)
            if at - noted >= _NOTED_AT_ONCE:
                self._note(noted, at)
                self._noted[begin] = at
        self._hash(lambda: None, wait=False)

    def leave(self, generation: int, begin: int, at: int) -> None:
        """Note how far a range has arrived that nobody writes now."""
        with self._lock:
            if generation == self.generation:
                noted = self._noted.pop(begin, begin)
                if at > noted and not self.is_whole:
                    self._note(noted, at)

    def hash_arrived(self, check: Callable[[], None]) -> str:
        """Hash what has arrived in order, and return the hash of that; `check` may raise an exception to end this."""
        self._hash(check, wait=True)
        return str(self._hasher.hexdigest())

    def start_over(self) -> int:
        """Drop everything that has arrived; return how many bytes that were."""
        with self._lock, self._hashing:
            arrived = self.arrived
            # A new file: on a file system without working locks, another process may have moved this one.
            self._close()
            self.remove()
            self._open("w+b")
        return arrived

    def remove(self) -> None:
        """Delete the file, and the note of what has arrived."""
        self.path.unlink(missing_ok=True)
        self.remove_note()

    def remove_note(self) -> None:
        """Delete the note of what has arrived."""
        _note_of(self.path).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file. It is deleted if nothing has arrived."""
        with self._lock, self._hashing:
            self.generation += 1
            self._close()
            if not self._ranges and self.expected.bytes:
                self.remove()

    def _open(self, mode: str) -> None:
        self._file = open(self.path, mode, buffering=0)  # noqa: SIM115
        self._reader = open(self.path, "rb", buffering=0)  # noqa: SIM115
        self._ranges = []
        self._noted.clear()
        self._hasher = self.expected.hasher()
        self._hashed = 0
        self.generation += 1

    def _close(self) -> None:
        self._file.close()
        self._reader.close()

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _note(self, begin: int, end: int) -> None:
        path = _note_of(self.path)
        if not path.exists():
            known = [(0, self._ranges[0][1])] if self._ranges and self._ranges[0][0] == 0 else []
            path.write_text("".join(f"{begin} {end}\n" for begin, end in known))
        with open(path, "a") as file:
            file.write(f"\n{begin} {end}\n")  # after a line that is whole, whoever was killed before

    def _hash(self, check: Callable[[], None], *, wait: bool) -> None:
        """Hash what has arrived in order, unless another thread does."""
        if not self._hashing.acquire(blocking=wait):
            return
        try:
            while not self._reader.closed:
                first = next(iter(self._ranges), (1, 0))
                ready = first[1] if first[0] == 0 else 0
                chunk = self._reader.read(min(_HASHED_AT_ONCE, ready - self._hashed)) if ready > self._hashed else b""
                if not chunk:
                    break
                self._hasher.update(chunk)
                self._hashed += len(chunk)
                check()
        finally:
            self._hashing.release()


def arrived_bytes(path: Path) -> int:
    """Return how many bytes of a part file have arrived; 0 if there is none."""
    try:
        size = path.stat().st_size
    except OSError:
        return 0
    return sum(end - begin for begin, end in _ranges_of(path, size))


def _note_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.ranges")


def _ranges_of(path: Path, size: int) -> list[Range]:
    with suppress(OSError, UnicodeDecodeError):
        lines = _note_of(path).read_text().splitlines()
        told = [
            (int(line[1]), int(line[2])) for line in map(re.compile(r"(\d{1,18}) (\d{1,18})").fullmatch, lines) if line
        ]
        return _merged((begin, min(end, size)) for begin, end in told if begin < min(end, size))
    return [(0, size)] if size else []


def _merged(ranges: Iterable[Range]) -> list[Range]:
    merged: list[Range] = []
    for begin, end in sorted(ranges):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    return merged

"""Seekable files on a server; only the parts that are read are fetched."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import BinaryIO

_LEAST = 256 << 10  # bytes of one request; most headers are smaller


def open_remote(fetch: Callable[[int, int], bytes], size: int) -> BinaryIO:
    """Return a file of `size` bytes; `fetch` returns the bytes from its first argument up to its second."""
    return io.BufferedReader(_RemoteFile(fetch, size), _LEAST)


class _RemoteFile(io.RawIOBase):
    """A remote file that keeps the ranges it has fetched, because zip readers read the same place several times."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        self._fetch = fetch
        self._size = size
        self._position = 0
        self._fetched: list[tuple[int, bytes]] = []

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(f"There is nothing at byte {base + offset}.")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if self._position >= self._size:
            return 0
        known = self._known()
        if not known:
            end = min(self._size, self._position + max(len(buffer), _LEAST))
            self._fetched.append((self._position, self._fetch(self._position, end)))
            known = self._known()
        count = min(len(buffer), len(known))
        buffer[:count] = known[:count]
        self._position += count
        return count

    def _known(self) -> memoryview:
        for begin, content in self._fetched:
            if begin <= self._position < begin + len(content):
                return memoryview(content)[self._position - begin :]
        return memoryview(b"")

"""PartReader: reads parts of files for one reader, into the page cache or into files in memory.

On Linux, sendfile to the null device reads without copying a byte. On macOS, preadv reads without holding the GIL, and
without a file position that threads would share. Windows has neither: there, a file is opened for each read.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nbloader._reading.parts import Part
from nbloader._system.memory_file import MemoryFile, open_direct

_BUFFER = 256 << 10  # bytes; a read into the page cache passes through it, so it must fit in the processor's cache
_MOST_BUFFERS = 1024  # that one call accepts
_LONG = 0.5  # seconds; a cancel should wait no longer for a read to return
_SHORT_READ = 1 << 20  # bytes of a read where a whole part takes longer


class PartReader:
    """Reads parts of files, one at a time.

    Parameters
    ----------
    paths
        The files.
    copies
        For each file that does not go to the page cache, the file in memory that receives its bytes.
    shared
        Returns a file's descriptor that readers share; None if each reader opens the file for itself.
    """

    def __init__(
        self, paths: Sequence[Path], copies: Mapping[int, MemoryFile], shared: Callable[[int], int] | None
    ) -> None:
        self._paths = paths
        self._copies = copies
        self._shared = shared
        self._sink = _Sink()
        self._opened: tuple[int, int] | None = None  # file and descriptor
        self._takes_long = False

    def read(self, part: Part, has_stopped: Callable[[], bool]) -> None:
        """Read a part; return before its end once `has_stopped` returns True.

        Raises
        ------
        OSError
            If the file cannot be read to the part's end.
        """
        path, offset, began = self._paths[part.file], part.offset, time.monotonic()
        most = _SHORT_READ if self._takes_long else part.length
        while offset < part.end and not has_stopped():
            try:
                count = self._take(part.file, offset, min(part.end, offset + most))
            except OSError as error:
                error.filename = error.filename or os.fspath(path)
                raise
            if count == 0:
                raise OSError(None, f"the file ended at byte {offset:,} while it was read", os.fspath(path))
            offset += count
        self._takes_long = time.monotonic() - began > _LONG

    def close(self) -> None:
        """Close what is open."""
        self._sink.close()
        self._close_file()

    def _take(self, file: int, begin: int, end: int) -> int:
        copy = self._copies.get(file)
        if copy is not None:
            return copy.take(self._descriptor(file), begin, end)
        if hasattr(os, "preadv"):
            return self._sink.take(self._descriptor(file), begin, end - begin)
        return self._sink.take_by_seeking(self._paths[file], begin, end - begin)

    def _descriptor(self, file: int) -> int:
        if self._shared is not None:
            return self._shared(file)
        if self._opened is None or self._opened[0] != file:
            self._close_file()
            # Of its own, so that the kernel follows this reader's place in the file.
            self._opened = file, open_file(self._paths[file], is_direct=file in self._copies)
        return self._opened[1]

    def _close_file(self) -> None:
        if self._opened is not None:
            os.close(self._opened[1])
        self._opened = None


def open_file(path: Path, *, is_direct: bool) -> int:
    """Open a file to read it, past the page cache if `is_direct` and if its storage can; return the descriptor."""
    return open_direct(path) if is_direct else os.open(path, os.O_RDONLY)


class _Sink:
    """Discards the bytes that are read: their only purpose is to be in the page cache."""

    def __init__(self) -> None:
        self._null = os.open(os.devnull, os.O_WRONLY) if sys.platform == "linux" else None
        self._buffer: memoryview | None = None

    def take(self, fd: int, offset: int, length: int) -> int:
        """Read a range of an open file, or its beginning; return the number of bytes read, 0 after the end."""
        if self._null is not None:
            try:
                return os.sendfile(self._null, fd, offset, length)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                self.close()  # the kernel cannot send from this storage
        whole, rest = divmod(min(length, _MOST_BUFFERS * _BUFFER), _BUFFER)
        buffer = self._own_buffer()
        return os.preadv(fd, [buffer] * whole + ([buffer[:rest]] if rest else []), offset)

    def take_by_seeking(self, path: Path, offset: int, length: int) -> int:
        """Read like `take`, on systems that cannot read at an offset."""
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            return file.readinto(self._own_buffer()[:length]) or 0

    def _own_buffer(self) -> memoryview:
        if self._buffer is None:
            self._buffer = memoryview(bytearray(_BUFFER))
        return self._buffer

    def close(self) -> None:
        if self._null is not None:
            os.close(self._null)
        self._null = None

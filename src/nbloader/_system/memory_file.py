"""MemoryFile: a file's bytes in memory of this process, under a path that any library can open."""

from __future__ import annotations

import errno
import mmap
import os
import sys
from contextlib import suppress
from pathlib import Path


class MemoryFile:
    """A copy of a file, in memory: what it has taken is read under `path`, and mapping that takes no second copy.

    The memory is given back once the file is closed and nothing maps it any longer. Linux only (memfd_create); macOS
    and Windows have no such file, and no way to tell that storage drops its cache either.

    Parameters
    ----------
    size
        Bytes.

    Raises
    ------
    OSError
        Where there is not enough memory.
    """

    def __init__(self, size: int) -> None:
        assert sys.platform == "linux"
        self._file = open(os.memfd_create("nbloader"), "r+b", buffering=0)  # noqa: SIM115
        fd = self._file.fileno()
        # Direct reads come in whole pages, the last one too.
        os.truncate(fd, _page_end(size))
        self._map = mmap.mmap(fd, 0)
        os.truncate(fd, size)
        with suppress(OSError, AttributeError):  # a kernel may have no huge pages for files in memory
            self._map.madvise(mmap.MADV_HUGEPAGE)
        self._view = memoryview(self._map)

    @property
    def path(self) -> str:
        """The path under which this process can open it, until it is closed."""
        return f"/proc/self/fd/{self._file.fileno()}"

    def take(self, fd: int, begin: int, end: int) -> int:
        """Read a range of the file that is copied, from `fd`; returns the bytes read, 0 behind its end."""
        into = self._view[begin : _page_end(end)]
        try:
            count = os.preadv(fd, [into], begin)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _make_buffered(fd)  # storage that does not read past the page cache after all
            count = os.preadv(fd, [into], begin)
        # Mapped here as well as in the model, RSS would count it twice.
        start = begin - begin % mmap.PAGESIZE
        self._map.madvise(mmap.MADV_DONTNEED, start, end - start)
        return min(count, end - begin)

    def close(self) -> None:
        """Give it up: what has been opened or mapped by then stays."""
        self._view.release()
        self._map.close()
        self._file.close()


def open_direct(path: Path) -> int:
    """Open a file for reading past the page cache, which would take a copy and its memory, where that can be."""
    assert sys.platform == "linux"
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        return os.open(path, os.O_RDONLY)


def _make_buffered(fd: int) -> None:
    assert sys.platform == "linux"
    import fcntl

    fcntl.fcntl(fd, fcntl.F_SETFL, 0)


def _page_end(offset: int) -> int:
    return -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE

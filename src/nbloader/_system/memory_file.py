"""MemoryFile: a copy of a file in this process's memory, with a path that any library can open."""

from __future__ import annotations

import errno
import mmap
import os
import sys
from contextlib import suppress
from pathlib import Path


class MemoryFile:
    """A copy of a file in memory, which can be opened under `path`; mapping it takes no second copy.

    The memory is freed when the file is closed and no longer mapped. Linux only (memfd_create): macOS and Windows have
    no such files, and cannot tell whether storage drops its cache either.

    Parameters
    ----------
    size
        Bytes.

    Raises
    ------
    OSError
        If there is not enough memory.
    """

    def __init__(self, size: int) -> None:
        assert sys.platform == "linux"
        self._file = open(os.memfd_create("nbloader"), "r+b", buffering=0)  # noqa: SIM115
        fd = self._file.fileno()
        # Direct reads transfer whole pages, also at the end of the file.
        os.truncate(fd, _page_end(size))
        self._map = mmap.mmap(fd, 0)
        os.truncate(fd, size)
        with suppress(OSError, AttributeError):  # the kernel may not support huge pages for memfd
            self._map.madvise(mmap.MADV_HUGEPAGE)
        self._view = memoryview(self._map)

    @property
    def path(self) -> str:
        """The path under which this process can open it, until `close` is called."""
        return f"/proc/self/fd/{self._file.fileno()}"

    def take(self, fd: int, begin: int, end: int) -> int:
        """Read a range of the original file from `fd` into this copy; return the bytes read, 0 beyond its end."""
        into = self._view[begin : _page_end(end)]
        try:
            count = os.preadv(fd, [into], begin)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _make_buffered(fd)  # the storage opened with O_DIRECT but refuses direct reads
            count = os.preadv(fd, [into], begin)
        # A page that is mapped here and in the model would count twice in RSS.
        start = begin - begin % mmap.PAGESIZE
        self._map.madvise(mmap.MADV_DONTNEED, start, end - start)
        return min(count, end - begin)

    def close(self) -> None:
        """Close the file; what has been opened or mapped before stays valid."""
        self._view.release()
        self._map.close()
        self._file.close()


def open_direct(path: Path) -> int:
    """Open a file for direct reads, which bypass the page cache and its second copy, if its storage supports them."""
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

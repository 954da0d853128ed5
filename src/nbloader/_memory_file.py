"""MemoryFile: a file's bytes in memory of this process, under a path that any library can open."""

from __future__ import annotations

import mmap
import os
import sys
from contextlib import suppress


class MemoryFile:
    """A file in memory: what is written through `view` is read under `path`, and mapping it takes no second copy.

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
        self._fd = os.memfd_create("nbloader")
        os.truncate(self._fd, size)
        self._map = mmap.mmap(self._fd, size)
        with suppress(OSError, AttributeError):  # a kernel may have no huge pages for files in memory
            self._map.madvise(mmap.MADV_HUGEPAGE)
        self.view = memoryview(self._map)

    @property
    def path(self) -> str:
        """The path under which this process can open it, until it is closed."""
        return f"/proc/self/fd/{self._fd}"

    def close(self) -> None:
        """Give it up: what has been opened or mapped by then stays."""
        self.view.release()
        self._map.close()
        os.close(self._fd)

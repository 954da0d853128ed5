"""Open files from untrusted places."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

from nbloader._text.catalogue import text


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; opening a FIFO or a device could block.

    Raises
    ------
    OSError
        If it cannot be opened, or is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, text("reason", "no_regular_file"), os.fspath(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise

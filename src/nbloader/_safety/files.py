"""Opening files of which nothing is known yet."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

from nbloader._text.catalogue import text


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Return a file to read, which is one: a FIFO or a device would keep who opens it waiting.

    Raises
    ------
    OSError
        Where it cannot be opened, or is none.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, text("reason", "no_regular_file"), os.fspath(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise

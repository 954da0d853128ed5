"""Storage that is slow, below one folder: for reads as this package makes them."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest


class SlowStorage:
    """Has each read of a file below `folder` take as long as it would at so many bytes a second, all readers together.

    With `latency` each read waits so many seconds besides, several at a time.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, rate: float, latency: float = 0.0) -> None:
        self._folder, self._rate, self._latency = os.path.realpath(folder), rate, latency
        self._lock = threading.Lock()
        self._free_at = 0.0
        sendfile, preadv = os.sendfile, os.preadv

        # The bytes come at the end of the wait, and the kernel, whose storage is fast, must not read others ahead.
        def slow_sendfile(out: int, fd: int, offset: int, count: int) -> int:
            self._wait(fd, count)
            return sendfile(out, fd, offset, count)

        def slow_preadv(fd: int, buffers: list[memoryview], offset: int, *flags: int) -> int:
            self._wait(fd, sum(map(len, buffers)))
            return preadv(fd, buffers, offset, *flags)

        monkeypatch.setattr("os.sendfile", slow_sendfile)
        monkeypatch.setattr("os.preadv", slow_preadv)

    def _wait(self, fd: int, count: int) -> None:
        if not os.path.realpath(f"/proc/self/fd/{fd}").startswith(self._folder):
            return
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + count / self._rate
            until = self._free_at
        time.sleep(max(0.0, until - time.monotonic()) + self._latency)

"""Measure how fast storage is, with a short read that bypasses the page cache."""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from nbloader._system.storage import find_storage
from nbloader._system.threads import make_thread

PROBE_BYTES = 512_000_000
"""The most bytes that a probe reads."""
PROBE_SECONDS = 2.0
"""The most seconds that a probe takes."""
LEAST_BYTES = 16 << 20
"""The fewest bytes that give a rate: with fewer, latency dominates."""
_PROBE_READERS = (16, 4, 64)  # each gets a third of the bytes and of the time
_BLOCK = 1 << 20
_PATIENCE = 1.0  # seconds to wait for reads that have begun
_SEARCH_SECONDS = 0.3


class Probe(NamedTuple):
    """The result of a short read: `bytes` in `seconds`, with the number of readers that was fastest."""

    bytes: int
    seconds: float
    readers: int

    @property
    def rate(self) -> float:
        """The rate in bytes a second."""
        return self.bytes / self.seconds


def probe(paths: Sequence[Path], seconds: float = PROBE_SECONDS, most: int = PROBE_BYTES) -> Probe | None:
    """Return how fast files can be read, in parallel and without the page cache; None if that cannot be measured.

    It writes nothing, and neither uses nor changes the page cache. It needs Linux, and storage that supports direct
    reads (O_DIRECT).

    Parameters
    ----------
    paths
        The files to read. Each number of readers reads other parts of them.
    seconds
        The most seconds that it takes, approximately.
    most
        The most bytes that it reads.
    """
    blocks = [(path, offset) for path in paths for offset in range(0, path.stat().st_size - _BLOCK + 1, _BLOCK)]
    blocks = blocks[: most // _BLOCK]
    if sys.platform != "linux" or len(blocks) * _BLOCK < LEAST_BYTES:
        return None
    share = -(-len(blocks) // len(_PROBE_READERS))
    found = [
        _read_directly(blocks[turn * share : (turn + 1) * share], readers, seconds / len(_PROBE_READERS))
        for turn, readers in enumerate(_PROBE_READERS)
    ]
    return max(filter(None, found), key=lambda told: told.rate, default=None)


def _read_directly(blocks: Sequence[tuple[Path, int]], readers: int, seconds: float) -> Probe | None:
    assert sys.platform == "linux"
    left = iter(blocks)
    lock = threading.Lock()
    counts: list[int] = []
    files: dict[Path, int] = {}
    began = time.monotonic()

    def work() -> None:
        with suppress(OSError), mmap.mmap(-1, _BLOCK) as buffer:
            while time.monotonic() - began < seconds:
                with lock:
                    block = next(left, None)
                if block is None:
                    return
                counts.append(os.preadv(files[block[0]], [buffer], block[1]))

    try:
        with suppress(OSError):  # the storage does not support direct reads
            for path, _ in blocks:
                if path not in files:
                    files[path] = os.open(path, os.O_RDONLY | os.O_DIRECT)
            threads = [make_thread(work, "nbloader-probe") for _ in range(readers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(max(0.0, began + seconds + _PATIENCE - time.monotonic()))
            passed = time.monotonic() - began
            if any(thread.is_alive() for thread in threads):
                files = {}  # a read that hangs still uses its file descriptor
            elif counts:
                return Probe(sum(counts), passed, readers)
    finally:
        for fd in files.values():
            os.close(fd)
    return None


def find_places(path: Path, least: int) -> Iterator[tuple[Path, Path]]:
    """Yield (folder, file to probe) for other storage of this machine with room for `least` bytes.

    The folder is on a local disk, and this user may write there. The file is a large one that is on the same disk
    already.
    """
    own = {path.resolve().stat().st_dev}
    mounts = [Path(mount.mountpoint) for mount in psutil.disk_partitions(all=False)]
    for folder in (Path.home(), Path(tempfile.gettempdir()), *mounts):
        with suppress(OSError):
            device = folder.stat().st_dev
            if device in own or not os.access(folder, os.W_OK) or find_storage(folder).kind != "local":
                continue
            own.add(device)
            file = _large_file(folder, device) if psutil.disk_usage(str(folder)).free > 1.1 * least else None
            if file is not None:
                yield folder, file


def _large_file(folder: Path, device: int) -> Path | None:
    """Return a file on the disk of `folder` that is large enough to probe; None if none is found quickly."""
    deadline = time.monotonic() + _SEARCH_SECONDS
    libraries = Path(sys.prefix)
    tops = deque([libraries, folder] if libraries.stat().st_dev == device else [folder])
    found, size = None, LEAST_BYTES
    while tops and time.monotonic() < deadline:
        with suppress(OSError), os.scandir(tops.popleft()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_dev == device:
                    tops.append(Path(entry.path))
                elif (
                    entry.is_file(follow_symlinks=False)
                    and entry.stat().st_size > size
                    and os.access(entry.path, os.R_OK)
                ):
                    found, size = Path(entry.path), entry.stat().st_size
        if size >= PROBE_BYTES:
            break
    return found

"""How fast storage is: a short read of it, past the page cache."""

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
"""A probe reads so many bytes at most, …"""
PROBE_SECONDS = 2.0
"""… and takes so many seconds at most."""
LEAST_BYTES = 16 << 20
"""Fewer bytes tell more of latency than of throughput: from them there is no rate."""
_PROBE_READERS = (16, 4, 64)  # tried one after the other, for a third of both each
_BLOCK = 1 << 20
_PATIENCE = 1.0  # seconds for reads that have begun
_SEARCH_SECONDS = 0.3


class Probe(NamedTuple):
    """What a short read told: `bytes` in `seconds`, at the number of readers that brought the most."""

    bytes: int
    seconds: float
    readers: int

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.bytes / self.seconds


def probe(paths: Sequence[Path], seconds: float = PROBE_SECONDS, most: int = PROBE_BYTES) -> Probe | None:
    """Return how fast files can be read, in parallel and past the page cache; None where that cannot be found out.

    Nothing is written, and what the page cache holds is neither used nor changed. Linux only, and storage that can be
    read directly (O_DIRECT).

    Parameters
    ----------
    paths
        The files; other parts of them are read by each of the numbers of readers that are tried.
    seconds
        It takes at most so long, about.
    most
        It reads at most so many bytes.
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
        with suppress(OSError):  # storage that is always read through the page cache
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
                files = {}  # a read that hangs still needs its file
            elif counts:
                return Probe(sum(counts), passed, readers)
    finally:
        for fd in files.values():
            os.close(fd)
    return None


def find_places(path: Path, least: int) -> Iterator[tuple[Path, Path]]:
    """Yield (folder, file to probe) for other storage of this machine to which `least` bytes could be moved.

    The folder is one that this user may write, on a local disk with room for them; the file is a large one that lies
    on the same disk already.
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
    """Return a file on the disk of `folder` that is large enough to probe; None where none is found soon."""
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

"""Reads checkpoint files into the page cache, so that placing them does not wait, and counts what is resident.

Linux only tells what is resident (cachestat, or mincore through a mapping); elsewhere everything is read, which is
right and, for what was resident, quick.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

CHUNK = 8 << 20
"""Bytes of one read: long enough that a request's cost does not show, short enough to cancel at once."""

_SYS_CACHESTAT = 451  # the same number on every architecture; Linux 6.5 and later
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _CacheStat(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


def resident_bytes(fd: int, offset: int, length: int) -> int | None:
    """Return how many bytes of a file's range are in the page cache, to the page; None where it cannot be known.

    Source: cachestat(2), https://docs.kernel.org/filesystems/proc.html; mincore(2).
    """
    if _libc is None:
        return None
    stat = _CacheStat()
    asked = _Range(offset, length)
    if _libc.syscall(_SYS_CACHESTAT, fd, ctypes.byref(asked), ctypes.byref(stat), 0) == 0:
        return min(length, int(stat.cached) * mmap.PAGESIZE)
    return _mincore(fd, offset, length)


def _mincore(fd: int, offset: int, length: int) -> int | None:
    # For files that this user neither owns nor may write, mincore answers "all resident" whatever is true.
    if _libc is None or (os.fstat(fd).st_uid != os.geteuid() and os.geteuid() != 0):
        return None
    pages = -(-length // mmap.PAGESIZE)
    vector = (ctypes.c_ubyte * pages)()
    try:
        mapping = mmap.mmap(fd, length, flags=mmap.MAP_PRIVATE, offset=offset)
    except (OSError, ValueError):
        return None
    with mapping:
        anchor = ctypes.c_char.from_buffer(mapping)
        failed = _libc.mincore(ctypes.c_void_p(ctypes.addressof(anchor)), ctypes.c_size_t(length), vector)
        del anchor
    return None if failed else min(length, sum(page & 1 for page in vector) * mmap.PAGESIZE)


def read_shards(
    paths: Sequence[Path],
    on_resident: Callable[[int, int], None],
    on_read: Callable[[int, int], None],
    check_cancelled: Callable[[], None],
) -> None:
    """Read every file into the page cache, one after the other, leaving out what is there already.

    Parameters
    ----------
    paths
        The files, in the order in which they will be needed.
    on_resident
        Called with (index of the file, bytes) for bytes that were resident before.
    on_read
        Called with (index of the file, bytes) after each read; with 0 when a file's first read begins.
    check_cancelled
        Called before each read; its exception ends the reading.

    Raises
    ------
    OSError
        Where a file cannot be read.
    """
    missing = []
    for index, path in enumerate(paths):
        with open(path, "rb", buffering=0) as file:
            ranges, resident = _missing_ranges(file.fileno())
        missing.append(ranges)
        on_resident(index, resident)
        check_cancelled()
    buffer = bytearray(CHUNK)
    for index, (path, ranges) in enumerate(zip(paths, missing, strict=True)):
        if ranges:
            on_read(index, 0)
            with open(path, "rb", buffering=0) as file:
                for count in _read_ranges(file.fileno(), ranges, buffer, check_cancelled):
                    on_read(index, count)


def _missing_ranges(fd: int) -> tuple[list[tuple[int, int, int]], int]:
    """Return the chunks that are not wholly resident, as (offset, length, bytes missing), and the bytes resident."""
    size = os.fstat(fd).st_size
    ranges, resident = [], 0
    for offset in range(0, size, CHUNK):
        length = min(CHUNK, size - offset)
        found = resident_bytes(fd, offset, length) or 0
        resident += found
        if found < length:
            ranges.append((offset, length, length - found))
    return ranges, resident


def _read_ranges(
    fd: int, ranges: Sequence[tuple[int, int, int]], buffer: bytearray, check_cancelled: Callable[[], None]
) -> Iterator[int]:
    with memoryview(buffer) as view:
        for offset, length, missing in ranges:
            done = 0
            while done < length:
                check_cancelled()
                count = _read_into(fd, view[done:length], offset + done)
                if count == 0:
                    raise OSError(f"the file ended at byte {offset + done:,} while it was read")
                done += count
            yield missing


def _read_into(fd: int, view: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(fd, [view], offset)
    os.lseek(fd, offset, os.SEEK_SET)  # Windows has no pread
    content = os.read(fd, len(view))
    view[: len(content)] = content
    return len(content)


def make_resident(address: int, length: int, check_cancelled: Callable[[], None]) -> None:
    """Fault a mapped range of this process's memory in, window by window, without changing it.

    Where the system cannot be asked to (MADV_POPULATE_READ, Linux 5.14 and later), one byte of each page is read.
    """
    window = 64 << 20
    start = address - address % mmap.PAGESIZE
    for begin in range(start, address + length, window):
        check_cancelled()
        extent = min(window, address + length - begin)
        if not _populate(begin, extent):
            for page in range(max(begin, address), begin + extent, mmap.PAGESIZE):
                ctypes.c_ubyte.from_address(page).value  # noqa: B018 - reading it is the point


def _populate(address: int, length: int) -> bool:
    madv_populate_read = 22
    return (
        _libc is not None
        and _libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), ctypes.c_int(madv_populate_read)) == 0
    )

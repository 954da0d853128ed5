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
from typing import NamedTuple

CHUNK = 8 << 20
"""Bytes of one read: long enough that a request's cost does not show, short enough to cancel at once."""

_SMALLEST = 128 << 10  # bytes; below it, looking costs more than reading

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


class Missing(NamedTuple):
    """A range of a file that is not wholly resident: `absent` of its `length` bytes are missing."""

    offset: int
    length: int
    absent: int


def find_missing(path: Path) -> list[Missing]:
    """Return what of a file is not in the page cache; all of it where the system cannot say.

    Raises
    ------
    OSError
        Where the file cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        return _missing_ranges(file.fileno())


def read_missing(
    paths: Sequence[Path],
    missing: Sequence[Sequence[Missing]],
    on_read: Callable[[int, int], None],
    check_cancelled: Callable[[], None],
) -> None:
    """Read what is missing of each file into the page cache, one file after the other.

    Parameters
    ----------
    paths, missing
        The files, in the order in which they will be needed, and what `find_missing` says of each.
    on_read
        Called with (index of the file, bytes that were missing) after each read; with 0 when a file's first begins.
    check_cancelled
        Called before each read; its exception ends the reading.

    Raises
    ------
    OSError
        Where a file cannot be read.
    """
    buffer = bytearray(max((part.length for ranges in missing for part in ranges), default=0))
    for index, (path, ranges) in enumerate(zip(paths, missing, strict=True)):
        if ranges:
            on_read(index, 0)
            with open(path, "rb", buffering=0) as file:
                for count in _read_ranges(file.fileno(), ranges, buffer, check_cancelled):
                    on_read(index, count)


def _missing_ranges(fd: int) -> list[Missing]:
    size = os.fstat(fd).st_size
    ranges: list[Missing] = []
    if size and resident_bytes(fd, 0, size) != size:
        for offset in range(0, size, CHUNK):
            _add_missing(fd, offset, min(CHUNK, size - offset), ranges)
    return ranges


def _add_missing(fd: int, offset: int, length: int, ranges: list[Missing]) -> None:
    found = resident_bytes(fd, offset, length) or 0
    if found == length:
        return
    if found == 0 or length <= _SMALLEST:
        ranges.append(Missing(offset, length, length - found))
        return
    # A system short of memory drops a page here and there: look for them, rather than read all again.
    half = length // 2 // mmap.PAGESIZE * mmap.PAGESIZE
    _add_missing(fd, offset, half, ranges)
    _add_missing(fd, offset + half, length - half, ranges)


def _read_ranges(
    fd: int, ranges: Sequence[Missing], buffer: bytearray, check_cancelled: Callable[[], None]
) -> Iterator[int]:
    with memoryview(buffer) as view:
        for offset, length, count_missing in ranges:
            done = 0
            while done < length:
                check_cancelled()
                count = _read_into(fd, view[done:length], offset + done)
                if count == 0:
                    raise OSError(f"the file ended at byte {offset + done:,} while it was read")
                done += count
            yield count_missing


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

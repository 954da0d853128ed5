"""Find which parts of a file are in the page cache, and fault mapped ranges into memory.

Linux can tell (cachestat, or mincore through a mapping). The mincore of macOS knows only this process's own pages, and
Windows cannot tell. There, everything counts as missing and is read, which is correct, and fast for cached parts.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from nbloader._text.catalogue import text

_PORTION = 1 << 20  # bytes of one read
_CHUNK = 8 << 20  # bytes; a query of at most this size keeps the GIL
_SMALLEST = 128 << 10  # bytes; for a smaller range, a query costs more than reading

_PIECE, _SAMPLED_EVERY = 64 << 10, 16 << 20  # bytes
_PAGES_LOOKED_AT = 2048  # over all ranges, but at least one page of each
_PRESENT = 1 << 7  # bit in the last byte of a page's entry

_SYS_CACHESTAT = 451  # the same on every architecture, since Linux 6.5
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
# PyDLL keeps the GIL during a call: taking it back after every short query takes longer than the query.
_libc_kept = ctypes.PyDLL(None, use_errno=True) if sys.platform == "linux" else None


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _CacheStat(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


def resident_bytes(fd: int, offset: int, length: int) -> int | None:
    """Return how many bytes of a file's range are in the page cache, in whole pages; None if not known.

    Source: cachestat(2), https://docs.kernel.org/filesystems/proc.html; mincore(2).
    """
    if _libc is None or _libc_kept is None:
        return None
    libc = _libc_kept if length <= _CHUNK else _libc
    stat = _CacheStat()
    asked = _Range(offset, length)
    if libc.syscall(_SYS_CACHESTAT, fd, ctypes.byref(asked), ctypes.byref(stat), 0) == 0:
        return min(length, int(stat.cached) * mmap.PAGESIZE)
    return _mincore(fd, offset, length)


def _mincore(fd: int, offset: int, length: int) -> int | None:
    # For files that this user neither owns nor may write, mincore always answers "all resident".
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
    """A range of a file that is not completely in the page cache: `absent` of its `length` bytes are missing."""

    offset: int
    length: int
    absent: int


def find_missing(path: Path) -> list[Missing]:
    """Return the ranges of a file that are not in the page cache; the whole file if the system cannot say.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        return _missing_ranges(file.fileno())


def seems_resident(path: Path) -> bool:
    """Return whether evenly spaced pieces of a file are all in the page cache: 64 KB of every 16 MB, and the last.

    To count all pages takes 6 ms for a gigabyte, to look at a sample of them 0.5 ms.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        fd, size = file.fileno(), os.fstat(file.fileno()).st_size
        last = max(0, size - _PIECE) // mmap.PAGESIZE * mmap.PAGESIZE
        pieces = [(offset, min(_PIECE, size - offset)) for offset in range(0, size, _SAMPLED_EVERY)]
        return all(resident_bytes(fd, offset, length) == length for offset, length in (*pieces, (last, size - last)))


def _missing_ranges(fd: int) -> list[Missing]:
    size = os.fstat(fd).st_size
    ranges: list[Missing] = []
    if size and resident_bytes(fd, 0, size) != size:
        for offset in range(0, size, _CHUNK):
            _add_missing(fd, offset, min(_CHUNK, size - offset), ranges)
    return ranges


def _add_missing(fd: int, offset: int, length: int, ranges: list[Missing]) -> None:
    found = resident_bytes(fd, offset, length) or 0
    if found == length:
        return
    if found == 0 or length <= _SMALLEST:
        ranges.append(Missing(offset, length, length - found))
        return
    # A system short of memory drops single pages: find them instead of reading the whole range again.
    half = length // 2 // mmap.PAGESIZE * mmap.PAGESIZE
    _add_missing(fd, offset, half, ranges)
    _add_missing(fd, offset + half, length - half, ranges)


def drops_cache(path: Path) -> bool:
    """Return whether what is read of this file is no longer in the page cache after it is opened again.

    That is so if storage drops its cache at every open (FUSE without keep_cache). It is also so if storage bypasses it
    (FUSE with direct_io, or a distributed file system with a cache of its own). False if the system cannot say.
    """
    size = min(os.path.getsize(path), _SMALLEST)
    with open(path, "rb", buffering=0) as file:
        file.read(size)
    with open(path, "rb", buffering=0) as file:
        return size > 0 and resident_bytes(file.fileno(), 0, size) == 0


def read_through(path: str | os.PathLike[str], begin: int, end: int) -> None:
    """Read a range of a file into the page cache; unlike with a mapping, an error raises and does not kill.

    Raises
    ------
    OSError
        If the storage fails.
    """
    portion = bytearray(min(_PORTION, end - begin))
    with open(path, "rb", buffering=0) as file:
        file.seek(begin)
        while begin < end:
            try:
                count = file.readinto(memoryview(portion)[: end - begin])
            except OSError as error:
                raise OSError(error.errno, error.strerror, os.fspath(path)) from None
            if not count:  # the file was truncated
                raise OSError(errno.EIO, text("reason", "shortened"), os.fspath(path))
            begin += count


def kernel_readahead(path: Path) -> int:
    """Return how many bytes the kernel reads ahead on the storage of this file; 0 if the system does not say."""
    if sys.platform != "linux":
        return 0
    device = os.stat(path).st_dev
    try:
        told = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb").read_text()
    except OSError:
        return 0
    return int(told) << 10


def can_touch(address: int, length: int) -> bool:
    """Return whether a range of this process's memory can be read.

    If the mapped file was truncated, touching what it has lost would kill the process. It loses its end first, so only
    the last page is tried: to populate all of them takes longer than to map them by touching.
    """
    last = address + max(length, 1) - 1
    return _populate(last - last % mmap.PAGESIZE, mmap.PAGESIZE) != errno.EFAULT


def untouched_bytes(ranges: Sequence[tuple[int, int]]) -> int:
    """Return how many bytes of these memory ranges, (address, length), this process has not touched yet.

    Only touched pages of a mapped file count in the process's RSS, whether they are in memory or not. The result is an
    estimate from a few pages of each range. It is 0 if the system does not tell
    (https://docs.kernel.org/admin-guide/mm/pagemap.html).
    """
    total = 0
    looks = max(1, _PAGES_LOOKED_AT // max(1, len(ranges)))
    with suppress(OSError), open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for address, length in ranges:
            pages = range(address // mmap.PAGESIZE, (address + length) // mmap.PAGESIZE)
            looked = pages[len(pages) // (2 * looks) :: max(1, len(pages) // looks)]
            absent = sum(not os.pread(pagemap.fileno(), 8, page * 8)[-1] & _PRESENT for page in looked)
            total += length * absent // len(looked) if looked else 0
    return total


def make_resident(address: int, length: int, check_cancelled: Callable[[], None]) -> None:
    """Fault a mapped range of this process's memory in, window by window, without changing it.

    If the kernel has no MADV_POPULATE_READ (Linux 5.14 and later), one byte of each page is read.

    Raises
    ------
    OSError
        If the file was truncated, so that an access would kill this process.
    """
    window = 64 << 20
    start = address - address % mmap.PAGESIZE
    for begin in range(start, address + length, window):
        check_cancelled()
        extent = min(window, address + length - begin)
        failed = _populate(begin, extent)
        if failed == errno.EFAULT:
            raise OSError(errno.EFAULT, text("reason", "shortened"))
        if failed:
            for page in range(max(begin, address), begin + extent, mmap.PAGESIZE):
                ctypes.c_ubyte.from_address(page).value  # noqa: B018 - reading it is the point


def _populate(address: int, length: int) -> int:
    """Fault a range in; return 0, or the errno of madvise(2)."""
    madv_populate_read = 22
    if _libc is None:
        return errno.ENOSYS
    done = _libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), ctypes.c_int(madv_populate_read))
    return 0 if done == 0 else ctypes.get_errno()

"""What of a file is in the page cache, and bringing what is mapped into memory.

Linux tells (cachestat, or mincore through a mapping). macOS has a mincore that tells only of this process's own pages,
and Windows tells nothing: there everything counts as missing and is read, which is right and, for what was resident,
quick.
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

_PORTION = 1 << 20  # bytes read at once
_CHUNK = 8 << 20  # bytes asked about at once
_SMALLEST = 128 << 10  # bytes; below it, looking costs more than reading

_PAGES_LOOKED_AT = 2048  # of all ranges together, at least one of each, for whether they were touched
_PRESENT = 1 << 7  # in the last byte of a page's entry

_SYS_CACHESTAT = 451  # the same number on every architecture; Linux 6.5 and later
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
# Keeps the interpreter while it asks: winning it back after every short question takes longer than the question.
_libc_kept = ctypes.PyDLL(None, use_errno=True) if sys.platform == "linux" else None


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
    if _libc is None or _libc_kept is None:
        return None
    libc = _libc_kept if length <= _CHUNK else _libc
    stat = _CacheStat()
    asked = _Range(offset, length)
    if libc.syscall(_SYS_CACHESTAT, fd, ctypes.byref(asked), ctypes.byref(stat), 0) == 0:
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
    # A system short of memory drops a page here and there: look for them, rather than read all again.
    half = length // 2 // mmap.PAGESIZE * mmap.PAGESIZE
    _add_missing(fd, offset, half, ranges)
    _add_missing(fd, offset + half, length - half, ranges)


def drops_cache(path: Path) -> bool:
    """Return whether the page cache does not keep what is read of this file until it is opened again.

    So it is on storage that drops its cache at every open (FUSE without keep_cache) or goes around it (FUSE with
    direct_io, a distributed file system with a cache of its own). False where the system cannot say.
    """
    size = min(os.path.getsize(path), _SMALLEST)
    with open(path, "rb", buffering=0) as file:
        file.read(size)
    with open(path, "rb", buffering=0) as file:
        return size > 0 and resident_bytes(file.fileno(), 0, size) == 0


def read_through(path: str | os.PathLike[str], begin: int, end: int) -> None:
    """Read a range of a file, so that it is in the page cache; what cannot be read raises, and kills nobody.

    Raises
    ------
    OSError
        Where the storage fails.
    """
    portion = bytearray(min(_PORTION, end - begin))
    with open(path, "rb", buffering=0) as file:
        file.seek(begin)
        while begin < end:
            try:
                count = file.readinto(memoryview(portion)[: end - begin])
            except OSError as error:
                raise OSError(error.errno, error.strerror, os.fspath(path)) from None
            if not count:  # it has become shorter
                raise OSError(errno.EIO, text("reason", "shortened"), os.fspath(path))
            begin += count


def kernel_readahead(path: Path) -> int:
    """Return how many bytes the kernel reads ahead on the storage of this file; 0 where the system does not say."""
    if sys.platform != "linux":
        return 0
    device = os.stat(path).st_dev
    try:
        told = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb").read_text()
    except OSError:
        return 0
    return int(told) << 10


def map_pages(address: int, length: int) -> bool:
    """Map a range of this process's memory at once, which reading it would do page by page.

    Returns whether it can be read: of a mapped file that was cut short since it cannot, and who does is killed.
    """
    start = address - address % mmap.PAGESIZE
    return _populate(start, address + length - start) != errno.EFAULT


def untouched_bytes(ranges: Sequence[tuple[int, int]]) -> int:
    """Return how many bytes of these ranges of memory, (address, length), this process has not touched yet.

    A mapped file is part of the process's RSS only where it was touched, be it in memory or not. A few pages of each
    range are looked at; 0 where the system does not tell (https://docs.kernel.org/admin-guide/mm/pagemap.html).
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

    Where the system cannot be asked to (MADV_POPULATE_READ, Linux 5.14 and later), one byte of each page is read.

    Raises
    ------
    OSError
        Where the file was cut short, so that reading it would kill this process.
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
    """Fault a range in; return 0, or the number of the error (madvise(2))."""
    madv_populate_read = 22
    if _libc is None:
        return errno.ENOSYS
    done = _libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), ctypes.c_int(madv_populate_read))
    return 0 if done == 0 else ctypes.get_errno()

"""Readahead: reads parts of files on its own threads, in the order in which they will be needed.

The bytes stay in the page cache, or go into files in memory. On Linux, sendfile to the null device reads without
copying a byte. On macOS, preadv reads without holding the GIL, and without a file position that threads would share.
Windows has neither: there, each reader opens the file for itself.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

from nbloader._reading.pace import Pace
from nbloader._reading.parts import Part
from nbloader._system.memory_file import MemoryFile, open_direct
from nbloader._system.page_cache import kernel_readahead, resident_bytes
from nbloader._system.threads import make_thread

_BUFFER = 256 << 10  # bytes; a read into the page cache passes through it, so it must fit in the processor's cache
_MOST_BUFFERS = 1024  # that one call accepts
_AT_ONCE = 8 << 20  # bytes; another thread would wait 5 ms for each turn of the GIL, which takes longer
_SCATTERED = 4  # times as many bytes may be read if the missing ones are scattered pages
_TELL_SECONDS = 0.025
_NICENESS = 10
_MOST_KERNEL_READAHEAD = 1 << 20  # bytes that the kernel may read, uncounted, after each read


class Readahead:
    """Reads parts of files, several at a time.

    Parameters
    ----------
    paths
        The files.
    parts
        The parts of the files to read, in order.
    pace
        Sets the number of readers, and the size of each read.
    on_read
        Called several times a second with the index of a file and how many absent bytes of it have come into memory.
        Called with 0 when the first read of a file begins. Unfinished reads count with their bytes in the page cache.
    on_readers
        Called with the number of readers whenever it changes.
    copies
        For each file that does not go to the page cache, the file in memory that receives its bytes. They are closed
        at the end.
    window
        Bytes that may be read but not used yet; None for no limit.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        parts: Sequence[Part],
        pace: Pace,
        on_read: Callable[[int, int], None],
        on_readers: Callable[[int], None] = lambda readers: None,
        copies: Mapping[int, MemoryFile] | None = None,
        window: int | None = None,
    ) -> None:
        self._paths = paths
        self._left = deque(enumerate(parts))
        self._ends = list(accumulate(part.length for part in parts))
        self._absent = sum(part.absent for part in parts)
        self._pace = pace
        self._on_read = on_read
        self._on_readers = on_readers
        self._copies = copies or {}
        self._window = window
        self._read = bytearray(len(parts))  # 1 for each part that is read
        self._by_file: list[list[tuple[Part, int]]] = [[] for _ in paths]
        for number, part in enumerate(parts):
            self._by_file[part.file].append((part, number))
        for numbered in self._by_file:
            numbered.sort(key=lambda pair: pair[0].offset)
        self._lock = threading.Lock()
        self._may_go_on = threading.Condition(self._lock)  # for readers
        self._has_come = threading.Condition(self._lock)  # for threads that wait for bytes
        self._files: dict[int, int] = {}
        self._unread = [len(numbered) for numbered in self._by_file]
        self._under_way: dict[int, Part] = {}
        self._counts = [0] * len(paths)
        self._told = [0] * len(paths)
        self._known: set[int] = set()
        self._begun: list[int] = []  # not reported yet
        self._telling = threading.Lock()
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._teller: threading.Thread | None = None
        self._told_readers = 0
        self._used = 0
        self._working = 0
        self._stopped = False
        self._ended = False
        self._error: BaseException | None = None

    @property
    def is_little(self) -> bool:
        """Whether there is so little to read that reading in the background would take longer."""
        return self._absent <= _AT_ONCE and (not self._ends or self._ends[-1] <= _SCATTERED * _AT_ONCE)

    def run(self) -> None:
        """Read everything on this thread, and return."""
        self._working = 1
        self._work(0)
        self._tell()

    def start(self) -> None:
        """Start to read in the background, and return at once."""
        self._teller = make_thread(self._keep_telling, "nbloader-progress")
        self._teller.start()
        with self._lock:
            self._add_readers()

    @property
    def is_over(self) -> bool:
        """Whether everything is read."""
        return not any(self._unread)

    def wait_for(self, file: int, begin: int, end: int, check_cancelled: Callable[[], None]) -> None:
        """Wait until the bytes from `begin` to `end` of a file are read; they count as used from the call on.

        Raises
        ------
        OSError
            If a file could not be read.
        """
        parts = self._by_file[file]
        first = bisect_left(parts, begin, key=lambda pair: pair[0].end - 1)
        last = bisect_left(parts, end, key=lambda pair: pair[0].offset)
        numbers = [number for _, number in parts[first:last]]
        if numbers:
            self._use(max(numbers))
        for number in numbers:
            self._wait(number, check_cancelled)

    def wait(self, check_cancelled: Callable[[], None]) -> None:
        """Wait until everything is read.

        Raises
        ------
        OSError
            If a file could not be read.
        """
        for number in range(len(self._read)):
            self._use(number)
            self._wait(number, check_cancelled)
        self._tell()

    def stop(self, seconds: float = 0.5) -> None:
        """End the reading; wait at most `seconds` for threads whose reads hang in the kernel."""
        with self._lock:
            self._stopped = self._ended = True
            self._may_go_on.notify_all()
            self._has_come.notify_all()
        self._over.set()
        deadline = time.monotonic() + seconds
        for thread in (*self._threads, *([self._teller] if self._teller else [])):
            thread.join(max(0.0, deadline - time.monotonic()))
        self._close()

    def _use(self, number: int) -> None:
        if self._window is None or self._ends[number] <= self._used:
            return
        with self._lock:
            self._used = max(self._used, self._ends[number])
            self._may_go_on.notify_all()

    def _wait(self, number: int, check_cancelled: Callable[[], None]) -> None:
        while not self._read[number]:
            check_cancelled()
            with self._lock:
                if self._error is not None:
                    raise self._error
                if self._stopped:
                    raise RuntimeError("Reading was stopped.")
                if not self._read[number]:
                    self._has_come.wait(0.05)

    def _add_readers(self) -> None:
        while len(self._threads) < min(self._pace.readers, len(self._read)):
            thread = make_thread(self._work_behind, "nbloader-reader", len(self._threads))
            self._threads.append(thread)
            self._working += 1
            thread.start()
        if self._told_readers != self._pace.readers:
            self._told_readers = self._pace.readers
            self._on_readers(self._pace.readers)

    def _keep_telling(self) -> None:
        while not self._over.wait(_TELL_SECONDS):
            self._tell()

    def _tell(self) -> None:
        """Report the bytes read since the last report, including those of unfinished reads."""
        with self._telling:  # one at a time, so that the first report of a file is that its reading began
            with self._lock:
                if self._ended:
                    return
                begun, self._begun = self._begun, []
                counts = list(self._counts)
                for part in self._under_way.values():
                    counts[part.file] += self._arrived(part)
                new = [
                    (file, count - told)
                    for file, (count, told) in enumerate(zip(counts, self._told, strict=True))
                    if count > told
                ]
                for file, size in new:
                    self._told[file] += size
            for file in begun:
                self._on_read(file, 0)
            for file, size in new:
                self._on_read(file, size)

    def _arrived(self, part: Part) -> int:
        fd = self._files.get(part.file)
        if fd is None or part.file in self._copies:
            return 0
        present = part.length - part.absent
        return max(0, (resident_bytes(fd, part.offset, part.length) or 0) - present)

    def _work_behind(self, reader: int) -> None:
        if sys.platform == "linux":  # elsewhere it would be the whole process's priority
            with suppress(OSError):
                # Reading keeps processors busy that the placing thread needs.
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        self._work(reader)

    def _work(self, reader: int) -> None:
        sink = _Sink()
        try:
            while taken := self._take(reader):
                began = time.monotonic()
                count = self._read_parts([part for _, part in taken], sink)
                self._finish(reader, taken, count, time.monotonic() - began)
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
            with self._lock:
                self._error = self._error or error.with_traceback(None)
                self._stopped = True
                self._may_go_on.notify_all()
                self._has_come.notify_all()
            self._over.set()
        finally:
            sink.close()
            with self._lock:
                self._working -= 1
            self._close()

    def _take(self, reader: int) -> list[tuple[int, Part]]:
        """Return the next parts for a reader, which are adjacent in one file; an empty list if none are left."""
        with self._lock:
            while not self._stopped and self._left and (reader >= self._pace.readers or self._is_far_ahead()):
                self._may_go_on.wait()
            if self._stopped or not self._left:
                return []
            taken = [self._left.popleft()]
            length = taken[0][1].length
            while self._left and length < self._pace.read_size:
                follower = self._left[0][1]
                if follower.file != taken[-1][1].file or follower.offset != taken[-1][1].end:
                    break
                taken.append(self._left.popleft())
                length += follower.length
            if not self._left:
                self._may_go_on.notify_all()
            first = taken[0][1]
            absent = sum(part.absent for _, part in taken)
            self._under_way[reader] = Part(first.file, first.offset, length, absent)
            begins = first.file not in self._known
            if begins:
                self._known.add(first.file)
                self._begun.append(first.file)
        if begins:
            self._tell()  # report at once, so that the event has the right time
        return taken

    def _is_far_ahead(self) -> bool:
        return self._window is not None and self._ends[self._left[0][0]] - self._used > self._window

    def _finish(self, reader: int, taken: Sequence[tuple[int, Part]], count: int, seconds: float) -> None:
        with self._lock:
            if self._stopped:
                return
            read = self._under_way.pop(reader)
            self._counts[read.file] += read.absent
            for number, _ in taken:
                self._read[number] = 1
            self._unread[read.file] -= len(taken)
            file_ended = self._unread[read.file] == 0
            if file_ended and read.file in self._files:
                os.close(self._files.pop(read.file))
            self._pace.finished(time.monotonic(), count, seconds)
            if self._threads and self._pace.readers != self._told_readers:
                self._add_readers()
                self._may_go_on.notify_all()
            self._has_come.notify_all()
            if self.is_over:
                self._over.set()
        if file_ended and self._threads:
            self._tell()  # report at once, so that the event has the right time

    def _read_parts(self, parts: Sequence[Part], sink: _Sink) -> int:
        file, begin, end = parts[0].file, parts[0].offset, parts[-1].end
        copy = self._copies.get(file)
        offset = begin
        while offset < end:
            try:
                if copy is not None:
                    count = copy.take(self._open(file), offset, end)
                elif hasattr(os, "preadv"):
                    count = sink.take(self._open(file), offset, end - offset)
                else:
                    count = sink.take_by_seeking(self._paths[file], offset, end - offset)
            except OSError as error:
                error.filename = error.filename or os.fspath(self._paths[file])
                raise
            if count == 0:
                raise OSError(
                    None, f"the file ended at byte {offset:,} while it was read", os.fspath(self._paths[file])
                )
            offset += count
        return end - begin

    def _open(self, file: int) -> int:
        with self._lock:
            if file not in self._files:
                path = self._paths[file]
                self._files[file] = open_direct(path) if file in self._copies else os.open(path, os.O_RDONLY)
                if kernel_readahead(path) > _MOST_KERNEL_READAHEAD:
                    # After each read, the kernel would read ahead the bytes that another reader is reading.
                    os.posix_fadvise(self._files[file], 0, 0, os.POSIX_FADV_RANDOM)
            return self._files[file]

    def _close(self) -> None:
        """Close every file once no reader works; a reader that hangs closes the files when it returns."""
        with self._lock:
            if self._working or not (self._stopped or not self._left):
                return
            while self._files:
                os.close(self._files.popitem()[1])
            if self._ended:
                for copy in self._copies.values():
                    copy.close()
                self._copies = {}


class _Sink:
    """Discards the bytes that are read: their only purpose is to be in the page cache."""

    def __init__(self) -> None:
        self._null = os.open(os.devnull, os.O_WRONLY) if sys.platform == "linux" else None
        self._buffer: memoryview | None = None

    def take(self, fd: int, offset: int, length: int) -> int:
        """Read a range of an open file, or its beginning; return the number of bytes read, 0 after the end."""
        if self._null is not None:
            try:
                return os.sendfile(self._null, fd, offset, length)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                self.close()  # the kernel cannot send from this storage
        whole, rest = divmod(min(length, _MOST_BUFFERS * _BUFFER), _BUFFER)
        buffer = self._own_buffer()
        return os.preadv(fd, [buffer] * whole + ([buffer[:rest]] if rest else []), offset)

    def take_by_seeking(self, path: Path, offset: int, length: int) -> int:
        """Read like `take`, on systems that cannot read at an offset."""
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            return file.readinto(self._own_buffer()[:length]) or 0

    def _own_buffer(self) -> memoryview:
        if self._buffer is None:
            self._buffer = memoryview(bytearray(_BUFFER))
        return self._buffer

    def close(self) -> None:
        if self._null is not None:
            os.close(self._null)
        self._null = None

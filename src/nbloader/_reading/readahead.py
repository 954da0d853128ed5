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
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

from nbloader._reading.arrivals import Arrivals
from nbloader._reading.pace import Pace
from nbloader._reading.parts import Part
from nbloader._system.memory_file import MemoryFile, open_direct
from nbloader._system.threads import make_thread

_BUFFER = 256 << 10  # bytes; a read into the page cache passes through it, so it must fit in the processor's cache
_MOST_BUFFERS = 1024  # that one call accepts
_AT_ONCE = 8 << 20  # bytes; another thread would wait 5 ms for each turn of the GIL, which takes longer
_SCATTERED = 4  # times as many bytes may be read if the missing ones are scattered pages
_TELL_SECONDS = 0.015
_NICENESS = 10
_LONG = 0.5  # seconds; a cancel should wait no longer for a read to return
_SHORT_READ = 1 << 20  # bytes of a read where a whole part takes longer


class Readahead:
    """Reads parts of files, several at a time.

    Parameters
    ----------
    paths
        The files.
    parts
        The parts of the files to read, in order.
    pace
        Sets the number of readers.
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
    opens_once
        Whether readers share a file's descriptor, because opening the file again would drop what was read of it.
        Otherwise, each reader opens it for itself, and the kernel follows each one's place in it.
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
        *,
        opens_once: bool = False,
    ) -> None:
        self._paths = paths
        self._parts = parts
        self._left = deque(range(len(parts)))
        self._ends = list(accumulate(part.length for part in parts))
        self._absent = sum(part.absent for part in parts)
        self._pace = pace
        self._on_readers = on_readers
        self._copies = copies or {}
        self._window = window
        self._opens_once = opens_once
        self._arrivals = Arrivals(parts, len(paths), self._descriptor, on_read)
        self._is_read = self._arrivals.is_read
        self._lock = threading.Lock()
        self._may_go_on = threading.Condition(self._lock)  # for readers
        self._has_come = threading.Condition(self._lock)  # for threads that wait for bytes
        self._awaited: set[int] = set()
        self._known: set[int] = set()  # files that are begun
        self._files: dict[int, int] = {}  # descriptors that threads share
        self._opening = threading.Lock()
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
        self._add_readers()
        self._teller = make_thread(self._keep_telling, "nbloader-progress")
        self._teller.start()

    @property
    def is_over(self) -> bool:
        """Whether everything is read."""
        return 0 not in self._is_read

    def wait_for(self, file: int, begin: int, end: int, check_cancelled: Callable[[], None]) -> None:
        """Wait until the bytes from `begin` to `end` of a file are read; they count as used from the call on.

        Raises
        ------
        OSError
            If a file could not be read.
        """
        numbers = self._arrivals.by_file[file]
        first = bisect_left(numbers, begin, key=lambda number: self._parts[number].end - 1)
        last = bisect_left(numbers, end, key=lambda number: self._parts[number].offset)
        numbers = numbers[first:last]
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
        for number in range(len(self._parts)):
            self._use(number)
            self._wait(number, check_cancelled)
        self._tell()

    def stop(self, seconds: float = 0.5) -> None:
        """End the reading; wait at most `seconds` for threads whose reads hang in the kernel."""
        self._arrivals.end()
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
        while not self._is_read[number]:
            check_cancelled()
            with self._lock:
                if self._error is not None:
                    raise self._error
                if self._stopped:
                    raise RuntimeError("Reading was stopped.")
                self._awaited.add(number)
                if not self._is_read[number]:
                    self._has_come.wait(0.05)

    def _add_readers(self) -> None:
        while len(self._threads) < min(self._pace.readers, len(self._parts)):
            thread = make_thread(self._work_behind, "nbloader-reader", len(self._threads))
            with self._lock:
                self._working += 1
            self._threads.append(thread)
            thread.start()
        if self._told_readers != self._pace.readers:
            self._told_readers = self._pace.readers
            self._on_readers(self._pace.readers)

    def _keep_telling(self) -> None:
        while not self._over.wait(_TELL_SECONDS):
            self._tell()
            if self._pace.readers != self._told_readers:
                self._add_readers()
                with self._lock:
                    self._may_go_on.notify_all()
        self._tell()

    def _tell(self) -> None:
        finished = self._arrivals.tell()
        if finished:
            with self._lock:
                self._pace.finished(time.monotonic(), sum(part.length for part in finished), len(finished))
            for file in {part.file for part in finished}:
                self._close_read(file)

    def _close_read(self, file: int) -> None:
        """Close the shared descriptor of a file if all of it is read: there may be thousands of files."""
        with self._opening:
            if file in self._files and all(self._is_read[number] for number in self._arrivals.by_file[file]):
                os.close(self._files.pop(file))

    def _work_behind(self, reader: int) -> None:
        if sys.platform == "linux":  # elsewhere it would be the whole process's priority
            with suppress(OSError):
                # Reading keeps processors busy that placing and the count of what has come need.
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        self._work(reader)

    def _work(self, reader: int) -> None:
        sink, opened = _Sink(), _Opened(self._paths, self._copies)
        most: int | None = None
        try:
            while (number := self._take(reader)) is not None:
                part, began = self._parts[number], time.monotonic()
                self._read_part(part, sink, opened, most or part.length)
                most = _SHORT_READ if time.monotonic() - began > _LONG else None
                self._finish(number)
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
            with self._lock:
                self._error = self._error or error.with_traceback(None)
                self._stopped = True
                self._may_go_on.notify_all()
                self._has_come.notify_all()
            self._over.set()
        finally:
            sink.close()
            opened.close()
            with self._lock:
                self._working -= 1
            self._close()

    def _take(self, reader: int) -> int | None:
        """Return the number of the next part for a reader; None if none is left."""
        # Without a lock: a reader that lost its turn of the GIL while it held one would stop all others.
        if reader >= self._pace.readers or self._window is not None:
            with self._lock:
                while not self._stopped and self._left and (reader >= self._pace.readers or self._is_far_ahead()):
                    self._may_go_on.wait()
                number = self._next()
        else:
            number = self._next()
        if number is not None:
            file = self._parts[number].file
            begins = file not in self._known
            self._known.add(file)
            self._arrivals.begin(reader, number, is_first=begins)
            if begins:
                self._tell()  # at once, so that the event has the right time
        return number

    def _next(self) -> int | None:
        try:
            return None if self._stopped else self._left.popleft()
        except IndexError:
            return None

    def _is_far_ahead(self) -> bool:
        return self._window is not None and self._ends[self._left[0]] - self._used > self._window

    def _finish(self, number: int) -> None:
        if self._stopped:  # perhaps before the part was read to its end
            return
        self._arrivals.finish(number)
        if not self._left:
            with self._lock:
                self._may_go_on.notify_all()
        if number in self._awaited:
            with self._lock:
                self._has_come.notify_all()
        if self.is_over:
            self._over.set()

    def _read_part(self, part: Part, sink: _Sink, opened: _Opened, most: int) -> None:
        copy = self._copies.get(part.file)
        offset = part.offset
        while offset < part.end and not self._stopped:
            end = min(part.end, offset + most)
            try:
                if copy is None and not hasattr(os, "preadv"):
                    count = sink.take_by_seeking(self._paths[part.file], offset, end - offset)
                else:
                    fd = self._shared(part.file) if self._opens_once else opened.get(part.file)
                    count = sink.take(fd, offset, end - offset) if copy is None else copy.take(fd, offset, end)
            except OSError as error:
                error.filename = error.filename or os.fspath(self._paths[part.file])
                raise
            if count == 0:
                raise OSError(
                    None, f"the file ended at byte {offset:,} while it was read", os.fspath(self._paths[part.file])
                )
            offset += count

    def _descriptor(self, file: int) -> int | None:
        if sys.platform == "linux" and file not in self._copies and not self._ended:  # no other system tells
            with suppress(OSError):  # a reader raises it
                return self._shared(file)
        return None

    def _shared(self, file: int) -> int:
        """Return a descriptor of a file for all threads."""
        with self._opening:
            if file not in self._files:
                self._files[file] = _open(self._paths[file], is_direct=file in self._copies)
            return self._files[file]

    def _close(self) -> None:
        """Close every file once no reader works; a reader that hangs closes the files when it returns."""
        with self._lock:
            if self._working or not self._ended:
                return
            with self._opening:
                while self._files:
                    os.close(self._files.popitem()[1])
            for copy in self._copies.values():
                copy.close()
            self._copies = {}


class _Opened:
    """The file that a reader has open for itself, so that the kernel follows its place in it."""

    def __init__(self, paths: Sequence[Path], direct: Container[int]) -> None:
        self._paths = paths
        self._direct = direct
        self._file: tuple[int, int] | None = None

    def get(self, file: int) -> int:
        """Return the descriptor of a file, and close the one before."""
        if self._file is None or self._file[0] != file:
            self.close()
            self._file = file, _open(self._paths[file], is_direct=file in self._direct)
        return self._file[1]

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file[1])
        self._file = None


def _open(path: Path, *, is_direct: bool) -> int:
    return open_direct(path) if is_direct else os.open(path, os.O_RDONLY)


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

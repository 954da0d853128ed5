"""Readahead: reads parts of files on its own threads, in the order in which they will be needed."""

from __future__ import annotations

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

from nbloader._reading.arrivals import Arrivals
from nbloader._reading.pace import Pace
from nbloader._reading.part_reader import PartReader, open_file
from nbloader._reading.parts import Part
from nbloader._system.memory_file import MemoryFile
from nbloader._system.threads import make_thread

_AT_ONCE = 8 << 20  # bytes; another thread would wait 5 ms for each turn of the GIL, which takes longer
_SCATTERED = 4  # times as many bytes may be read if the missing ones are scattered pages
_TELL_SECONDS = 0.015
_NICENESS = 10


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
        self._changing = threading.Lock()  # the number of readers
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
        self._follow_pace()
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

    def _follow_pace(self) -> None:
        with self._changing:
            if self._told_readers == self._pace.readers:
                return
            self._told_readers = self._pace.readers
            while len(self._threads) < min(self._told_readers, len(self._parts)):
                thread = make_thread(self._work_behind, "nbloader-reader", len(self._threads))
                with self._lock:
                    self._working += 1
                self._threads.append(thread)
                thread.start()
            with self._lock:
                self._may_go_on.notify_all()
            self._on_readers(self._told_readers)

    def _keep_telling(self) -> None:
        while not self._over.wait(_TELL_SECONDS):
            self._tell()
            self._follow_pace()
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
        part_reader = PartReader(self._paths, self._copies, self._shared if self._opens_once else None)
        try:
            while (number := self._take(reader)) is not None:
                part_reader.read(self._parts[number], lambda: self._stopped)
                self._finish(number)
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
            with self._lock:
                self._error = self._error or error.with_traceback(None)
                self._stopped = True
                self._may_go_on.notify_all()
                self._has_come.notify_all()
            self._over.set()
        finally:
            part_reader.close()
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
        if self._pace.is_opening and self._threads:
            self._tell()
            self._follow_pace()
        if not self._left:
            with self._lock:
                self._may_go_on.notify_all()
        if number in self._awaited:
            with self._lock:
                self._has_come.notify_all()
        if self.is_over:
            self._over.set()

    def _descriptor(self, file: int) -> int | None:
        if sys.platform == "linux" and file not in self._copies and not self._ended:  # no other system tells
            with suppress(OSError):  # a reader raises it
                return self._shared(file)
        return None

    def _shared(self, file: int) -> int:
        """Return a descriptor of a file for all threads."""
        with self._opening:
            if file not in self._files:
                self._files[file] = open_file(self._paths[file], is_direct=file in self._copies)
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

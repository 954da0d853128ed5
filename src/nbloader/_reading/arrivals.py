"""Arrivals: counts the bytes that readers have brought into memory, and reports them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from nbloader._reading.parts import Part
from nbloader._system.page_cache import resident_bytes

_BEYOND = 4  # parts after one that is read; the kernel reads ahead into them


class Arrivals:
    """The bytes of parts that have come into memory.

    Readers note what they do without a lock, each in one operation that no other thread can interrupt: a reader that
    lost its turn of the GIL while it held a lock would stop all others.

    Parameters
    ----------
    parts
        The parts, by number.
    files
        How many files they are parts of.
    descriptor
        Returns an open descriptor of a file in the page cache; None for another, whose unfinished reads do not count.
    on_read
        Called with the index of a file and how many absent bytes of it have come since the last call; with 0 first.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        files: int,
        descriptor: Callable[[int], int | None],
        on_read: Callable[[int, int], None],
    ) -> None:
        self.is_read = bytearray(len(parts))
        """1 for each part that is read."""
        self._parts = parts
        self._descriptor = descriptor
        self._on_read = on_read
        self._begun: deque[int] = deque()  # files
        self._finished: deque[int] = deque()  # parts
        self._latest: dict[int, int] = {}  # by reader, the part that it reads or has read
        self._counts = [0] * files
        self._told = [0] * files
        self._telling = threading.Lock()
        self._has_ended = False
        # Bytes that have come of each part that a reader is reading, or into which the kernel may have read ahead.
        self._coming: dict[int, int] = {}
        by_file: list[list[int]] = [[] for _ in range(files)]
        for number, part in enumerate(parts):
            by_file[part.file].append(number)
        for numbers in by_file:
            numbers.sort(key=lambda number: parts[number].offset)
        self.by_file: Sequence[Sequence[int]] = by_file
        """The parts of each file, by offset."""
        self._following = {number: after for numbers in by_file for number, after in pairwise(numbers)}

    def begin(self, reader: int, number: int, *, is_first: bool) -> None:
        """Note that a reader reads a part, the first of its file or not."""
        self._latest[reader] = number
        if is_first:
            self._begun.append(self._parts[number].file)

    def finish(self, number: int) -> None:
        """Note that a part is read."""
        self.is_read[number] = 1
        self._finished.append(number)

    def end(self) -> None:
        """Report nothing from now on."""
        self._has_ended = True

    def tell(self) -> Sequence[Part]:
        """Report what has come since the last report; return the parts that have been finished since."""
        with self._telling:  # one at a time, so that the first report of a file is that its reading began
            if self._has_ended:
                return []
            begun, finished = list(_taken(self._begun)), list(_taken(self._finished))
            for number in finished:
                self._counts[self._parts[number].file] += self._parts[number].absent
            self._look(finished)
            counts = list(self._counts)
            for number, come in self._coming.items():
                counts[self._parts[number].file] += come
            for file in begun:
                self._on_read(file, 0)
            for file, count in enumerate(counts):
                if count > self._told[file]:
                    come, self._told[file] = count - self._told[file], count
                    self._on_read(file, come)
        return [self._parts[number] for number in finished]

    def _look(self, finished: Sequence[int]) -> None:
        """Look how much has come of the parts that are not finished."""
        for number in (*finished, *list(self._latest.values())):
            near = number
            for _ in range(1 + _BEYOND):
                if not self.is_read[near]:
                    self._coming.setdefault(near, 0)
                near = self._following.get(near, near)
        for number in finished:
            self._coming.pop(number, None)
        for number in self._coming:
            part = self._parts[number]
            fd = self._descriptor(part.file)
            if fd is not None:
                come = resident_bytes(fd, part.offset, part.length) or 0
                self._coming[number] = max(0, come - (part.length - part.absent))


def _taken(queue: deque[int]) -> Iterator[int]:
    """Yield and remove what is in a queue to which other threads append."""
    while queue:
        yield queue.popleft()

"""Pace: the number of parallel reads, found by measuring while reading."""

from __future__ import annotations

import os

_FIRST_READERS = 24
_LEAST_SECONDS = 0.06  # of a measurement at least
_AGAIN_SECONDS = 2.0  # after which the number of readers is measured again
_GAIN = 1.1  # factor by which more readers must be faster: less may be noise
_AS_GOOD = 0.97  # share of the best measured rate that counts as equally fast
_SLOW = 500e6  # bytes a second; storage that gives fewer may be a disk that seeks, so fewer readers are tried first
_ENOUGH = 400e6  # bytes a second and processor; beyond it, more readers only keep other threads from the GIL


class Pace:
    """Raises or lowers the number of readers while that raises the bytes read per second.

    Network storage answers each request late, but many in parallel: more readers are faster. On a disk, parallel reads
    cause seeks: fewer readers are faster. Only measuring shows which is the case. After each measurement, the number is
    doubled, or on slow storage halved, and a change without a gain is undone.

    Parameters
    ----------
    most
        The highest number of readers to try.
    readers
        A fixed number of readers; None to find it.
    processors
        How many processors this process may use; None to find it.
    """

    def __init__(self, most: int, readers: int | None = None, processors: int | None = None) -> None:
        self.readers = readers or _FIRST_READERS
        self._most = most
        self._fixed = readers is not None
        self._enough = (processors or _processors()) * _ENOUGH
        self._rates: dict[int, float] = {}
        self._climbing = True
        self._began: float | None = None
        self._reads = self._bytes = 0
        self._settling = self.readers
        self._holding_since: float | None = None

    def finished(self, now: float, count: int, reads: int = 1) -> None:
        """Record reads of `count` bytes in all that ended until `now` (seconds, monotonic)."""
        if self._fixed:
            return
        if self._settling > 0:  # begun with the previous number of readers
            self._settling -= reads
            return
        if self._began is None:
            self._began = now
            return
        self._reads += reads
        self._bytes += count
        elapsed = now - self._began
        if elapsed >= _LEAST_SECONDS and self._reads >= 2 * self.readers:
            self._judge(now, self._bytes / elapsed)

    def _judge(self, now: float, rate: float) -> None:
        is_first = not self._rates
        self._rates[self.readers] = rate
        if self._holding_since is not None:
            if now - self._holding_since < _AGAIN_SECONDS:
                return self._measure(self.readers)
            self._holding_since, self._climbing, self._rates = None, True, {self.readers: rate}
        elif is_first and rate < _SLOW:
            self._climbing = False
        if self._climbing and rate >= self._enough:
            return self._go_on(now, self.readers)
        fewer = max((readers for readers in self._rates if readers < self.readers), default=0)
        if self._climbing and rate >= _GAIN * self._rates.get(fewer, 0.0):
            return self._go_on(now, 2 * self.readers)
        if self._climbing:
            # Conditions change: measure the previous number again before a smaller one.
            self._climbing, self._rates = False, {}
            return self._measure(self.readers // 2)
        # The same rate with fewer readers is a gain: it takes less processor time, and fewer seeks on a disk.
        if rate >= _AS_GOOD * max(self._rates.values()):
            return self._go_on(now, self.readers // 2)
        return self._go_on(now, 2 * self.readers)

    def _go_on(self, now: float, readers: int) -> None:
        """Measure with this number of readers. Hold it if it was measured before; hold the current one at a limit."""
        readers = min(max(readers, 1), self._most)
        if readers in self._rates:
            self._holding_since = now
        self._measure(readers)

    def _measure(self, readers: int) -> None:
        self._settling = self.readers if readers != self.readers else 0
        self.readers = readers
        self._began = None
        self._reads = self._bytes = 0


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

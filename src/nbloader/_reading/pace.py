"""Pace: the number of parallel reads, found by measuring while reading."""

from __future__ import annotations

import os

_OPENING_READERS = 8
_OPENING_READS = 8  # that tell how fast they are, and then how fast one reader is
_OPENING_ROUNDS = 2
_OPENING_RATE = 200e6  # bytes a second of small reads side by side; no disk that seeks gives that many
_FIRST_READERS = 24
_LEAST_SECONDS = 0.06  # of a measurement at least
_LATE_SECONDS = 0.3  # that threads may wait for the GIL
_AGAIN_SECONDS = 2.0  # after which the number of readers is measured again; twice as long after each time in vain
_GAIN = 1.1  # factor by which more readers must be faster: less may be noise
_AS_GOOD = 0.97  # share of the best measured rate that counts as equally fast
_ENOUGH = 400e6  # bytes a second and processor; beyond it, more readers only keep other threads from the GIL


class Pace:
    """Raises or lowers the number of readers while that raises the bytes read per second.

    Network storage answers each request late, but many in parallel: more readers are faster. On a disk, parallel reads
    cause seeks: one reader is faster. Only measuring shows which is the case. The first parts are small: eight readers
    read some of them, and if that takes long, one reader reads as many alone, and all of this once more. It stays alone
    if it needs less than half the time, by the shortest time of eight, because threads that wait for the GIL read late.
    Otherwise, the number is doubled after each measurement, and a change without a gain is undone.

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
        self.readers = readers or _OPENING_READERS
        self.is_opening = readers is None
        """Whether the first parts are being read, after each of which `finished` should be called at once."""
        self._side_by_side: list[float] = []  # seconds that the opening's reads took
        self._rounds = 0  # in which one reader was faster
        self._most = most
        self._fixed = readers is not None
        self._enough = (processors or _processors()) * _ENOUGH
        self._rates: dict[int, float] = {}
        self._climbing = True
        self._began: float | None = None
        self._reads = self._bytes = 0
        self._settling = 0 if self.is_opening else self.readers
        self._holding_since: float | None = None
        self._again = _AGAIN_SECONDS
        self._held = 0  # readers that were held last

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
        if self.is_opening:
            self._open(now, elapsed)
        elif elapsed >= _LEAST_SECONDS and (self._reads >= 2 * self.readers or self._is_slower(elapsed)):
            self._judge(now, self._bytes / elapsed)

    def _is_slower(self, elapsed: float) -> bool:
        """Return whether a measurement would be over long ago if this number of readers were as fast as another one."""
        wanted = self._bytes / self._reads * 2 * self.readers
        return wanted < (elapsed - _LATE_SECONDS) * max(self._rates.values(), default=0.0)

    def _open(self, now: float, elapsed: float) -> None:
        if self.readers > 1:
            if self._reads >= _OPENING_READS:
                self._side_by_side.append(elapsed)
                if self._bytes >= _OPENING_RATE * elapsed:
                    self._begin_with(min(_FIRST_READERS, self._most))
                else:
                    self._measure(1)
        elif elapsed > min(self._side_by_side) / 2:
            self._begin_with(min(_FIRST_READERS, self._most))
        elif self._reads >= _OPENING_READS:
            self._rounds += 1
            if self._rounds == _OPENING_ROUNDS:
                self._begin_with(1)
                self._hold(now, 1)
            else:
                self._measure(_OPENING_READERS)

    def _begin_with(self, readers: int) -> None:
        self.is_opening = False
        self._measure(readers)

    def _judge(self, now: float, rate: float) -> None:
        self._rates[self.readers] = rate
        if self._holding_since is not None:
            if now - self._holding_since < self._again:
                return self._measure(self.readers)
            self._holding_since, self._climbing, self._rates = None, True, {self.readers: rate}
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
            self._hold(now, readers)
        self._measure(readers)

    def _hold(self, now: float, readers: int) -> None:
        self._holding_since = now
        self._again = 2 * self._again if readers == self._held else _AGAIN_SECONDS
        self._held = readers

    def _measure(self, readers: int) -> None:
        self._settling = self.readers if readers != self.readers else 0
        self.readers = readers
        self._began = None
        self._reads = self._bytes = 0


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

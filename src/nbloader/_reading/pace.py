"""Pace: the number and the size of parallel reads, found by measuring while reading."""

from __future__ import annotations

_FIRST_READERS = 16
_MOST_BYTES = 4 << 20  # longer reads were not faster
_LEAST_BYTES = 256 << 10
_READ_SECONDS = 0.05  # long enough to hide seeks and waits for the GIL, short enough to measure soon
_TURNS = 4  # reads for each reader at least, so that the last reads end at about the same time
_LEAST_SECONDS = 0.06  # of a measurement at least
_AGAIN_SECONDS = 2.0  # after which the number of readers is measured again
_GAIN = 1.1  # factor by which more readers must be faster: less may be noise
_AS_GOOD = 0.97  # share of the best measured rate that counts as equally fast


class Pace:
    """Raises or lowers the number of readers while that raises the bytes read per second.

    Network storage answers each request late, but many in parallel: more readers are faster. On a disk, parallel reads
    cause seeks: fewer readers are faster. Only measuring shows which is the case. After each measurement, the number is
    doubled or halved, and a change without a gain is undone.

    Parameters
    ----------
    total
        Bytes that will be read in all.
    most
        The highest number of readers to try.
    readers
        A fixed number of readers; None to find it.
    """

    def __init__(self, total: int, most: int, readers: int | None = None) -> None:
        self.readers = readers or _FIRST_READERS
        self._most = most
        self._fixed = readers is not None
        self._total = total
        self._rates: dict[int, float] = {}
        self._climbing = True
        self._began: float | None = None
        self._reads = self._bytes = 0
        self._settling = self.readers
        self._holding_since: float | None = None
        self._reader_rate = 0.0

    @property
    def read_size(self) -> int:
        """Bytes of one read."""
        share = self._total // (_TURNS * self.readers)
        wanted = int(self._reader_rate * _READ_SECONDS)
        return max(_LEAST_BYTES, min(wanted, share, _MOST_BYTES))

    def finished(self, now: float, count: int, seconds: float) -> None:
        """Record a read of `count` bytes that took `seconds` and ended at `now` (seconds, monotonic)."""
        rate = count / max(seconds, 1e-6)
        self._reader_rate = rate if not self._reader_rate else 0.8 * self._reader_rate + 0.2 * rate
        if self._fixed:
            return
        if self._settling > 0:  # begun with the previous number of readers
            self._settling -= 1
            return
        if self._began is None:
            self._began = now
            return
        self._reads += 1
        self._bytes += count
        elapsed = now - self._began
        if elapsed >= _LEAST_SECONDS and self._reads >= 2 * self.readers:
            self._judge(now, self._bytes / elapsed)

    def _judge(self, now: float, rate: float) -> None:
        self._rates[self.readers] = rate
        if self._holding_since is not None:
            if now - self._holding_since < _AGAIN_SECONDS:
                return self._measure(self.readers)
            self._holding_since, self._climbing, self._rates = None, True, {self.readers: rate}
        if self._climbing and rate >= _GAIN * self._rates.get(self.readers // 2, 0.0):
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
        if not 1 <= readers <= self._most:
            readers = self.readers
        if readers in self._rates:
            self._holding_since = now
        self._measure(readers)

    def _measure(self, readers: int) -> None:
        self._settling = self.readers if readers != self.readers else 0
        self.readers = readers
        self._began = None
        self._reads = self._bytes = 0

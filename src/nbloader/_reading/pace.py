"""How many reads are under way at once, and how long each is: found by measuring while reading."""

from __future__ import annotations

_FIRST_READERS = 16
_MOST_BYTES = 4 << 20  # longer ones brought no more
_LEAST_BYTES = 256 << 10
_READ_SECONDS = 0.05  # long enough that seeks and turns of the interpreter do not show, short enough to judge soon
_TURNS = 4  # each reader gets at least, so that the last reads end at about the same time
_LEAST_SECONDS = 0.06  # of a measurement
_AGAIN_SECONDS = 2.0  # after which what was found is looked at again
_GAIN = 1.1  # that more readers must bring: less is not told from noise
_AS_GOOD = 0.97  # of the best that was measured


class Pace:
    """Raises the number of readers, or lowers it, while that brings more bytes a second.

    Network storage answers each request late and many at once: more readers bring more. A disk turns them into
    seeks: fewer bring more. Nothing tells which it is but trying: after each measurement the number is doubled or
    halved, and goes back where that was no gain.

    Parameters
    ----------
    total
        Bytes that will be read in all.
    most
        The number of readers beyond which none is tried.
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
        """Take in one read: it brought `count` bytes in `seconds`, and ended `now` (seconds, monotonic)."""
        rate = count / max(seconds, 1e-6)
        self._reader_rate = rate if not self._reader_rate else 0.8 * self._reader_rate + 0.2 * rate
        if self._fixed:
            return
        if self._settling > 0:  # begun under the number of readers before
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
            # Conditions change: what the former number brought is measured again before a smaller one is.
            self._climbing, self._rates = False, {}
            return self._measure(self.readers // 2)
        # As many bytes by fewer readers are a gain: they leave the processor, and a disk's head, in peace.
        if rate >= _AS_GOOD * max(self._rates.values()):
            return self._go_on(now, self.readers // 2)
        return self._go_on(now, 2 * self.readers)

    def _go_on(self, now: float, readers: int) -> None:
        """Measure with another number of readers, and hold one that is known already, or where there is no other."""
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

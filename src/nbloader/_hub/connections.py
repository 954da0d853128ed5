"""Connections: the number of parallel requests, found by measuring while downloading."""

from __future__ import annotations

MOST_CONNECTIONS = 16
_SETTLE_SECONDS = 0.5  # in which new connections get fast
_LEAST_SECONDS = 0.5  # of a measurement
_AGAIN_SECONDS = 10.0  # after which more connections are tried again
_GAIN = 1.1  # factor by which more connections must be faster: less may be noise


class Connections:
    """Doubles the number of connections while that raises the bytes received per second.

    A content network gives each connection its share, and many together the whole link. A server that asks to wait, or
    says that it will answer few more requests, gets half as many from then on, and never more again.

    Parameters
    ----------
    first
        The number of connections to begin with.
    """

    def __init__(self, first: int) -> None:
        self.allowed = min(max(first, 1), MOST_CONNECTIONS)
        self._most = MOST_CONNECTIONS
        self._slower = 0.0  # bytes a second with half as many
        self._holding_since: float | None = None
        self._since: float | None = None
        self._bytes = 0

    def received(self, now: float, count: int) -> None:
        """Record bytes that came until `now` (seconds, monotonic), over all connections together."""
        if self._since is None:
            self._since = now + _SETTLE_SECONDS
        if now < self._since:
            return
        self._bytes += count
        elapsed = now - self._since
        if elapsed < _LEAST_SECONDS:
            return
        rate = self._bytes / elapsed
        if self._holding_since is not None and now - self._holding_since >= _AGAIN_SECONDS:
            self._holding_since, self._slower = None, 0.0
        if self._holding_since is None:
            has_gained = rate >= _GAIN * self._slower
            self._slower = rate
            if has_gained and self.allowed < self._most:
                self._allow(2 * self.allowed)
            else:
                self._holding_since = now
                if not has_gained:
                    self._allow(self.allowed // 2)
        self._measure()

    def refused(self) -> None:
        """Record that the server asks for fewer requests."""
        self._most = max(1, self.allowed // 2)
        self._allow(self._most)
        self._measure()

    def _allow(self, connections: int) -> None:
        self.allowed = min(max(connections, 1), self._most)

    def _measure(self) -> None:
        self._since, self._bytes = None, 0

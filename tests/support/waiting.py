"""Waiting for what other threads do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def wait_for(holds: Callable[[], bool]) -> None:
    """Return once something holds; fail after half a minute."""
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        threading.Event().wait(0.01)

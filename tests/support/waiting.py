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


def own_threads() -> list[str]:
    """Return the names of the threads of loads that are there still."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("nbloader")]


def all_at_once(count: int, work: Callable[[int], object]) -> list[object]:
    """Return what `work` gives to so many threads that begin it together, each with its number."""
    begin = threading.Barrier(count)
    made: list[object] = []

    def wait_and_work(number: int) -> None:
        begin.wait()
        made.append(work(number))

    threads = [threading.Thread(target=wait_and_work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    return made

"""Waiting for what other threads do."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable


def wait_for(holds: Callable[[], bool]) -> None:
    """Return once something holds; fail after half a minute."""
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        threading.Event().wait(0.01)


def exit_code_of(child: int) -> int:
    """Return how a process that was forked ended; one that has not after half a minute is killed, and fails."""
    ended: list[int] = []

    def has_ended() -> bool:
        number, status = os.waitpid(child, os.WNOHANG)
        ended.extend([os.waitstatus_to_exitcode(status)] * bool(number))
        return bool(number)

    try:
        wait_for(has_ended)
    except AssertionError:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    return ended[0]


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

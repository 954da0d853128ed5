"""Heartbeat files of loads, in the user's state folder.

A file that is left behind means that its process was killed during a load; the next load reports it.
"""

from __future__ import annotations

import atexit
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nbloader._system import own_files
from nbloader._system.own_files import (
    PROCESS_KINDS,
    VERSION,
    Kind,
    is_alive,
    machine,
    one_process,
    read_records,
    write_whole,
)

if TYPE_CHECKING:
    from nbloader._progress.state import LoadState

_SHORT = 0.1
"""Share of the memory: if less was available at the last heartbeat, the process was likely killed for memory."""


_STALE_SECONDS = 30 * 86_400.0
"""Age in seconds after which a file is deleted although its process, on another machine, cannot be checked."""

_KINDS: Mapping[str, Kind] = {
    **PROCESS_KINDS, "name": str, "fraction": float, "process": int, "available": int, "total": int,
}  # fmt: skip


class Killed(NamedTuple):
    """A load whose process was killed. Sizes are in bytes, as of the last heartbeat."""

    name: str
    fraction: float
    process: int
    available: int
    total: int

    @property
    def is_for_memory(self) -> bool:
        """Whether so little memory was available that this is the likely cause."""
        return self.available < _SHORT * self.total


class Heartbeat:
    """A file that records the progress of a load while the load runs.

    If the file cannot be written, the load continues without it.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._path: Path | None = None
        self._process: Mapping[str, Any] = {}
        self._lock = threading.Lock()
        self._has_stopped = False

    def begin(self) -> None:
        """Choose the file; the first beat writes it."""
        folder = _folder()
        if folder is not None:
            # Machines may share a home folder, and process ids are unique only within one machine.
            self._path = folder / f"{machine()[:8]}-{os.getpid()}-{self._number}.json"
        self._process = one_process()
        atexit.register(self.stop)  # a process that exits normally was not killed

    def forget(self) -> None:
        """Keep the file at the exit of a forked child: it belongs to the parent."""
        atexit.unregister(self.stop)

    def beat(self, state: LoadState) -> None:
        """Write the load's current progress to the file."""
        memory = state.memory
        if memory is None or self._path is None:
            return
        known = {
            "version": VERSION,
            **self._process,
            "name": state.name,
            "fraction": state.fraction,
            "process": memory.process,
            "available": memory.available,
            "total": memory.total,
        }
        with self._lock, suppress(OSError):
            if not self._has_stopped:
                write_whole(self._path, json.dumps(known))

    def stop(self) -> None:
        """Delete the file: the load has ended."""
        atexit.unregister(self.stop)
        with self._lock, suppress(OSError):
            self._has_stopped = True
            if self._path is not None:
                self._path.unlink(missing_ok=True)


def find_killed() -> list[Killed]:
    """Return the loads of this machine whose process was killed, and delete their files."""
    found: list[Killed] = []
    folder = _folder()
    for path in [] if folder is None else sorted(_signs_in(folder)):
        records = [record for record in read_records(path, _KINDS) if record["pid"] > 0]
        is_theirs = is_alive(records[0]) if records else False
        with suppress(OSError):
            if is_theirs or (is_theirs is None and time.time() - path.lstat().st_mtime < _STALE_SECONDS):
                continue
            path.unlink()
            path.with_name(f"{path.name}.draft").unlink(missing_ok=True)
            found += [Killed(*(record[name] for name in Killed._fields)) for record in records if is_theirs is False]
    for path in [] if folder is None else sorted(_signs_in(folder, ".draft")):  # process killed while writing
        with suppress(OSError):
            if time.time() - path.lstat().st_mtime > _STALE_SECONDS:
                path.unlink()
    return found


def _signs_in(folder: Path, suffix: str = ".json") -> Iterator[Path]:
    with suppress(OSError):
        yield from (path for path in folder.iterdir() if path.suffix == suffix)


def _folder() -> Path | None:
    top = own_files.state_folder()
    return None if top is None else top / "loads"

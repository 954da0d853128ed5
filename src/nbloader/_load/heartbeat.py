"""Signs of life of a load, in the user's state folder: what is left of one whose process was killed tells of it."""

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
"""A process was most likely killed for memory where less than this share of all was available at last."""


_STALE_SECONDS = 30 * 86_400.0
"""After so long nobody cares for what a process of another machine has left."""

_KINDS: Mapping[str, Kind] = {
    **PROCESS_KINDS, "name": str, "fraction": float, "process": int, "available": int, "total": int,
}  # fmt: skip


class Killed(NamedTuple):
    """A load whose process ended without a word. Sizes in bytes; what was held and free at the last sign of life."""

    name: str
    fraction: float
    process: int
    available: int
    total: int

    @property
    def is_for_memory(self) -> bool:
        """Whether memory was so short that this is the likely cause."""
        return self.available < _SHORT * self.total


class Heartbeat:
    """A file that says how a load stands, as long as it is under way.

    Where it cannot be written there is none: a load never fails for it.
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
            # Homes are shared, and numbers of processes are not.
            self._path = folder / f"{machine()[:8]}-{os.getpid()}-{self._number}.json"
        self._process = one_process()
        atexit.register(self.stop)  # a process that ends by itself was not killed

    def forget(self) -> None:
        """Leave the file alone: in a child that was forked, it is the parent's."""
        atexit.unregister(self.stop)

    def beat(self, state: LoadState) -> None:
        """Say how the load stands now."""
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
        """Take the file away: the load has ended, and said so."""
        atexit.unregister(self.stop)
        with self._lock, suppress(OSError):
            self._has_stopped = True
            if self._path is not None:
                self._path.unlink(missing_ok=True)


def find_killed() -> list[Killed]:
    """Return the loads of this machine that ended without a word, and forget them."""
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
    for path in [] if folder is None else sorted(_signs_in(folder, ".draft")):  # of who was killed while it wrote
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

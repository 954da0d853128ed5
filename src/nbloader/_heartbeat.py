"""Signs of life of a load, in the user's state folder: what is left of one whose process was killed tells of it."""

from __future__ import annotations

import atexit
import json
import os
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from nbloader._history import state_folder

if TYPE_CHECKING:
    from nbloader._state import LoadState

_SHORT = 0.1
"""A process was most likely killed for memory where less than this share of all was available at last."""


_KINDS: Mapping[str, Any] = {
    "pid": int, "host": str, "began": float, "name": str, "fraction": float, "process": int, "available": int,
    "total": int,
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
        self._path = _folder() / f"{os.getpid()}-{number}.json"
        self._lock = threading.Lock()
        self._has_stopped = False
        atexit.register(self.stop)  # a process that ends by itself is no killed one
        self._process = {"pid": os.getpid(), "host": socket.gethostname(), "began": psutil.Process().create_time()}

    def forget(self) -> None:
        """Leave the file alone: in a child that was forked, it is the parent's."""
        atexit.unregister(self.stop)

    def beat(self, state: LoadState) -> None:
        """Say how the load stands now."""
        memory = state.memory
        if memory is None:
            return
        known = {
            **self._process,
            "name": state.name,
            "fraction": state.fraction,
            "process": memory.process,
            "available": memory.available,
            "total": memory.total,
        }
        draft = self._path.with_suffix(".draft")
        with self._lock, suppress(OSError):
            if self._has_stopped:
                return
            draft.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(known), encoding="utf-8")
            os.replace(draft, self._path)

    def stop(self) -> None:
        """Take the file away: the load has ended, and said so."""
        atexit.unregister(self.stop)
        with self._lock, suppress(OSError):
            self._has_stopped = True
            self._path.unlink(missing_ok=True)


def find_killed() -> list[Killed]:
    """Return the loads of this machine that ended without a word, and forget them."""
    found = []
    with suppress(OSError):
        for path in sorted(_folder().glob("*.json")):
            known = _read(path)
            if known is None or (known["host"] == socket.gethostname() and not _is_alive(known)):
                path.unlink(missing_ok=True)
                if known is not None:
                    found.append(Killed(*(known[name] for name in Killed._fields)))
    return found


def _read(path: Path) -> Mapping[str, Any] | None:
    """Return what a file says; None where it is not one of ours, whole."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return known if all(isinstance(known[name], kinds) for name, kinds in _KINDS.items()) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _is_alive(known: Mapping[str, Any]) -> bool:
    try:
        process = psutil.Process(int(known["pid"]))
        return abs(process.create_time() - float(known["began"])) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _folder() -> Path:
    return state_folder() / "loads"

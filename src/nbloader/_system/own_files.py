"""Files that nbloader writes itself: where they are, and their reader, which trusts them no more than other files.

Another version, another program or a full disk may have left anything there. Unreadable records are skipped.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import socket
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import platformdirs
import psutil

from nbloader._safety.files import open_regular
from nbloader._text.catalogue import text

VERSION = 1
"""The version of the format; records of other versions are skipped."""

Kind: TypeAlias = "type | tuple[type, ...]"
"""The type, or the types, that a field of a record may have."""

_MOST_BYTES = 8_000_000  # of one file
_MOST = 1e18  # for any number: bytes, seconds, a process id
_MOST_TEXT = 10_000  # characters

_logger = logging.getLogger(__name__)
_warned: set[Path] = set()


def state_folder() -> Path | None:
    """Return the user's folder for nbloader's state; None if the user has no home folder."""
    try:
        folder = platformdirs.user_state_path("nbloader", appauthor=False)
    except (RuntimeError, OSError):  # no HOME, and no entry in the password file
        return None
    return folder if folder.is_absolute() else None


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file, whatever they hold; none if the file is missing or cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read(_MOST_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return []


def read_records(path: Path, kinds: Mapping[str, Kind], holds: str = "") -> list[dict[str, Any]]:
    """Return the records in a file of JSON lines that have the fields in `kinds`; others are skipped.

    For int and float, any finite number is accepted. Skipped records are logged once for each file. Lines without the
    ASCII text `holds` are passed over.
    """
    records, dropped = [], 0
    try:
        with open_regular(path) as file:
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return []
    except OSError:
        content, dropped = b"", 1
    wanted = holds.encode()
    for line in content[:_MOST_BYTES].splitlines():
        if wanted not in line:
            continue
        record = _record_in(line, kinds)
        if record is None:
            dropped += 1
        else:
            records.append(record)
    if (dropped or len(content) > _MOST_BYTES) and path not in _warned:
        _warned.add(path)
        _logger.warning("%s", text("reason", "own_file", path=path, count=dropped))
    return records


def _record_in(line: bytes, kinds: Mapping[str, Kind]) -> dict[str, Any] | None:
    try:
        record = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("version", VERSION) != VERSION:
        return None
    return record if all(_is_one_of(allowed, record.get(name)) for name, allowed in kinds.items()) else None


def _refuse(constant: str) -> float:
    raise ValueError(constant)


def _is_one_of(kinds: Kind, value: Any) -> bool:
    return any(_is_of(kind, value) for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))


def _is_of(kind: type, value: Any) -> bool:
    if kind in (int, float):
        return is_number(value)
    return isinstance(value, kind) and (not isinstance(value, str) or len(value) <= _MOST_TEXT)


def is_number(value: object) -> bool:
    """Return whether a value is a finite number within the limit."""
    is_one = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_one and abs(value) <= _MOST and math.isfinite(value)  # type: ignore[arg-type]


def write_whole(path: Path, content: str) -> None:
    """Write a file atomically, so that readers see either the old content or the new.

    Raises
    ------
    OSError
        If it cannot be written; the draft is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.draft")  # the caller lets one process write at a time
    try:
        draft.write_text(content, encoding="utf-8")
        if path.is_dir() and not path.is_symlink():
            path.rename(path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.strange"))
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def one_process() -> dict[str, Any]:
    """Return what identifies this process among all processes on all machines."""
    return {"pid": os.getpid(), "began": _began(os.getpid()) or 0.0, "machine": machine()}


PROCESS_KINDS: Mapping[str, Kind] = {"pid": int, "began": float, "machine": str}


def is_alive(process: Mapping[str, Any]) -> bool | None:
    """Return whether a process still runs; None if it belongs to another machine or container."""
    if process["machine"] != machine():
        return None
    began = _began(int(process["pid"]))
    return began is not None and abs(began - float(process["began"])) < 1


def _began(number: int) -> float | None:
    """Return when a process began, on Linux in seconds since boot; None if there is no such process."""
    try:
        found = psutil.Process(number)
        if found.status() == psutil.STATUS_ZOMBIE:
            return None
        if sys.platform != "linux":
            return float(found.create_time())
        # psutil's value changes when the clock of the machine is set. This one counts from boot.
        fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (psutil.Error, OSError, ValueError, OverflowError):
        return None


@functools.cache
def machine() -> str:
    """Return what identifies the scope of a process id: one boot of a machine and, in it, one container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # Linux
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return uuid.uuid5(uuid.NAMESPACE_DNS, " ".join(parts)).hex

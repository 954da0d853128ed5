"""Files made cold, and found resident."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable
from pathlib import Path

from nbloader._system.page_cache import find_missing


def make_cold(path: Path) -> None:
    """Drop a file, or every file of a folder, from the page cache."""
    gc.collect()  # pages that a former model still maps would stay
    for file in (path, *path.rglob("*")):
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def are_resident(paths: Iterable[Path]) -> bool:
    """Return whether the page cache has them, but for a page that the system may have taken back at once."""
    files = list(paths)
    absent = sum(piece.absent for path in files for piece in find_missing(path))
    return absent < 0.02 * sum(path.stat().st_size for path in files)

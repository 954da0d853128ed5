"""A checkpoint's own Python code: its files, the digest that the user consents to, and the copy that runs."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from nbloader._errors import CheckpointError
from nbloader._safety.files import open_regular
from nbloader._text.catalogue import text

CODE = ".py"
"""File extension of a checkpoint's own code."""

_MOST_FILES, _MOST_BYTES = 1000, 50_000_000  # more than a user can review before agreeing


class Code(NamedTuple):
    """The code in a folder: each file's content, read once, by its path relative to the folder."""

    folder: Path
    content: Mapping[str, bytes]

    @property
    def files(self) -> tuple[str, ...]:
        """The path of each file."""
        return tuple(str(self.folder / name) for name in self.content)

    @property
    def digest(self) -> str:
        """A hash of the code's file names and contents, with the length of a commit hash."""
        digest = hashlib.sha256()
        for name, content in self.content.items():
            digest.update(f"{name} {len(content)}\n".encode() + content)
        return digest.hexdigest()[:40]

    @contextmanager
    def copied(self) -> Iterator[Path]:
        """Yield a private folder of the same name that holds only this code; other users cannot change it."""
        with tempfile.TemporaryDirectory(prefix="nbloader-code-", ignore_cleanup_errors=True) as private:
            # transformers names the imported modules after the folder.
            copy = Path(private) / (self.folder.resolve().name or "checkpoint")
            copy.mkdir()
            for name, content in self.content.items():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes(content)
            yield copy


def read_code(folder: Path) -> Code:
    """Return the code in a folder and its subfolders, following links.

    Raises
    ------
    CheckpointError
        If not all of the code can be read: the user could not review it before consenting.
    """
    content: dict[str, bytes] = {}
    size = 0
    try:
        for path in sorted(_paths(folder)):
            with open_regular(path) as file:
                found = file.read(_MOST_BYTES - size + 1)
            size += len(found)
            if size > _MOST_BYTES or len(content) == _MOST_FILES:
                raise OSError(0, text("reason", "too_much_code"), str(path))
            content[path.relative_to(folder).as_posix()] = found
    except OSError as error:
        known = {"path": str(error.filename or folder), "error": str(error.strerror or error)}
        raise CheckpointError(text("error", "code_not_listable", **known), text("hint", "code_unlisted")) from None
    return Code(folder, content)


def _paths(folder: Path) -> Iterator[Path]:
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise error

    for top, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        place = os.path.realpath(top)
        if place in seen:  # a link to a folder that was visited already
            folders.clear()
            continue
        seen.add(place)
        yield from (Path(top) / name for name in names if name.endswith(CODE))

"""Python code that a checkpoint brings: what there is, what a consent to it is for, and the copy of it that runs."""

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
"""Ending of the files whose code a checkpoint may bring."""

_MOST_FILES, _MOST_BYTES = 1000, 50_000_000  # more than anybody reads before agreeing to it


class Code(NamedTuple):
    """The code in a folder: the content of each file by its path from there, as it was read once."""

    folder: Path
    content: Mapping[str, bytes]

    @property
    def files(self) -> tuple[str, ...]:
        """Where each file can be read."""
        return tuple(str(self.folder / name) for name in self.content)

    @property
    def digest(self) -> str:
        """What tells this code from any other, as long as a commit's hash."""
        digest = hashlib.sha256()
        for name, content in self.content.items():
            digest.update(f"{name} {len(content)}\n".encode() + content)
        return digest.hexdigest()[:40]

    @contextmanager
    def copied(self) -> Iterator[Path]:
        """Give a folder of the same name that holds this code and nothing else, and that nobody else can change."""
        with tempfile.TemporaryDirectory(prefix="nbloader-code-", ignore_cleanup_errors=True) as private:
            # transformers names the modules by the folder.
            copy = Path(private) / (self.folder.resolve().name or "checkpoint")
            copy.mkdir()
            for name, content in self.content.items():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes(content)
            yield copy


def read_code(folder: Path) -> Code:
    """Return the code in a folder and below it, behind links too.

    Raises
    ------
    CheckpointError
        Where not all of it can be listed, so that nobody could agree to it.
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
        if place in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(place)
        yield from (Path(top) / name for name in names if name.endswith(CODE))

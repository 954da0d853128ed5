"""Where a checkpoint is: a folder, the Hub's cache, or the Hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nbloader import _hub
from nbloader._checkpoint import CONFIG
from nbloader._demo import demo_checkpoint
from nbloader._errors import SourceError
from nbloader._locale import text
from nbloader._recognise import names_in, not_a_checkpoint

if TYPE_CHECKING:
    from nbloader._options import LoadOptions

DEMO = "demo"
"""The name that stands for the demo checkpoint. A folder of that name is ``./demo``."""

CODE = ".py"
"""Ending of the files whose code a checkpoint may bring."""

_SHORT = 80  # characters of what is no name that are worth repeating
_ADDRESS = re.compile(
    r"(?:https?://)?[\w.-]+\.[a-z]+(?::\d+)?/(?P<id>[^/?#]+/[^/?#]+)(?:/(?:tree|blob|resolve)/(?P<revision>[^/?#]+).*)?/?"
)
_WITH_REVISION = re.compile(r"(?P<id>[^@\s]+)@(?P<revision>[^@\s]+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Source:
    """Where a checkpoint is.

    `origin` is ``"folder"``, ``"cache"`` or ``"hub"``; `folder` is known for folders, `repository` for the other two.
    """

    name: str
    origin: str
    folder: Path | None = None
    repository: _hub.Repository | None = None

    @property
    def commit(self) -> str | None:
        """The commit that is loaded, where there is one."""
        if self.repository is not None:
            return self.repository.commit
        parts = self.folder.resolve().parts if self.folder is not None else ()
        snapshot = parts[parts.index("snapshots") + 1 :][:1] if "snapshots" in parts else ()
        return next((part for part in snapshot if _COMMIT.fullmatch(part)), None)

    def code(self, options: LoadOptions) -> tuple[tuple[str, ...], str]:
        """Return where the Python files that the checkpoint brings can be read, and what a consent to them is for.

        The latter is the commit or, of a folder, a digest of the files.
        """
        repository = self.repository
        if repository is not None and repository.files is not None:
            names = sorted(name for name in repository.files if name.endswith(CODE))
            return tuple(_hub.address(repository, name) for name in names), repository.commit
        paths = sorted(self.root(options).rglob(f"*{CODE}"))
        if repository is not None:
            return tuple(map(str, paths)), repository.commit
        digest = hashlib.sha256()
        for path in paths:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(self.root(options))} {len(content)}\n".encode() + content)
        return tuple(map(str, paths)), digest.hexdigest()[:40]

    def allows_code(self, options: LoadOptions) -> bool:
        """Tell whether the options allow the checkpoint's own Python code to run."""
        consent = options.trust_remote_code
        return consent is True or (consent is not False and options.allows_code(self.code(options)[1]))

    def root(self, options: LoadOptions) -> Path:
        """Return the checkpoint's top folder on this machine.

        Raises
        ------
        SourceError
            Where it is a repository of which nothing is cached yet.
        """
        if self.repository is None:
            assert self.folder is not None
            return self.folder
        return _hub.snapshot_folder(self.repository.repo_id, self.repository.commit, options)


def state_of(folder: Path, subfolder: str = "") -> tuple[tuple[str, int, int], ...]:
    """Return (name, bytes, time of the last change in ns) of each file of a checkpoint's folder."""
    found = []
    for top in {"", subfolder}:
        with os.scandir(folder / top) as entries:
            for entry in entries:
                if entry.is_file():
                    status = entry.stat()
                    found.append((os.path.join(top, entry.name), status.st_size, status.st_mtime_ns))
    return tuple(sorted(found))


def find_source(
    model: str | os.PathLike[str], options: LoadOptions, check_cancelled: Callable[[], None] = lambda: None
) -> Source:
    """Return where `model` is: the demo (written now, the first time), an existing folder, or a repository.

    Raises
    ------
    SourceError
        Where it is none of them.
    """
    if not isinstance(model, (str, os.PathLike)) or not os.fspath(model):
        shown = repr(model)
        shown = shown if len(shown) <= _SHORT else f"<{type(model).__name__}>"
        raise SourceError(text("error", "no_model", model=shown), text("hint", "folder_or_id"))
    name = os.fspath(model)
    if name == DEMO:
        return Source("demo", "folder", demo_checkpoint(check_cancelled=check_cancelled))
    try:
        path = Path(name).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise SourceError(
            text("error", "no_path", path=repr(name[:200]), error=str(error)), text("hint", "spelling")
        ) from None
    if is_folder:
        _check_shadow(name, path, options)
        return Source(path.name or str(path.resolve()), "folder", path)
    if is_file:
        raise SourceError(
            text("error", "is_file", path=path), text("hint", "give_folder", parent=repr(str(path.parent)))
        )
    _check_address(name)
    if not isinstance(model, str) or _looks_like_path(name):
        raise SourceError(text("error", "no_folder", path=path, folder=Path.cwd()), text("hint", "path_or_id"))
    if not _hub.is_repo_id(name):
        raise SourceError(
            text("error", "neither", name=repr(name)),
            text("hint", "like_id"),
        )
    repository = _hub.find_repository(name, options)
    return Source(name, "cache" if repository.files is None else "hub", repository=repository)


def _check_address(name: str) -> None:
    """Refuse the address of a repository's page, and an id with a revision behind it; name the call that works."""
    found = _ADDRESS.fullmatch(name) or _WITH_REVISION.fullmatch(name)
    if found is None or not _hub.is_repo_id(found["id"]):
        return
    revision = found["revision"] or ""
    arguments = json.dumps(found["id"]) + (f", revision={json.dumps(revision)}" if revision else "")
    raise SourceError(text("error", "not_an_id", name=repr(name)), text("hint", "give_id", arguments=arguments))


def _check_shadow(name: str, path: Path, options: LoadOptions) -> None:
    """Refuse a folder in which nothing is known, under the name that a repository may have."""
    is_one = (path / options.subfolder / CONFIG).is_file()
    if is_one or not _hub.is_repo_id(name) or _looks_like_path(name):
        return
    names = names_in(path)
    if not_a_checkpoint(name, names, lambda file: {}, has_config=False) is None:
        known = {"where": json.dumps(name), "folder": path.resolve()}
        raise SourceError(text("found", "shadow", **known), text("try", "shadow", **known))


def _looks_like_path(text: str) -> bool:
    return os.path.isabs(text) or text.startswith((".", "~")) or "\\" in text or text.count("/") > 1

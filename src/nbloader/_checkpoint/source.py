"""Where a checkpoint is: a folder, the Hub's cache, or the Hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbloader._checkpoint.code import CODE, Code, read_code
from nbloader._checkpoint.demo import demo_checkpoint
from nbloader._checkpoint.layout import CONFIG, read_index
from nbloader._checkpoint.recognise import names_in, not_a_checkpoint
from nbloader._errors import CheckpointError, SourceError
from nbloader._hub.cache import snapshot_folder
from nbloader._hub.find import find_repository
from nbloader._hub.repository import Repository, address, hub_host, is_repo_id
from nbloader._safety.files import open_regular
from nbloader._text.catalogue import text

if TYPE_CHECKING:
    from nbloader._options.options import LoadOptions

DEMO = "demo"
"""The name of the demo checkpoint. To load a folder of that name, write ``./demo``."""

_WEIGHTS = (".safetensors", ".bin")  # not hashed: reading them here would bring them into the page cache
_SMALL = 65_536  # bytes; the content of a file up to this size is part of its state
_SHORT = 80  # characters of an invalid argument to show in the error
_ADDRESS = re.compile(
    r"(?P<host>https?://[^/?#]+|[\w.-]+\.[a-z]+(?::\d+)?)/(?P<id>[^/?#]+/[^/?#]+)"
    r"(?:/(?:tree|blob|resolve)/(?P<revision>[^/?#]+)(?P<rest>/[^?#]*)?)?/?(?:[?#].*)?"
)
_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
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
    repository: Repository | None = None

    @property
    def commit(self) -> str | None:
        """The commit that is loaded; None if it is not known."""
        if self.repository is not None:
            return self.repository.commit
        parts = self.folder.resolve().parts if self.folder is not None else ()
        snapshot = parts[parts.index("snapshots") + 1 :][:1] if "snapshots" in parts else ()
        return next((part for part in snapshot if _COMMIT.fullmatch(part)), None)

    def code(self, options: LoadOptions) -> tuple[tuple[str, ...], str]:
        """Return where to read the checkpoint's own Python files, and the version that the user consents to.

        The version is the commit of a repository, or a digest of the files of a folder.
        """
        repository = self.repository
        if repository is not None and repository.files is not None:
            names = sorted(name for name in repository.files if name.endswith(CODE))
            return tuple(address(repository, name) for name in names), repository.commit
        code = read_code(self.root(options))
        return code.files, code.digest if repository is None else repository.commit

    def allowed_code(self, options: LoadOptions) -> Code | None:
        """Return the checkpoint's own Python code if the options allow it to run, else None.

        Raises
        ------
        CheckpointError
            If the code is allowed but cannot be read, or differs from what the repository lists.
        """
        if options.trust_remote_code is False:
            return None
        if self.repository is None:
            code = read_code(self.root(options))
            return code if options.allows_code(code.digest) else None
        if not options.allows_code(self.repository.commit):
            return None
        code = read_code(self.root(options))
        for name, content in code.content.items():
            if not self.repository.has(name, content, code.folder):
                path = code.folder / name
                raise CheckpointError(text("error", "code_changed", path=path), text("hint", "code_changed"))
        return code

    def root(self, options: LoadOptions) -> Path:
        """Return the checkpoint's top folder on this machine.

        Raises
        ------
        SourceError
            If nothing of the repository is cached yet.
        """
        if self.repository is None:
            assert self.folder is not None
            return self.folder
        return snapshot_folder(self.repository.repo_id, self.repository.commit, options, CONFIG)


def state_of(folder: Path, subfolder: str = "") -> Mapping[str, tuple[Any, ...]]:
    """Return the state of each file in a checkpoint's folder, and in the subfolders that an index names.

    The state is the size, the modification time, the device, the inode, and a hash of a small file's content. It
    includes the change time (ctime), because copy programs cannot set that one.
    """
    found: dict[str, tuple[Any, ...]] = {}
    tops = ["", subfolder]
    for top in tops:  # the loop appends to this list
        with os.scandir(folder / top) as entries:
            for entry in entries:
                name = os.path.join(top, entry.name)
                if name in found or not entry.is_file():
                    continue
                status = os.stat(entry.path)
                content = b""
                with suppress(OSError):
                    content = b"" if name.endswith(_WEIGHTS) else _small(entry.path, status.st_size)
                times = status.st_mtime_ns, status.st_ctime_ns
                found[name] = status.st_size, *times, status.st_dev, status.st_ino, content
                if entry.name.endswith(".index.json"):
                    with suppress(CheckpointError):  # the load itself reports this error
                        below = {os.path.dirname(shard) for shard in read_index(Path(entry.path)).shards}
                        tops += [os.path.join(top, each) for each in sorted(below) if (folder / top / each).is_dir()]
    return found


def _small(path: str, size: int) -> bytes:
    if size > _SMALL:
        return b""
    with open_regular(path) as file:
        return hashlib.sha256(file.read(_SMALL)).digest()


def is_demo(model: object) -> bool:
    """Return whether a name stands for the demo checkpoint."""
    return isinstance(model, (str, os.PathLike)) and os.fspath(model) == DEMO


def find_source(
    model: str | os.PathLike[str], options: LoadOptions, check_cancelled: Callable[[], None] = lambda: None
) -> Source:
    """Return where `model` is: the demo (written on first use), an existing folder, or a repository.

    Raises
    ------
    SourceError
        If `model` is none of them.
    """
    if not isinstance(model, (str, os.PathLike)) or not os.fspath(model):
        shown = repr(model)
        shown = shown if len(shown) <= _SHORT else f"<{type(model).__name__}>"
        raise SourceError(text("error", "invalid_model_argument", model=shown), text("hint", "folder_or_id"))
    name = os.fspath(model)
    if is_demo(name):
        return Source("demo", "folder", demo_checkpoint(check_cancelled=check_cancelled))
    try:
        path = Path(name).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise SourceError(
            text("error", "invalid_path", path=repr(name[:200]), error=str(error)), text("hint", "spelling")
        ) from None
    if is_folder:
        _check_shadow(name, path, options)
        return Source(path.name or str(path.resolve()), "folder", path)
    if is_file:
        raise SourceError(
            text("error", "path_is_file", path=path), text("hint", "give_folder", parent=repr(str(path.parent)))
        )
    name, options = _as_pasted(name, options)
    if not isinstance(model, str) or _looks_like_path(name):
        raise SourceError(text("error", "folder_not_found", path=path, folder=Path.cwd()), text("hint", "path_or_id"))
    if not is_repo_id(name):
        raise SourceError(
            text("error", "model_not_found", name=repr(name)),
            text("hint", "like_id"),
        )
    repository = find_repository(name, options, CONFIG)
    return Source(name, "cache" if repository.files is None else "hub", repository=repository)


def _as_pasted(name: str, options: LoadOptions) -> tuple[str, LoadOptions]:
    """Return the id that a repository's URL, ``id@revision`` or ``id/`` stands for, and the options with its revision.

    Raises
    ------
    SourceError
        If it stands for more than that: for a subfolder, another revision than the options, or another site.
    """
    found = _ADDRESS.fullmatch(name) or _WITH_REVISION.fullmatch(name)
    if found is None or not is_repo_id(found["id"]):
        shorter = name.rstrip("/")
        return (shorter if shorter.count("/") == 1 and is_repo_id(shorter) else name), options
    groups = found.groupdict()
    revision = groups["revision"]
    folder = (groups.get("rest") or "").strip("/") if "/tree/" in name else ""
    is_elsewhere = groups.get("host", hub_host()).rpartition("/")[2] not in (*_HOSTS, hub_host())
    is_other_folder = folder != "" and folder != options.subfolder.strip("/")
    is_other_revision = None not in (revision, options.revision) and revision != options.revision
    if is_elsewhere or is_other_folder or is_other_revision:
        more = {"revision": revision or options.revision, "subfolder": folder}
        arguments = [json.dumps(found["id"]), *(f"{key}={json.dumps(value)}" for key, value in more.items() if value)]
        raise SourceError(
            text("error", "invalid_repository_id", name=repr(name)),
            text("hint", "give_id", arguments=", ".join(arguments)),
        )
    return found["id"], options if revision is None else replace(options, revision=revision)


def _check_shadow(name: str, path: Path, options: LoadOptions) -> None:
    """Refuse a folder without recognised files whose name may be a repository id: it would hide the repository."""
    is_one = (path / options.subfolder / CONFIG).is_file()
    if is_one or not is_repo_id(name) or _looks_like_path(name):
        return
    names = names_in(path)
    if not_a_checkpoint(name, names, lambda file: {}, has_config=False) is None:
        known = {"where": json.dumps(name), "folder": path.resolve()}
        raise SourceError(text("found", "shadow", **known), text("try", "shadow", **known))


def _looks_like_path(text: str) -> bool:
    return os.path.isabs(text) or text.startswith((".", "~")) or "\\" in text or text.count("/") > 1

"""The cache of huggingface_hub: where files of a repository are, and adding files to it."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from nbloader._errors import SourceError
from nbloader._hub.part_file import arrived_bytes
from nbloader._hub.repository import Repository
from nbloader._text.catalogue import text

if TYPE_CHECKING:
    from nbloader._options.options import LoadOptions


def cached_file(repo_id: str, commit: str, name: str, options: LoadOptions) -> Path | None:
    """Return the path of a complete file of the repository in the cache; None if it is not there.

    `commit` may be a branch; then the cache's own record of its commit is used.
    """
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo_id, name, cache_dir=options.cache_dir, revision=commit)
    return Path(found) if isinstance(found, str) else None


def snapshot_folder(repo_id: str, commit: str, options: LoadOptions, needed: str) -> Path:
    """Return the cache's folder for this state of the repository (its root, whatever `subfolder` is).

    `needed` is a file that identifies the snapshot.

    Raises
    ------
    SourceError
        If nothing of it is cached.
    """
    name = path_in(options.subfolder, needed)
    found = cached_file(repo_id, commit, name, options)
    if found is None:
        raise SourceError(
            text("error", "file_not_in_repository", repository=repo_id, name=name), text("hint", "is_transformers")
        )
    return snapshot_of(found, name)


def snapshot_of(path: Path, name: str) -> Path:
    """Return the folder of the snapshot that holds the file `name` at `path`."""
    return path.parents[len(Path(name).parts) - 1]


def kept_bytes(repo: Repository, name: str, options: LoadOptions) -> int:
    """Return how many bytes of a file are on disk: all of them, or those that an interrupted download left."""
    expected = repo.expected(name)
    if cached_file(repo.repo_id, repo.commit, name, options) is not None or has_blob(repo, name, options):
        return expected.bytes
    size = arrived_bytes(part_file(repo, name, options))
    return size if size <= expected.bytes else 0


def link(repo: Repository, name: str, blob: Path, options: LoadOptions, *, is_new: bool) -> None:
    """Add a complete file to the snapshot (https://huggingface.co/docs/huggingface_hub/guides/manage-cache)."""
    from huggingface_hub import constants

    pointer = cache_folder(repo.repo_id, options) / "snapshots" / repo.commit / name
    pointer.parent.mkdir(parents=True, exist_ok=True)
    if pointer.is_symlink() and not pointer.exists():
        pointer.unlink()  # a dangling link
    try:
        if getattr(constants, "HF_HUB_DISABLE_SYMLINKS", False):
            raise OSError("The user wants no links.")
        os.symlink(os.path.relpath(blob, pointer.parent), pointer)
    except FileExistsError:
        return  # another process added the same content
    except OSError:  # on Windows, few users may create links
        if is_new:
            os.replace(blob, pointer)
        else:
            shutil.copyfile(blob, pointer)  # other snapshots may link to it


def forget(repo: Repository, name: str, options: LoadOptions) -> None:
    """Delete a file's content from the cache, for every revision and name, and where it is shared with others."""
    pointer = cache_folder(repo.repo_id, options) / "snapshots" / repo.commit / name
    content = Path(os.path.realpath(pointer))
    is_inside = content.is_relative_to(os.path.realpath(cache_root(options)))
    for path in (pointer, blobs_of(repo, options) / str(repo.expected(name).key), *([content] if is_inside else [])):
        path.unlink(missing_ok=True)


def remember_revision(repo: Repository, options: LoadOptions) -> None:
    """Record in the cache which commit the branch is at, so that it is found offline.

    Call it only when all that a load needs is there: then an offline load never finds half a snapshot.
    """
    revision = repo.revision or "main"
    if revision == repo.commit:
        return
    reference = cache_folder(repo.repo_id, options) / "refs" / revision
    with suppress(OSError):  # the user may not be allowed to write to the cache
        if not reference.is_file() or reference.read_text() != repo.commit:
            reference.parent.mkdir(parents=True, exist_ok=True)
            draft = reference.with_name(f"{reference.name}.{uuid.uuid4().hex[:8]}.incomplete")
            draft.write_text(repo.commit)
            os.replace(draft, reference)


def cache_root(options: LoadOptions) -> Path:
    """Return the folder of the whole cache."""
    from huggingface_hub import constants

    return Path(options.cache_dir or constants.HF_HUB_CACHE)


def cache_folder(repo_id: str, options: LoadOptions) -> Path:
    """Return the cache's folder for a repository."""
    from huggingface_hub.file_download import repo_folder_name

    return cache_root(options) / str(repo_folder_name(repo_id=repo_id, repo_type="model"))


def part_file(repo: Repository, name: str, options: LoadOptions) -> Path:
    """Return the path of a file while it is being downloaded."""
    key = repo.expected(name).key or hashlib.sha256(f"{repo.commit}/{name}".encode()).hexdigest()
    return blobs_of(repo, options) / f"{key}.nbloader.incomplete"


def blobs_of(repo: Repository, options: LoadOptions) -> Path:
    """Return the folder that holds the contents of a repository's files, named by their hashes."""
    return cache_folder(repo.repo_id, options) / "blobs"


def has_blob(repo: Repository, name: str, options: LoadOptions) -> bool:
    """Return whether a file's content is in the cache, for any revision and under any name."""
    expected = repo.expected(name)
    blob = blobs_of(repo, options) / (expected.key or "")
    return expected.key is not None and blob.is_file() and blob.stat().st_size == expected.bytes


def link_shared_blob(repo: Repository, name: str, xet_key: str, options: LoadOptions) -> bool:
    """Return whether a file's content is in the cache for any repository; then it is there for this one, too."""
    return _ask_shared_store("try_link_from_shared_store", repo, name, xet_key, options)


def share_blob(repo: Repository, name: str, xet_key: str, options: LoadOptions) -> bool:
    """Offer a file's content to all repositories of the cache, as huggingface_hub does; return whether that is done."""
    return _ask_shared_store("publish_blob_to_shared_store", repo, name, xet_key, options)


def _ask_shared_store(what: str, repo: Repository, name: str, xet_key: str, options: LoadOptions) -> bool:
    try:
        from huggingface_hub.file_download import are_symlinks_supported
        from huggingface_hub.utils import _shared_blobs
    except ImportError:  # huggingface_hub < 2 has none
        return False
    expected = repo.expected(name)
    if expected.key is None or not _shared_blobs.shared_blobs_enabled():
        return False
    root = cache_root(options)
    return (
        are_symlinks_supported(root)
        and _can_lock(root)
        and bool(
            getattr(_shared_blobs, what)(
                blob_path=os.fspath(blobs_of(repo, options) / expected.key),
                xet_hash=xet_key,
                cache_dir=root,
                expected_size=expected.bytes,
            )
        )
    )


@cache
def _can_lock(folder: str | os.PathLike[str]) -> bool:
    """Return whether files in a folder can be locked; where they cannot, the shared store would wait forever."""
    if sys.platform == "win32":
        return True
    import fcntl

    with suppress(OSError), tempfile.TemporaryFile(dir=folder) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def path_in(subfolder: str, name: str) -> str:
    """Return a file's name within the repository."""
    return f"{subfolder.strip('/')}/{name}" if subfolder else name

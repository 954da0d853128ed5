"""Compare a repository's cached files with the hashes that the Hub lists."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from nbloader._checkpoint.source import find_source
from nbloader._errors import SourceError
from nbloader._hub.cache import cached_file, forget
from nbloader._hub.download import DownloadWatcher, download_files
from nbloader._hub.part_file import Expected
from nbloader._hub.repository import Repository
from nbloader._options.options import LoadOptions
from nbloader._text.catalogue import text

_PORTION = 1 << 20  # bytes


class Verified(NamedTuple):
    """The names of the cached files that have the hash that the Hub lists, and of those that have not."""

    right: tuple[str, ...]
    wrong: tuple[str, ...]


def verify(
    model: str | os.PathLike[str],
    options: LoadOptions,
    tell: Callable[[str, bool], None] = lambda name, is_right: None,
    *,
    fetch: bool = False,
) -> Verified:
    """Compare every cached file of a repository with the hash that the Hub lists for it.

    Parameters
    ----------
    model
        The id of a repository.
    options
        The load options that select the revision and the cache.
    tell
        Called with the name of each file, and whether it is right.
    fetch
        Whether to download files again that differ.

    Raises
    ------
    SourceError
        If `model` is a folder, or the Hub cannot be asked.
    DownloadError
        If a file cannot be downloaded again.
    """
    source = find_source(model, options)
    repository = source.repository
    if repository is None or repository.files is None:
        raise SourceError(text("error", "cannot_verify", name=source.name), text("hint", "verify_online"))
    cached = {name: cached_file(repository.repo_id, repository.commit, name, options) for name in repository.files}
    found: dict[str, bool] = {}
    for name, path in cached.items():
        expected = None if path is None else repository.expected(name)
        if path is not None and expected is not None and expected.key is not None:
            found[name] = _has_hash(path, expected)
            tell(name, found[name])
    wrong = tuple(name for name, is_right in found.items() if not is_right)
    if fetch:
        _fetch(repository, wrong, options)
    return Verified(tuple(name for name, is_right in found.items() if is_right), wrong)


def _has_hash(path: Path, expected: Expected) -> bool:
    hasher = expected.hasher()
    with open(path, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size != expected.bytes:
            return False
        while portion := file.read(_PORTION):
            hasher.update(portion)
    return bool(hasher.hexdigest() == expected.key)


def _fetch(repository: Repository, names: tuple[str, ...], options: LoadOptions) -> None:
    for name in names:
        forget(repository, name, options)
    watcher = DownloadWatcher(lambda name, size: None, lambda name: None, lambda *wait: None, lambda: None)
    download_files(repository, names, options, watcher)

"""What a repository holds, and small helpers around huggingface_hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nbloader._hub.part_file import Expected

_ASKERS = 8  # requests for sizes at once


class ListedFiles(Mapping[str, Expected]):
    """The files that the Hub lists. Where it lists no sizes, as some mirrors do, a file is asked for when it is wanted.

    Parameters
    ----------
    listed
        What is known of each file; None if it has to be asked for.
    ask
        Asks for a file's size.
    """

    def __init__(self, listed: Mapping[str, Expected | None], ask: Callable[[str], Expected]) -> None:
        self._listed = dict(listed)
        self._ask = ask

    def __getitem__(self, name: str) -> Expected:
        known = self._listed[name]
        if known is None:
            self._listed[name] = known = self._ask(name)
        return known

    def __contains__(self, name: object) -> bool:
        return name in self._listed

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed)

    def __len__(self) -> int:
        return len(self._listed)

    def known(self, name: str) -> Expected | None:
        """Return what is known of a file without asking."""
        return self._listed[name]

    def look_up(self, names: Iterable[str]) -> None:
        """Ask for what is not known of several files, side by side."""
        unknown = [name for name in names if self._listed[name] is None]
        if unknown:
            with ThreadPoolExecutor(min(_ASKERS, len(unknown))) as pool:
                for name, found in zip(unknown, pool.map(self._ask, unknown), strict=True):
                    self._listed[name] = found


@dataclass(frozen=True)
class Repository:
    """One state of a repository.

    `files` maps names to what the Hub lists for them; None if the Hub was not asked or could not be reached.
    `note` says why the Hub could not be reached, if it should have been. `revision` is the branch, tag or commit that
    was asked for.
    """

    repo_id: str
    commit: str
    files: ListedFiles | None
    note: str = ""
    revision: str | None = None

    def expected(self, name: str) -> Expected:
        """Return what the Hub lists for a file."""
        assert self.files is not None
        return self.files[name]

    def has(self, name: str, content: bytes, snapshot: Path) -> bool:
        """Return whether a file of the cached snapshot has the content that the Hub lists.

        If the Hub was not asked, the name of the blob that the snapshot links to serves as the hash.
        """
        if self.files is None:
            path = snapshot / name
            key = os.path.basename(os.readlink(path)) if path.is_symlink() else name
            is_hash = re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", key) is not None
            expected = Expected(len(content), *((key,) if len(key) == 64 else (None, key))) if is_hash else None
        elif name in self.files:
            expected = self.files[name]
        else:
            return False
        if expected is None or expected.key is None:
            return True
        hasher = expected.hasher()
        hasher.update(content)
        return len(content) == expected.bytes and bool(hasher.hexdigest() == expected.key)


def is_repo_id(text: str) -> bool:
    """Return whether `text` can be the id of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def hub_host() -> str:
    """Return the host and port of the Hub that is in use."""
    from huggingface_hub import constants

    return urlsplit(str(constants.ENDPOINT)).netloc


def save_tensors(tensors: Mapping[str, Any], folder: Path) -> None:
    """Write tensors as safetensors, split into shards if they are large, with the names that transformers uses."""
    from huggingface_hub import save_torch_state_dict

    save_torch_state_dict(dict(tensors), folder, safe_serialization=True)


def address(repo: Repository, name: str) -> str:
    """Return the URL of the Hub page that shows a file at the repository's commit."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo.repo_id}/blob/{repo.commit}/{name}"

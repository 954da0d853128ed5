"""What a repository holds, and small helpers around huggingface_hub."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbloader._hub.transfer import Expected


@dataclass(frozen=True)
class Repository:
    """One state of a repository.

    `files` maps names to what the Hub lists for them; None if the Hub was not asked or could not be reached.
    `note` says why the Hub could not be reached, if it should have been.
    """

    repo_id: str
    commit: str
    files: Mapping[str, Expected] | None
    note: str = ""

    def expected(self, name: str) -> Expected:
        """Return what the Hub lists for a file."""
        assert self.files is not None
        return self.files[name]

    def has(self, name: str, content: bytes, snapshot: Path) -> bool:
        """Return whether a file of the cached snapshot has the content that the Hub lists.

        If the Hub was not asked, the name of the blob that the snapshot links to serves as the hash.
        """
        if self.files is None:
            key = os.path.basename(os.path.realpath(snapshot / name))
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


def save_tensors(tensors: Mapping[str, Any], folder: Path) -> None:
    """Write tensors as safetensors, split into shards if they are large, with the names that transformers uses."""
    from huggingface_hub import save_torch_state_dict

    save_torch_state_dict(dict(tensors), folder, safe_serialization=True)


def address(repo: Repository, name: str) -> str:
    """Return the URL of the Hub page that shows a file at the repository's commit."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo.repo_id}/blob/{repo.commit}/{name}"

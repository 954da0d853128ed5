"""Outcome, Downloaded: the results of jobs. LoadedModels: the models that are loaded already, as one load sees them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from nbloader._checkpoint.source import Source
    from nbloader._system.memory import Free


class Outcome(NamedTuple):
    """The result of a load: the model, its tokenizer, and the figures shown for them."""

    model: Any
    tokenizer: Any
    summary: Mapping[str, Any]


class Downloaded(NamedTuple):
    """The result of a download without a load: the folder of the checkpoint."""

    folder: Path


class LoadedModels(Protocol):
    """The models that the process has loaded already, as one load sees them."""

    def find(self, source: Source) -> Any:
        """Return the loaded model that would be loaded from `source`; None if it has to be loaded."""

    def free(self) -> Free:
        """Return the memory that the load can use, once the other models have made room."""

    def make_room(self) -> tuple[str, Any] | None:
        """Unload the other models, unless all are to be kept; return their names and what that freed."""

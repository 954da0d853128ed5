"""What a load makes, and what it sees of the models that the process has already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from nbloader._checkpoint.source import Source
    from nbloader._system.memory import Free


class Outcome(NamedTuple):
    """What a load made: the model, its tokenizer, and what is said of them."""

    model: Any
    tokenizer: Any
    summary: Mapping[str, Any]


class LoadedModels(Protocol):
    """The models that the process has already, as one load sees them."""

    def find(self, source: Source) -> Any:
        """Return the resident model that would be loaded from `source`; None where it has to be loaded."""

    def free(self) -> Free:
        """Return what is free for the load, once the others have made room."""

    def make_room(self) -> tuple[str, Any] | None:
        """Unload the others, where they are not to be kept; return their names and what that gave back."""

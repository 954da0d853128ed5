"""What the registry knows of a load, and what it tells it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from nbloader._options.options import LoadOptions
from nbloader._progress import events
from nbloader._progress.freed import Freed

if TYPE_CHECKING:
    from nbloader._planning.plan import LoadPlan
    from nbloader._progress.state import LoadState


class Waiting(NamedTuple):
    """A load that is under way or in line, as those behind it see it."""

    number: int
    name: str


class Job(Protocol):
    """A load, as the registry sees it."""

    model: str | os.PathLike[str]
    options: LoadOptions
    number: int
    _reloads: bool
    _comes_next: bool

    @property
    def state(self) -> LoadState:
        """What is known of it now."""

    @property
    def plan(self) -> LoadPlan | None:
        """What it moves; None until that is known."""

    def start(self) -> Any:
        """Start its thread."""

    def _is_alive(self) -> bool:
        """Return whether a thread works for it, and it has not ended."""

    def cancel(self) -> None:
        """Ask it to stop."""

    def subscribe(self, function: Callable[[events.Event], None], /) -> Any:
        """Have `function` called with every event from now on."""

    def _add_line(self, level: str, code: str, **arguments: Any) -> None:
        """Add a line to its log."""

    def _let_go(self, successor: str) -> None:
        """Have it forget what it made, to make room for the model `successor`."""

    def _add_unloaded(self, freed: Freed) -> None:
        """Have it add to its events what that gave back."""

    def _abandon(self) -> None:
        """End it in a child that was forked in its midst."""


AnyJob = TypeVar("AnyJob", bound=Job)

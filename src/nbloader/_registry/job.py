"""Job: a load as the registry sees it, with what the registry calls on it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from nbloader._options.options import LoadOptions
from nbloader._progress import events
from nbloader._progress.freed import Freed

if TYPE_CHECKING:
    from nbloader._planning.load_plan import LoadPlan
    from nbloader._progress.state import LoadState


class Waiting(NamedTuple):
    """A load that is running or queued, as the loads behind it see it."""

    number: int
    name: str


class Job(Protocol):
    """A load, as the registry sees it."""

    model: str | os.PathLike[str]
    options: LoadOptions
    number: int
    _download_only: bool
    _reloads: bool
    _comes_next: bool

    @property
    def state(self) -> LoadState:
        """The current state of the load."""

    @property
    def plan(self) -> LoadPlan | None:
        """What the load moves; None until that is known."""

    def start(self) -> Any:
        """Start the load's thread."""

    def _is_alive(self) -> bool:
        """Return whether the load's thread runs and the load has not ended."""

    def cancel(self) -> None:
        """Ask the load to stop."""

    def subscribe(self, function: Callable[[events.Event], None], /) -> Any:
        """Call `function` with every event from now on."""

    def _add_line(self, level: str, code: str, **arguments: Any) -> None:
        """Add a line to the load's log."""

    def _let_go(self, successor: str) -> None:
        """Drop the load's result, to make room for the model `successor`."""

    def _add_unloaded(self, freed: Freed) -> None:
        """Append an `Unloaded` event with what unloading the model freed."""

    def _abandon(self) -> None:
        """End the load in a forked child."""


AnyJob = TypeVar("AnyJob", bound=Job)

"""Questions: how a load asks a person how to continue after an error, and gets the answer."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from nbloader._load.ending import available_for, choices_of, files_of
from nbloader._progress import events as _events

if TYPE_CHECKING:
    from nbloader._errors import LoadError
    from nbloader._progress.reporter import Reporter

_TICK = 0.05  # seconds between two checks of whether the load was cancelled

CanAsk = Callable[[], bool]
"""Returns whether a person can answer; finding out may take seconds."""


class Questions:
    """The questions of one load, and the callers that may answer them."""

    def __init__(self) -> None:
        self._askers: list[CanAsk] = []
        self._answers: queue.SimpleQueue[tuple[int, Mapping[str, Any]]] = queue.SimpleQueue()
        self._numbers = itertools.count(1)

    def add_asker(self, can_ask: CanAsk) -> None:
        """Add a further caller of the load, who may be able to answer."""
        self._askers.append(can_ask)

    def answer(self, changes: Mapping[str, Any], number: int) -> None:
        """Answer the question with this number by option changes."""
        self._answers.put((number, changes))

    def ask(self, error: LoadError, reporter: Reporter) -> Mapping[str, Any]:
        """Ask which of the changes that `error` suggests to make, and return the answer.

        Raises
        ------
        LoadError
            `error` itself, if it suggests nothing, no person can answer, or the load is cancelled.
        LoadCancelled
            If the load is cancelled before the answer.
        """
        if not error.suggestions or reporter.is_cancelled or not any(can_ask() for can_ask in list(self._askers)):
            raise error
        number = next(self._numbers)
        about = files_of(error), number, error.code, available_for(error)
        reporter.emit(
            _events.Asked, type(error).__name__, getattr(error, "reason", error.message), choices_of(error), *about
        )
        while True:
            reporter.check_cancelled()
            with suppress(queue.Empty):
                answered, changes = self._answers.get(timeout=_TICK)
                if answered == number:  # not an earlier question
                    return changes

"""LoadJob: one load on its own thread, its state, its cancel, its result."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nbloader._errors import OptionError
from nbloader._libraries.transformers.loading import ambient_device
from nbloader._load.ending import Ending, Loaded
from nbloader._load.event_log import EventLog
from nbloader._load.heartbeat import Heartbeat
from nbloader._load.questions import CanAsk, Questions
from nbloader._load.run import Run
from nbloader._load.watch import CANCEL_SECONDS
from nbloader._options.options import LoadOptions, merge_options
from nbloader._progress import events as _events
from nbloader._progress.freed import Freed
from nbloader._progress.reporter import Reporter
from nbloader._progress.state import LoadState, stages_of
from nbloader._registry import models as registry
from nbloader._safety.redaction import clean
from nbloader._system.threads import Flag, make_thread
from nbloader._text.catalogue import text

if TYPE_CHECKING:
    from nbloader._planning.plan import LoadPlan

_numbers = itertools.count(1)


class LoadJob:
    """One load, on a thread of its own. `nbloader.start` makes and starts one.

    ::

        job = nbloader.start("demo")
        model, tokenizer = job.result()

    `model` is what it loads, `options` are the options it loads with, and `number` tells it from every other load of
    the process.

    Parameters
    ----------
    model
        A folder, the id of a repository on the Hub, or ``"demo"``.
    options
        The load's options.
    reload
        Whether to load even if the model is loaded already.
    can_ask
        Tells whether somebody is there who can answer a question; it may take seconds to find out. Where nobody is,
        what would have been asked ends the load as an error.
    clock
        Seconds, monotonic.

    Raises
    ------
    OptionError
        Where torch's default device, which the load would use, is the meta device.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        options: LoadOptions,
        *,
        reload: bool = False,
        can_ask: CanAsk = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self.options = _on_ambient_device(options)
        self.number = next(_numbers)
        self._comes_next = False
        self._reloads = reload
        name = clean(os.fspath(model) if isinstance(model, (str, os.PathLike)) else repr(model))
        state = LoadState(name=name, stages=stages_of(with_adapter=options.adapter is not None))
        # None of these refers to the job: without a cycle, the model goes as soon as nobody holds the job.
        self._log = EventLog(state, _stopwatch(clock))
        self._cancelled = Flag()
        self._reporter = Reporter(self._log.add, self._log.now, self._cancelled)
        self._heartbeat = Heartbeat(self.number)
        self._ending = Ending(self._log, self._heartbeat)
        self._questions = Questions()
        self._questions.add_asker(can_ask)
        self._plan: LoadPlan | None = None
        self._thread: threading.Thread | None = None
        for notice in options.notices:
            self._reporter.log("info", notice.code, name=notice.name, value=notice.value)

    def start(self) -> LoadJob:
        """Start the load; returns at once, with the job itself.

        Raises
        ------
        LoadError
            Where the system has no thread left for it.
        """
        parts = (self._log, self._ending, self._questions, self._reporter, self._heartbeat)
        self._thread = make_thread(Run(self, *parts, self._set_plan), "nbloader-load")
        self._thread.start()
        return self

    @property
    def state(self) -> LoadState:
        """What is known of the load now."""
        return self._log.state

    @property
    def plan(self) -> LoadPlan | None:
        """What the load moves, from the headers; None until they have been read."""
        return self._plan

    @property
    def events(self) -> tuple[_events.Event, ...]:
        """Everything that has happened so far, but for log lines and samples of memory behind the first 10 000."""
        return self._log.events

    def done(self) -> bool:
        """Return whether the load has ended, in whatever way."""
        return self._ending.done.is_set()

    def cancel(self) -> None:
        """Ask the load to stop; returns at once. What it had placed is given back."""
        if not self._cancelled.is_set():
            self._cancelled.set()
            self._reporter.emit(_events.CancelRequested)

    def answer(self, changes: Mapping[str, Any], question: int | None = None) -> None:
        """Answer the question in `state`, if there is one: the load continues with these options changed.

        Parameters
        ----------
        changes
            Options, by name.
        question
            The number of the question that is meant; if another is asked by now, nothing happens. None for any.

        Raises
        ------
        OptionError
            For an option that does not exist or a value it cannot take.
        """
        merge_options(self.options, changes)
        asked = self.state.question
        if asked is not None and question in (None, asked.number):
            self._questions.answer(changes, asked.number)

    def result(self, timeout: float | None = None) -> Loaded:
        """Wait for the load and return what it made.

        An interrupt while waiting (Ctrl-C, the notebook's stop button) cancels the load, waits for its end and is
        raised on.

        Parameters
        ----------
        timeout
            Seconds to wait at most; None for as long as it takes.

        Raises
        ------
        LoadError
            Where the load failed.
        LoadCancelled
            Where it was cancelled.
        TimeoutError
            Where it has not ended in time; it continues.
        """
        with self._expecting() as given:
            try:
                has_ended = self._ending.wait(timeout)
            except KeyboardInterrupt:
                self.cancel()
                self._ending.wait(2 * CANCEL_SECONDS)
                raise
            if not has_ended:
                raise TimeoutError(text("detail", "timeout", name=self.state.name, seconds=timeout))
            return self._ending.result(given)

    def subscribe(self, function: Callable[[_events.Event], None]) -> Callable[[], None]:
        """Call `function` with every event from now on, on the thread that it comes from; return how to stop that.

        An exception in `function` is logged once, and never ends a load.
        """
        return self._log.subscribe(function)

    def unload(self) -> Freed:
        """Give back what the load made, and return what that gave back; see `nbloader.unload`.

        Raises
        ------
        LoadError
            Where there is nothing to give back.
        """
        return registry.unload(self)

    # What follows is for the registry and for views of this package.

    def _set_plan(self, plan: LoadPlan) -> None:
        self._plan = plan

    def _is_alive(self) -> bool:
        """Return whether a thread works for the load, and it has not ended: one that is left behind has."""
        return self._thread is not None and self._thread.is_alive() and not self.done()

    def _add_line(self, level: str, code: str, **arguments: Any) -> None:
        """Add a line to the load's log: `code` is a key of the locale files' ``log``."""
        self._reporter.log(level, code, **arguments)

    def _add_asker(self, can_ask: CanAsk) -> None:
        """Note that one more wants what this load makes, and may be able to answer its questions."""
        self._questions.add_asker(can_ask)

    def _expecting(self) -> AbstractContextManager[list[Loaded]]:
        """Give a list that will hold what the load makes, even if another load has it unloaded at once."""
        return self._ending.expecting()

    def _let_go(self, successor: str) -> None:
        """Forget what the load made, to make room for the model `successor`, if one is named."""
        self._ending.let_go(successor)

    def _add_unloaded(self, freed: Freed) -> None:
        """Add to the events what unloading gave back."""
        if self.done():
            self._log.append(_events.Unloaded(self._log.now(), freed))

    def _abandon(self) -> None:
        """End the load in a child that was forked meanwhile."""
        self._ending.abandon()


def _on_ambient_device(options: LoadOptions) -> LoadOptions:
    """Return the options with the caller's default device of torch, where nothing else is chosen, as plain loads have.

    Raises
    ------
    OptionError
        Where that is the meta device, which has no memory.
    """
    device = ambient_device() if options.placement is None else None
    if device is None:
        return options
    if device == "meta":
        raise OptionError(text("error", "meta_device"), text("hint", "meta_device"))
    return replace(options, device=device)


def _stopwatch(clock: Callable[[], float]) -> Callable[[], float]:
    began = clock()
    return lambda: clock() - began

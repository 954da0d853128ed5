"""LoadJob: one load on its own thread, with its state, its cancellation and its result."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
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
from nbloader._progress.state import LoadState, Sample, stages_of
from nbloader._registry import models as registry
from nbloader._safety.redaction import clean
from nbloader._system.threads import Flag, make_thread
from nbloader._text.catalogue import text

if TYPE_CHECKING:
    from nbloader._planning.load_plan import LoadPlan

_numbers = itertools.count(1)


class LoadJob:
    """One load, on a thread of its own. `nbloader.start` makes and starts one.

    ::

        job = nbloader.start("demo")
        model, tokenizer = job.result()

    `model` is what it loads, `options` are the options it loads with, and `number` is unique within the process.

    Parameters
    ----------
    model
        A folder, the id of a repository on the Hub, or ``"demo"``.
    options
        The load's options.
    reload
        Whether to load even if the model is loaded already.
    download_only
        Whether to download only what the load would need.
    can_ask
        Returns whether a person can answer questions; finding out may take seconds. If no person can, the load
        ends with the error that it would have asked about.
    clock
        Seconds, monotonic.

    Raises
    ------
    OptionError
        If torch's default device, which the load would use, is the meta device.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        options: LoadOptions,
        *,
        reload: bool = False,
        download_only: bool = False,
        can_ask: CanAsk = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self.options = _on_ambient_device(options)
        self.number = next(_numbers)
        self._download_only = download_only
        self._comes_next = False
        self._reloads = reload
        name = clean(os.fspath(model) if isinstance(model, (str, os.PathLike)) else repr(model))
        stages = stages_of(with_adapter=options.adapter is not None, download_only=download_only)
        state = LoadState(name=name, stages=stages)
        # None of these refers to the job: without a reference cycle, the last reference to the job frees the model.
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
        """Start the load, and return the job at once.

        Raises
        ------
        LoadError
            If the system cannot start another thread.
        """
        parts = (self._log, self._ending, self._questions, self._reporter, self._heartbeat)
        self._thread = make_thread(Run(self, *parts, self._set_plan), "nbloader-load")
        self._thread.start()
        return self

    @property
    def state(self) -> LoadState:
        """The current state of the load."""
        return self._log.state

    @property
    def plan(self) -> LoadPlan | None:
        """What the load moves, according to the headers; None until they have been read."""
        return self._plan

    @property
    def timeline(self) -> list[dict[str, float]]:
        """The load over time, as plain dicts: at most 240, the earliest first. Sizes in bytes.

        ``"seconds"`` counts from the load's start. ``"downloaded"``, ``"read"`` and ``"placed"`` are what this load has
        moved until then; ``"process"`` is the memory of this process, and each device's name says what is used there.

        ::

            pandas.DataFrame(job.timeline).plot(x="seconds", y=["read", "placed"])
        """
        state = self.state
        devices = [] if state.memory is None else [device.name for device in state.memory.accelerators]
        names = (*Sample._fields[:-1], *devices)
        return [dict(zip(names, (*sample[:-1], *sample.devices), strict=False)) for sample in state.samples]

    @property
    def events(self) -> tuple[_events.Event, ...]:
        """All events so far. Log lines, memory samples, stalls and queue updates after the first 10 000 are dropped."""
        return self._log.events

    def done(self) -> bool:
        """Return whether the load has ended: ready, failed or cancelled."""
        return self._ending.done.is_set()

    def cancel(self) -> None:
        """Ask the load to stop, and return at once. The memory of what it had placed is freed."""
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
            The number of the question to answer; None for any. If another question is asked by now, nothing happens.

        Raises
        ------
        OptionError
            If an option does not exist, or does not accept its value.
        """
        merge_options(self.options, changes)
        asked = self.state.question
        if asked is not None and question in (None, asked.number):
            self._questions.answer(changes, asked.number)

    def result(self, timeout: float | None = None) -> Loaded:
        """Wait for the load and return what it made.

        An interrupt while waiting (Ctrl-C, the notebook's stop button) cancels the load, waits for its end and is
        raised again.

        Parameters
        ----------
        timeout
            Seconds to wait at most; None for no limit.

        Raises
        ------
        LoadError
            If the load failed.
        LoadCancelled
            If it was cancelled.
        TimeoutError
            If the load has not ended in time; it continues.
        """
        with self._expecting() as given:
            self._join(timeout)
            return self._ending.result(given)

    def subscribe(self, function: Callable[[_events.Event], None]) -> Callable[[], None]:
        """Call `function` with every event from now on; return a function that unsubscribes it.

        `function` is called on the thread that emits the event. If it raises, the exception is logged, the load
        continues, and `function` is not called again.
        """
        return self._log.subscribe(function)

    def _tell_expected(self, expected: _events.Expected) -> None:
        """Tell what earlier loads took."""
        self._reporter.emit(_events.TimeExpected, expected)

    def unload(self) -> Freed:
        """Unload the model that the load made, and return what that freed; see `nbloader.unload`.

        Raises
        ------
        LoadError
            If the model is not loaded.
        """
        return registry.unload(self)

    # What follows is for the registry and for views of this package.

    def _join(self, timeout: float | None = None) -> None:
        """Wait for the end, as `result` does, and raise the error if there is one."""
        try:
            has_ended = self._ending.wait(timeout)
        except KeyboardInterrupt:
            self.cancel()
            self._ending.wait(2 * CANCEL_SECONDS)
            raise
        if not has_ended:
            raise TimeoutError(text("detail", "timeout", name=self.state.name, seconds=timeout))
        self._ending.check()

    def _folder(self, timeout: float | None = None) -> Path:
        """Wait for a download and return its folder, as `result` does for a load."""
        self._join(timeout)
        return self._ending.folder

    def _set_plan(self, plan: LoadPlan) -> None:
        self._plan = plan

    def _is_alive(self) -> bool:
        """Return whether the load's thread runs and the load has not ended (a load that cannot stop may have)."""
        return self._thread is not None and self._thread.is_alive() and not self.done()

    def _add_line(self, level: str, code: str, **arguments: Any) -> None:
        """Add a line to the load's log: `code` is a key of the locale files' ``log``."""
        self._reporter.log(level, code, **arguments)

    def _add_asker(self, can_ask: CanAsk) -> None:
        """Add a further caller of this load, who may be able to answer its questions."""
        self._questions.add_asker(can_ask)

    def _expecting(self) -> AbstractContextManager[list[Loaded]]:
        """Yield a list that receives the load's result, even if another load unloads the model at once."""
        return self._ending.expecting()

    def _let_go(self, successor: str) -> None:
        """Drop the load's result. `successor` names the model that needs the room; it is empty if there is none."""
        self._ending.let_go(successor)

    def _add_unloaded(self, freed: Freed) -> None:
        """Append an `Unloaded` event with what unloading the model freed."""
        if self.done():
            self._log.append(_events.Unloaded(self._log.now(), freed))

    def _abandon(self) -> None:
        """End the load in a forked child."""
        self._ending.abandon()


def _on_ambient_device(options: LoadOptions) -> LoadOptions:
    """Return the options with torch's default device, as ``from_pretrained`` uses it, unless a placement is chosen.

    Raises
    ------
    OptionError
        If that is the meta device, which has no memory.
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

"""LoadJob: one load on its own thread, its state, its cancel, its result."""

from __future__ import annotations

import itertools
import math
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from nbloader._errors import LoadCancelled, LoadError, OptionError, os_failure
from nbloader._libraries.imports import import_failure
from nbloader._libraries.output import captured, uncaptured
from nbloader._libraries.transformers.loading import ambient_device
from nbloader._load.heartbeat import Heartbeat, Killed, find_killed
from nbloader._load.stages import pipeline
from nbloader._load.stages.resolve import resolve
from nbloader._load.stall import StallWatch, find_doing
from nbloader._options.as_code import said
from nbloader._options.options import LoadOptions, merge_options
from nbloader._progress import events as _events
from nbloader._progress.fold import fold
from nbloader._progress.reporter import Reporter
from nbloader._progress.state import FINAL, LoadState, stages_of
from nbloader._registry import models as registry
from nbloader._registry.job import Freed
from nbloader._safety.redaction import clean, clean_error
from nbloader._system.memory import release_memory, sample_memory
from nbloader._system.threads import Flag, make_thread, weakly
from nbloader._text.catalogue import speak, text
from nbloader._text.units import size_text

if TYPE_CHECKING:
    from nbloader._planning.plan import LoadPlan
    from nbloader._registry.outcome import Outcome

_numbers = itertools.count(1)
_SAMPLE_SECONDS = 0.25
_TICK = 0.05  # seconds between two looks at whether to go on
_MOST_EVENTS = 10_000
_PASSING = (_events.Logged, _events.MemorySampled, _events.Stalled, _events.Queued)
_CANCEL_SECONDS = 0.8
"""A cancelled load that is inside a call which cannot be stopped (an import) is left behind after so long."""


class Loaded(NamedTuple):
    """What a load gives. `tokenizer` is the processor where the model has one, None where it has neither."""

    model: Any
    tokenizer: Any


class LoadJob:
    """One load, on a thread of its own.

    `number` tells it from every other load of the process.

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
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        options: LoadOptions,
        *,
        reload: bool = False,
        can_ask: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self.options = _on_ambient_device(options)
        self.number = next(_numbers)
        self.comes_next = False
        self.reload = reload
        self._askers = [can_ask]
        self._answers: queue.SimpleQueue[tuple[int, Mapping[str, Any]]] = queue.SimpleQueue()
        self._questions = itertools.count(1)
        self._now = _stopwatch(clock)
        self._lock = threading.RLock()
        name = clean(os.fspath(model) if isinstance(model, (str, os.PathLike)) else repr(model))
        self._state = LoadState(name=name, stages=stages_of(with_adapter=options.adapter is not None))
        self._events: list[_events.Event] = []
        self._subscribers: list[Callable[[_events.Event], None]] = []
        self._cancelled = Flag()
        self._done = Flag()
        self._loaded: Loaded | None = None
        self._is_gone = False
        self._thread: threading.Thread | None = None
        self._heartbeat: Heartbeat | None = None
        self._had_no_memory = False
        self._successor = ""
        self._expecting: list[list[Loaded]] = []
        self._error: LoadError | LoadCancelled | None = None
        self._plan: LoadPlan | None = None
        self._finisher: int | None = None
        self._stall_watch: StallWatch | None = None
        self._reporter = Reporter(weakly(self._add), self._now, self._cancelled)
        for notice in options.notices:
            self._reporter.log("info", notice.code, name=notice.name, value=notice.value)

    def start(self) -> LoadJob:
        """Start the load; returns at once, with the job itself.

        Raises
        ------
        LoadError
            Where the system has no thread left for it.
        """
        self._thread = make_thread(self._run, "nbloader-load")
        self._thread.start()
        return self

    def is_alive(self) -> bool:
        """Tell whether a thread works for the load, and it has not ended: one that is left behind has."""
        return self._thread is not None and self._thread.is_alive() and not self.done()

    @property
    def state(self) -> LoadState:
        """What is known of the load now."""
        return self._state.at(self._now())

    @property
    def plan(self) -> LoadPlan | None:
        """What the load moves, from the headers; None until they have been read."""
        return self._plan

    @property
    def events(self) -> tuple[_events.Event, ...]:
        """Everything that has happened so far, but for log lines and samples of memory behind the first 10 000."""
        with self._lock:
            return tuple(self._events)

    def done(self) -> bool:
        """Tell whether the load has ended, in whatever way."""
        return self._done.is_set()

    def log(self, level: str, code: str, **arguments: Any) -> None:
        """Add a line to the load's log: `code` is a key of the locale files' ``log``."""
        self._reporter.log(level, code, **arguments)

    def cancel(self) -> None:
        """Ask the load to stop; returns at once. What it had placed is given back."""
        if not self._cancelled.is_set():
            self._cancelled.set()
            self._reporter.tell(_events.CancelRequested)

    def answer(self, changes: Mapping[str, Any], question: int | None = None) -> None:
        """Answer the question in `state`, if there is one: the load goes on with these options changed.

        Parameters
        ----------
        changes
            Options, by name.
        question
            The number of the question that is meant; one that is not asked now is left alone. None for any.

        Raises
        ------
        OptionError
            For an option that does not exist or a value it cannot take.
        """
        merge_options(self.options, changes)
        asked = self.state.question
        if asked is not None and question in (None, asked.number):
            self._answers.put((asked.number, changes))

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
            Where it has not ended in time; it goes on.
        """
        with self.expecting() as given:
            try:
                # A callback that is told the end, and asks for the result, must not wait for itself.
                ended = self._finisher == threading.get_ident() or self._wait(timeout)
            except KeyboardInterrupt:
                self.cancel()
                self._wait(2 * _CANCEL_SECONDS)
                raise
            if not ended:
                raise TimeoutError(text("error", "timeout", name=self._state.name, seconds=timeout))
            return self._result(given)

    def _wait(self, timeout: float | None) -> bool:
        """Wait for the end and tell whether it has come.

        In short turns: an interrupt that comes just before a lock is waited for, or on another thread, does not end
        that wait.
        """
        until = math.inf if timeout is None else time.monotonic() + timeout
        while not self._done.wait(min(_TICK, until - time.monotonic())):
            if time.monotonic() >= until:
                return False
        return True

    @contextmanager
    def expecting(self) -> Iterator[list[Loaded]]:
        """Give a list that will have what the load makes, even if another load has it unloaded at once."""
        given: list[Loaded] = []
        with self._lock:
            self._expecting.append(given)
        try:
            yield given
        finally:
            with self._lock:
                self._expecting = [other for other in self._expecting if other is not given]

    def _result(self, given: list[Loaded]) -> Loaded:
        if isinstance(self._error, LoadError):
            raise self._error.fresh()
        if self._error is not None:
            raise LoadCancelled(str(self._error))
        loaded = given[0] if given else self._loaded
        if loaded is None:
            raise self._gone()
        return loaded

    def subscribe(self, function: Callable[[_events.Event], None]) -> Callable[[], None]:
        """Call `function` with every event from now on, on the thread that tells it; returns how to stop that.

        An exception in `function` is logged once, and never ends a load.
        """
        with self._lock:
            self._subscribers.append(function)
        return lambda: self._unsubscribe(function)

    def _unsubscribe(self, function: Callable[[_events.Event], None]) -> None:
        with self._lock:
            if function in self._subscribers:
                self._subscribers.remove(function)

    def join(self, can_ask: Callable[[], bool]) -> None:
        """Note that one more wants what this load makes: who may be able to answer its questions."""
        with self._lock:
            self._askers.append(can_ask)

    def unload(self) -> Freed:
        """Give back what the load made, and return what that gave back; see `nbloader.unload`.

        Raises
        ------
        LoadError
            Where there is nothing to give back.
        """
        return registry.unload(self)

    def let_go(self, successor: str) -> None:
        """Forget what the load made, to make room for the model `successor`, if one is named."""
        with self._lock:
            self._loaded, self._is_gone, self._successor = None, True, successor

    def _gone(self) -> LoadError:
        name, successor = self._state.name, self._successor
        if successor:
            return LoadError(
                text("error", "made_room", name=name, successor=successor),
                text("hint", "keep_all"),
            )
        return LoadError(text("error", "unloaded", name=name), text("hint", "load_again"))

    def tell_unloaded(self, freed: Freed) -> None:
        """Tell what that gave back."""
        holders = tuple(map(str, freed.holders))
        if self.done():
            self._take(_events.Unloaded(self._now(), freed.before, freed.after, holders, self._successor))

    def abandon(self) -> None:
        """End a load in a child that was forked in its midst: its threads are not there, and its locks may be held."""
        self._lock, self._done = threading.RLock(), Flag()
        if self._heartbeat is not None:
            self._heartbeat.forget()
        error = LoadError(
            text("error", "forked", name=self._state.name),
            text("hint", "before_fork"),
        )
        if not self._is_over():
            self._error = error
            self._state = fold(
                self._state, _events.Failed(self._now(), type(error).__name__, error.message, error.hint)
            )
        self._done.set()

    def _is_over(self) -> bool:
        return self._loaded is not None or self._error is not None

    def _add(self, event: _events.Event) -> None:
        with self._lock:
            if self._done.is_set() or self._state.status in FINAL:
                return  # a load that was left behind has nothing more to say
        self._take(event)

    def _take(self, event: _events.Event) -> None:
        event = clean(event)
        with self._lock:
            self._keep(event)
        self._notify(event)

    def _keep(self, event: _events.Event) -> None:
        """Fold an event; of those without which the rest can be understood so many are kept and no more."""
        self._state = fold(self._state, event)
        if len(self._events) < _MOST_EVENTS or not isinstance(event, _PASSING):
            self._events.append(event)

    def _notify(self, event: _events.Event) -> None:
        with self._lock:
            subscribers = list(self._subscribers)
        for function in subscribers:
            try:
                with uncaptured():
                    function(event)
            except BaseException as error:  # noqa: BLE001, PERF203 - whatever a user's callback raises
                self._unsubscribe(function)
                self._reporter.log("warning", "callback_failed", error=repr(error))

    def _run(self) -> None:
        registry.entered(self)
        try:
            self._load_to_the_end()
        except BaseException as error:  # noqa: BLE001 - of the last steps, such as a look at memory
            self._finish(None, self._failure(error))
        finally:
            self._done.set()  # whatever happened: nobody waits for a thread that is gone
            registry.left(self)

    def _load_to_the_end(self) -> None:
        reporter = self._reporter
        speak(self.options.locale)
        outcome: Outcome | None = None
        failure: LoadError | LoadCancelled | None = None
        self._stall_watch = StallWatch(threading.get_native_id(), threading.get_ident(), find_doing)
        try:
            self._heartbeat = Heartbeat(self.number)
            make_thread(self._watch, "nbloader-watch").start()
            for killed in find_killed():
                self._tell_killed(killed)
            while outcome is None:
                outcome = self._load_or_ask()
        except BaseException as error:  # noqa: BLE001 - nothing may end this thread unseen
            failure = self._failure(error)
        if failure is not None or self._cancelled.is_set():
            outcome = None
            release_memory()
        reporter.tell(_events.MemorySampled, sample_memory())
        self._finish(outcome, failure)

    def _tell_killed(self, killed: Killed) -> None:
        sizes = (killed.process, killed.available, killed.total)
        process, available, total = map(size_text, sizes)
        known = {"name": killed.name, "percent": f"{100 * killed.fraction:.0f}", "process": process, "total": total}
        if killed.is_for_memory:
            self._reporter.log("warning", "killed_for_memory", available=available, **known)
        else:
            self._reporter.log("warning", "killed", available=available, **known)
        self._had_no_memory = self._had_no_memory or killed.is_for_memory

    def _load_or_ask(self) -> Outcome | None:
        """Return what the load made; None where somebody has chosen how it goes on."""
        try:
            return self._load()
        except LoadError as error:
            told = error.fresh()
        # Asked outside of the turn: others may load while somebody thinks.
        with self._reporter.spending("choice"):
            changes = self._ask(told)
        self.options = merge_options(self.options, changes)
        self._reporter.tell(_events.Answered, changes)
        return None

    def _load(self) -> Outcome:
        reporter, residence = self._reporter, registry.Residence(self)
        reporter.tell(_events.Started)
        with reporter.spending("resolve"):
            source = resolve(self.model, self.options, reporter)
        # What is there already need not wait for what is being loaded.
        outcome = pipeline.find(source, reporter, residence)
        if outcome is not None:
            return outcome
        with ExitStack() as stack:
            with reporter.spending("queue"):
                told = partial(reporter.tell, _events.Queued)
                stack.enter_context(registry.turn(self, told, reporter.check_cancelled))
            reporter.tell(_events.Started)
            reporter.tell(_events.MemorySampled, sample_memory())
            outcome = pipeline.find(source, reporter, residence)
            if outcome is None:
                with captured(lambda level, line: reporter.log(level, "library_says", text=line)):
                    outcome = pipeline.run(self.model, source, self.options, reporter, self._keep_plan, residence)
                if not self._cancelled.is_set():
                    residence.add(outcome, source.commit)
            return outcome

    def _ask(self, error: LoadError) -> Mapping[str, Any]:
        """Return the choice of somebody who was asked how to go on after `error`; raise it where nobody can choose."""
        if not error.suggestions or self._cancelled.is_set() or not any(can_ask() for can_ask in list(self._askers)):
            raise error
        reporter = self._reporter
        question = next(self._questions)
        reporter.tell(_events.Asked, type(error).__name__, error.message, _choices(error), _files(error), question)
        while True:
            reporter.check_cancelled()
            with suppress(queue.Empty):
                answered, changes = self._answers.get(timeout=_TICK)
                if answered == question:  # and not one that was asked before
                    return changes

    def _keep_plan(self, plan: LoadPlan, smaller: Callable[[], Sequence[tuple[Mapping[str, Any], int]]]) -> None:
        self._plan = plan
        if self._had_no_memory:
            less = [(changes, needed) for changes, needed in smaller() if needed < plan.needed_memory]
            ways = [f"{said(changes)}: {size_text(needed)}" for changes, needed in less]
            free = size_text(plan.available or 0)
            self._reporter.log(
                "warning", "takes", needed=size_text(plan.needed_memory), free=free, ways=", ".join(ways) or "-"
            )

    def _failure(self, error: BaseException) -> LoadError | LoadCancelled:
        """Return what is told of an exception, without the traceback that keeps the half-built model alive."""
        if self._cancelled.is_set():
            return LoadCancelled(text("panel", "cancelled"))
        details = "".join(traceback.format_exception(error))
        if isinstance(error, LoadError):
            error.details = error.details or details
            return clean_error(error)
        broken = import_failure(error)
        known = {"name": self._state.name, "error": f"{type(error).__name__}: {error}"}
        if broken is not None:
            broken.details = details
            return clean_error(broken)
        if isinstance(error, OSError):
            return clean_error(os_failure(error, self._state.name, details))
        return clean_error(LoadError(text("error", "fault", **known), text("hint", "report"), details))

    def _finish(self, outcome: Outcome | None, failure: LoadError | LoadCancelled | None) -> None:
        with self._lock:
            if self._is_over():
                return
            if self._is_gone:  # between its last step and this one
                outcome, failure = None, self._gone()
            if isinstance(failure, LoadError):
                self._error = failure
                told = (type(failure).__name__, failure.message, failure.hint, _choices(failure), _files(failure))
                event: _events.Event = clean(_events.Failed(self._now(), *told))
            elif outcome is None:
                self._error = failure or LoadCancelled(text("panel", "cancelled"))
                event = _events.Cancelled(self._now())
            else:
                self._loaded = Loaded(outcome.model, outcome.tokenizer)
                for given in self._expecting:
                    given.append(self._loaded)
                event = clean(_events.Ready(self._now(), outcome.summary))
            self._keep(event)
            self._finisher = threading.get_ident()
        if self._heartbeat is not None:
            self._heartbeat.stop()
        # Told first, so that whoever waited finds everything told; and without the lock, which a callback may need.
        self._notify(event)
        self._done.set()

    def _watch(self) -> None:
        """Sample memory, give signs of life, say what is waited for; leave behind what does not heed a cancel."""
        speak(self.options.locale)
        while not self._done.wait(_SAMPLE_SECONDS):
            self._reporter.tell(_events.MemorySampled, sample_memory())
            self._watch_for_stalls()
            if self._state.status == "running" and self._heartbeat is not None:
                self._heartbeat.beat(self.state)
            if self._cancelled.is_set() and not self._done.wait(_CANCEL_SECONDS - _SAMPLE_SECONDS):
                self._reporter.log("warning", "left_behind", stage=self._state.stage or "")
                self._finish(None, None)

    def _watch_for_stalls(self) -> None:
        state = self.state
        if self._stall_watch is None:
            return
        stall = self._stall_watch.look(state, self.options.stall_seconds)
        if stall == state.stall:
            return
        if stall is not None and state.stall is None:
            reason = text("stall", stall.reason, **stall.arguments)
            self._reporter.log("info", "stalled", seconds=f"{state.now - stall.since:.0f}", reason=reason)
        self._reporter.tell(_events.Stalled, stall)


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


def _choices(error: LoadError) -> tuple[tuple[Mapping[str, Any], int | None], ...]:
    needed = getattr(error, "needed", ()) or (None,) * len(error.suggestions)
    return tuple(zip(error.suggestions, needed, strict=True))


def _files(error: LoadError) -> tuple[str, ...]:
    return tuple(getattr(error, "files", ()))

"""Which models this process has, is loading, and has yet to load: each once, one at a time, in order.

The registry keeps no model alive by itself: a model stays as long as somebody refers to it, its `LoadJob` (and so its
widget) among them. What is preloaded is held here until it is unloaded.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from nbloader._errors import LoadError
from nbloader._progress import events
from nbloader._progress.freed import Freed
from nbloader._registry.holders import find_holders
from nbloader._registry.identity import are_same, identity_of, request_of
from nbloader._registry.job import AnyJob, Job, Waiting
from nbloader._registry.loaded_model import LoadedModel
from nbloader._registry.model_state import state_of_model
from nbloader._system.memory import Free, find_free, release_memory, sample_memory
from nbloader._system.threads import wait_for_threads
from nbloader._text.catalogue import text

if TYPE_CHECKING:
    from nbloader._checkpoint.source import Source
    from nbloader._registry.outcome import Outcome


_TICK = 0.05  # seconds between two looks at whose turn it is
# That an ending process waits for the loads it cancels. An import cannot be cancelled, and a thread that Python stops
# while it holds the lock of all imports would keep the process from ever ending.
_EXIT_SECONDS = 10.0


class _Registry:
    """What is loaded and being loaded. Who is in line, or has the turn, counts only as long as it is alive."""

    def __init__(self) -> None:
        # Taken as it is, not by the condition: an interrupt inside of Condition.__enter__ would keep it for ever.
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self._active: list[Job] = []
        self._line: list[Job] = []
        self._running: Job | None = None
        self.residents: list[LoadedModel] = []
        self.preloaded: list[Job] = []

    @property
    def active(self) -> list[Job]:
        """From the request to the end, those that wait included."""
        self._active = [job for job in self._active if job._is_alive()]
        return self._active

    @property
    def line(self) -> list[Job]:
        """Those that wait for their turn, the next one first."""
        self._line = [job for job in self._line if job._is_alive()]
        return self._line

    @property
    def running(self) -> Job | None:
        """The one that has the turn."""
        return self._running if self._running is not None and self._running._is_alive() else None

    def enter(self, job: Job) -> None:
        """Note a job that has been started, and put it in the line: in the order of requests, behind what is next."""
        if job not in self.active:
            self._active.append(job)
            self.line_up(job)

    def line_up(self, job: Job) -> None:
        """Put a job in the line, where it is not."""
        if job not in self.line:
            self._line.append(job)
            self._line.sort(key=lambda other: (not other._comes_next, other.number))

    def take_turn(self, job: Job) -> None:
        """Have the turn be this job's, and nobody's once it is left."""
        self._running = job
        self._line = [other for other in self._line if other is not job]

    def leave(self, job: Job, *, turn_only: bool = False) -> None:
        """Note that a job has ended or, with `turn_only`, has had its turn."""
        if self._running is job:
            self._running = None
        self._line = [other for other in self._line if other is not job]
        self._active = [other for other in self._active if other is not job or turn_only]
        self.changed.notify_all()


_registry = _Registry()


def _begin_anew() -> None:
    """In a child, forget what its parent loads: only the thread that forked is there."""
    global _registry
    former, _registry = _registry, _Registry()
    for job in former._active:
        job._abandon()
    _registry.residents, _registry.preloaded = former.residents, former.preloaded


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


@atexit.register
def _end_all() -> None:
    """Cancel what loads, and wait a moment: a thread inside of torch when Python goes takes the process down."""
    with _registry.lock:
        jobs = list(_registry.active)
    for job in jobs:
        job.cancel()
    wait_for_threads(_EXIT_SECONDS)


def submit(job: AnyJob, *, replace: bool = False) -> AnyJob:
    """Return the job that does what `job` was made for: itself, started, or one that is doing it already.

    With `replace`, what is being loaded now is cancelled, and the job comes next.
    """
    wanted = request_of(job)
    with _registry.lock:
        for other in _registry.active:
            if not other.state.cancelling and not job._reloads and are_same(request_of(other), wanted):
                return cast(AnyJob, other)  # there is one kind
        running = _registry.running
        job._comes_next = replace
        try:
            job.start()
        except BaseException:  # where the thread began all the same, it ends at once
            job.cancel()
            raise
        _registry.enter(job)
    if replace and running is not None:
        running.cancel()
    return job


def note_started(job: Job) -> None:
    """Note that a job has begun; called by its own thread, which no interrupt keeps from it."""
    with _registry.lock:
        _registry.enter(job)


def note_ended(job: Job) -> None:
    """Note that a job has ended."""
    with _registry.lock:
        _registry.leave(job)


@contextmanager
def turn(
    job: Job, on_wait: Callable[[tuple[Waiting, ...]], None], check_cancelled: Callable[[], None]
) -> Iterator[None]:
    """Hold the process's one turn to load, which comes in the order of the requests.

    ``from_pretrained`` changes globals of torch and of its own while it runs, and two at once leave them changed
    (https://github.com/huggingface/transformers/issues/41782). `on_wait` is told who is ahead, each time that changes.
    """
    registry, told = _registry, None
    with registry.lock:
        registry.line_up(job)
    try:
        while True:
            check_cancelled()
            with registry.lock:
                ahead = _ahead_of(job)
                if not ahead:
                    registry.take_turn(job)
                    break
                if ahead == told:
                    registry.changed.wait(_TICK)
            if ahead != told:
                told = ahead
                on_wait(ahead)
        yield
    finally:
        with registry.lock:
            registry.leave(job, turn_only=True)


def _ahead_of(job: Job) -> tuple[Waiting, ...]:
    line = _registry.line
    before = line[: line.index(job)] if job in line else line
    ahead = [_registry.running, *before]
    return tuple(Waiting(other.number, other.state.name) for other in ahead if other is not None)


def cancel_waiting(number: int) -> None:
    """Cancel the load of this number, if it is under way or in line."""
    with _registry.lock:
        found = [job for job in _registry.active if job.number == number]
    for job in found:
        job.cancel()


class LoadedModelsOfJob:
    """What one load has to do with the models that are loaded: is it there already, and who must make room.

    Parameters
    ----------
    job
        The load.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._identity: Any = None

    def find(self, source: Source) -> LoadedModel | None:
        """Return the model from `source`, if it is loaded with these options, and it and its files are as they were.

        One that somebody has changed is forgotten here, and stays with whoever holds it.
        """
        self._identity = identity_of(source, self._job.options)
        if self._job._reloads:
            return None
        for resident in loaded():
            if not are_same(resident.identity, self._identity):
                continue
            change = resident.change
            if not change:
                resident._jobs.add(self._job)
                return resident
            self._job._add_line("warning", "changed_since", name=resident.name, change=change)
            with _registry.lock:
                _registry.residents.remove(resident)
        return None

    def add(self, outcome: Outcome, commit: str | None) -> None:
        """Note that the load has made its model."""
        job = self._job
        made = LoadedModel(
            name=job.state.name,
            options=job.options,
            summary=outcome.summary,
            commit=commit,
            identity=self._identity,
            plan=job.plan,
            tokenizer=outcome.tokenizer,
            _model=weakref.ref(outcome.model),
            _loaded_as=state_of_model(outcome.model),
        )
        made._jobs.add(job)
        job.subscribe(_keeping_state(weakref.ref(made), weakref.ref(job)))
        with _registry.lock:
            _registry.residents.append(made)

    def free(self) -> Free:
        """Return what is free for the load: what is free now, and what unloading others will give back."""
        free = find_free()
        devices = dict(free.devices)
        host = free.host
        for plan in (resident.plan for resident in self._leaving()):
            if plan is None:
                continue
            host += plan.host_memory["weights"] if plan.copies else 0  # what is mapped counts as available
            for name, parts in (plan.device_memory or {}).items():
                left = devices.get(name)
                if left is not None:
                    devices[name] = left + parts["weights"]
        return Free(host, devices)

    def make_room(self) -> tuple[str, Freed] | None:
        """Unload the others, unless all are to be kept; return their names and what that gave back."""
        leaving = self._leaving()
        if not leaving:
            return None
        return ", ".join(resident.name for resident in leaving), _unload(leaving, self._job.state.name)

    def _leaving(self) -> list[LoadedModel]:
        return loaded() if self._job.options.keep == "one" else []


def _keeping_state(to_resident: weakref.ref[LoadedModel], to_job: weakref.ref[Job]) -> Callable[[events.Event], None]:
    def keep_state(event: events.Event) -> None:
        resident, job = to_resident(), to_job()
        if isinstance(event, events.Ready) and resident is not None and job is not None:
            resident.state = job.state

    return keep_state


def find_loaded(model: Any) -> LoadedModel | None:
    """Return the newest of the loaded models that `model` means: itself, its job, or its folder or id."""
    return next((resident for resident in reversed(loaded()) if resident.matches(model)), None)


def loaded() -> list[LoadedModel]:
    """Return the models that are loaded, the oldest first."""
    with _registry.lock:
        _registry.residents = [resident for resident in _registry.residents if resident.model is not None]
        return list(_registry.residents)


def unload(model: Any = None) -> Freed:
    """Unload a model, or all of them, and return what that gave back.

    The loads that made it forget it, and what it held on the host and on devices is given back. A model that somebody
    else refers to stays until they let go of it: the answer names them.

    Parameters
    ----------
    model
        The model, its job, what `loaded` says of it, or the folder or id that it was loaded from; None for all.

    Raises
    ------
    LoadError
        If no such model is loaded.
    """
    found = [resident for resident in loaded() if model is None or resident.matches(model)]
    if model is not None and not found:
        names = ", ".join(resident.name for resident in loaded()) or text("detail", "none")
        shown = model if isinstance(model, (str, os.PathLike)) else type(model).__name__
        raise LoadError(text("error", "model_not_loaded", shown=shown), text("hint", "loaded", names=names))
    return _unload(found, "")


def keep(job: Job) -> None:
    """Keep what a load makes alive, although nobody may refer to it yet."""
    with _registry.lock:
        _registry.preloaded.append(job)


def _unload(residents: list[LoadedModel], successor: str) -> Freed:
    before = sample_memory()
    watched = [weakref.ref(part) for resident in residents for part in _parts_of(resident.model)]
    jobs = {job for resident in residents for job in resident._jobs}
    with _registry.lock:
        _registry.residents = [resident for resident in _registry.residents if resident not in residents]
        _registry.preloaded = [job for job in _registry.preloaded if job not in jobs]
    for job in jobs:
        job._let_go(successor)
    release_memory()
    alive = [part for part in (reference() for reference in watched) if part is not None]
    holders = find_holders(alive) if alive else ()
    freed = Freed(before, sample_memory(), holders, successor)
    for job in jobs:
        job._add_unloaded(freed)
    return freed


def _parts_of(model: Any) -> Iterator[Any]:
    if model is not None:
        yield model
        yield from model.modules()
        yield from model.parameters()

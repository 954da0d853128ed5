"""The models that this process has loaded, is loading or will load: each once, one at a time, in order.

The registry itself keeps no model alive: a model stays while something refers to it, such as its `LoadJob` (and so its
widget). Preloaded models are held here until they are unloaded.
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


_TICK = 0.05  # seconds between two checks of whose turn it is
# How long an exiting process waits for the loads that it cancels. An import cannot be cancelled. If Python stops a
# thread that holds the import lock, the process never exits.
_EXIT_SECONDS = 10.0


class _Registry:
    """The loaded models, and the loads. A load in the queue, or with the turn, counts only while it is alive."""

    def __init__(self) -> None:
        # Acquire the lock itself, not the condition: an interrupt inside Condition.__enter__ would never release it.
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self._active: list[Job] = []
        self._line: list[Job] = []
        self._running: Job | None = None
        self.residents: list[LoadedModel] = []
        self.preloaded: list[Job] = []

    @property
    def active(self) -> list[Job]:
        """The loads from their request to their end, including those that wait."""
        self._active = [job for job in self._active if job._is_alive()]
        return self._active

    @property
    def line(self) -> list[Job]:
        """The loads that wait for their turn, the next one first."""
        self._line = [job for job in self._line if job._is_alive()]
        return self._line

    @property
    def running(self) -> Job | None:
        """The load that has the turn; None if none has."""
        return self._running if self._running is not None and self._running._is_alive() else None

    def enter(self, job: Job) -> None:
        """Add a started job, and queue it in the order of the requests, after jobs that come next.

        A job that only downloads needs no turn.
        """
        if job not in self.active:
            self._active.append(job)
            if not job._download_only:
                self.line_up(job)

    def line_up(self, job: Job) -> None:
        """Queue a job, unless it is queued already."""
        if job not in self.line:
            self._line.append(job)
            self._line.sort(key=lambda other: (not other._comes_next, other.number))

    def take_turn(self, job: Job) -> None:
        """Give this job the turn, and remove it from the queue."""
        self._running = job
        self._line = [other for other in self._line if other is not job]

    def leave(self, job: Job, *, turn_only: bool = False) -> None:
        """Remove a job that has ended or, with `turn_only`, end its turn only."""
        if self._running is job:
            self._running = None
        self._line = [other for other in self._line if other is not job]
        self._active = [other for other in self._active if other is not job or turn_only]
        self.changed.notify_all()


_registry = _Registry()


def _begin_anew() -> None:
    """Drop the parent's loads in a forked child: only the thread that forked exists there."""
    global _registry
    former, _registry = _registry, _Registry()
    for job in former._active:
        job._abandon()
    _registry.residents, _registry.preloaded = former.residents, former.preloaded


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


@atexit.register
def _end_all() -> None:
    """Cancel all loads and wait a moment: a thread that is inside torch when Python exits crashes the process."""
    with _registry.lock:
        jobs = list(_registry.active)
    for job in jobs:
        job.cancel()
    wait_for_threads(_EXIT_SECONDS)


def submit(job: AnyJob, *, replace: bool = False) -> AnyJob:
    """Start `job` and return it, or return the job that has the same request already.

    With `replace`, the running load is cancelled, and the job comes next.
    """
    wanted = request_of(job)
    with _registry.lock:
        for other in _registry.active:
            if not other.state.cancelling and not job._reloads and are_same(request_of(other), wanted):
                return cast(AnyJob, other)  # there is only one kind of job
        running = _registry.running
        job._comes_next = replace
        try:
            job.start()
        except BaseException:  # if its thread has started nevertheless, the thread ends at once
            job.cancel()
            raise
        _registry.enter(job)
    if replace and running is not None:
        running.cancel()
    return job


def note_started(job: Job) -> None:
    """Add a job that has started; its own thread calls this, because no interrupt reaches that thread."""
    with _registry.lock:
        _registry.enter(job)


def note_ended(job: Job) -> None:
    """Remove a job that has ended."""
    with _registry.lock:
        _registry.leave(job)


@contextmanager
def turn(
    job: Job, on_wait: Callable[[tuple[Waiting, ...]], None], check_cancelled: Callable[[], None]
) -> Iterator[None]:
    """Wait for the process's one turn to load, in the order of the requests, and hold it in this context.

    ``from_pretrained`` changes globals of torch and transformers while it runs, and two parallel calls leave them
    changed (https://github.com/huggingface/transformers/issues/41782). `on_wait` is called with the loads ahead, each
    time they change.
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
    """Cancel the load with this number, if it is running or queued."""
    with _registry.lock:
        found = [job for job in _registry.active if job.number == number]
    for job in found:
        job.cancel()


class LoadedModelsOfJob:
    """The loaded models, as one load sees them: whether its model is loaded, and which models must make room.

    Parameters
    ----------
    job
        The load.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._identity: Any = None

    def find(self, source: Source) -> LoadedModel | None:
        """Return the model from `source`, if it is loaded with these options and is unchanged, with its files.

        A model that has changed is removed from the registry, and stays alive while something refers to it.
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
        """Add the model that the load has made."""
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
        """Return the memory that the load can use: what is free now, and what unloading other models will free."""
        free = find_free()
        devices = dict(free.devices)
        host = free.host
        for plan in (resident.plan for resident in self._leaving()):
            if plan is None:
                continue
            host += plan.host_memory["weights"] if plan.copies else 0  # mapped weights count as available
            for name, parts in (plan.device_memory or {}).items():
                left = devices.get(name)
                if left is not None:
                    devices[name] = left + parts["weights"]
        return Free(host, devices)

    def make_room(self) -> tuple[str, Freed] | None:
        """Unload the other models, unless all are to be kept; return their names and what that freed."""
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
    """Return the newest loaded model that `model` means: the model itself, its job, its folder or its id."""
    return next((resident for resident in reversed(loaded()) if resident.matches(model)), None)


def loaded() -> list[LoadedModel]:
    """Return the models that are loaded, the oldest first."""
    with _registry.lock:
        _registry.residents = [resident for resident in _registry.residents if resident.model is not None]
        return list(_registry.residents)


def unload(model: Any = None) -> Freed:
    """Unload a model, or all models, and return what that freed.

    The loads that made the model drop it, and its memory on the host and on devices is freed. If something else refers
    to the model, it stays until that reference is dropped; the result names such references.

    Parameters
    ----------
    model
        The model, its job, its entry in `loaded`, or the folder or id that it was loaded from; None for all models.

    Raises
    ------
    LoadError
        If this model is not loaded.
    """
    found = [resident for resident in loaded() if model is None or resident.matches(model)]
    if model is not None and not found:
        names = ", ".join(resident.name for resident in loaded()) or text("detail", "none")
        shown = model if isinstance(model, (str, os.PathLike)) else type(model).__name__
        raise LoadError(text("error", "model_not_loaded", shown=shown), text("hint", "loaded", names=names))
    return _unload(found, "")


def keep(job: Job) -> None:
    """Keep the model of a load alive, even if nothing else refers to it yet."""
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

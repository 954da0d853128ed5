"""The loading thread of one load: it waits for its turn, runs the stages, and asks how to continue after an error."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from nbloader._errors import LoadCancelled, LoadError, os_failure
from nbloader._libraries.imports import import_failure
from nbloader._libraries.output import captured
from nbloader._load.heartbeat import Killed, find_killed
from nbloader._load.stages import pipeline
from nbloader._load.stages.demo import write_demo
from nbloader._load.stages.resolve import resolve
from nbloader._load.stall import StallWatch, find_thread_activity
from nbloader._load.watch import watch
from nbloader._options.as_code import options_code
from nbloader._options.options import merge_options
from nbloader._progress import events as _events
from nbloader._registry import models as registry
from nbloader._registry.job import Job
from nbloader._safety.redaction import clean_error
from nbloader._system.memory import release_memory, sample_memory
from nbloader._system.threads import make_thread
from nbloader._text.catalogue import speak, text
from nbloader._text.units import size_text

if TYPE_CHECKING:
    from nbloader._load.ending import Ending
    from nbloader._load.event_log import EventLog
    from nbloader._load.heartbeat import Heartbeat
    from nbloader._load.questions import Questions
    from nbloader._planning.load_plan import LoadPlan
    from nbloader._progress.reporter import Reporter
    from nbloader._registry.outcome import Downloaded, Outcome


class Run:
    """The function of the loading thread. Only that thread holds it, so it may refer to the job.

    Parameters
    ----------
    job
        The load; its options change when a question is answered.
    log
        The load's events.
    ending
        The load's end.
    questions
        Asks a person how to continue after an error.
    reporter
        Receives what the stages report.
    heartbeat
        Written while the load runs.
    on_plan
        Called with the plan once it is made.
    """

    def __init__(
        self,
        job: Job,
        log: EventLog,
        ending: Ending,
        questions: Questions,
        reporter: Reporter,
        heartbeat: Heartbeat,
        on_plan: Callable[[LoadPlan], None],
    ) -> None:
        self._job = job
        self._log = log
        self._ending = ending
        self._questions = questions
        self._reporter = reporter
        self._heartbeat = heartbeat
        self._on_plan = on_plan
        self._was_short_of_memory = False

    def __call__(self) -> None:
        """Run the load until it is ready, failed or cancelled."""
        registry.note_started(self._job)
        try:
            self._load_to_the_end()
        except BaseException as error:  # noqa: BLE001 - from the last steps, such as sampling memory
            self._ending.end(None, self._failure(error))
        finally:
            self._ending.done.set()  # in every case: nothing may wait for a thread that has ended
            registry.note_ended(self._job)

    def _load_to_the_end(self) -> None:
        reporter, options = self._reporter, self._job.options
        speak(options.locale)
        outcome: Outcome | Downloaded | None = None
        failure: LoadError | LoadCancelled | None = None
        stall_watch = StallWatch(threading.get_native_id(), threading.get_ident(), find_thread_activity)
        watched = (options, self._log, self._ending, reporter, self._heartbeat, stall_watch)
        try:
            self._heartbeat.begin()
            make_thread(watch, "nbloader-watch", *watched).start()
            for killed in find_killed():
                self._report_killed(killed)
            while outcome is None:
                outcome = self._load_or_ask()
        except BaseException as error:  # noqa: BLE001 - no exception may end this thread silently
            failure = self._failure(error)
        if failure is not None or reporter.is_cancelled:
            outcome = None
            release_memory()
        reporter.emit(_events.MemorySampled, sample_memory())
        self._ending.end(outcome, failure)

    def _report_killed(self, killed: Killed) -> None:
        sizes = (killed.process, killed.available, killed.total)
        process, available, total = map(size_text, sizes)
        known = {"name": killed.name, "percent": f"{100 * killed.fraction:.0f}", "process": process, "total": total}
        if killed.is_for_memory:
            self._reporter.log("warning", "killed_for_memory", available=available, **known)
        else:
            self._reporter.log("warning", "killed", available=available, **known)
        self._was_short_of_memory = self._was_short_of_memory or killed.is_for_memory

    def _load_or_ask(self) -> Outcome | Downloaded | None:
        """Return the outcome of the load; None if a person has chosen how to continue after an error."""
        try:
            return self._load()
        except LoadError as error:
            failure = error.fresh()  # without the traceback, which holds the half-built model
        # Ask outside the turn: other loads may run while the person decides.
        with self._reporter.spending("choice"):
            changes = self._questions.ask(failure, self._reporter)
        self._job.options = merge_options(self._job.options, changes)
        self._reporter.emit(_events.Answered, changes)
        return None

    def _load(self) -> Outcome | Downloaded:
        job, reporter = self._job, self._reporter
        loaded_models = registry.LoadedModelsOfJob(job)
        reporter.emit(_events.Started)
        with reporter.spending("resolve"):
            write_demo(job.model, reporter)
            source = resolve(job.model, job.options, reporter)
        if job._download_only:
            return pipeline.download(source, job.options, reporter)
        # A model that is loaded already need not wait for the load that has the turn.
        outcome = pipeline.find(source, reporter, loaded_models)
        if outcome is not None:
            return outcome
        with ExitStack() as stack:
            with reporter.spending("queue"):
                on_wait = partial(reporter.emit, _events.Queued)
                stack.enter_context(registry.turn(job, on_wait, reporter.check_cancelled))
            reporter.emit(_events.Started)
            reporter.emit(_events.MemorySampled, sample_memory())
            outcome = pipeline.find(source, reporter, loaded_models)
            if outcome is None:
                with captured(lambda level, line: reporter.log(level, "library_says", text=line)):
                    outcome = pipeline.run(job.model, source, job.options, reporter, self._take_plan, loaded_models)
                if not reporter.is_cancelled:
                    loaded_models.add(outcome, source.commit)
            return outcome

    def _take_plan(self, plan: LoadPlan, smaller: Callable[[], Sequence[tuple[Mapping[str, Any], int]]]) -> None:
        self._on_plan(plan)
        if self._was_short_of_memory:
            less = [(changes, needed) for changes, needed in smaller() if needed < plan.needed_memory]
            ways = ", ".join(f"{options_code(changes)}: {size_text(needed)}" for changes, needed in less)
            needed, free = size_text(plan.needed_memory), size_text(plan.available or 0)
            self._reporter.log("warning", "takes", needed=needed, free=free, ways=ways or "-")

    def _failure(self, error: BaseException) -> LoadError | LoadCancelled:
        """Return the error to show for an exception, without the traceback that keeps the half-built model alive."""
        if self._reporter.is_cancelled:
            return LoadCancelled(text("panel", "cancelled"))
        details = "".join(traceback.format_exception(error))
        if isinstance(error, LoadError):
            error.details = error.details or details
            return clean_error(error)
        name = self._log.state.name
        broken = import_failure(error)
        if broken is not None:
            broken.details = details
            return clean_error(broken)
        if isinstance(error, OSError):
            return clean_error(os_failure(error, name, details))
        message = text("error", "internal_error", name=name, error=f"{type(error).__name__}: {error}")
        return clean_error(LoadError(message, text("hint", "report"), details))

"""Controller: runs the loads of one widget, and handles the clicks in its panel."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from nbloader._analysis import history
from nbloader._analysis.diagnose import diagnose
from nbloader._errors import LoadError, OptionError
from nbloader._load.ahead import import_ahead
from nbloader._load.job import LoadJob
from nbloader._options.options import LoadOptions, merge_options
from nbloader._progress import events
from nbloader._progress.state import LoadState
from nbloader._registry.identity import are_alike
from nbloader._registry.models import cancel_waiting, unload
from nbloader._safety.redaction import clean
from nbloader._system.threads import make_thread, weak_method
from nbloader._text.catalogue import nearest, speak, text
from nbloader._views.form import changed_by, wrong_field
from nbloader._views.messages import Message, RefusedError, read_message
from nbloader._views.page import Page
from nbloader._views.publisher import Publisher
from nbloader._views.view import view_of, view_of_diagnosis
from nbloader._views.workbench import Workbench

_logger = logging.getLogger("nbloader")
_MOST_REFUSED = 100  # messages; later ones are not logged


class Controller:
    """Starts and follows the loads of a widget, and handles the clicks in its panel.

    `options` are those of the next load, and `job` is the latest one.

    Parameters
    ----------
    model
        A folder, the id of a repository on the Hub, or ``"demo"``.
    options
        The first load's options.
    begin
        Starts a job, or returns a running one that does the same; takes `can_ask` and `replace` by keyword.
    page
        Shows the load.
    reload, replace
        The parameters of the widget, for a load from its workbench.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        options: LoadOptions,
        begin: Callable[..., LoadJob],
        page: Page,
        *,
        reload: bool = False,
        replace: bool = False,
    ) -> None:
        self.model = model
        self.options = options
        self.reload = reload
        self.replace = replace
        self.job: LoadJob | None = None
        self._begin = begin
        self._page = page
        self._publisher: Publisher | None = None
        self._workbench: Workbench | None = None
        self._refused = 0
        self._former: LoadJob | None = None

    @property
    def state(self) -> LoadState:
        """The current state of the load."""
        return LoadState(name=clean(str(self.model))) if self.job is None else self.job.state

    def view(self) -> dict[str, Any]:
        """Return the state of the load as traits."""
        return view_of(self.state, 0 if self.job is None else self.job.number)

    def load(self, *, reload: bool, replace: bool, changes: Mapping[str, Any]) -> None:
        """Start a load, unless one with the same result is running.

        Raises
        ------
        OptionError
            For an option that does not exist or a value it cannot take.
        """
        self.options = merge_options(self.options, changes)
        if self.options.locale is not None:
            self._page.speak(self.options.locale)
        self._start(LoadJob(self.model, self.options, reload=reload), replace=replace)

    def download(self) -> None:
        """Download what a load would need, and load nothing."""
        self._start(LoadJob(self.model, self.options, download_only=True))

    def _start(self, made: LoadJob, *, replace: bool = False) -> None:
        old = self.job
        if old is not None and (made._reloads or not are_alike(old, made)):
            old.cancel()
        job = self._begin(made, can_ask=self._page.can_ask, replace=replace)
        if job is not old:
            self._follow(job)

    def _follow(self, job: LoadJob) -> None:
        if self._publisher is not None:
            self._publisher.stop()
        # Kept until the new load has ended: it may be for the same model, which nobody else may hold.
        self._former, self.job = self.job, job
        self._page.send({"_diagnosis": None})
        job.subscribe(weak_method(self._take))
        if job.done():  # its last event may have come before the subscription
            self._former = None
            self._refresh()
        self._publisher = Publisher(job, self._page.send)
        self._publisher.start()
        if self._workbench is not None:
            self._workbench.change(self.options)

    def _take(self, event: events.Event) -> None:
        """Handle an event: keep options that answered a question, and add a load that ended to the runs."""
        if isinstance(event, (events.Ready, events.DownloadReady, events.Failed, events.Cancelled)):
            self._former = None
        if isinstance(event, events.Unloaded) and self.job is not None:
            self._page.send(self.view())
        if isinstance(event, events.Answered):
            self.options = merge_options(self.options, event.changes)
        if isinstance(event, (events.Answered, events.Ready, events.DownloadReady)):
            self._refresh()
        if isinstance(event, events.Ready) and not event.summary.get("already_loaded"):
            make_thread(weak_method(self._diagnose), "nbloader-diagnosis", self.job).start()

    def _diagnose(self, job: LoadJob) -> None:
        """Show why the load took as long as it did, unless another load has replaced it."""
        speak(self._page.language)
        with suppress(Exception):  # a front end can raise anything, and the model may be unloaded at any time
            if self.job is job:
                self._page.send(view_of_diagnosis(None))
            made: dict[str, Any] = {"_diagnosis": None}
            with suppress(Exception):  # the storage or the model may be gone
                made = view_of_diagnosis(diagnose(job))
            if self.job is job:
                self._page.send({**self.view(), **made})  # a page with a diagnosis shows the end too

    def send_end(self) -> None:
        """Show how the load ended, if it has; called by the cell that waited for it."""
        if self.job is not None and self.job.done():
            self._page.send_end(self.job.number, self.view)

    # The workbench: a form of the options, what they will cost, and the loads so far.

    def open_workbench(self) -> None:
        """Show the workbench, unless a load was started."""
        if self.job is None and self._workbench is None:
            page = self._page
            flags = {name: True for name in ("reload", "replace") if getattr(self, name)}
            self._workbench = Workbench(self.model, lambda form: page.send({"_form": form}), flags)
            page.send({"_runs": self._workbench.runs()})
            self._workbench.change(self.options)
            if history.must_import():
                import_ahead(weak_method(self._replan))

    def _replan(self) -> None:
        """Plan anew once the libraries are imported: a load takes less time now."""
        if self._workbench is not None and self.job is None and not self._workbench.has_error:
            self._workbench.change(self.options)

    def _refresh(self) -> None:
        """Update the workbench after a load: what is cached, what is in memory, and the runs."""
        if self._workbench is not None:
            self._workbench.forget()
            self._page.send({"_runs": self._workbench.runs()})
            self._workbench.change(self.options)

    def clear_history(self) -> None:
        """Delete the history of loads on this machine."""
        history.clear()
        if self._workbench is not None:
            self._page.send({"_runs": self._workbench.runs()})

    # Messages from the page.

    def receive(self, content: Any, buffers: Any, *, is_panel: bool) -> None:
        """Handle a message from the page; `is_panel` says whether the widget has no workbench."""
        try:
            message = read_message(content, buffers)
        except RefusedError as error:
            self.refuse(text("refused", "message", reason=error.args[0]))
            return
        if message.kind == "drawn":
            self._drawn(message.language, is_panel=is_panel)
        else:
            self._clicks()[message.kind](message)

    def _clicks(self) -> Mapping[str, Callable[[Message], object]]:
        """Return what each kind of message does."""
        return {
            "adopts": lambda message: self._page.outputs.adopt(),
            "cancel": lambda message: self._cancel(message.number),
            "unload": lambda message: self._unload(),
            "answer": self._answer,
            "plan": lambda message: self._change(message.choices),
            "load": lambda message: self._load() if self._change(message.choices) else None,
            "load_so": self._load_so,
            "use_run": self._use_run,
            "use_resident": lambda message: self._use_resident(),
            "download": lambda message: self.download() if self._change(message.choices) else None,
            "clear_history": lambda message: self.clear_history(),
        }

    def refuse(self, reason: str) -> None:
        """Log that the page sent a message that no click sends."""
        self._refused += 1
        if self._refused > _MOST_REFUSED:
            return
        reason = text("refused", "many") if self._refused == _MOST_REFUSED else reason
        if self.job is not None and not self.job.done():
            self.job._add_line("warning", "refused", reason=reason)
        elif self._workbench is not None:
            self._workbench.refuse(OptionError(reason))
        else:
            _logger.warning("%s", reason)

    def _drawn(self, language: str, *, is_panel: bool) -> None:
        self._page.is_drawn.set()
        self._page.send_whole()
        if not is_panel:
            self.open_workbench()
        if language and self.options.locale is None:
            self._page.speak(nearest(language))

    def _change(self, texts: Mapping[str, str]) -> bool:
        """Apply the options in the form; return whether they are valid."""
        if self._workbench is None:
            return False
        try:
            self.options = changed_by(self.options, texts)
        except OptionError as error:
            self._workbench.refuse(error, wrong_field(self.options, texts))
            return False
        self._workbench.change(self.options)
        return True

    def _answer(self, message: Message) -> None:
        """Continue with the choice that was clicked, for a question or for the error of a failed load.

        A click on a question that is no longer open does nothing, even if another question is open by then.
        """
        job, state = self.job, self.state
        asked = state.question if message.question else state.error
        is_meant = job is not None and message.number == job.number
        if job is None or asked is None or not is_meant or not 0 <= message.choice < len(asked.choices):
            return
        changes = asked.choices[message.choice][0]
        if message.question:
            job.answer(changes, message.question)
        else:
            self.load(reload=False, replace=False, changes=changes)

    def _load(self, changes: Mapping[str, Any] | None = None) -> None:
        self.load(reload=self.reload, replace=self.replace, changes=changes or {})

    def _load_so(self, message: Message) -> None:
        """Load with a choice that the plan offers, as the load would have asked about it.

        A load that a cell has begun meanwhile is not replaced: if it asks already, this is the answer.
        """
        ways = () if self._workbench is None else self._workbench.ways
        if not 0 <= message.choice < len(ways):
            return
        changes, question = ways[message.choice], self.state.question
        if self.job is None or self.job.done():
            self._load(changes)
        elif question is not None and changes in [each for each, _ in question.choices]:
            self.job.answer(changes, question.number)

    def _use_run(self, message: Message) -> None:
        """Take over the options of a past run; its token and the values of ``extra`` were never kept."""
        past = () if self._workbench is None else self._workbench.past
        if self._workbench is None or not 0 <= message.choice < len(past):
            return
        kept = {"token": self.options.token, "extra": self.options.extra}
        try:
            self.options = merge_options(LoadOptions(), {**past[message.choice], **kept})
        except OptionError as error:  # another version of nbloader wrote it
            self._workbench.refuse(error)
        else:
            self._workbench.change(self.options)

    def _use_resident(self) -> None:
        """Load with the options of the model that is in memory: that takes no time."""
        resident = None if self._workbench is None else self._workbench.resident()
        if resident is not None:
            self.options = resident.options
            self.load(reload=False, replace=False, changes={})

    def _cancel(self, number: int | None) -> None:
        """Cancel this load, or one that it waits for, by its number.

        The number guards against a late click, made before this widget started another load.
        """
        if self.job is not None and number == self.job.number:
            self.job.cancel()
        elif number in [other for other, _ in self.state.ahead]:
            cancel_waiting(number)

    def _unload(self) -> None:
        """Unload what this widget has loaded or, before it has loaded anything, what the workbench found loaded."""
        with suppress(LoadError):  # the model is already unloaded
            if self.job is not None:
                self.job.unload()
            elif self._workbench is not None and (resident := self._workbench.resident()) is not None:
                unload(resident)
                self._workbench.change(self.options)

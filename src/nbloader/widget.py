"""LoaderWidget: a load in a notebook. Traits and messages; nothing about loading."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import threading
from collections.abc import Generator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from nbloader._analysis import history as _history
from nbloader._analysis.diagnose import diagnose
from nbloader._api import begin
from nbloader._errors import LoadError, OptionError
from nbloader._load.job import Loaded, LoadJob
from nbloader._options.options import LoadOptions, merge_options
from nbloader._planning.plan import LoadPlan
from nbloader._progress import events
from nbloader._progress.state import FINAL, LoadState
from nbloader._registry.identity import are_alike
from nbloader._registry.job import Freed
from nbloader._registry.models import cancel_waiting
from nbloader._safety.redaction import clean
from nbloader._system.threads import Flag, make_thread, weakly
from nbloader._text.catalogue import FRONT_END, in_locale, locale, nearest, speak, text, texts
from nbloader._views.callback import ProgressCallback
from nbloader._views.form import changed_by
from nbloader._views.messages import Message, RefusedError, read_message
from nbloader._views.notebook import can_show, executing, is_watched, kernel_shell
from nbloader._views.publisher import Publisher
from nbloader._views.saved import Outputs, panel_html
from nbloader._views.terminal import show_bar
from nbloader._views.view import view_of, view_of_diagnosis
from nbloader._views.workbench import Workbench

_logger = logging.getLogger("nbloader")
_STATIC = Path(__file__).parent / "static"
_DRAWN_SECONDS = 3.0
_KEEP_SECONDS = 10.0  # after which a notebook keeps how far a load has come, so that it is known if the kernel dies
_MOST_REFUSED = 100  # messages that are told of
_TICK = 0.05  # seconds; an await that nothing wakes could not be interrupted


def _front_end(name: str) -> Path | str:
    """Return a part of the front end: as a file where changes to it are followed, else as text.

    anywidget keeps every widget that shows a file, to tell it of changes, and that would keep its model too.
    """
    path = _STATIC / name
    return path if os.environ.get("ANYWIDGET_HMR") == "1" else path.read_text(encoding="utf-8")


class LoaderWidget(anywidget.AnyWidget):  # type: ignore[misc]
    """Loads a checkpoint in the background, and shows how it goes.

    ::

        w = LoaderWidget("Qwen/Qwen3-4B").show()   # returns at once
        model, tokenizer = w.result()              # or: await w

    As a cell's last line, without ``.show()``, it is a workbench: a form of the options, what they will cost, and the
    loads so far.

    Parameters
    ----------
    model
        A folder, the id of a repository on the Hub, or ``"demo"``.
    options
        The load's options.
    progress_callback
        Called with ``{"status": str, "message": str, "progress": number}`` at each step, on a thread
        of the load and one call at a time. One that raises is logged and not called again.
    reload
        Load again even if the model is loaded, or being loaded.
    replace
        Cancel what is being loaded now, and come next; else loads wait for each other, in order.
    **choices
        Single options, on top of `options`: see `LoadOptions`.

    Raises
    ------
    OptionError
        For an option that does not exist or a value it cannot take.
    """

    _esm = _front_end("widget.js")
    _css = _front_end("style.css")

    _state = traitlets.Dict().tag(sync=True)
    _shards = traitlets.Dict().tag(sync=True)
    _lanes = traitlets.List().tag(sync=True)
    _form = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)
    _runs = traitlets.Dict().tag(sync=True)
    _diagnosis = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)
    _texts = traitlets.Dict().tag(sync=True)
    _anchor = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        model: str | os.PathLike[str],
        options: LoadOptions | None = None,
        *,
        progress_callback: ProgressCallback | None = None,
        reload: bool = False,
        replace: bool = False,
        **choices: Any,
    ) -> None:
        self._source = model
        self._reload, self._replace = reload, replace
        self._options = merge_options(options, choices)
        self._callback = progress_callback
        self._job: LoadJob | None = None
        self._publisher: Publisher | None = None
        self._shown_by: object = None
        self._is_panel = False
        self._outputs = Outputs(weakly(self._static_bundle))
        self._sent: LoadJob | None = None
        self._refused = 0
        self._workbench: Workbench | None = None
        self._locale = self._options.locale or locale()
        self._is_drawn = Flag()
        self._telling = threading.RLock()
        self._told: dict[str, Any] = self._view()
        told = in_locale({**self._texts_told(), **self._told}, self._locale)
        super().__init__(_anchor=f"nbl-{secrets.token_hex(8)}", **told)
        self.on_msg(_on_message)
        self._answer_while_busy()

    def show(self) -> LoaderWidget:
        """Display the panel and start the load; returns at once, with the widget itself.

        In a terminal there is no panel, and none where a notebook is run without a page (nbclient, papermill): `result`
        shows a bar instead.
        """
        self._shown_by = None
        self._is_panel = True
        if can_show():
            from IPython.display import display

            display(self)
        self._shown_by = executing()
        return self.load(reload=self._reload, replace=self._replace) if self._job is None else self

    def load(self, *, reload: bool = False, replace: bool = False, **changes: Any) -> LoaderWidget:
        """Start the load, or start it again, with changes to its options; returns at once.

        A load of this widget that is still running goes on where nothing has changed, and is cancelled where something
        has. The parameters `reload` and `replace` are those of the widget.

        Raises
        ------
        OptionError
            For an option that does not exist or a value it cannot take.
        """
        self._options = merge_options(self._options, changes)
        if self._options.locale is not None:
            self._speak(self._options.locale)
        made, old = LoadJob(self._source, self._options, reload=reload), self._job
        if old is not None and (reload or not are_alike(old, made)):
            old.cancel()
        job = begin(made, self._callback, weakly(self._can_ask), replace=replace)
        if job is old:
            return self
        if self._publisher is not None:
            self._publisher.stop()
        self._job = job
        self._tell({"_diagnosis": None})
        self._job.subscribe(weakly(self._take))
        if job.done():  # before it could be heard of
            self._look_again()
        self._publisher = Publisher(self._job, self._tell)
        self._publisher.start()
        if self._workbench is not None:
            self._workbench.change(self._options)
        return self

    def cancel(self) -> None:
        """Stop the load, if one is running; returns at once."""
        if self._job is not None:
            self._job.cancel()

    def unload(self) -> Freed:
        """Give back what the load made, and return what that gave back, on the host and on each device.

        A model that you refer to yourself stays until you let go of it: the answer names who holds it.

        Raises
        ------
        LoadError
            Where nothing is loaded.
        """
        if self._job is None:
            raise LoadError(text("error", "widget_not_loaded", name=str(self._source)), text("hint", "start"))
        return self._job.unload()

    def result(self, timeout: float | None = None) -> Loaded:
        """Wait for the load, and return (model, tokenizer). Starts it if it has not been started.

        The notebook's stop button cancels the load.

        Raises
        ------
        LoadError
            Where the load failed: what happened, where, and what to do.
        LoadCancelled
            Where it was cancelled.
        TimeoutError
            Where it has not ended within `timeout` seconds; it goes on.
        """
        job = self._started()
        with job.expecting() as given:
            try:
                is_seen = self._is_drawn.is_set() or is_watched()
                if self._is_panel and timeout is None and not is_seen and not job.done():
                    show_bar(job)
                return given[0] if given else job.result(timeout)
            finally:
                if job.done():
                    self._send_again()

    def __await__(self) -> Generator[Any, None, Loaded]:
        """Wait for the load without blocking the notebook. Cancelling the wait cancels the load."""
        return self._wait().__await__()

    async def _wait(self) -> Loaded:
        job = self._started()
        with job.expecting() as given:
            try:
                while not job.done():
                    await asyncio.sleep(_TICK)
            except (asyncio.CancelledError, KeyboardInterrupt):
                job.cancel()
                raise
            finally:
                if job.done():
                    self._send_again()
            return given[0] if given else job.result()

    @property
    def model(self) -> Any:
        """The loaded model; waits for it."""
        return self.result().model

    @property
    def tokenizer(self) -> Any:
        """The loaded tokenizer, the processor where the model has one, or None; waits for it."""
        return self.result().tokenizer

    @property
    def processor(self) -> Any:
        """The same as `tokenizer`."""
        return self.tokenizer

    @property
    def job(self) -> LoadJob | None:
        """The load; None before it has been started."""
        return self._job

    @property
    def state(self) -> LoadState:
        """What is known of the load now."""
        return self._idle_state() if self._job is None else self._job.state

    @property
    def plan(self) -> LoadPlan | None:
        """What the load moves; None until the headers have been read."""
        return None if self._job is None else self._job.plan

    @property
    def history(self) -> list[dict[str, Any]]:
        """The loads of this model on this machine that ended well, the oldest first, as plain dicts.

        They are kept in the user's state folder, of all models together the last 200. Sizes in bytes, times in
        seconds; ``pandas.DataFrame(w.history)`` is a table of them.
        """
        return _history.runs(os.fspath(self._source))

    def clear_history(self) -> None:
        """Forget the loads of this machine so far, those of other models too."""
        _history.clear()
        if self._workbench is not None:
            self._tell({"_runs": self._workbench.runs()})

    def __repr__(self) -> str:
        return f"LoaderWidget({clean(str(self._source))!r}): {'queued' if self._is_about_to else self.state.status}"

    def _ipython_display_(self) -> None:
        shell = kernel_shell()
        if shell is None or self._repr_mimebundle_ is None:  # ipywidgets takes it from a widget that is closed
            raise NotImplementedError  # IPython prints the repr then
        if self._shown_by is not None and self._shown_by == executing():
            return  # `LoaderWidget(...).show()` as a cell's last line: the panel is there already
        view, metadata = self._repr_mimebundle_() or ({}, {})
        stays = not self._is_panel or self.state.status in FINAL  # who shows it again wants to see it live
        self._outputs.add(shell.display_pub, view, metadata, stays=stays)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        self._open_workbench()
        bundle: tuple[dict[str, Any], dict[str, Any]] | None = super()._repr_mimebundle_(**kwargs)
        return bundle

    def _open_workbench(self) -> None:
        """Be a workbench, where no load was asked for: as a cell's last line, or in a box, a tab or an output."""
        if self._is_panel or self._job is not None or self._workbench is not None:
            return
        self._workbench = Workbench(self._source, lambda form: self._tell({"_form": form}))
        self._tell({"_runs": self._workbench.runs()})
        self._workbench.change(self._options)

    def _can_ask(self) -> bool:
        # A front end that draws the panel says so; with one that is still about to, a moment is worth waiting.
        return self._is_drawn.wait(_DRAWN_SECONDS if can_show() else 0)

    def _take(self, event: events.Event) -> None:
        """Keep up with the load: what was answered is chosen from now on, and a load that ended is a run."""
        if isinstance(event, events.Unloaded) and self._job is not None:
            self._tell(self._view())
        if isinstance(event, events.Answered):
            self._options = merge_options(self._options, event.changes)
        if isinstance(event, (events.Answered, events.Ready)):
            self._look_again()
        if isinstance(event, events.Ready) and not event.summary.get("already_loaded"):
            make_thread(weakly(self._diagnose), "nbloader-diagnosis", self._job).start()

    def _diagnose(self, job: LoadJob) -> None:
        """Say why the load took as long as it did, unless another has taken its place by then."""
        speak(self._locale)
        with suppress(Exception):  # a front end can fail in any way, and a model be unloaded at once
            if self._job is job:
                self._tell(view_of_diagnosis(None))
            told: dict[str, Any] = {"_diagnosis": None}
            with suppress(Exception):  # storage may be gone by now, or the model
                told = view_of_diagnosis(diagnose(job))
            if self._job is job:
                self._tell({**self._view(), **told})  # whoever sees why is to see that it has ended

    def _look_again(self) -> None:
        """Have the workbench show what a load has changed: what is cached and in memory, and the runs."""
        workbench = self._workbench
        if workbench is not None:
            workbench.forget()
            self._tell({"_runs": workbench.runs()})
            workbench.change(self._options)

    def set_state(self, sync_data: Mapping[str, Any]) -> None:
        """Take what a front end may say of a widget's place in the page; all else is ours to say."""
        refused = sync_data.keys() - _THEIRS
        if refused:
            self._refuse(text("refused", "state", names=", ".join(sorted(refused))))
        super().set_state({name: value for name, value in sync_data.items() if name not in refused})

    def _refuse(self, reason: str) -> None:
        """Say that a front end sent what no click sends."""
        self._refused += 1
        if self._refused > _MOST_REFUSED:
            return
        reason = text("refused", "many") if self._refused == _MOST_REFUSED else reason
        if self._job is not None and not self._job.done():
            self._job.log("warning", "refused", reason=reason)
        elif self._workbench is not None:
            self._workbench.refuse(OptionError(reason))
        else:
            _logger.warning("%s", reason)

    def _heed(self, message: Message) -> None:
        """Do what was clicked."""
        if message.kind == "drawn":
            self._is_drawn.set()
            self._open_workbench()
            if message.language and self._options.locale is None:
                self._speak(nearest(message.language))
        elif message.kind == "adopts":
            self._outputs.adopt()
        elif message.kind == "cancel":
            self._cancel(message.number)
        elif message.kind == "unload":
            self._unload()
        elif message.kind == "answer":
            self._answer(message)
        elif message.kind == "plan":
            self._change(message.choices)
        elif message.kind == "load" and self._change(message.choices):
            self.load()
        elif message.kind == "clear_history":
            self.clear_history()

    def _change(self, texts: Mapping[str, str]) -> bool:
        """Choose what the form says, and tell whether it can be chosen."""
        if self._workbench is None:
            return False
        try:
            self._options = changed_by(self._options, texts)
        except OptionError as error:
            self._workbench.refuse(error)
            return False
        self._workbench.change(self._options)
        return True

    def _answer(self, message: Message) -> None:
        """Go on with the choice that was clicked: of a question, or of an error that a load ended with.

        A click on what is asked no more does nothing, whatever is asked by then.
        """
        job, state = self._job, self.state
        asked = state.question if message.question else state.error
        is_meant = job is not None and message.number == job.number
        if job is None or asked is None or not is_meant or not 0 <= message.choice < len(asked.choices):
            return
        changes = asked.choices[message.choice][0]
        if message.question:
            job.answer(changes, message.question)
        else:
            self.load(**changes)

    def _cancel(self, number: int | None) -> None:
        """Cancel this load or one that it waits for, by its number.

        A click may arrive late, when this widget loads something else: that was not meant.
        """
        if self._job is not None and number == self._job.number:
            self.cancel()
        elif number in [other for other, _ in self.state.ahead]:
            cancel_waiting(number)

    def _unload(self) -> None:
        with suppress(LoadError):  # it is gone already
            self.unload()

    def _started(self) -> LoadJob:
        if self._job is None:
            self.load(reload=self._reload, replace=self._replace)
        assert self._job is not None
        return self._job

    @property
    def _is_about_to(self) -> bool:
        """Whether show() has displayed the panel and begins the load next."""
        return self._is_panel and self._job is None

    def _idle_state(self) -> LoadState:
        return LoadState(name=clean(str(self._source)))

    def _view(self) -> dict[str, Any]:
        return view_of(self.state, 0 if self._job is None else self._job.number)

    def _tell(self, view: Mapping[str, Any]) -> None:
        """Send the front end these traits, from whatever thread."""
        if getattr(self.comm, "_closed", False):
            return  # a page that is still there would look for a model that is not
        # ipywidgets forgets what another thread sets while it sends what it held back.
        with self._telling, self.hold_sync():
            for name, value in clean(view).items():
                self._told[name] = value
                setattr(self, name, in_locale(value, self._locale))
        self._keep()

    def _keep(self, *, always: bool = False) -> None:
        """Have the notebook keep how things are: at each turn of them, and while nothing turns now and then."""
        state, told = self._state, self._diagnosis or {}
        is_over = state["status"] in FINAL or state["gone"] is not None
        turn = (*(state[name] for name in ("number", "status", "stage", "gone")), bool(told.get("parts")), self._locale)
        known = turn, state["elapsed"] // _KEEP_SECONDS
        self._outputs.keep(known, is_over=is_over, always=always)

    def _static_bundle(self) -> dict[str, str]:
        view = {name: getattr(self, name) for name in list(self._told)}
        if self._is_about_to:
            view["_state"] = {**view["_state"], "status": "queued"}
        return {"text/html": panel_html(view, self._locale, self._anchor), "text/plain": repr(self)}

    def _send_again(self) -> None:
        """Send how the load ended from the thread that waited for it, where no page has drawn it.

        What runs a notebook without a page (nbclient, papermill) keeps only what is sent by the cell that is running.
        """
        if self._is_drawn.is_set() or self._sent is self._job:
            return
        self._sent = self._job
        with suppress(Exception):  # a front end can fail in any way
            self._tell(self._view())
            self.send_state(["_state", "_shards", "_lanes"])
            self._keep(always=True)

    def _speak(self, language: str) -> None:
        """Say everything in a language: what has been said already too."""
        with self._telling:
            if language != self._locale:
                self._locale = language
                self._tell({**self._told, **self._texts_told()})

    def _texts_told(self) -> dict[str, Any]:
        return {"_texts": {group: texts(self._locale)[group] for group in FRONT_END}}

    def _answer_while_busy(self) -> None:
        # ipykernel 7.4 sends a message from the front end to the subshell that last published, which a running cell
        # keeps busy: a click would wait for the cell. Left where it came from, it arrives at once.
        if hasattr(self.comm, "_reply_subshell_for"):
            self.comm._reply_subshell_for = lambda data, default: default


_THEIRS = frozenset({"_view_count", "layout", "tabbable", "tooltip"})
"""What a page may set: nothing of it is drawn or run."""


def _on_message(widget: LoaderWidget, content: Any, buffers: Any) -> None:
    try:
        message = read_message(content, buffers)
    except RefusedError as error:
        widget._refuse(text("refused", "message", reason=error.args[0]))
        return
    widget._heed(message)

"""LoaderWidget: a load in a notebook. It handles traits and messages, and leaves loading to `LoadJob`."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Generator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from nbloader._analysis import history as _history
from nbloader._api import begin
from nbloader._errors import LoadError
from nbloader._load.ending import Loaded
from nbloader._load.job import LoadJob
from nbloader._options.options import LoadOptions, merge_options
from nbloader._options.signature import takes_options
from nbloader._planning.load_plan import LoadPlan
from nbloader._progress.freed import Freed
from nbloader._progress.state import FINAL, LoadState
from nbloader._safety.redaction import clean
from nbloader._system.threads import weak_method
from nbloader._text.catalogue import locale, text
from nbloader._views.callback import ProgressCallback
from nbloader._views.controller import Controller
from nbloader._views.notebook import can_show, executing, is_watched, kernel_shell
from nbloader._views.page import Page
from nbloader._views.terminal import show_bar

_STATIC = Path(__file__).parent / "static"
_TICK = 0.05  # seconds; an await without wake-ups could not be interrupted

_THEIRS = frozenset({"_view_count", "layout", "tabbable", "tooltip"})
"""The traits that a page may set; they are neither drawn nor run."""


def _front_end(name: str) -> Path | str:
    """Return a part of the front end: a file path if its changes are watched, else its text.

    anywidget keeps every widget that uses a file, to send it changes. That would also keep the widget's model alive.
    """
    path = _STATIC / name
    return path if os.environ.get("ANYWIDGET_HMR") == "1" else path.read_text(encoding="utf-8")


@takes_options
class LoaderWidget(anywidget.AnyWidget):  # type: ignore[misc]
    """Loads a checkpoint in the background, and shows the progress.

    ::

        w = LoaderWidget("Qwen/Qwen3-4B").show()   # returns at once
        model, tokenizer = w.result()              # or: await w

    As the last line of a cell, without ``.show()``, it shows a workbench: a form of the options, their cost, and the
    past loads.

    Parameters
    ----------
    model
        A folder, the id of a repository on the Hub, or ``"demo"``.
    options
        The options of the load.
    progress_callback
        Called with ``{"status": str, "message": str, "progress": number}`` at each step, on a thread of the load and
        one call at a time. If it raises, the exception is logged and it is not called again.
    reload
        Load again even if the model is loaded or its load is running.
    replace
        Cancel the load that is running now, and load this model next. By default, loads wait for each other, in order.
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
    _now = traitlets.Dict().tag(sync=True)
    _lanes = traitlets.List().tag(sync=True)
    _samples = traitlets.List().tag(sync=True)
    _form = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)
    _runs = traitlets.Dict(default_value={"runs": [], "note": ""}).tag(sync=True)
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
        self._shown_by: object = None
        self._is_panel = False
        chosen = merge_options(options, choices)
        self._page = Page(weakref.ref(self), weak_method(self._bundle), chosen.locale or locale())
        starts = partial(begin, progress_callback=progress_callback)
        self._controller = Controller(model, chosen, starts, self._page, reload=reload, replace=replace)
        super().__init__(**self._page.begin(self._controller.view()))
        self.on_msg(_on_message)
        self._answer_while_busy()

    def show(self) -> LoaderWidget:
        """Display the panel and start the load; returns the widget itself at once.

        There is no panel in a terminal, or in a notebook that runs without a page (nbclient, papermill): `result` shows
        a bar instead.
        """
        self._shown_by = None
        self._is_panel = True
        if can_show():
            from IPython.display import display

            display(self)
        self._shown_by = executing()
        self._started()
        return self

    @takes_options
    def load(self, *, reload: bool = False, replace: bool = False, **changes: Any) -> LoaderWidget:
        """Start the load, or start it again, with changes to its options; returns at once.

        If this widget's load is still running, it continues if no option changes, and is cancelled if one does.
        `reload` and `replace` are the parameters of the widget.

        Raises
        ------
        OptionError
            For an option that does not exist or a value it cannot take.
        """
        self._controller.load(reload=reload, replace=replace, changes=changes)
        return self

    def cancel(self) -> None:
        """Stop the load, if one is running; returns at once."""
        if self.job is not None:
            self.job.cancel()

    def unload(self) -> Freed:
        """Unload the model, and return what that freed, on the host and on each device.

        A model that your code refers to stays in memory until you drop the reference; the result names what holds it.

        Raises
        ------
        LoadError
            If nothing is loaded.
        """
        if self.job is None:
            raise LoadError(text("error", "widget_not_loaded", name=str(self._controller.model)), text("hint", "start"))
        return self.job.unload()

    def result(self, timeout: float | None = None) -> Loaded:
        """Wait for the load, and return (model, tokenizer). Starts the load if necessary.

        The notebook's stop button cancels the load.

        Raises
        ------
        LoadError
            If the load failed; the error says what happened, where, and what to do.
        LoadCancelled
            If the load was cancelled.
        TimeoutError
            If the load has not ended within `timeout` seconds; it continues.
        """
        job = self._started()
        with job._expecting() as given:
            try:
                is_seen = self._page.is_drawn.is_set() or is_watched()
                if self._is_panel and timeout is None and not is_seen and not job.done():
                    show_bar(job)
                return given[0] if given else job.result(timeout)
            finally:
                self._controller.send_end()

    def __await__(self) -> Generator[Any, None, Loaded]:
        """Wait for the load without blocking the notebook. Cancelling the wait cancels the load."""
        return self._wait().__await__()

    async def _wait(self) -> Loaded:
        job = self._started()
        with job._expecting() as given:
            try:
                while not job.done():
                    await asyncio.sleep(_TICK)
            except (asyncio.CancelledError, KeyboardInterrupt):
                job.cancel()
                raise
            finally:
                self._controller.send_end()
            return given[0] if given else job.result()

    @property
    def model(self) -> Any:
        """The loaded model. Waits for the load."""
        return self.result().model

    @property
    def tokenizer(self) -> Any:
        """The loaded tokenizer, or the processor if the model has one, or None. Waits for the load."""
        return self.result().tokenizer

    @property
    def processor(self) -> Any:
        """The same as `tokenizer`."""
        return self.tokenizer

    @property
    def job(self) -> LoadJob | None:
        """The load; None before it starts."""
        return self._controller.job

    @property
    def state(self) -> LoadState:
        """The current state of the load."""
        return self._controller.state

    @property
    def plan(self) -> LoadPlan | None:
        """What the load will move; None until the headers have been read."""
        return None if self.job is None else self.job.plan

    @property
    def history(self) -> list[dict[str, Any]]:
        """The successful loads of this model on this machine, the oldest first, as plain dicts.

        The user's state folder keeps the last 200 loads of all models. Sizes are in bytes, times in seconds. For a
        table, use ``pandas.DataFrame(w.history)``.
        """
        return _history.runs(os.fspath(self._controller.model))

    def clear_history(self) -> None:
        """Delete the history of loads on this machine, for all models."""
        self._controller.clear_history()

    def __repr__(self) -> str:
        status = "queued" if self._is_about_to_load else self.state.status
        return f"LoaderWidget({clean(str(self._controller.model))!r}): {status}"

    def _ipython_display_(self) -> None:
        shell = kernel_shell()
        if shell is None or self._repr_mimebundle_ is None:  # a closed widget has no _repr_mimebundle_
            raise NotImplementedError  # then IPython prints the repr
        if self._shown_by is not None and self._shown_by == executing():
            return  # `LoaderWidget(...).show()` as a cell's last line: it has displayed the panel
        view, metadata = self._repr_mimebundle_() or ({}, {})
        stays = not self._is_panel or self.state.status in FINAL  # shown again after the load, it stays live
        self._page.outputs.add(shell.display_pub, view, metadata, stays=stays)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        if not self._is_panel:  # as a cell's last line, or in a box, a tab or an output
            self._controller.open_workbench()
        bundle: tuple[dict[str, Any], dict[str, Any]] | None = super()._repr_mimebundle_(**kwargs)
        return bundle

    def set_state(self, sync_data: Mapping[str, Any]) -> None:
        """Apply changes from the front end to the traits that concern the page; refuse all others."""
        refused = sync_data.keys() - _THEIRS
        if refused:
            self._controller.refuse(text("refused", "state", names=", ".join(sorted(refused))))
        super().set_state({name: value for name, value in sync_data.items() if name not in refused})

    def _started(self) -> LoadJob:
        if self.job is None or self.job._download_only:
            self.load(reload=self._controller.reload, replace=self._controller.replace)
        assert self.job is not None
        return self.job

    @property
    def _is_about_to_load(self) -> bool:
        """Whether show() has displayed the panel and is about to start the load."""
        return self._is_panel and self.job is None

    def _bundle(self) -> dict[str, str]:
        return self._page.bundle(repr(self), is_about_to_load=self._is_about_to_load)

    def _answer_while_busy(self) -> None:
        # ipykernel 7.4 sends a message from the front end to the subshell that published last. A running cell keeps
        # that one busy, so a click would wait for the cell. In the subshell where it arrived, it is handled at once.
        if hasattr(self.comm, "_reply_subshell_for"):
            self.comm._reply_subshell_for = lambda data, default: default


def _on_message(widget: LoaderWidget, content: Any, buffers: Any) -> None:
    widget._controller.receive(content, buffers, is_panel=widget._is_panel)

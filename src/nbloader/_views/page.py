"""Page: what the front end shows of a widget, in its language, and what a saved notebook keeps."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from nbloader._progress.state import FINAL
from nbloader._safety.redaction import clean
from nbloader._system.threads import Flag
from nbloader._text.catalogue import FRONT_END, in_locale, texts
from nbloader._views.notebook import can_show, name_of
from nbloader._views.saved import Outputs, panel_html

_OF_A_LOAD = ("_state", "_now", "_shards", "_lanes", "_samples")
_DRAWN_SECONDS = 3.0
_KEEP_SECONDS = 10.0  # between two saved states of a running load, which remain if the kernel dies


class Page:
    """The traits of one widget.

    Parameters
    ----------
    find_widget
        Returns the widget; None once it is gone. The page holds no reference to it, as a running load holds its page.
    make_bundle
        Returns what a notebook keeps, by MIME type.
    language
        The language of the texts.
    """

    def __init__(
        self, find_widget: Callable[[], Any], make_bundle: Callable[[], Mapping[str, Any]], language: str
    ) -> None:
        self._find_widget = find_widget
        self.language = language
        self.anchor = f"nbl-{secrets.token_hex(8)}"
        self.outputs = Outputs(make_bundle)
        self.is_drawn = Flag()
        self._sending = threading.RLock()
        self._traits: dict[str, Any] = {}
        self._sent: tuple[object, list[Any], list[Any]] | None = None
        self._resent: int | None = None

    def begin(self, view: Mapping[str, Any]) -> dict[str, Any]:
        """Return the initial traits of a widget."""
        self._traits = dict(view)
        return {"_anchor": self.anchor, **in_locale({**self._texts(), **view}, self.language)}

    def send(self, view: Mapping[str, Any]) -> None:
        """Send these traits to the front end, from any thread."""
        widget = self._find_widget()
        if widget is None or getattr(widget.comm, "_closed", False):
            return  # a page that still exists would request a closed widget
        # While ipywidgets sends the changes that it held back, it loses those from other threads.
        with self._sending, widget.hold_sync():
            made = dict(clean(view))
            # Replaced at once: another thread may make a bundle, and the lanes must match their names.
            if "_state" in made:
                made["_state"] = {**made["_state"], "code": _result_code(widget, made["_state"]["status"])}
            self._traits = {**self._traits, **made}
            for name, value in self._changes(made).items():
                setattr(widget, name, in_locale(value, self.language))
        self.keep()

    def send_whole(self) -> None:
        """Send everything once more, for a page that has drawn the panel anew."""
        with self._sending:
            self._sent = None
            self.send({name: self._traits[name] for name in _OF_A_LOAD})

    def _changes(self, made: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return `made` with only what has changed of the lanes and samples, where the front end has the rest."""
        if not made.keys() >= set(_OF_A_LOAD):
            return made
        state, lanes, samples = made["_state"], made["_lanes"], made["_samples"]
        turn = state["number"], state["status"] in FINAL, state["gone"], made["_shards"]
        before, self._sent = self._sent, (turn, lanes, samples)
        if before is None or before[0] != turn:
            return made
        _, old_lanes, old_samples = before
        rows = {str(row): lane for row, lane in enumerate(lanes) if lane != old_lanes[row]}
        rest = {name: value for name, value in made.items() if name != "_lanes"}
        new: list[Any] = []
        if samples[: len(old_samples)] == old_samples:
            new = samples[len(old_samples) :]
            del rest["_samples"]
        return {**rest, "_now": {**made["_now"], "lanes": rows, "samples": new}}

    def speak(self, language: str) -> None:
        """Show everything in a language, including earlier texts."""
        with self._sending:
            if language != self.language:
                self.language = language
                self.send({**self._traits, **self._texts()})

    def send_end(self, number: int, make_view: Callable[[], Mapping[str, Any]]) -> None:
        """Send the end of this load once more, from the thread that waited for it, if no page has drawn it.

        Programs that run a notebook without a page (nbclient, papermill) keep only what the running cell sends.
        """
        widget = self._find_widget()
        if widget is None or self.is_drawn.is_set() or self._resent == number:
            return
        self._resent = number
        with suppress(Exception):  # a front end can fail in any way
            self.send(make_view())
            widget.send_state(list(_OF_A_LOAD))
            self.keep(always=True)

    def keep(self, *, always: bool = False) -> None:
        """Save the current state in the notebook when it changes, and every few seconds while the load runs."""
        state, diagnosis = self._traits["_state"], self._traits.get("_diagnosis") or {}
        is_over = state["status"] in FINAL or state["gone"] is not None
        turn = tuple(state[name] for name in ("number", "status", "stage", "gone"))
        elapsed = self._traits["_now"]["elapsed"]
        known = turn, bool(diagnosis.get("parts")), self.language, elapsed // _KEEP_SECONDS
        self.outputs.keep(known, is_over=is_over, always=always)

    def bundle(self, shown: str, *, is_about_to_load: bool) -> dict[str, str]:
        """Return the panel as HTML and `shown` as plain text, by MIME type."""
        view = in_locale(dict(self._traits), self.language)
        if is_about_to_load:
            view["_state"] = {**view["_state"], "status": "queued"}
        return {"text/html": panel_html(view, self.language, self.anchor), "text/plain": shown}

    def can_ask(self) -> bool:
        """Return whether a page shows the panel; waits a moment for a front end that has not drawn it yet."""
        return self.is_drawn.wait(_DRAWN_SECONDS if can_show() else 0)

    def _texts(self) -> dict[str, Any]:
        return {"_texts": {group: texts(self.language)[group] for group in FRONT_END}}


def _result_code(widget: Any, status: str) -> str:
    """Return the code that gives the user's program what the widget has loaded; empty if it has no name there."""
    name = name_of(widget) if status == "ready" else ""
    return f"model, tokenizer = {name}.result()" if name else ""

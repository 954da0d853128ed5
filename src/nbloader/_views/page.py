"""Page: what the front end shows of a widget, in which language, and what a notebook keeps of it."""

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
from nbloader._views.notebook import can_show
from nbloader._views.saved import Outputs, panel_html

_DRAWN_SECONDS = 3.0
_KEEP_SECONDS = 10.0  # after which a notebook keeps how far a load has come, so that it is known if the kernel dies


class Page:
    """The traits of one widget.

    Parameters
    ----------
    find_widget
        Returns the widget; None once it is gone. The page does not keep it: a load that runs keeps its page.
    make_bundle
        Makes what a notebook keeps, by MIME type.
    language
        The language of all texts.
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
        self._resent: int | None = None

    def begin(self, view: Mapping[str, Any]) -> dict[str, Any]:
        """Return the traits that a widget begins with."""
        self._traits = dict(view)
        return {"_anchor": self.anchor, **in_locale({**self._texts(), **view}, self.language)}

    def send(self, view: Mapping[str, Any]) -> None:
        """Send the front end these traits, from whatever thread."""
        widget = self._find_widget()
        if widget is None or getattr(widget.comm, "_closed", False):
            return  # a page that is still there would look for a model that is not
        # ipywidgets forgets what another thread sets while it sends what it held back.
        with self._sending, widget.hold_sync():
            made = clean(view)
            # All at once: another thread may make a bundle of them, and lanes belong to their names.
            self._traits = {**self._traits, **made}
            for name, value in made.items():
                setattr(widget, name, in_locale(value, self.language))
        self.keep()

    def speak(self, language: str) -> None:
        """Show everything in a language, earlier texts too."""
        with self._sending:
            if language != self.language:
                self.language = language
                self.send({**self._traits, **self._texts()})

    def send_end(self, number: int, make_view: Callable[[], Mapping[str, Any]]) -> None:
        """Send once how the load of this number ended, from the thread that waited for it, where no page has drawn it.

        What runs a notebook without a page (nbclient, papermill) keeps only what is sent by the cell that is running.
        """
        widget = self._find_widget()
        if widget is None or self.is_drawn.is_set() or self._resent == number:
            return
        self._resent = number
        with suppress(Exception):  # a front end can fail in any way
            self.send(make_view())
            widget.send_state(["_state", "_shards", "_lanes"])
            self.keep(always=True)

    def keep(self, *, always: bool = False) -> None:
        """Have the notebook keep how things are: at each change of them, and now and then while nothing changes."""
        state, diagnosis = self._traits["_state"], self._traits.get("_diagnosis") or {}
        is_over = state["status"] in FINAL or state["gone"] is not None
        turn = tuple(state[name] for name in ("number", "status", "stage", "gone"))
        known = turn, bool(diagnosis.get("parts")), self.language, state["elapsed"] // _KEEP_SECONDS
        self.outputs.keep(known, is_over=is_over, always=always)

    def bundle(self, shown: str, *, is_about_to_load: bool) -> dict[str, str]:
        """Return the panel as HTML, and as the text `shown`, by MIME type."""
        view = in_locale(dict(self._traits), self.language)
        if is_about_to_load:
            view["_state"] = {**view["_state"], "status": "queued"}
        return {"text/html": panel_html(view, self.language, self.anchor), "text/plain": shown}

    def can_ask(self) -> bool:
        """Return whether somebody sees the panel; waits a moment for a front end that has yet to draw it."""
        return self.is_drawn.wait(_DRAWN_SECONDS if can_show() else 0)

    def _texts(self) -> dict[str, Any]:
        return {"_texts": {group: texts(self.language)[group] for group in FRONT_END}}

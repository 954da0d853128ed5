"""The workbench behind the form: plans the cost of the chosen options, in the background."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

from nbloader._analysis import history
from nbloader._analysis.forecast import Looked, check_fits, foresee, look_in
from nbloader._checkpoint.adapter import Adapter, find_adapter
from nbloader._checkpoint.checkpoint import Checkpoint
from nbloader._errors import LoadError, WontFitError
from nbloader._load.ending import choices_of
from nbloader._options.as_code import as_code, options_code
from nbloader._options.options import ROWS, LoadOptions
from nbloader._planning.load_plan import LoadPlan, plan_texts
from nbloader._planning.plan import check_fit
from nbloader._progress.state import Question
from nbloader._registry.identity import make_same
from nbloader._registry.loaded_model import LoadedModel
from nbloader._registry.models import loaded
from nbloader._safety.redaction import clean
from nbloader._system.threads import make_thread
from nbloader._text.catalogue import text
from nbloader._text.units import first_few, seconds_text, size_text
from nbloader._views import wire
from nbloader._views.form import fields_of
from nbloader._views.view import view_of_asked, view_of_error

_MOST_ROWS = 20
_ADAPTER_OPTIONS = ("adapter", "token", "cache_dir", "local_files_only")
_SOURCE_OPTIONS = tuple(name for name, row in ROWS.items() if row.finds_files or row.group == "files")


class Workbench:
    """Keeps the view of a form up to date: its fields, its plan, and the past runs.

    Headers are read once for each source. Changing other options changes the plan without reading anything.

    Parameters
    ----------
    model
        A folder, the id of a repository on the Hub, or ``"demo"``.
    send
        Takes the form's view, on any thread.
    flags
        Arguments of the widget that are not options.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        send: Callable[[Mapping[str, Any]], None],
        flags: Mapping[str, bool] | None = None,
    ) -> None:
        self._model = model
        self._send = send
        self._flags = flags or {}
        self._lock = threading.Lock()
        self._working = threading.Lock()
        self._turn = 0
        self._known: tuple[tuple[Any, ...], Looked] | None = None
        self._adapter: tuple[tuple[Any, ...], Adapter | None] | None = None
        self._view: dict[str, Any] = {"plan": None, "asked": None}
        # What a click may choose: option changes with which a load would fit, and the options of past runs.
        self.ways: Sequence[Mapping[str, Any]] = ()
        self.past: Sequence[Mapping[str, Any]] = ()

    def change(self, options: LoadOptions) -> None:
        """Show these options and plan their load; returns at once."""
        turn = self._next_turn()
        known = self._known
        is_on_hub, config = (known[1].is_on_hub, known[1].checkpoint.config) if known is not None else (False, {})
        self._show(
            turn,
            groups=fields_of(options, is_on_hub, config),
            code=as_code(os.fspath(self._model), options, self._flags),
            error=None,
            field="",
            planning=True,
            **self._loaded(options),
        )
        make_thread(self._plan, "nbloader-plan", turn, options).start()

    def refuse(self, error: LoadError, field: str = "") -> None:
        """Show why the chosen options are invalid, because of this field if one is known; they do not change."""
        self._show(self._next_turn(), error=view_of_error(error), field=field, plan=None, asked=None, planning=False)

    def resident(self) -> LoadedModel | None:
        """Return the model that was loaded last from here, if it is still loaded."""
        return next((entry for entry in loaded()[::-1] if entry.matches(self._model)), None)

    def _loaded(self, options: LoadOptions) -> dict[str, str]:
        """Return what is in memory already, and what a load with these options would unload."""
        resident, said = self.resident(), ""
        if resident is not None:
            known = {"since": f"{resident.since:%H:%M}", "size": size_text(resident.bytes)}
            said = text("form", "resident", dtype=resident.summary["dtype"], **known)
        stays = resident if resident is not None and make_same(resident.options, options) else None
        leaving = [entry.name for entry in loaded() if entry is not stays] if options.keep == "one" else []
        return {
            "resident": said,
            "unloads": text("form", "unloads", names=first_few(leaving)) if leaving and stays is None else "",
        }

    @property
    def has_error(self) -> bool:
        """Whether an error is shown in place of a plan."""
        return self._view.get("error") is not None

    def forget(self) -> None:
        """Read the headers again next time, because a load has changed what is cached and what is in memory."""
        self._known = self._adapter = None

    def runs(self) -> wire.Runs:
        """Return the runs of this model by their options, the newest first, and what to know before comparing them."""
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for run in history.runs(os.fspath(self._model))[::-1]:
            groups.setdefault(json.dumps(run["options"], sort_keys=True), []).append(run)
        found = list(groups.values())[:_MOST_ROWS]
        self.past = [runs[0]["options"] for runs in found]
        words = {run["cache"] for runs in found for run in runs}
        return {"runs": [_run(runs) for runs in found], "note": text("runs", "mixed") if len(words) > 1 else ""}

    def _next_turn(self) -> int:
        with self._lock:
            self._turn += 1
            return self._turn

    def _plan(self, turn: int, options: LoadOptions) -> None:
        with self._working:
            if turn != self._turn:
                return
            try:
                looked = self._look(options)
                adapter = self._look_at_adapter(looked.checkpoint, options)
                plan = foresee(looked.checkpoint, options, looked.bytes_to_download, looked.bytes_resident, adapter)
                asked = self._ask(looked, plan, options, adapter)
            except LoadError as error:
                self._show(turn, plan=None, asked=None, error=view_of_error(error), planning=False)
            except Exception as error:  # noqa: BLE001 - a form says what is wrong, whatever it is
                known = {"name": str(self._model), "error": repr(error)}
                unknown = LoadError(text("error", "inspection_failed", **known), text("hint", "report"))
                self._show(turn, plan=None, asked=None, error=view_of_error(unknown), planning=False)
            else:
                fields = fields_of(options, looked.is_on_hub, looked.checkpoint.config)
                self._show(turn, plan=view_of_plan(plan), asked=asked, groups=fields, error=None, planning=False)

    def _ask(self, looked: Looked, plan: LoadPlan, options: LoadOptions, adapter: Adapter | None) -> wire.Asked | None:
        """Return what a load would ask before it begins; None if it fits."""
        self.ways = ()
        try:
            check_fit(looked.name, looked.checkpoint, plan, options, adapter)
        except WontFitError as error:
            self.ways = error.suggestions
            about = (error.message, choices_of(error), (), 0, error.code, error.available)
            return view_of_asked(Question(type(error).__name__, *about))
        return None

    def _look(self, options: LoadOptions) -> Looked:
        key = tuple(getattr(options, name) for name in _SOURCE_OPTIONS)
        known = self._known
        if known is None or known[0] != key:
            known = self._known = key, look_in(self._model, options)
        return known[1]

    def _look_at_adapter(self, checkpoint: Checkpoint, options: LoadOptions) -> Adapter | None:
        key = tuple(getattr(options, name) for name in _ADAPTER_OPTIONS)
        known = self._adapter
        if known is None or known[0] != key:
            known = self._adapter = key, find_adapter(options)
        check_fits(known[1], os.fspath(self._model), checkpoint, options)
        return known[1]

    def _show(self, turn: int, **parts: Any) -> None:
        with self._lock:
            if turn != self._turn:
                return
            self._view = {**self._view, **parts}
            view = dict(self._view)
        self._send(clean(view))


def _run(runs: Sequence[Mapping[str, Any]]) -> wire.Run:
    """Return what the form shows of runs with the same options, the newest first."""
    last = runs[0]
    options = options_code(last["options"]) or text("runs", "defaults")
    seconds = sorted(run["seconds"] for run in runs)
    low, high = seconds_text(seconds[0]), seconds_text(seconds[-1])
    figures = [text("runs", "cache", state=text("runs", last["cache"]))]
    if last.get("rate") is not None:
        figures.insert(0, text("panel", "rate", rate=size_text(last["rate"])))
    if last.get("observed_peak") is not None:
        figures.append(text("runs", "peak", size=size_text(last["observed_peak"])))
    return {
        "title": text("runs", "times", options=options, count=len(runs)) if len(runs) > 1 else options,
        "time": low if low == high else text("runs", "from_to", low=low, high=high),
        "seconds": last["seconds"],
        "stages": last["stages"],
        "figures": reduce(lambda first, then: text("line", "part", first=first, then=then), figures),
    }


def view_of_plan(plan: LoadPlan) -> wire.Plan:
    """Return what the form shows for a plan."""
    rooms: list[wire.Room] = [
        {"name": room.name, "needed": room.needed, "available": room.available, "verdict": room.verdict}
        for room in plan.rooms
    ]
    return {
        "verdict": plan.verdict,
        "rooms": rooms,
        "lines": [(text("plan_line", key), said) for key, said in plan_texts(plan).items()],
        "download": plan.bytes_to_download,
        "seconds": plan.seconds,
    }

"""The workbench behind the form: plans the cost of the chosen options, in the background."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from nbloader._analysis import history
from nbloader._analysis.forecast import Looked, check_fits, foresee, look_in
from nbloader._checkpoint.adapter import Adapter, find_adapter
from nbloader._checkpoint.checkpoint import Checkpoint
from nbloader._errors import LoadError
from nbloader._options.as_code import as_code
from nbloader._options.options import ROWS, LoadOptions
from nbloader._planning.plan import LoadPlan
from nbloader._safety.redaction import clean
from nbloader._system.threads import make_thread
from nbloader._text.catalogue import text
from nbloader._views import wire
from nbloader._views.form import fields_of
from nbloader._views.view import view_of_error

CONTEXT_LENGTH = 4096
"""The number of tokens for which the size of the KV cache is shown."""

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
    """

    def __init__(self, model: str | os.PathLike[str], send: Callable[[Mapping[str, Any]], None]) -> None:
        self._model = model
        self._send = send
        self._lock = threading.Lock()
        self._working = threading.Lock()
        self._turn = 0
        self._known: tuple[tuple[Any, ...], Looked] | None = None
        self._adapter: tuple[tuple[Any, ...], Adapter | None] | None = None
        self._view: dict[str, Any] = {"plan": None}

    def change(self, options: LoadOptions) -> None:
        """Show these options and plan their load; returns at once."""
        turn = self._next_turn()
        known = self._known
        is_on_hub, config = (known[1].is_on_hub, known[1].checkpoint.config) if known is not None else (False, {})
        self._show(
            turn,
            groups=fields_of(options, is_on_hub, config),
            code=as_code(os.fspath(self._model), options),
            error=None,
            planning=True,
        )
        make_thread(self._plan, "nbloader-plan", turn, options).start()

    def refuse(self, error: LoadError) -> None:
        """Show why the chosen options are invalid; the options do not change."""
        self._show(self._next_turn(), error=view_of_error(error), planning=False)

    @property
    def has_error(self) -> bool:
        """Whether an error is shown in place of a plan."""
        return self._view.get("error") is not None

    def forget(self) -> None:
        """Read the headers again next time, because a load has changed what is cached and what is in memory."""
        self._known = self._adapter = None

    def runs(self) -> wire.Runs:
        """Return the runs of this model, the newest first, and what to know before comparing them."""
        found = history.runs(os.fspath(self._model))[-_MOST_ROWS:][::-1]
        words = {run["cache"] for run in found}
        return {"runs": [_run(record) for record in found], "note": text("runs", "mixed") if len(words) > 1 else ""}

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
            except LoadError as error:
                self._show(turn, plan=None, error=view_of_error(error), planning=False)
            except Exception as error:  # noqa: BLE001 - a form says what is wrong, whatever it is
                known = {"name": str(self._model), "error": repr(error)}
                unknown = LoadError(text("error", "inspection_failed", **known), text("hint", "report"))
                self._show(turn, plan=None, error=view_of_error(unknown), planning=False)
            else:
                fields = fields_of(options, looked.is_on_hub, looked.checkpoint.config)
                self._show(turn, plan=view_of_plan(plan), groups=fields, error=None, planning=False)

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


def _run(record: Mapping[str, Any]) -> wire.Run:
    return {
        "time": record["time"],
        "options": record["options"],
        "seconds": record["seconds"],
        "stages": record["stages"],
        "rate": record.get("rate"),
        "observed_peak": record.get("observed_peak"),
        "predicted_peak": record.get("predicted_peak"),
        "cache": record["cache"],
        "verdict": record.get("verdict"),
    }


def view_of_plan(plan: LoadPlan) -> wire.Plan:
    """Return what the form shows for a plan."""
    host, *devices = plan.rooms
    held = plan.device_memory or {}
    rooms: list[wire.DeviceRoom] = [
        {
            "name": room.name,
            "needed": room.needed,
            "available": room.available,
            "verdict": room.verdict,
            "parts": list(held[room.name].items()),
        }
        for room in devices
    ]
    return {
        "format": plan.format,
        "shards": len(plan.bytes_to_read),
        "tensors": plan.tensors,
        "parameters": plan.parameters,
        "by_dtype": list(plan.bytes_by_dtype.items()),
        "download": plan.bytes_to_download,
        "read": sum(plan.bytes_to_read),
        "place": sum(plan.bytes_to_place),
        "placed_as": plan.placed_as,
        "host": [(part, size) for part, size in plan.host_memory.items() if size],
        "peak": plan.peak_memory,
        "available": plan.available,
        "host_verdict": host.verdict,
        "devices": None if plan.device_memory is None else rooms,
        "offloaded": plan.bytes_to_offload,
        "verdict": plan.verdict,
        "kv_cache": None if plan.kv_cache is None else plan.kv_cache.bytes(CONTEXT_LENGTH),
        "kv_tokens": CONTEXT_LENGTH,
        "seconds": plan.seconds,
    }

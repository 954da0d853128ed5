"""The loads of this machine so far: one record for each, in the user's state folder."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbloader._options.options import LoadOptions, changed_options
from nbloader._progress import events
from nbloader._safety.redaction import clean
from nbloader._system import own_files
from nbloader._system.own_files import VERSION, Kind, is_number, read_records, write_whole

if TYPE_CHECKING:
    from nbloader._load.job import LoadJob
    from nbloader._planning.plan import LoadPlan
    from nbloader._progress.state import LoadState

MOST_RUNS = 200
"""How many records are kept; the oldest are removed first."""

_COMPARED = 10  # a time is predicted from at most this many runs, the latest
_ALIKE = 8  # runs compare if their sizes differ by at most this factor
_IMPORTING = 0.3  # a run that spent at least this long on imports had to import the libraries
_WARM, _COLD = 0.9, 0.1  # shares of the weights that were in memory before the load
_LOCK_SECONDS = 1.0

Run = Mapping[str, Any]


def follow(job: LoadJob) -> None:
    """Record `job` once it is ready."""
    reference = weakref.ref(job)

    def take(event: events.Event) -> None:
        ended = reference() if isinstance(event, events.Ready) else None
        if ended is not None and ended.plan is not None:
            remember(record_of(ended.state, ended.plan, ended.options, ended.model))

    job.subscribe(take)


def record_of(
    state: LoadState, plan: LoadPlan | None, chosen: LoadOptions, model: str | os.PathLike[str]
) -> dict[str, Any]:
    """Return the record of a load that is ready: plain values, sizes in bytes, times in seconds."""
    summary, options = state.summary or {}, changed_options(chosen)
    if "extra" in options:
        options["extra"] = sorted(options["extra"])  # the values may be private
    times = {stage.name: (stage.started or 0.0, stage.ended) for stage in state.stages if stage.ended is not None}
    read = [(shard.read_started, shard.read_ended) for shard in state.shards if shard.read_started is not None]
    spans = [(start, min(end if end is not None else start, times["weights"][0])) for start, end in read]
    # Reading before the weights stage runs beside the imports: its own time counts, the wait for the imports does not.
    early = max((end for _, end in spans), default=0.0) - min((start for start, _ in spans), default=0.0)
    weights = max(0.0, early) + times["device"][1] - times["weights"][0]
    resident = sum(shard.bytes_resident for shard in state.shards)
    return {
        "version": VERSION,
        "model": os.fspath(model),
        "commit": state.commit,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "options": options,
        "dtype": summary.get("dtype"),
        "device": summary.get("device"),
        "seconds": round(state.elapsed, 3),
        "weights_seconds": round(weights, 3),
        "imports_seconds": round(state.spent.get("imports", 0.0), 3),
        "stages": [[name, round(start, 3), round(end, 3)] for name, (start, end) in times.items()],
        "bytes_downloaded": state.bytes_downloaded - sum(file.bytes_cached for file in state.downloads),
        "bytes_read": state.bytes_to_read,
        "bytes_resident": resident,
        "bytes_placed": state.bytes_placed,
        "rate": round(state.bytes_to_read / weights) if weights > 0 else None,
        "cache": _cache_word(resident, state.bytes_to_read),
        "copies": state.placing_copies,
        "predicted_peak": state.predicted_peak,
        "observed_peak": state.observed_peak,
        "verdict": None if plan is None else plan.verdict,
    }


def remember(record: Run) -> None:
    """Add a record. If the folder cannot be written, the record is dropped: a load never fails because of it."""
    _change(lambda known: [*known, clean(record)][-MOST_RUNS:])


def clear() -> None:
    """Remove the records of all models."""
    _change(lambda known: [])


def runs(model: str | None = None) -> list[dict[str, Any]]:
    """Return the records of one model, or all of them, the oldest first."""
    return [run for run in _read() if model is None or run["model"] == clean(model)]


def predict_seconds(
    plan: LoadPlan, options: Mapping[str, Any], resident: int, known: Sequence[Run], *, imports: bool
) -> tuple[float, float] | None:
    """Return the least and the most seconds that a load should take, from similar runs; None if there is none.

    A similar run has the same quantization and adapter, the same kinds of devices, and copies or maps as this load
    will. Its size, and the share of its weights that was in memory, are similar too.

    `resident` is how many bytes of the weights are in memory now. `imports` says whether this load has to import the
    libraries. If so, only runs that had to import them count; if not, their import time is left out.
    """
    size = sum(plan.bytes_to_read)
    kind = _kind(options, plan.copies, _cache_word(resident, size), plan.device_memory)
    alike = [
        run for run in known if _kind(run["options"], run["copies"], run["cache"], run["device"].split(", ")) == kind
    ]
    alike = [run for run in alike if size / _ALIKE <= run["bytes_read"] <= size * _ALIKE and run["weights_seconds"] > 0]
    alike = [run for run in alike if (run["bytes_downloaded"] > 0) == (plan.bytes_to_download > 0)]
    alike = [run for run in alike if not imports or run["imports_seconds"] >= _IMPORTING][-_COMPARED:]
    if not alike:
        return None
    rates = [run["bytes_read"] / run["weights_seconds"] for run in alike]
    apart = [run["weights_seconds"] + (0.0 if imports else run["imports_seconds"]) for run in alike]
    others = [max(0.0, run["seconds"] - seconds) for run, seconds in zip(alike, apart, strict=True)]
    if plan.bytes_to_download:
        others = [_scaled(run, seconds, plan.bytes_to_download) for run, seconds in zip(alike, others, strict=True)]
    return size / max(rates) + min(others), size / min(rates) + max(others)


def _scaled(run: Run, seconds: float, to_download: int) -> float:
    return seconds * to_download / float(run["bytes_downloaded"])


def _kind(options: Mapping[str, Any], copies: bool, cache: str, devices: Iterable[str] | None) -> tuple[Any, ...]:
    """Return what similar loads have in common; `devices` is None if only the load decides them."""
    kinds = None if devices is None else {device.partition(":")[0] for device in devices} - {"", "cpu", "disk"}
    return options.get("quantization"), options.get("adapter") is not None, copies, cache, kinds


def _cache_word(resident: int, size: int) -> str:
    share = resident / size if size else 1.0
    return "warm" if share >= _WARM else "cold" if share <= _COLD else "partly"


def _path() -> Path | None:
    folder = own_files.state_folder()
    return None if folder is None else folder / "runs.jsonl"


def _read() -> list[dict[str, Any]]:
    path = _path()
    return [] if path is None else [run for run in read_records(path, _KINDS) if _has_stages(run)]


def _has_stages(run: Run) -> bool:
    return all(
        isinstance(stage, list) and len(stage) == 3 and isinstance(stage[0], str) and all(map(is_number, stage[1:]))
        for stage in run["stages"]
    )


def _change(change: Callable[[list[Run]], list[Run]]) -> None:
    from filelock import FileLock, Timeout  # only the end of a load needs it

    path = _path()
    if path is None:
        return
    with suppress(OSError, Timeout):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock"), timeout=_LOCK_SECONDS):
            write_whole(path, "".join(json.dumps(run, default=str) + "\n" for run in change(list(_read()))))


_OR_NOTHING = (float, type(None))
_KINDS: Mapping[str, Kind] = {
    "model": str, "time": str, "options": dict, "stages": list, "cache": str, "device": str, "copies": bool,
    "verdict": (str, type(None)), "rate": _OR_NOTHING, "observed_peak": _OR_NOTHING, "predicted_peak": _OR_NOTHING,
    **dict.fromkeys(("seconds", "weights_seconds", "imports_seconds", "bytes_downloaded", "bytes_read"), float),
}  # fmt: skip

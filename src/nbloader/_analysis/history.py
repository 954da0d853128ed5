"""The loads of this machine so far: one record for each, in the user's state folder."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from nbloader._options.options import LoadOptions, changed_options
from nbloader._progress import events
from nbloader._safety.redaction import clean
from nbloader._system import own_files
from nbloader._system.modules import imported
from nbloader._system.own_files import VERSION, Kind, is_number, read_lines, read_records, write_whole

if TYPE_CHECKING:
    from nbloader._load.job import LoadJob
    from nbloader._planning.load_plan import LoadPlan
    from nbloader._progress.state import LoadState

MOST_RUNS = 200
"""How many records are kept; the oldest are removed first."""

_COMPARED = 10  # a time is predicted from at most this many runs, the latest
_ALIKE = 8  # runs compare if their sizes differ by at most this factor
_IMPORTING = 0.3  # a run that spent at least this long on imports had to import the libraries
_WARM, _COLD = 0.9, 0.1  # shares of the weights that were in memory before the load
_LOCK_SECONDS = 1.0
_FOLLOWED = 5  # the time left is estimated from at most this many runs, the latest
_MUCH = 64 << 20  # bytes; reading fewer tells no rate
_PREPARING = ("resolve", "imports", "tokenizer")
_FINISHING = ("device", "adapter", "metadata")

Run = Mapping[str, Any]


def follow(job: LoadJob) -> None:
    """Tell `job` what it should take by earlier loads, and record it once it is ready."""
    reference = weakref.ref(job)
    imports = must_import()
    known: dict[str | None, Sequence[Run]] = {}

    def take(event: events.Event) -> None:
        followed = reference()
        if followed is None or followed.plan is None:
            return
        if isinstance(event, events.Ready):
            remember(record_of(followed.state, followed.plan, followed.options, followed.model))
        elif (isinstance(event, events.ShardsFound) and followed.plan.bytes_to_download) or (
            isinstance(event, events.FoundInMemory) and event.shard == len(followed.plan.bytes_to_read) - 1
        ):
            resident = followed.state.bytes_read if isinstance(event, events.FoundInMemory) else None
            expected = _expect(followed, resident, known, imports=imports)
            if expected is not None:
                followed._tell_expected(expected)

    job.subscribe(take)


def _expect(
    job: LoadJob, resident: int | None, known: dict[str | None, Sequence[Run]], *, imports: bool
) -> events.Expected | None:
    """Return what `job` should take, by the loads of its model or else by all; `known` keeps what was read of both."""
    assert job.plan is not None
    for model in (os.fspath(job.model), None):
        if model not in known:
            known[model] = runs(model)
        expected = expect(job.plan, job.options, job.model, resident, known[model], imports=imports)
        if expected is not None:
            return expected
    return None


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
    resident = state.bytes_resident
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
        "spent": {part: round(seconds, 3) for part, seconds in state.spent.items()},
        "read_rate": _read_rate(state),
        "stages": [[name, round(start, 3), round(end, 3)] for name, (start, end) in times.items()],
        "bytes_downloaded": state.bytes_downloaded - state.bytes_cached,
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
    line = json.dumps(clean(record), default=str)
    _change(lambda known: [*known, line][-MOST_RUNS:])


def clear() -> None:
    """Remove the records of all models."""
    _change(lambda known: [])


def runs(model: str | None = None) -> list[dict[str, Any]]:
    """Return the records of one model, or all of them, the oldest first."""
    if model is None:
        return _read()
    name = clean(model)
    # Most lines are not of this model: to look for its name is much faster than to parse them.
    return [run for run in _read(json.dumps(name)) if run["model"] == name]


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
    alike = [run for run in _alike(plan, options, _cache_word(resident, size), known) if run["weights_seconds"] > 0]
    alike = [run for run in alike if not imports or run["imports_seconds"] >= _IMPORTING][-_COMPARED:]
    if not alike:
        return None
    rates = [run["bytes_read"] / run["weights_seconds"] for run in alike]
    apart = [run["weights_seconds"] + (0.0 if imports else run["imports_seconds"]) for run in alike]
    others = [max(0.0, run["seconds"] - _aside(run) - seconds) for run, seconds in zip(alike, apart, strict=True)]
    if plan.bytes_to_download:
        others = [_scaled(run, seconds, plan.bytes_to_download) for run, seconds in zip(alike, others, strict=True)]
    return size / max(rates) + min(others), size / min(rates) + max(others)


def must_import() -> bool:
    """Return whether a load that begins now has to import the libraries."""
    return imported("transformers.modeling_utils") is None


def expect(
    plan: LoadPlan,
    options: LoadOptions,
    model: str | os.PathLike[str],
    resident: int | None,
    known: Sequence[Run],
    *,
    imports: bool,
) -> events.Expected | None:
    """Return what a load that has begun should take, from similar runs, those of this model first; None without any.

    `resident` is how many bytes of the weights were in memory; None if that is not known yet. `imports` says whether
    the load has to import the libraries.
    """
    size = sum(plan.bytes_to_read)
    cache = None if resident is None else _cache_word(resident, size)
    alike = [run for run in _alike(plan, changed_options(options), cache, known) if _has_parts(run)]
    alike = [run for run in alike if (run["imports_seconds"] >= _IMPORTING) == imports]
    name = clean(os.fspath(model))
    alike = ([run for run in alike if run["model"] == name] or alike)[-_FOLLOWED:]
    if not alike:
        return None
    rates = [run["read_rate"] for run in alike if is_number(run["read_rate"])]
    return events.Expected(
        preparing=median(sum(run["spent"].get(part, 0.0) for part in _PREPARING) for run in alike),
        read_rate=median(rates) if rates else None,
        placing=median(_placing(run) * size / run["bytes_read"] for run in alike),
        finishing=median(_stages_of(run, _FINISHING) for run in alike),
        stages={name: median(_stages_of(run, (name,)) for run in alike) for name in events.STAGES},
    )


def _placing(run: Run) -> float:
    return max(0.0, _stages_of(run, ("weights",)) - float(run["spent"].get("storage", 0.0)))


def _stages_of(run: Run, names: Sequence[str]) -> float:
    return sum(float(end - start) for name, start, end in run["stages"] if name in names)


def _aside(run: Run) -> float:
    """Return the seconds that the next load need not take: waits for other loads and for a person, writing the demo."""
    waits = [float(run["spent"].get(part, 0.0)) for part in ("queue", "choice")] if _has_parts(run) else []
    return sum(waits) + _stages_of(run, ("demo",))


def _has_parts(run: Run) -> bool:
    """Return whether a record has what the first ones did not have yet."""
    spent = run.get("spent")
    return isinstance(spent, dict) and all(map(is_number, spent.values())) and "read_rate" in run


def _alike(plan: LoadPlan, options: Mapping[str, Any], cache: str | None, known: Sequence[Run]) -> list[Run]:
    """Return the similar runs; `cache` is None if it is not known how much of the weights is in memory."""
    size = sum(plan.bytes_to_read)
    kind = _kind(options, plan.copies, cache, plan.device_memory)
    return [
        run
        for run in known
        if _kind(run["options"], run["copies"], cache and run["cache"], run["device"].split(", ")) == kind
        and size / _ALIKE <= run["bytes_read"] <= size * _ALIKE
        and (run["bytes_downloaded"] > 0) == (plan.bytes_to_download > 0)
    ]


def _read_rate(state: LoadState) -> int | None:
    """Return how many bytes a second the storage has given; None if this load had little to read."""
    read = state.bytes_to_read - state.bytes_resident
    spans = [shard for shard in state.shards if shard.read_started is not None and shard.read_ended is not None]
    if read < _MUCH or not spans:
        return None
    seconds = max(shard.read_ended or 0.0 for shard in spans) - min(shard.read_started or 0.0 for shard in spans)
    return round(read / seconds) if seconds > 0 else None


def _scaled(run: Run, seconds: float, to_download: int) -> float:
    return seconds * to_download / float(run["bytes_downloaded"])


def _kind(
    options: Mapping[str, Any], copies: bool, cache: str | None, devices: Iterable[str] | None
) -> tuple[Any, ...]:
    """Return what similar loads have in common; `devices` is None if only the load decides them."""
    kinds = None if devices is None else {device.partition(":")[0] for device in devices} - {"", "cpu", "disk"}
    return options.get("quantization"), options.get("adapter") is not None, copies, cache, kinds


def _cache_word(resident: int, size: int) -> str:
    share = resident / size if size else 1.0
    return "warm" if share >= _WARM else "cold" if share <= _COLD else "partly"


def _path() -> Path | None:
    folder = own_files.state_folder()
    return None if folder is None else folder / "runs.jsonl"


def _read(holds: str = "") -> list[dict[str, Any]]:
    """Return the records whose lines hold a text."""
    path = _path()
    return [] if path is None else [run for run in read_records(path, _KINDS, holds) if _has_stages(run)]


def _has_stages(run: Run) -> bool:
    return all(
        isinstance(stage, list) and len(stage) == 3 and isinstance(stage[0], str) and all(map(is_number, stage[1:]))
        for stage in run["stages"]
    )


def _change(change: Callable[[list[str]], list[str]]) -> None:
    """Change the lines of the file; each is a record, or what another version left there."""
    from filelock import FileLock, Timeout  # only the end of a load needs it

    path = _path()
    if path is None:
        return
    with suppress(OSError, Timeout):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock"), timeout=_LOCK_SECONDS):
            write_whole(path, "".join(f"{line}\n" for line in change(read_lines(path))))


_OR_NOTHING = (float, type(None))
_KINDS: Mapping[str, Kind] = {
    "model": str, "time": str, "options": dict, "stages": list, "cache": str, "device": str, "copies": bool,
    "verdict": (str, type(None)), "rate": _OR_NOTHING, "observed_peak": _OR_NOTHING, "predicted_peak": _OR_NOTHING,
    **dict.fromkeys(("seconds", "weights_seconds", "imports_seconds", "bytes_downloaded", "bytes_read"), float),
}  # fmt: skip

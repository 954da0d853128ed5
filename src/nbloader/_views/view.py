"""The state of a load as plain values, for the front end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata
from typing import TYPE_CHECKING, Any

from nbloader._progress import events
from nbloader._progress.freed import Freed
from nbloader._progress.state import (
    FINAL,
    Download,
    ErrorInfo,
    LoadState,
    LogLine,
    Question,
    Sample,
    Shard,
    Stage,
)
from nbloader._text.catalogue import text
from nbloader._views.headline import headline, status_code

if TYPE_CHECKING:
    from nbloader._analysis.diagnosis import Diagnosis
    from nbloader._errors import LoadError
    from nbloader._system.memory import Memory
    from nbloader._views import wire


def view_of(state: LoadState, number: int = 0) -> dict[str, Any]:
    """Return the traits for a load's state; `number` identifies the load in messages from the page."""
    shards = {shard.name for shard in state.shards}
    # A file that is already on disk needs no lane: the line shows its bytes.
    others = [file for file in state.downloads if file.name not in shards and file.bytes_cached < file.bytes]
    view = {
        "_state": _state(state, number),
        "_now": _now(state),
        "_shards": _names(state, others),
        "_lanes": _lanes(state, others),
        "_samples": [_sample(sample) for sample in state.samples],
    }
    return {name: _sendable(part) for name, part in view.items()}


def _state(state: LoadState, number: int) -> wire.State:
    return {
        "number": number,
        "status": state.status,
        "word": status_code(state),
        "cancelling": state.cancelling and state.status not in FINAL,
        "name": state.name,
        "commit": state.commit,
        "stage": state.stage,
        "began": state.began or 0.0,
        "expected": {} if state.expected is None else dict(state.expected.stages),
        "ahead": list(state.ahead),
        "stall": None if state.stall is None else _stall(state.stall),
        "gone": None if state.gone is None else _gone(state.gone),
        "stages": [_stage(stage) for stage in state.stages],
        "places": _places(state.memory),
        "predicted_peak": state.predicted_peak,
        "log": [_line(line) for line in state.log],
        "question": None if state.question is None else _question(state.question),
        "error": None if state.error is None else _failure(state.error),
        "summary": None if state.summary is None else _summary(state.summary),
        "code": "",
    }


def _now(state: LoadState) -> wire.Now:
    rate, eta = state.rate, state.eta
    return {
        "elapsed": round(state.elapsed, 3),
        "fraction": round(state.fraction, 4),
        "line": headline(state),
        "rate": None if rate is None else round(rate),
        "eta": None if eta is None else round(eta, 1),
        "peak": state.observed_peak,
        "lanes": {},
        "samples": [],
    }


def _stage(stage: Stage) -> wire.Stage:
    return {"name": stage.name, "started": stage.started, "ended": stage.ended, "detail": stage.detail}


def _places(memory: Memory | None) -> list[wire.Place]:
    if memory is None:
        return []
    devices = [(device.name, device.total) for device in memory.accelerators]
    return [{"name": name, "total": total} for name, total in [("", memory.total), *devices]]


def _sample(sample: Sample) -> wire.Sample:
    return round(sample.seconds, 3), *sample[1:5], list(sample.devices)


def _line(line: LogLine) -> wire.LogLine:
    return {
        "t": line.t,
        "level": line.level,
        "needs_attention": line.needs_attention,
        "text": text("log", line.code, **line.arguments),
    }


def _summary(summary: Mapping[str, Any]) -> wire.Summary:
    return {
        "already_loaded": bool(summary.get("already_loaded")),
        "model_class": summary["model_class"],
        "parameters": summary["parameters"],
        "bytes": summary["bytes"],
        "dtype": summary["dtype"],
        "device": summary["device"],
    }


def _names(state: LoadState, others: Sequence[Download]) -> wire.ShardNames:
    return {
        "names": [*(shard.name for shard in state.shards), *(file.name for file in others)],
        "bytes": [*(shard.bytes for shard in state.shards), *(file.bytes for file in others)],
        "shards": len(state.shards),
    }


def _lanes(state: LoadState, others: Sequence[Download]) -> list[wire.Lane]:
    files = {file.name: file for file in state.downloads}
    # A shard that is not downloaded was on disk before. A file that is not a shard is neither read nor placed.
    downloads = [
        *(files.get(shard.name, Download(shard.name, shard.bytes, shard.bytes, shard.bytes)) for shard in state.shards),
        *others,
    ]
    shards = [*state.shards, *(Shard(file.name, file.bytes, 0) for file in others)]
    return [_lane(shard, file) for shard, file in zip(shards, downloads, strict=True)]


def _lane(shard: Shard, file: Download) -> wire.Lane:
    return {
        "resident": shard.bytes_resident,
        "read": shard.bytes_read,
        "to_place": shard.bytes_to_place,
        "placed": shard.bytes_placed,
        "read_started": _rounded(shard.read_started),
        "read_ended": _rounded(shard.read_ended),
        "place_started": _rounded(shard.place_started),
        "place_ended": _rounded(shard.place_ended),
        "downloaded": file.bytes_downloaded,
        "cached": file.bytes_cached,
        "download_started": _rounded(file.started),
        "download_ended": _rounded(file.ended),
    }


def view_of_diagnosis(made: Diagnosis | None) -> dict[str, Any]:
    """Return the trait for a diagnosis; None means that it is being made."""
    view: wire.Diagnosis = {"measuring": made is None, "verdict": "", "parts": [], "facts": [], "remedies": []}
    if made is not None:
        view["verdict"] = made.verdict
        view["parts"] = [(name, text("part", name), round(seconds, 6)) for name, seconds in made.parts.items()]
        view["facts"] = [(text("fact", name), fact) for name, fact in made.facts.items()]
        view["remedies"] = [(str(remedy), remedy.lines) for remedy in made.remedies]
    return {"_diagnosis": _sendable(view)}


def _stall(stall: events.Stall) -> wire.Stall:
    return {
        "since": stall.since,
        "text": text("stall", stall.reason, **stall.arguments),
        "stack": stall.stack,
        "is_working": stall.is_working,
        "bytes": stall.bytes,
        "offers_cancel": stall.offers_cancel,
    }


def _gone(gone: Freed) -> wire.Gone:
    before = {device.name: device.used for device in gone.before.accelerators}
    after = {device.name: device.used for device in gone.after.accelerators}
    return {
        "places": [
            (text("panel", "process"), gone.before.process, gone.after.process),
            *((name, used, after.get(name, used)) for name, used in before.items()),
        ],
        "holders": [str(holder) for holder in gone.holders],
        "successor": gone.successor,
    }


def view_of_asked(asked: Question | ErrorInfo) -> wire.Asked:
    """Return what the panel shows of a question."""
    return {
        "kind": asked.kind,
        "code": asked.code,
        "message": asked.message,
        "choices": [(_label(changes), size) for changes, size in asked.choices],
        "files": list(dict.fromkeys(asked.files)),
        "available": asked.available,
    }


def _question(question: Question) -> wire.Question:
    return {**view_of_asked(question), "number": question.number}


def _failure(error: ErrorInfo) -> wire.Failure:
    return {**view_of_asked(error), "page": page_of(error.code), "hint": error.hint}


def view_of_error(error: LoadError) -> wire.Problem:
    """Return what the form shows for an error."""
    return {
        "kind": type(error).__name__,
        "code": error.code,
        "page": page_of(error.code),
        "message": error.message,
        "hint": error.hint,
    }


def page_of(code: str) -> str:
    """Return the URL of the page that explains an error code; empty if no docs are hosted."""
    documentation = _documentation()
    return f"{documentation.rstrip('/')}/errors.html#{code}" if documentation and code else ""


@cache
def _documentation() -> str:
    with suppress(PackageNotFoundError):
        for url in metadata("nbloader").get_all("Project-URL") or ():
            name, _, address = url.partition(",")
            if name.strip().lower() == "documentation":
                return str(address.strip())
    return ""


def _label(changes: Mapping[str, Any]) -> str:
    if changes.keys() == {"force"}:
        return text("panel", "force")
    if changes.keys() == {"trust_remote_code"}:
        return text("panel", "trust_remote_code")
    if "offload_folder" in changes:
        return text("panel", "offload")
    return ", ".join(str(value) for value in changes.values())


def _sendable(value: Any) -> Any:
    """Return `value` with every text made encodable: file names may contain what UTF-8 cannot encode."""
    if isinstance(value, str):
        clean = value.encode("utf-8", "replace").decode()
        return value if clean == value else clean
    if isinstance(value, Mapping):
        return {key: _sendable(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_sendable(part) for part in value]
    return value


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)

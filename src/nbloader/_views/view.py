"""What the page draws of a load, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nbloader._options.as_code import said
from nbloader._progress import events
from nbloader._progress.state import FINAL, Download, Gone, LoadState
from nbloader._text.catalogue import text

if TYPE_CHECKING:
    from nbloader._analysis.diagnosis import Diagnosis


def view_of(state: LoadState, number: int = 0) -> dict[str, Any]:
    """Return what the front end draws, by trait name (js/src/state.ts has the same shape).

    `number` is the load's, by which a click on Cancel means it.
    """
    files = {file.name: file for file in state.downloads}
    shards = {shard.name for shard in state.shards}
    # What was on disk needs no lane: the bar says how much that was.
    others = [file for file in state.downloads if file.name not in shards and file.bytes_cached < file.bytes]
    view = {
        "_state": {
            "number": number,
            "status": state.status,
            "cancelling": state.cancelling and state.status not in FINAL,
            "name": state.name,
            "doing": "" if state.stage is None else text("doing", state.stage),
            "commit": state.commit,
            "stage": state.stage,
            "fraction": round(state.fraction, 4),
            "elapsed": round(state.elapsed, 2),
            "rate": None if state.rate is None else round(state.rate),
            "eta": None if state.eta is None else round(state.eta, 1),
            "stalled_for": round(state.stalled_for, 1),
            "all": [state.bytes_done, state.bytes_to_do],
            "download": [state.bytes_downloaded, state.bytes_to_download],
            "read": [state.bytes_read, state.bytes_to_read],
            "place": [state.bytes_placed, state.bytes_to_place],
            "readers": state.readers,
            "ahead": [list(item) for item in state.ahead],
            "stall": None if state.stall is None else _stall(state.stall),
            "gone": None if state.gone is None else _gone(state.gone),
            "resident": sum(shard.bytes_resident for shard in state.shards),
            "stages": [asdict(stage) for stage in state.stages],
            "memory": None if state.memory is None else asdict(state.memory),
            "predicted_peak": state.predicted_peak,
            "observed_peak": state.observed_peak,
            "log": [
                {
                    "t": line.t,
                    "level": line.level,
                    "needs_attention": line.needs_attention,
                    "text": text("log", line.code, **line.arguments),
                }
                for line in state.log
            ],
            "question": None if state.question is None else _with_labels(asdict(state.question)),
            "error": None if state.error is None else _with_labels(asdict(state.error)),
            "summary": None if state.summary is None else dict(state.summary),
        },
        "_shards": {
            "names": [shard.name for shard in state.shards] + [file.name for file in others],
            "bytes": [shard.bytes for shard in state.shards] + [file.bytes for file in others],
            "shards": len(state.shards),
        },
        "_lanes": [
            [
                shard.bytes_resident,
                shard.bytes_read,
                shard.bytes_to_place,
                shard.bytes_placed,
                _rounded(shard.read_started),
                _rounded(shard.read_ended),
                _rounded(shard.place_started),
                _rounded(shard.place_ended),
                *_download_of(files.get(shard.name), shard.bytes),
            ]
            for shard in state.shards
        ]
        + [[0, 0, 0, 0, None, None, None, None, *_download_of(file, file.bytes)] for file in others],
    }
    return {name: _sendable(part) for name, part in view.items()}


def view_of_diagnosis(told: Diagnosis | None) -> dict[str, Any]:
    """Return what the front end draws of a diagnosis; None is one that is being made."""
    view: dict[str, Any] = {"measuring": told is None, "verdict": "", "parts": [], "facts": [], "remedies": []}
    if told is not None:
        view |= {
            "verdict": told.verdict,
            "parts": [[name, text("part", name), round(seconds, 6)] for name, seconds in told.parts.items()],
            "facts": [[text("fact", name), fact] for name, fact in told.facts.items()],
            "remedies": [[str(remedy), remedy.lines] for remedy in told.remedies],
        }
    return {"_diagnosis": _sendable(view)}


def _stall(stall: events.Stall) -> dict[str, Any]:
    """Return what a load waits for, as text."""
    return {
        "since": stall.since,
        "text": text("stall", stall.reason, **stall.arguments),
        "stack": stall.stack,
        "is_working": stall.is_working,
        "bytes": stall.bytes,
        "offers_cancel": stall.offers_cancel,
    }


def _gone(gone: Gone) -> dict[str, Any]:
    """Return what unloading gave back; sizes in bytes."""
    before = {device.name: device.used for device in gone.before.accelerators}
    after = {device.name: device.used for device in gone.after.accelerators}
    return {
        "places": [
            [text("panel", "process"), gone.before.process, gone.after.process],
            *([name, used, after.get(name, used)] for name, used in before.items()),
        ],
        "holders": list(gone.holders),
        "successor": gone.successor,
    }


def _with_labels(told: dict[str, Any]) -> dict[str, Any]:
    """Return what is told of a question or an error, with a text for each choice; its place is the answer."""
    return {**told, "choices": [[_label(changes), size] for changes, size in told["choices"]]}


def _label(changes: Mapping[str, Any]) -> str:
    if changes.keys() == {"force"}:
        return text("panel", "force")
    if changes.keys() == {"trust_remote_code"}:
        return text("panel", "trust_remote_code")
    if "offload_folder" in changes:
        return text("panel", "offload")
    return said(changes)


def _download_of(file: Download | None, size: int) -> list[float | None]:
    if file is None:
        return [size, size, None, None]
    return [file.bytes_downloaded, file.bytes_cached, _rounded(file.started), _rounded(file.ended)]


def _sendable(value: Any) -> Any:
    """Return `value` with every text one that can be sent: names from files may hold what UTF-8 cannot."""
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

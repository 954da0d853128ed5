"""The state that follows from a state and an event: pure functions, one for each kind of event."""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch
from typing import Any, TypeVar

from nbloader._progress import events
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
from nbloader._progress.time_left import RATE_STEP, RATE_WINDOW

Item = TypeVar("Item")
_LOG_LINES = 200
MOST_SAMPLES = 240
"""The samples that are kept of a load; with more, every second one is dropped."""

_OF_A_SHARD = (events.FoundInMemory, events.Read, events.ReadEnded, events.Placed)
_OF_A_FILE = (events.Downloaded, events.DownloadEnded)


def fold(state: LoadState, event: events.Event) -> LoadState:
    """Return the state after one more event. After a final event, only `Unloaded` changes the state.

    Bytes of an unknown shard or file change nothing: they arrive late, from a thread of an abandoned attempt.
    """
    if state.status in FINAL and not isinstance(event, events.Unloaded):
        return state
    if isinstance(event, _OF_A_SHARD) and event.shard >= len(state.shards):
        return state
    if isinstance(event, _OF_A_FILE) and event.file >= len(state.downloads):
        return state
    state = _apply(event, replace(state, now=max(state.now, event.t)))
    if state.stall is not None and state.status != "running":
        state = replace(state, stall=None)
    return replace(state, floor=max(state.floor, min(_share(state), 0.999)))


def _share(state: LoadState) -> float:
    """Return which share of its time a load has taken; while that cannot be told, the share of the bytes it moves."""
    left = state.eta
    if left is not None and state.began is not None and state.now + left > state.began:
        return (state.now - state.began) / (state.now + left - state.began)
    if state.expected is not None:
        return 0.0
    there = state.bytes_resident + state.bytes_cached
    to_do = state.bytes_to_do - there
    return (state.bytes_done - there) / to_do if to_do > 0 else 0.0


@singledispatch
def _apply(event: events.Event, state: LoadState) -> LoadState:
    raise TypeError(f"no such event: {event!r}")


@_apply.register
def _(event: events.Queued, state: LoadState) -> LoadState:
    return replace(state, status="queued", ahead=event.ahead)


@_apply.register
def _(event: events.Started, state: LoadState) -> LoadState:
    began = state.began if state.status == "running" else event.t  # it had to wait for its turn
    return replace(state, status="running", ahead=(), began=began)


@_apply.register
def _(event: events.TimeExpected, state: LoadState) -> LoadState:
    return replace(state, expected=event.expected)


@_apply.register
def _(event: events.StageStarted, state: LoadState) -> LoadState:
    if event.stage not in [stage.name for stage in state.stages]:  # one that only some loads have
        stages = sorted((*state.stages, Stage(event.stage)), key=lambda stage: events.STAGES.index(stage.name))
        state = replace(state, stages=tuple(stages))
    return replace(_change_stage(state, event.stage, started=event.t), stage=event.stage)


@_apply.register
def _(event: events.StageEnded, state: LoadState) -> LoadState:
    state = _change_stage(state, event.stage, ended=event.t, detail=event.detail)
    open_stages = [stage.name for stage in state.stages if stage.started is not None and stage.ended is None]
    return replace(state, stage=open_stages[-1] if open_stages else state.stage)


@_apply.register
def _(event: events.Spent, state: LoadState) -> LoadState:
    spent = dict(state.spent)
    for part, seconds in event.seconds.items():
        spent[part] = spent.get(part, 0.0) + seconds
    return replace(state, spent=spent)


@_apply.register
def _(event: events.Imported, state: LoadState) -> LoadState:
    return replace(state, imports_waited=event.waited)


@_apply.register
def _(event: events.SourceResolved, state: LoadState) -> LoadState:
    # Nothing is to be downloaded; an adapter that is, adds the stage again.
    stages = tuple(stage for stage in state.stages if stage.name != "download" or event.origin == "hub")
    return replace(state, name=event.name, commit=event.commit, origin=event.origin, stages=stages)


@_apply.register
def _(event: events.CheckpointRead, state: LoadState) -> LoadState:
    return replace(state, folder=event.folder, format=event.format, found=event.t)


@_apply.register
def _(event: events.ReadsCounted, state: LoadState) -> LoadState:
    return replace(state, reads=(*state.reads[:1], (event.disk, event.own)))


@_apply.register
def _(event: events.DownloadPlanned, state: LoadState) -> LoadState:
    return replace(state, downloads=tuple(Download(name, size, here, here) for name, size, here in event.files))


@_apply.register
def _(event: events.DownloadAdded, state: LoadState) -> LoadState:
    name, size, here = event.file
    return replace(state, downloads=(*state.downloads, Download(name, size, here, here)))


@_apply.register
def _(event: events.Downloaded, state: LoadState) -> LoadState:
    file = state.downloads[event.file]
    arrived = max(0, file.bytes_downloaded + event.bytes)
    file = replace(
        file,
        bytes_cached=min(file.bytes_cached, arrived),
        bytes_downloaded=arrived,
        started=_first(file.started, event),
        ended=event.t if arrived >= file.bytes else None,
    )
    return _moved(_change_download(state, event.file, file), event.t, downloaded=event.bytes)


@_apply.register
def _(event: events.DownloadEnded, state: LoadState) -> LoadState:
    file = state.downloads[event.file]
    others = file.bytes - file.bytes_downloaded  # bytes from another process do not count as this load's speed
    file = replace(
        file,
        bytes_cached=max(0, file.bytes_cached + others),
        bytes_downloaded=file.bytes,
        ended=file.ended if file.ended is not None else event.t,
    )
    return _change_download(state, event.file, file)


@_apply.register
def _(event: events.ShardsFound, state: LoadState) -> LoadState:
    known = {shard.name: shard for shard in state.shards}
    shards = []
    for name, size, to_place in event.shards:
        shard = known.get(name, Shard(name, size, to_place))
        shards.append(replace(shard, bytes=size, bytes_to_place=to_place))
    return replace(state, shards=tuple(shards), placing_copies=event.copies)


@_apply.register
def _(event: events.FoundInMemory, state: LoadState) -> LoadState:
    shard = replace(state.shards[event.shard], bytes_resident=event.bytes, bytes_read=event.bytes)
    return _change_shard(state, event.shard, shard)


@_apply.register
def _(event: events.Read, state: LoadState) -> LoadState:
    shard = state.shards[event.shard]
    bytes_read = shard.bytes_read + event.bytes
    shard = replace(
        shard,
        bytes_read=bytes_read,
        read_started=_first(shard.read_started, event),
        read_ended=event.t if bytes_read >= shard.bytes else None,
    )
    return _moved(_change_shard(state, event.shard, shard), event.t, read=event.bytes)


@_apply.register
def _(event: events.ReadersChanged, state: LoadState) -> LoadState:
    return replace(state, readers=event.readers)


@_apply.register
def _(event: events.ReadEnded, state: LoadState) -> LoadState:
    shard = state.shards[event.shard]
    missed = event.bytes - shard.bytes_read
    return _apply(events.Read(event.t, event.shard, missed), state) if missed > 0 else state


@_apply.register
def _(event: events.PlacePlanned, state: LoadState) -> LoadState:
    placed = zip(state.shards, event.bytes, strict=False)  # an adapter's shard, which follows them, keeps its plan
    shards = tuple(replace(shard, bytes_to_place=planned) for shard, planned in placed)
    return replace(state, shards=(*shards, *state.shards[len(shards) :]))


@_apply.register
def _(event: events.Placed, state: LoadState) -> LoadState:
    shard = state.shards[event.shard]
    bytes_placed = shard.bytes_placed + event.bytes
    # Correct what the headers planned by the actual bytes: a module that is kept in fp32 takes more.
    bytes_to_place = shard.bytes_to_place + event.bytes - event.planned
    shard = replace(
        shard,
        bytes_placed=bytes_placed,
        bytes_to_place=bytes_to_place,
        place_started=_first(shard.place_started, event),
        place_ended=event.t if bytes_placed >= bytes_to_place else None,
    )
    return _moved(_change_shard(state, event.shard, shard), event.t, placed=event.bytes)


@_apply.register
def _(event: events.PeakPredicted, state: LoadState) -> LoadState:
    return replace(state, predicted_peak=event.bytes)


@_apply.register
def _(event: events.MemorySampled, state: LoadState) -> LoadState:
    memory, first = event.memory, state.peak_before
    if state.memory is None:
        first = memory.process_peak
    # If the process's peak has risen since the load began, it is the load's peak. Otherwise, an earlier peak hides the
    # load's, and only the samples count.
    has_risen = memory.process_peak is not None and first is not None and memory.process_peak > first
    peak = max(state.observed_peak or 0, memory.process, memory.process_peak or 0 if has_risen else 0)
    return _sampled(replace(state, memory=memory, observed_peak=peak, peak_before=first))


@_apply.register
def _(event: events.Untouched, state: LoadState) -> LoadState:
    held = event.bytes + (state.memory.process if state.memory is not None else 0)
    return replace(state, observed_peak=max(state.observed_peak or 0, held))


@_apply.register
def _(event: events.Stalled, state: LoadState) -> LoadState:
    return replace(state, stall=event.stall)


@_apply.register
def _(event: events.Logged, state: LoadState) -> LoadState:
    line = LogLine(event.t, event.level, event.code, event.arguments)
    return replace(state, log=(*state.log, line)[-_LOG_LINES:])


@_apply.register
def _(event: events.Asked, state: LoadState) -> LoadState:
    # What was begun has failed: it begins anew with the answer.
    stages = tuple(Stage(stage.name) for stage in state.stages)
    asked = Question(event.kind, event.message, event.choices, event.files, event.number, event.code, event.available)
    return replace(state, question=asked, stage=None, stages=stages)


@_apply.register
def _(event: events.Answered, state: LoadState) -> LoadState:
    return replace(
        state,
        question=None,
        stage=None,
        stages=tuple(Stage(stage.name) for stage in state.stages),
        shards=(),
        downloads=(),
        moves=(),
        samples=(),
        sample_seconds=LoadState.sample_seconds,
        readers=0,
        began=event.t,
        expected=None,
    )


@_apply.register
def _(event: events.Ready, state: LoadState) -> LoadState:
    return replace(state, status="ready", stage=None, ended=event.t, summary=event.summary)


@_apply.register
def _(event: events.DownloadReady, state: LoadState) -> LoadState:
    return replace(state, status="downloaded", stage=None, ended=event.t, folder=event.folder)


@_apply.register
def _(event: events.Failed, state: LoadState) -> LoadState:
    error = ErrorInfo(event.kind, event.message, event.hint, event.choices, event.files, event.code, event.available)
    return replace(state, status="failed", question=None, ended=event.t, error=error)


@_apply.register
def _(event: events.Unloaded, state: LoadState) -> LoadState:
    return replace(state, status="idle", memory=event.freed.after, gone=event.freed)


@_apply.register
def _(event: events.CancelRequested, state: LoadState) -> LoadState:
    return replace(state, cancelling=True)


@_apply.register
def _(event: events.Cancelled, state: LoadState) -> LoadState:
    return replace(state, status="cancelled", question=None, ended=event.t)


def _change_stage(state: LoadState, name: str, **changes: Any) -> LoadState:
    stages = tuple(replace(stage, **changes) if stage.name == name else stage for stage in state.stages)
    return replace(state, stages=stages)


def _change_download(state: LoadState, index: int, file: Download) -> LoadState:
    return replace(state, downloads=_with(state.downloads, index, file))


def _change_shard(state: LoadState, index: int, shard: Shard) -> LoadState:
    return replace(state, shards=_with(state.shards, index, shard))


def _with(items: tuple[Item, ...], index: int, item: Item) -> tuple[Item, ...]:
    return (*items[:index], item, *items[index + 1 :])


def _first(known: float | None, event: events.Event) -> float:
    return event.t if known is None else known


def _moved(state: LoadState, t: float, *, downloaded: int = 0, read: int = 0, placed: int = 0) -> LoadState:
    moves = state.moves
    if moves and not (downloaded or read or placed):
        return state
    last = moves[-1] if moves else (t, 0, 0, 0)
    if len(moves) >= 2 and t - moves[-2][0] < RATE_STEP:
        moves = moves[:-1]
    moves = tuple(move for move in moves if move[0] >= t - 2 * RATE_WINDOW)
    moved = (t, last[1] + downloaded, last[2] + read, last[3] + placed)
    return _sampled(replace(state, moves=(*moves, moved)))


def _sampled(state: LoadState) -> LoadState:
    """Return the state with one more sample, unless the last one is recent."""
    samples, memory = state.samples, state.memory
    if memory is None or (samples and state.now - samples[-1].seconds < state.sample_seconds):
        return state
    moved = state.moves[-1][1:] if state.moves else (0, 0, 0)
    sample = Sample(state.now, *moved, memory.process, tuple(device.used for device in memory.accelerators))
    if len(samples) < MOST_SAMPLES:
        return replace(state, samples=(*samples, sample))
    return replace(state, samples=(*samples[::2], sample), sample_seconds=2 * state.sample_seconds)

"""LoadState: what is known of a load, as a pure fold of its events.

Nothing here reads a clock or a thread: `fold` adds one event, `LoadState.at` says what the time is, and every figure a
view shows follows from the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import singledispatch
from typing import Any, TypeVar

from nbloader._progress import events
from nbloader._system.memory import Memory

RATE_WINDOW = 5.0
"""Seconds over which the rate is taken."""

Item = TypeVar("Item")

_RATE_STEP = 0.1
_STALL = 1.0
_LOG_LINES = 200
FINAL = ("ready", "failed", "cancelled")
_OF_A_SHARD = (events.Resident, events.Read, events.ReadEnded, events.Placed)
_OF_A_FILE = (events.Downloaded, events.DownloadEnded)


@dataclass(frozen=True)
class Stage:
    """One stage; times in seconds since the load began, None for what has not happened."""

    name: str
    started: float | None = None
    ended: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class Shard:
    """One weight file. Sizes in bytes; times in seconds since the load began.

    `bytes_read` counts what is resident, `bytes_resident` the part of it that was so before the load looked, and
    `bytes_placed` what is in the model (of `bytes_to_place`, which a cast makes differ from `bytes`).
    """

    name: str
    bytes: int
    bytes_to_place: int
    bytes_resident: int = 0
    bytes_read: int = 0
    bytes_placed: int = 0
    read_started: float | None = None
    read_ended: float | None = None
    place_started: float | None = None
    place_ended: float | None = None


@dataclass(frozen=True)
class Download:
    """One file that the load needs. Sizes in bytes; times in seconds since the load began.

    `bytes_cached` were on disk before the load began, and are counted in `bytes_downloaded`.
    """

    name: str
    bytes: int
    bytes_cached: int = 0
    bytes_downloaded: int = 0
    started: float | None = None
    ended: float | None = None


@dataclass(frozen=True)
class LogLine:
    """A line of the log: its text is `code` of the locale files, filled with `arguments`."""

    t: float
    level: str
    code: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs_attention(self) -> bool:
        """Whether it is a warning that is about this load; what libraries say as they are imported is not."""
        return self.level == "warning" and self.code != "library_says"


@dataclass(frozen=True)
class ErrorInfo:
    """Why a load failed, and what to do. `choices` and `files` as in a `Question`."""

    kind: str
    message: str
    hint: str
    choices: tuple[tuple[Mapping[str, Any], int | None], ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """What a load waits for: one of `choices`, each (options, bytes that the weights take with them or None).

    `kind` is the name of the error that it would be if nobody could be asked; `files` are what a consent is for.
    `number` tells it from the load's other questions.
    """

    kind: str
    message: str
    choices: tuple[tuple[Mapping[str, Any], int | None], ...]
    files: tuple[str, ...] = ()
    number: int = 1


@dataclass(frozen=True)
class Gone:
    """What unloading gave back: what was held before and after it, who refers to the model still, what came next."""

    before: Memory
    after: Memory
    holders: tuple[str, ...] = ()
    successor: str = ""


@dataclass(frozen=True)
class LoadState:
    """What is known of a load at `now` seconds since it began.

    Sizes in bytes, times in seconds. `status` is one of idle, queued, running, ready, failed, cancelled; of a model
    that was unloaded it is idle, and `gone` says what that gave back.
    """

    status: str = "idle"
    cancelling: bool = False
    name: str = ""
    commit: str | None = None
    origin: str | None = None
    stage: str | None = None
    stages: tuple[Stage, ...] = tuple(Stage(name) for name in events.STAGES if name != "adapter")
    shards: tuple[Shard, ...] = ()
    # Every file that is needed, in the order of the download; none where all were cached.
    downloads: tuple[Download, ...] = ()
    memory: Memory | None = None
    predicted_peak: int | None = None
    observed_peak: int | None = None
    peak_before: int | None = None
    log: tuple[LogLine, ...] = ()
    error: ErrorInfo | None = None
    question: Question | None = None
    summary: Mapping[str, Any] | None = None
    gone: Gone | None = None
    # Of a load that makes no progress: what it waits for.
    stall: events.Stall | None = None
    # Of a load that waits: (number, name) of those ahead, the one under way first.
    ahead: tuple[tuple[int, str], ...] = ()
    now: float = 0.0
    ended: float | None = None
    # Bytes moved so far, without what was resident already: (seconds, downloaded, read, placed).
    moves: tuple[tuple[float, int, int, int], ...] = ()
    placing_copies: bool = True
    # Reads under way at once, the last time that any were.
    readers: int = 0
    floor: float = 0.0
    # Seconds of the loading thread by what they went to (`nbloader._progress.events.PARTS`).
    spent: Mapping[str, float] = field(default_factory=dict)
    # Where the checkpoint lies, its format, and when that was known.
    folder: str | None = None
    format: str | None = None
    found: float | None = None
    # The first and the last count: (bytes of the disk, bytes of this process).
    reads: tuple[tuple[int, int], ...] = ()
    # Seconds of the imports that went to waiting for the libraries' files.
    imports_waited: float | None = None

    @property
    def bytes_to_download(self) -> int:
        """Bytes of all files that the load needs, those on disk already included; 0 where nothing is missing."""
        return sum(file.bytes for file in self.downloads)

    @property
    def bytes_downloaded(self) -> int:
        """Bytes of them that are on disk."""
        return sum(file.bytes_downloaded for file in self.downloads)

    @property
    def bytes_to_read(self) -> int:
        """Bytes of all shards."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def bytes_read(self) -> int:
        """Bytes of the shards that are resident."""
        return sum(shard.bytes_read for shard in self.shards)

    @property
    def bytes_to_place(self) -> int:
        """Bytes the checkpoint's tensors will take in the model."""
        return sum(shard.bytes_to_place for shard in self.shards)

    @property
    def bytes_placed(self) -> int:
        """Bytes that are in the model."""
        return sum(shard.bytes_placed for shard in self.shards)

    @property
    def bytes_done(self) -> int:
        """Downloaded, read and placed together."""
        return self.bytes_downloaded + self.bytes_read + self.bytes_placed

    @property
    def bytes_to_do(self) -> int:
        """To download, to read and to place together."""
        return self.bytes_to_download + self.bytes_to_read + self.bytes_to_place

    @property
    def fraction(self) -> float:
        """From 0 to 1; never falls, and is 1 only once the model was ready."""
        return 1.0 if self.status == "ready" or self.gone is not None else self.floor

    @property
    def elapsed(self) -> float:
        """Seconds since the load began; stands still once it has ended."""
        return self.ended if self.ended is not None else self.now

    @property
    def rate(self) -> float | None:
        """Bytes a second over the last seconds; None while nothing moves, or too little has to tell."""
        recent = self._recent(self.now)
        if (
            self.ended is not None
            or self.stalled_for > _STALL
            or len(recent) < 2
            or self.now - recent[0][0] < _RATE_STEP
        ):
            return None
        moved = sum(recent[-1][1:]) - sum(recent[0][1:])  # negative where a transfer had to start over
        return moved / (self.now - recent[0][0]) if moved >= 0 else None

    @property
    def eta(self) -> float | None:
        """Seconds until the bytes are moved; None until it can be known, and while nothing moves.

        Each phase that has begun is taken at its own rate, each that has not at the rate of the present one. Placing
        that makes no copies takes next to no time. A download is taken for all that is left.
        """
        if self.status != "running" or not self.moves or self.stalled_for > _STALL:
            return None
        recent = self._recent(self.moves[-1][0])
        seconds = recent[-1][0] - recent[0][0]
        if seconds < _RATE_STEP:
            return None
        rates = [max(0, last - first) / seconds for first, last in zip(recent[0][1:], recent[-1][1:], strict=True)]
        if not any(rates):
            return None
        to_download = self.bytes_to_download - self.bytes_downloaded
        left = [
            to_download,
            # What has just been downloaded is in memory, and what is in memory is placed in next to no time.
            self.bytes_to_read - self.bytes_read if not to_download else 0,
            self.bytes_to_place - self.bytes_placed if self.placing_copies and not to_download else 0,
        ]
        return sum(max(0, count) / (rate or max(rates)) for count, rate in zip(left, rates, strict=True))

    def _recent(self, until: float) -> list[tuple[float, int, int, int]]:
        return [move for move in self.moves if move[0] >= until - RATE_WINDOW]

    @property
    def stalled_for(self) -> float:
        """Seconds since the last byte moved (or since the load began)."""
        if self.ended is not None or self.status != "running" or self.question is not None:
            return 0.0
        return self.now - (self.moves[-1][0] if self.moves else 0.0)

    def at(self, now: float) -> LoadState:
        """Return this state as it looks at `now` seconds since the load began."""
        return replace(self, now=max(self.now, now))


def stages_of(*, with_adapter: bool) -> tuple[Stage, ...]:
    """Return the stages of a load, none of them begun."""
    return tuple(Stage(name) for name in events.STAGES if with_adapter or name != "adapter")


def fold(state: LoadState, event: events.Event) -> LoadState:
    """Return `state` with one more event in it. Of what follows a final event, only being unloaded changes it.

    Bytes of a shard or a file that is not known change nothing: they come late, from a thread of an attempt that was
    given up.
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
    done, to_do = state.bytes_done, state.bytes_to_do
    fraction = min(done / to_do, 0.999) if to_do else 0.0
    return replace(state, floor=max(state.floor, fraction))


@singledispatch
def _apply(event: events.Event, state: LoadState) -> LoadState:
    raise TypeError(f"no such event: {event!r}")


@_apply.register
def _(event: events.Queued, state: LoadState) -> LoadState:
    return replace(state, status="queued", ahead=event.ahead)


@_apply.register
def _(event: events.Started, state: LoadState) -> LoadState:
    return replace(state, status="running", ahead=())


@_apply.register
def _(event: events.StageStarted, state: LoadState) -> LoadState:
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
    return replace(state, name=event.name, commit=event.commit, origin=event.origin)


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
    others = file.bytes - file.bytes_downloaded  # what somebody else brought is no speed of ours
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
def _(event: events.Resident, state: LoadState) -> LoadState:
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
    placed = zip(state.shards, event.bytes, strict=False)  # an adapter's, behind them, keeps its own
    shards = tuple(replace(shard, bytes_to_place=planned) for shard, planned in placed)
    return replace(state, shards=(*shards, *state.shards[len(shards) :]))


@_apply.register
def _(event: events.Placed, state: LoadState) -> LoadState:
    shard = state.shards[event.shard]
    bytes_placed = shard.bytes_placed + event.bytes
    # What was planned by the headers is corrected by what is really there: a module kept in fp32 takes more.
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
    # The process's peak is this load's where it has risen since; else an earlier one hides it, and looks must do.
    has_risen = memory.process_peak is not None and first is not None and memory.process_peak > first
    peak = max(state.observed_peak or 0, memory.process, memory.process_peak or 0 if has_risen else 0)
    return replace(state, memory=memory, observed_peak=peak, peak_before=first)


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
    return replace(state, question=Question(event.kind, event.message, event.choices, event.files, event.number))


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
        readers=0,
    )


@_apply.register
def _(event: events.Ready, state: LoadState) -> LoadState:
    return replace(state, status="ready", stage=None, ended=event.t, summary=event.summary)


@_apply.register
def _(event: events.Failed, state: LoadState) -> LoadState:
    error = ErrorInfo(event.kind, event.message, event.hint, event.choices, event.files)
    return replace(state, status="failed", question=None, ended=event.t, error=error)


@_apply.register
def _(event: events.Unloaded, state: LoadState) -> LoadState:
    gone = Gone(event.before, event.after, event.holders, event.successor)
    return replace(state, status="idle", memory=event.after, gone=gone)


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
    if len(moves) >= 2 and t - moves[-2][0] < _RATE_STEP:
        moves = moves[:-1]
    moves = tuple(move for move in moves if move[0] >= t - 2 * RATE_WINDOW)
    moved = (t, last[1] + downloaded, last[2] + read, last[3] + placed)
    return replace(state, moves=(*moves, moved))

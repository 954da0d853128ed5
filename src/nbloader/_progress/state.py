"""LoadState: the state of a load, which follows from its events (`fold`).

Nothing here reads a clock or a thread. `fold` adds one event, and `LoadState.at` sets the time. Every figure that a
view shows follows from these two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from nbloader._progress import events
from nbloader._progress.freed import Freed
from nbloader._progress.time_left import DOWNLOADED, PLACED, READ, Lane, Progress, rate_of, seconds_left
from nbloader._system.memory import Memory
from nbloader._text.catalogue import text
from nbloader._text.units import seconds_text, share_texts

_STALL = 1.0
SUCCEEDED = ("ready", "downloaded")
FINAL = (*SUCCEEDED, "failed", "cancelled")


@dataclass(frozen=True)
class Stage:
    """One stage; times in seconds since the load began, None for what has not happened."""

    name: str
    started: float | None = None
    ended: float | None = None
    detail: str = ""


Status = Literal["idle", "queued", "running", "ready", "downloaded", "failed", "cancelled"]
Phase = Literal["download", "read", "place"]


@dataclass(frozen=True)
class Shard:
    """One weight file. Sizes in bytes; times in seconds since the load began.

    `bytes_read` are resident; `bytes_resident` of them were resident already when the load looked. `bytes_placed` of
    `bytes_to_place` are in the model; a cast makes `bytes_to_place` differ from `bytes`.
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

    `bytes_cached` were on disk before the load began; `bytes_downloaded` includes them.
    """

    name: str
    bytes: int
    bytes_cached: int = 0
    bytes_downloaded: int = 0
    started: float | None = None
    ended: float | None = None


class Sample(NamedTuple):
    """What had been moved, and what was in use, `seconds` after the load began. Sizes in bytes.

    `downloaded`, `read` and `placed` were moved by this load. `process` is the memory of this process, and `devices`
    that of each accelerator.
    """

    seconds: float
    downloaded: int
    read: int
    placed: int
    process: int
    devices: tuple[int, ...] = ()


@dataclass(frozen=True)
class LogLine:
    """A line of the log: its text is `code` of the locale files, filled with `arguments`."""

    t: float
    level: str
    code: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs_attention(self) -> bool:
        """Whether this is a warning about the load itself; output of libraries is not."""
        return self.level == "warning" and self.code != "library_says"


@dataclass(frozen=True)
class ErrorInfo:
    """Why a load failed, and what to do.

    `choices`, `files` and `available` as in a `Question`; `code` as in `LoadError`.
    """

    kind: str
    message: str
    hint: str
    choices: tuple[tuple[Mapping[str, Any], int | None], ...] = ()
    files: tuple[str, ...] = ()
    code: str = ""
    available: int | None = None


@dataclass(frozen=True)
class Question:
    """What a load asks: one of `choices`, each (options, bytes that the load needs with them, or None).

    `available` is how many bytes it may take, where that is the question.
    `kind` is the class name of the error that ends the load if no person can answer. `files` are the files that need
    consent. `number` is unique among the load's questions.
    """

    kind: str
    message: str
    choices: tuple[tuple[Mapping[str, Any], int | None], ...]
    files: tuple[str, ...] = ()
    number: int = 1
    code: str = ""
    available: int | None = None


@dataclass(frozen=True)
class LoadState:
    """The state of a load, `now` seconds after it began.

    Sizes are in bytes, times in seconds. `status` is one of idle, queued, running, ready, downloaded (of a download
    without a load), failed, cancelled. After the model was unloaded, it is idle, and `gone` is what unloading freed.
    """

    status: Status = "idle"
    cancelling: bool = False
    name: str = ""
    commit: str | None = None
    origin: str | None = None
    stage: str | None = None
    stages: tuple[Stage, ...] = tuple(Stage(name) for name in events.STAGES if name not in events.NOT_ALWAYS)
    shards: tuple[Shard, ...] = ()
    # Every file that is needed, in the order of the download; empty if all were cached.
    downloads: tuple[Download, ...] = ()
    memory: Memory | None = None
    predicted_peak: int | None = None
    observed_peak: int | None = None
    peak_before: int | None = None
    log: tuple[LogLine, ...] = ()
    error: ErrorInfo | None = None
    question: Question | None = None
    summary: Mapping[str, Any] | None = None
    gone: Freed | None = None
    # What the load waits for; None while it makes progress.
    stall: events.Stall | None = None
    # The loads to wait for while this one is queued: (number, name), the running one first.
    ahead: tuple[tuple[int, str], ...] = ()
    now: float = 0.0
    ended: float | None = None
    # Bytes moved so far, without those that were resident already: (seconds, downloaded, read, placed).
    moves: tuple[tuple[float, int, int, int], ...] = ()
    # The whole load, in at most `nbloader._progress.fold.MOST_SAMPLES` samples, `sample_seconds` apart.
    samples: tuple[Sample, ...] = ()
    sample_seconds: float = 0.1
    placing_copies: bool = True
    # Reads in parallel, as last reported.
    readers: int = 0
    floor: float = 0.0
    # When the load began to work: its turn came, or a question was answered.
    began: float | None = None
    # What the load should take, by earlier loads of its kind; None if there was none.
    expected: events.Expected | None = None
    # Seconds of the loading thread by what they were spent on (`nbloader._progress.events.PARTS`).
    spent: Mapping[str, float] = field(default_factory=dict)
    # The folder of the checkpoint, its format, and when both became known.
    folder: str | None = None
    format: str | None = None
    found: float | None = None
    # The first and the last count of bytes read: (from the disk, by this process).
    reads: tuple[tuple[int, int], ...] = ()
    # Seconds of the imports that were spent waiting for the libraries' files.
    imports_waited: float | None = None

    @property
    def bytes_to_download(self) -> int:
        """Bytes of all files that the load needs, including those on disk already; 0 if no file is missing."""
        return sum(file.bytes for file in self.downloads)

    @property
    def bytes_downloaded(self) -> int:
        """Bytes of these files that are on disk."""
        return sum(file.bytes_downloaded for file in self.downloads)

    @property
    def bytes_cached(self) -> int:
        """Bytes of the files to download that were on disk before the load began."""
        return sum(file.bytes_cached for file in self.downloads)

    @property
    def bytes_to_read(self) -> int:
        """Bytes of all shards."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def bytes_read(self) -> int:
        """Bytes of the shards that are resident."""
        return sum(shard.bytes_read for shard in self.shards)

    @property
    def bytes_resident(self) -> int:
        """Bytes of the shards that were resident already when the load looked."""
        return sum(shard.bytes_resident for shard in self.shards)

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
        """Bytes downloaded, read and placed, added up."""
        return self.bytes_downloaded + self.bytes_read + self.bytes_placed

    @property
    def bytes_to_do(self) -> int:
        """Bytes to download, to read and to place, added up."""
        return self.bytes_to_download + self.bytes_to_read + self.bytes_to_place

    @property
    def fraction(self) -> float:
        """Progress from 0 to 1. It never falls, and is 1 only once the model has been ready.

        It is the share of the load's time that has passed, by `eta`; while that cannot be told, the share of the bytes.
        """
        return 1.0 if self.status in SUCCEEDED or self.gone is not None else self.floor

    @property
    def elapsed(self) -> float:
        """Seconds since the load began; constant once it has ended."""
        return self.ended if self.ended is not None else self.now

    @property
    def phase(self) -> Phase | None:
        """What happens to the weights now: their download, reading or placing; None if nothing does."""
        if self.status != "running" or self.question is not None:
            return None
        if self.bytes_downloaded < self.bytes_to_download:
            return "download"
        if self.stage == "weights":
            return "place"
        is_before = next((stage.started is None for stage in self.stages if stage.name == "weights"), False)
        return "read" if is_before and self.bytes_read < self.bytes_to_read else None

    @property
    def phase_bytes(self) -> tuple[int, int]:
        """Bytes of the files that have passed the current `phase`, and their total; zeros where there is none."""
        if self.phase == "download":
            return self.bytes_downloaded, self.bytes_to_download
        if self.phase == "read":
            return self.bytes_read, self.bytes_to_read
        if self.phase == "place":
            used = [shard for shard in self.shards if shard.bytes_to_place]
            placed = sum(shard.bytes * min(1.0, shard.bytes_placed / shard.bytes_to_place) for shard in used)
            return round(placed), sum(shard.bytes for shard in used)
        return 0, 0

    @property
    def rate(self) -> float | None:
        """Bytes of the files that pass the current `phase` a second, over the last seconds.

        None while nothing moves, or while it cannot be measured yet.
        """
        phase = self.phase
        if phase is None or self.stalled_for > _STALL:
            return None
        if phase != "place":
            return rate_of(self._progress, DOWNLOADED if phase == "download" else READ) or None
        total = self.bytes_to_place
        return rate_of(self._progress, PLACED) * self.phase_bytes[1] / total or None if total else None

    @property
    def eta(self) -> float | None:
        """Estimated seconds until the model is ready; None while they cannot be told, and while nothing moves.

        They count everything that is still to come, by earlier loads of this kind on this machine and by what moves
        now. Without such a load, they are those of the download, or can be told once a tenth of the weights is placed.
        """
        if self.status != "running" or self.question is not None or self._is_stuck:
            return None
        return seconds_left(self._progress, self.expected)

    @property
    def _progress(self) -> Progress:
        stages = {stage.name: stage for stage in self.stages}
        weights = stages.get("weights", Stage("weights"))  # a download has no such stage
        lanes = (
            Lane(self.bytes_downloaded - self.bytes_cached, self.bytes_to_download - self.bytes_downloaded),
            Lane(self.bytes_read - self.bytes_resident, self.bytes_to_read - self.bytes_read),
            Lane(self.bytes_placed, self.bytes_to_place - self.bytes_placed),
        )
        times = stages["resolve"].started, weights.started, weights.ended
        return Progress(self.now, *times, lanes, self.moves)

    @property
    def _is_stuck(self) -> bool:
        if self.stall is not None and not self.stall.is_working:
            return True
        moves_bytes = self.stage == "weights" or self.bytes_downloaded < self.bytes_to_download
        return moves_bytes and self.stalled_for > _STALL

    @property
    def stalled_for(self) -> float:
        """Seconds since the last byte moved, or since the stage that moves bytes began."""
        if self.ended is not None or self.status != "running" or self.question is not None:
            return 0.0
        moving = "download" if self.bytes_downloaded < self.bytes_to_download else "weights"
        starts = [stage.started or 0.0 for stage in self.stages if stage.name == moving]
        return self.now - max([self.began or 0.0, *starts, *(move[0] for move in self.moves[-1:])])

    def __str__(self) -> str:
        known = {"percent": int(100 * self.fraction), "seconds": seconds_text(self.elapsed)}
        lines: list[str] = [text("line", "state", name=self.name, status=text("status", self.status), **known)]
        done, total = self.phase_bytes
        if total:
            lines.append(text("line", "phase", phase=text("phase", self.phase or ""), **share_texts(done, total)))
        if self.eta is not None:
            lines.append(text("panel", "eta", time=seconds_text(self.eta)))
        if self.error is not None:
            lines += [f"{self.error.kind}: {self.error.message}", self.error.hint]
        return "\n".join(filter(None, lines))

    def at(self, now: float) -> LoadState:
        """Return this state as it looks at `now` seconds since the load began."""
        return replace(self, now=max(self.now, now))


def stages_of(*, with_adapter: bool, download_only: bool = False) -> tuple[Stage, ...]:
    """Return the stages of a load, none of them begun."""
    if download_only:
        return tuple(Stage(name) for name in events.STAGES_OF_DOWNLOADS)
    left_out = set(events.NOT_ALWAYS) - ({"adapter"} if with_adapter else set())
    return tuple(Stage(name) for name in events.STAGES if name not in left_out)

"""The events of a load.

A load is one sequence of these events, each stamped with `t`, the seconds since the load began. The threads of the load
emit them; `nbloader._progress.fold` folds them into the state that a view shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nbloader._progress.freed import Freed
from nbloader._system.memory import Memory

PARTS = (
    "queue", "choice", "resolve", "download", "imports", "tokenizer", "storage", "mixed", "unpickle", "cast",
    "quantization", "device", "adapter", "other",
)  # fmt: skip
"""What a load spends its time on, in the order in which it is shown.

``"storage"`` is waiting for bytes of the weights. ``"mixed"`` is placing that reads the bytes itself, so that the two
cannot be measured separately. ``"unpickle"`` is reading the tensors of ``.bin`` files; ``"cast"`` is copying in memory.
"""

STAGES = (
    "demo", "resolve", "download", "check", "imports", "tokenizer", "config", "weights", "device", "adapter",
    "metadata",
)  # fmt: skip

STAGES_OF_DOWNLOADS = ("resolve", "download")

NOT_ALWAYS = ("demo", "adapter")
"""Stages that only some loads have: writing the demo checkpoint, and attaching an adapter."""


@dataclass(frozen=True)
class Expected:
    """What a load should take, by earlier loads of its kind, in seconds.

    `preparing` ends when placing can begin; it does not count the download. `placing` does not count waiting for
    bytes. `finishing` follows it. `read_rate` is how many bytes a second the storage gives, or None if not known.
    `stages` is how long each stage took.
    """

    preparing: float
    read_rate: float | None
    placing: float
    finishing: float
    stages: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Stall:
    """What a load without progress waits for: a text of the locale files' ``stall``, and its arguments.

    `since` is when the load last made progress, in seconds since it began. `is_working` is whether the load is slow
    rather than stuck. `bytes` moved recently, too few to count as progress. `stack` holds the stacks of its threads.
    """

    since: float
    reason: str
    arguments: Mapping[str, str]
    stack: str = ""
    is_working: bool = False
    bytes: int = 0
    offers_cancel: bool = False


@dataclass(frozen=True)
class Event:
    """Something that happened `t` seconds after the load began."""

    t: float


@dataclass(frozen=True)
class Queued(Event):
    """The load waits for others to end: (number, name) of each load ahead, the running one first."""

    ahead: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Started(Event):
    """The load's turn came."""


@dataclass(frozen=True)
class StageStarted(Event):
    """A stage began."""

    stage: str


@dataclass(frozen=True)
class StageEnded(Event):
    """A stage ended; `detail` describes the result in a few words."""

    stage: str
    detail: str = ""


@dataclass(frozen=True)
class Spent(Event):
    """The loading thread has spent this many more seconds on each of these `PARTS`."""

    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Imported(Event):
    """The libraries are imported; `waited` seconds of that were spent waiting for their files (None if unknown)."""

    waited: float | None


@dataclass(frozen=True)
class SourceResolved(Event):
    """The load knows what it loads, and from where: `origin` is ``"folder"``, ``"cache"`` or ``"hub"``."""

    name: str
    commit: str | None
    origin: str


@dataclass(frozen=True)
class CheckpointRead(Event):
    """All files of the checkpoint are on this machine, in this folder, and its headers are read."""

    folder: str
    format: str


@dataclass(frozen=True)
class ReadsCounted(Event):
    """Bytes read so far: from the checkpoint's disk by all processes, and from all storage by this process."""

    disk: int
    own: int


@dataclass(frozen=True)
class DownloadPlanned(Event):
    """The files that the load needs, if any are incomplete: (name, bytes, bytes that are on disk already)."""

    files: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class DownloadAdded(Event):
    """One more file is needed: (name, bytes, bytes that are on disk already)."""

    file: tuple[str, int, int]


@dataclass(frozen=True)
class Downloaded(Event):
    """`bytes` more of a file arrived on disk: 0 when its transfer begins, negative if it had to start over."""

    file: int
    bytes: int


@dataclass(frozen=True)
class DownloadEnded(Event):
    """All of a file is on disk, downloaded by this load or by another process."""

    file: int


@dataclass(frozen=True)
class ShardsFound(Event):
    """The checkpoint's weight files: (name, bytes in the file, bytes its tensors will take in the model).

    `copies` is whether placing copies the tensors, which takes time, or uses them where they were read to.
    """

    shards: tuple[tuple[str, int, int], ...]
    copies: bool = True


@dataclass(frozen=True)
class FoundInMemory(Event):
    """`bytes` of a shard were in memory already when the load looked: before it read, or when it had arrived."""

    shard: int
    bytes: int


@dataclass(frozen=True)
class Read(Event):
    """`bytes` more of a shard were read from storage into memory; 0 when reading it begins."""

    shard: int
    bytes: int


@dataclass(frozen=True)
class ReadersChanged(Event):
    """`readers` threads read from now on."""

    readers: int


@dataclass(frozen=True)
class ReadEnded(Event):
    """All `bytes` that the load needs of a shard are resident, read by this load or by another process."""

    shard: int
    bytes: int


@dataclass(frozen=True)
class Placed(Event):
    """`bytes` more are in the model, 0 when placing begins; `planned` is what was planned for the same tensors."""

    shard: int
    bytes: int
    planned: int


@dataclass(frozen=True)
class PlacePlanned(Event):
    """The bytes of each shard that the model uses: (bytes of shard 0, of shard 1, …)."""

    bytes: tuple[int, ...]


@dataclass(frozen=True)
class TimeExpected(Event):
    """What the load should take, by earlier loads of its kind on this machine."""

    expected: Expected


@dataclass(frozen=True)
class PeakPredicted(Event):
    """The predicted peak RSS of this process, in bytes."""

    bytes: int


@dataclass(frozen=True)
class MemorySampled(Event):
    """A sample of the memory in use on the host and on each accelerator."""

    memory: Memory


@dataclass(frozen=True)
class Untouched(Event):
    """`bytes` of mapped weights are resident, but not in the process's RSS until the process uses them."""

    bytes: int


@dataclass(frozen=True)
class Stalled(Event):
    """The load has made no progress for a while; with None, it makes progress again."""

    stall: Stall | None


@dataclass(frozen=True)
class Logged(Event):
    """A line of the log: a message code of the locale files, and its arguments."""

    level: str
    code: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked(Event):
    """The load waits for a person to choose one of `choices`.

    Each choice is (options as keyword arguments, bytes that the load needs with them, or None); `available` is how many
    bytes it may take. `number` is unique among the load's questions.
    """

    kind: str
    message: str
    choices: tuple[tuple[Mapping[str, Any], int | None], ...]
    files: tuple[str, ...] = ()
    number: int = 1
    code: str = ""
    available: int | None = None


@dataclass(frozen=True)
class Answered(Event):
    """The question is answered; the load starts again with these options changed."""

    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Ready(Event):
    """Every weight byte the model uses is in memory or on its device."""

    summary: Mapping[str, Any]


@dataclass(frozen=True)
class DownloadReady(Event):
    """Every file that a load needs is on this machine, below `folder`; nothing else was asked for."""

    folder: str


@dataclass(frozen=True)
class Unloaded(Event):
    """The model that the load made was unloaded."""

    freed: Freed


@dataclass(frozen=True)
class Failed(Event):
    """The load ended without a model."""

    kind: str
    message: str
    hint: str
    choices: tuple[tuple[Mapping[str, Any], int | None], ...] = ()
    files: tuple[str, ...] = ()
    code: str = ""
    available: int | None = None


@dataclass(frozen=True)
class CancelRequested(Event):
    """A request to stop the load; the load stops at the next point where it can."""


@dataclass(frozen=True)
class Cancelled(Event):
    """The load has stopped because it was cancelled."""

"""What can happen in a load.

A load is one sequence of these events, each stamped with `t`, the seconds since the load began. They are what the
loading thread says; `nbloader._progress.state` folds them into what a view shows.
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
"""What a load's time is spent on, in the order in which it is shown.

``"storage"`` is waiting for bytes of the weights, ``"mixed"`` placing that reads them itself, where the two cannot be
told apart, ``"unpickle"`` reading the tensors of ``.bin`` files, ``"cast"`` copying in memory.
"""

STAGES = ("demo", "resolve", "download", "tokenizer", "config", "weights", "device", "adapter", "metadata")

NOT_ALWAYS = ("demo", "adapter")
"""Stages that only some loads have: writing the demo checkpoint, and attaching an adapter."""


@dataclass(frozen=True)
class Stall:
    """What a load that makes no progress waits for: a text of the locale files' ``stall``, and its arguments.

    `since` is when it last made some, in seconds since it began. `is_working` tells that something is done for it all
    the same: it is slow rather than stuck. `bytes` moved lately, too few to be progress. `stack` is where its threads
    are.
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
    """The load waits for others to end: (number, name) of each that is ahead, the one under way first."""

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
    """A stage ended; `detail` says in a few words what came of it."""

    stage: str
    detail: str = ""


@dataclass(frozen=True)
class Spent(Event):
    """The loading thread has spent so many seconds more on each of these `PARTS`."""

    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Imported(Event):
    """The libraries are imported; their files were waited for so many seconds of that, None where it is not known."""

    waited: float | None


@dataclass(frozen=True)
class SourceResolved(Event):
    """It is known what is loaded, and from where (``"folder"``, ``"cache"``, ``"hub"``)."""

    name: str
    commit: str | None
    origin: str


@dataclass(frozen=True)
class CheckpointRead(Event):
    """All of the checkpoint is on this machine, and its headers are read: its folder and its format."""

    folder: str
    format: str


@dataclass(frozen=True)
class ReadsCounted(Event):
    """Bytes read up to now of the checkpoint's disk by everybody, and of all storage by this process."""

    disk: int
    own: int


@dataclass(frozen=True)
class DownloadPlanned(Event):
    """The files that the load needs and does not have all of: (name, bytes, bytes that are on disk already)."""

    files: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class DownloadAdded(Event):
    """One more file is needed: (name, bytes, bytes that are on disk already)."""

    file: tuple[str, int, int]


@dataclass(frozen=True)
class Downloaded(Event):
    """`bytes` more of a file arrived on disk: 0 when its transfer begins, negative where it had to start over."""

    file: int
    bytes: int


@dataclass(frozen=True)
class DownloadEnded(Event):
    """All of a file is on disk, whoever brought it."""

    file: int


@dataclass(frozen=True)
class ShardsFound(Event):
    """The checkpoint's weight files: (name, bytes in the file, bytes its tensors will take in the model).

    `copies` tells whether placing will copy them, which takes time, or leave them where reading put them.
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
    """So many threads read from now on."""

    readers: int


@dataclass(frozen=True)
class ReadEnded(Event):
    """All `bytes` of a shard that the load needs are resident, whoever read them."""

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
    """The model uses only so many bytes of each shard: (bytes for shard 0, for shard 1, …)."""

    bytes: tuple[int, ...]


@dataclass(frozen=True)
class PeakPredicted(Event):
    """What this process is predicted to hold at most, in bytes of RSS."""

    bytes: int


@dataclass(frozen=True)
class MemorySampled(Event):
    """What the host and each accelerator held at that moment."""

    memory: Memory


@dataclass(frozen=True)
class Untouched(Event):
    """So many bytes of mapped weights are resident, and not in the process's RSS before it uses them."""

    bytes: int


@dataclass(frozen=True)
class Stalled(Event):
    """The load has made no progress for a while, or, with None, makes some again."""

    stall: Stall | None


@dataclass(frozen=True)
class Logged(Event):
    """A line of the log: a message code of the locale files, and its arguments."""

    level: str
    code: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked(Event):
    """The load waits for somebody to choose how it goes on: an index into `choices`.

    Each of `choices` is (options as keyword arguments, bytes that the weights take with them or None). `number` tells
    it from the load's other questions.
    """

    kind: str
    message: str
    choices: tuple[tuple[Mapping[str, Any], int | None], ...]
    files: tuple[str, ...] = ()
    number: int = 1
    code: str = ""


@dataclass(frozen=True)
class Answered(Event):
    """Somebody chose; the load begins anew with these options changed."""

    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Ready(Event):
    """Every weight byte the model uses is in memory or on its device."""

    summary: Mapping[str, Any]


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


@dataclass(frozen=True)
class CancelRequested(Event):
    """Somebody asked the load to stop; it will, at the next point where it can."""


@dataclass(frozen=True)
class Cancelled(Event):
    """The load has stopped because somebody asked it to."""

"""The types of the widget's traits. `scripts/generate.py` generates js/src/wire.ts from them.

Sizes are in bytes, times in seconds since the load began.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from nbloader._progress.state import Status

Done = tuple[int, int]
"""How much is done, and the total."""

Choice = tuple[str, int | None]
"""The label of a button, and the bytes that the weights take with that choice."""


class Stage(TypedDict):
    """A stage of the load; `detail` describes its result."""

    name: str
    started: float | None
    ended: float | None
    detail: str


class Accelerator(TypedDict):
    """A device's memory."""

    name: str
    total: int
    used: int


class Memory(TypedDict):
    """The memory of this process, the host and each device."""

    total: int
    available: int
    process: int
    accelerators: list[Accelerator]


class Gone(TypedDict):
    """What unloading freed: each place with its use before and after; `holders` are what still refers to the model."""

    places: list[tuple[str, int, int]]
    holders: list[str]
    successor: str


class Stall(TypedDict):
    """What a load without progress waits for, as text; `bytes` moved recently, too few to count as progress."""

    since: float
    text: str
    stack: str
    is_working: bool
    bytes: int
    offers_cancel: bool


class Summary(TypedDict):
    """The model that was loaded."""

    already_loaded: bool
    model_class: str
    parameters: int
    bytes: int
    dtype: str
    device: str


class LogLine(TypedDict):
    """A line of the log; `needs_attention` is a warning about this load."""

    t: float
    level: str
    needs_attention: bool
    text: str


class Asked(TypedDict):
    """A question, or an error with choices; an answer is the index of a choice."""

    kind: str
    code: str
    message: str
    choices: list[Choice]
    files: list[str]


class Question(Asked):
    """A question that the load waits for the user to answer."""

    number: int


class Problem(TypedDict):
    """Why the chosen options cannot be planned."""

    kind: str
    code: str
    page: str
    message: str
    hint: str


class Failure(Asked, Problem):
    """Why a load failed; `page` explains the code, and is empty if no docs are hosted."""


class State(TypedDict):
    """The current load. `number` identifies it in messages; `ahead` lists (number, name) of the loads before it."""

    number: int
    status: Status
    cancelling: bool
    name: str
    doing: str
    commit: str | None
    stage: str | None
    fraction: float
    elapsed: float
    rate: int | None
    eta: float | None
    stalled_for: float
    all: Done
    download: Done
    read: Done
    place: Done
    readers: int
    resident: int
    ahead: list[tuple[int, str]]
    stall: Stall | None
    gone: Gone | None
    stages: list[Stage]
    memory: Memory | None
    predicted_peak: int | None
    observed_peak: int | None
    log: list[LogLine]
    question: Question | None
    error: Failure | None
    summary: Summary | None


class ShardNames(TypedDict):
    """The constant part of the lanes: the first `shards` files are shards, the others are other downloaded files."""

    names: list[str]
    bytes: list[int]
    shards: int


class Lanes(TypedDict):
    """The changing part of the lanes, by column, in the order of `ShardNames`.

    `cached` are the bytes that were on disk before the load. A file that is not a shard is neither read nor placed.
    """

    resident: list[int]
    read: list[int]
    to_place: list[int]
    placed: list[int]
    read_started: list[float | None]
    read_ended: list[float | None]
    place_started: list[float | None]
    place_ended: list[float | None]
    downloaded: list[int]
    cached: list[int]
    download_started: list[float | None]
    download_ended: list[float | None]


FieldKind = Literal["choice", "text", "number", "flag"]


class FieldChoice(TypedDict):
    """A choice of a field; `why` is the reason that it cannot be chosen, empty if it can."""

    value: str
    why: str


class Field(TypedDict):
    """A field of the form; `why` is the reason that it does not apply, empty if it does."""

    name: str
    kind: FieldKind
    value: str
    choices: list[FieldChoice]
    why: str


class FieldGroup(TypedDict):
    """A group of fields."""

    name: str
    fields: list[Field]


class DeviceRoom(TypedDict):
    """The memory that a device needs, by part, and the memory that is free."""

    name: str
    needed: int
    available: int | None
    verdict: str | None
    parts: list[tuple[str, int]]


class Plan(TypedDict):
    """The cost of a load. `devices` is null if only the load decides where weights go; `seconds` is a range."""

    format: str
    shards: int
    tensors: int
    parameters: int
    by_dtype: list[tuple[str, int]]
    download: int
    read: int
    place: int
    placed_as: str
    host: list[tuple[str, int]]
    peak: int
    available: int | None
    host_verdict: str | None
    devices: list[DeviceRoom] | None
    offloaded: int
    verdict: str | None
    kv_cache: int | None
    kv_tokens: int
    seconds: tuple[float, float] | None


class Form(TypedDict):
    """The workbench: options, the call that reproduces them, and what they will cost."""

    groups: list[FieldGroup]
    code: str
    plan: Plan | None
    planning: bool
    error: Problem | None


class Run(TypedDict):
    """A past load; stages as (name, start, end)."""

    time: str
    options: dict[str, Any]
    seconds: float
    stages: list[tuple[str, float, float]]
    rate: float | None
    observed_peak: int | None
    predicted_peak: int | None
    cache: Literal["warm", "cold", "partly"]
    verdict: str | None


class Runs(TypedDict):
    """The past loads of this model, the newest first, and what to know before comparing them."""

    runs: list[Run]
    note: str


class Diagnosis(TypedDict):
    """Where the time of a load went: parts as (key, name, seconds), facts as (name, fact), remedies as (text, code)."""

    measuring: bool
    verdict: str
    parts: list[tuple[str, str, float]]
    facts: list[tuple[str, str]]
    remedies: list[tuple[str, str]]


class Traits(TypedDict):
    """The widget's traits."""

    _state: State
    _shards: ShardNames
    _lanes: Lanes
    _form: Form | None
    _runs: Runs
    _diagnosis: Diagnosis | None
    _texts: dict[str, dict[str, str]]
    _anchor: str

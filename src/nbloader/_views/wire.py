"""The types of the widget's traits. `scripts/generate.py` generates js/src/wire.ts from them.

Sizes are in bytes, times in seconds since the load began.
"""

from __future__ import annotations

from typing import Literal, TypedDict

from nbloader._progress.state import Status

Choice = tuple[str, int | None]
"""What a choice is called, and the bytes that the load needs with it."""


class Stage(TypedDict):
    """A stage of the load; `detail` describes its result."""

    name: str
    started: float | None
    ended: float | None
    detail: str


class Place(TypedDict):
    """A place for memory, such as the host or a device."""

    name: str
    total: int


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
    """A question, or an error with choices; an answer is the index of a choice.

    `available` is how many bytes a load may take, if the question is how to stay below it.
    """

    kind: str
    code: str
    message: str
    choices: list[Choice]
    files: list[str]
    available: int | None


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
    """What changes rarely during a load.

    `number` identifies the load in messages; `word` is its status in more detail, a key of the texts. `ahead` lists
    (number, name) of the loads before it. `began` is when its turn came; `expected` is how long each stage took in
    earlier loads of its kind. `places` are the host and each device, and `code` gives the model to the user's program.
    """

    number: int
    status: Status
    word: str
    cancelling: bool
    name: str
    commit: str | None
    stage: str | None
    began: float
    expected: dict[str, float]
    ahead: list[tuple[int, str]]
    stall: Stall | None
    gone: Gone | None
    stages: list[Stage]
    places: list[Place]
    predicted_peak: int | None
    log: list[LogLine]
    question: Question | None
    error: Failure | None
    summary: Summary | None
    code: str


class ShardNames(TypedDict):
    """The constant part of the lanes: the first `shards` files are shards, the others are other downloaded files."""

    names: list[str]
    bytes: list[int]
    shards: int


class Lane(TypedDict):
    """The changing part of one lane.

    `cached` are the bytes that were on disk before the load. A file that is not a shard is neither read nor placed.
    """

    resident: int
    read: int
    to_place: int
    placed: int
    read_started: float | None
    read_ended: float | None
    place_started: float | None
    place_ended: float | None
    downloaded: int
    cached: int
    download_started: float | None
    download_ended: float | None


Sample = tuple[float, int, int, int, int, list[int]]
"""Seconds; bytes downloaded, read and placed since the load began; memory of this process and of each device."""


class Now(TypedDict):
    """What changes all the time, and what has changed of the lanes and samples since they were last sent whole.

    `lanes` are by their index, as text. `line` says what happens now.
    """

    elapsed: float
    fraction: float
    line: str
    rate: int | None
    eta: float | None
    peak: int | None
    lanes: dict[str, Lane]
    samples: list[Sample]


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


class Room(TypedDict):
    """The memory that a load needs on the host or on a device, and the memory that is free there."""

    name: str
    needed: int
    available: int | None
    verdict: str | None


class Plan(TypedDict):
    """The cost of a load: `lines` are (label, text), and `seconds` is a range."""

    verdict: str | None
    rooms: list[Room]
    lines: list[tuple[str, str]]
    download: int
    seconds: tuple[float, float] | None


class Form(TypedDict):
    """The workbench: options, the call that reproduces them, what they will cost, and what a load would ask.

    `resident` says that the model is loaded already, and `unloads` what a load would unload; each may be empty.
    `field` is the name of the field that `error` is about, or empty.
    """

    groups: list[FieldGroup]
    code: str
    plan: Plan | None
    planning: bool
    error: Problem | None
    asked: Asked | None
    resident: str
    unloads: str
    field: str


class Run(TypedDict):
    """Past loads with the same options: their title, and the time, the stages and the figures of the latest.

    Stages are (name, start, end).
    """

    title: str
    time: str
    seconds: float
    stages: list[tuple[str, float, float]]
    figures: str


class Runs(TypedDict):
    """The past loads of this model by their options, the newest first, and what to know before comparing them."""

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
    _now: Now
    _shards: ShardNames
    _lanes: list[Lane]
    _samples: list[Sample]
    _form: Form | None
    _runs: Runs
    _diagnosis: Diagnosis | None
    _texts: dict[str, dict[str, str]]
    _anchor: str

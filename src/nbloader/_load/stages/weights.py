"""Stage "weights": read the shards into memory, and place their tensors in the model."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from nbloader._checkpoint.checkpoint import Checkpoint, placing_order
from nbloader._errors import CheckpointError
from nbloader._libraries.transformers.hooks import missing_hooks
from nbloader._libraries.transformers.loading import load_model
from nbloader._libraries.transformers.watching import Gate, PlacedItem, Watcher, can_wait
from nbloader._load.stages.config import Chosen
from nbloader._load.stages.device import read_missing, tell_reads
from nbloader._options.options import MOST_READERS, LoadOptions
from nbloader._planning.placement import CPU
from nbloader._planning.plan import LoadPlan, placed_sizes
from nbloader._planning.quantization import METHODS
from nbloader._planning.stored import find_stored, unheeded
from nbloader._progress import events
from nbloader._progress.reporter import Reporter
from nbloader._reading.pace import Pace
from nbloader._reading.readahead import Readahead, make_parts
from nbloader._system.memory import sample_memory, trim_heap
from nbloader._system.memory_file import MemoryFile
from nbloader._system.page_cache import Missing, drops_cache, find_missing, read_through
from nbloader._system.threads import make_thread
from nbloader._text.catalogue import text
from nbloader._text.units import size_text

_ROOM = 0.8
"""Share of the available memory up to which what is read ahead is safe from being evicted."""

_LEAST_WINDOW = 256 << 20  # bytes
_TRIMMED_AT_ONCE = 32 << 20
"""Bytes of weights after whose quantization the heap is given back: what it takes in between, glibc keeps."""

_LOOK_SECONDS = 0.05  # between two looks at a file's length
_SURVEYED_AT_ONCE = 256 << 20  # bytes; asking what is resident takes the kernel up to 30 ms a GB


@contextmanager
def reading(whole: Future[tuple[Checkpoint, LoadPlan]], options: LoadOptions, reporter: Reporter) -> Iterator[Supply]:
    """Read the shards in the background, in the order in which they will be placed; leaving the context ends it.

    Reading begins once the checkpoint is `whole`.
    """
    supply = Supply(whole, options, reporter)
    try:
        supply.start()
        yield supply
    finally:
        supply.stop()


class Supply:
    """The bytes of a checkpoint: what of them is read, and waiting for the rest.

    They are read into the page cache, from where placing maps them: the next load finds them there. Where storage
    does not keep its cache when a file is opened again, they are read into files in memory. What memory cannot hold
    is read no further ahead of placing than it can, or, where nothing is placed elsewhere, not at all.
    """

    def __init__(self, whole: Future[tuple[Checkpoint, LoadPlan]], options: LoadOptions, reporter: Reporter) -> None:
        self._whole = whole
        self._options = options
        self._reporter = reporter
        self._survey: Future[None] = Future()
        self._stopped = False
        self._numbers: dict[str, int] = {}
        self._copies: dict[int, MemoryFile] = {}
        self._readahead: Readahead | None = None
        self.may_be_missing = False
        """Whether bytes may be missing from the page cache still once all has been read and placed."""

    @property
    def is_read_by_placing(self) -> bool:
        """Whether nothing reads ahead, so that placing a tensor reads it."""
        return self.may_be_missing and self._readahead is None

    def start(self) -> None:
        """Begin to find out what is missing, and to read it; returns at once, or soon."""
        if self._whole.done() and self._whole.result()[0].bytes <= _SURVEYED_AT_ONCE:
            self._look()
        else:
            make_thread(self._look, "nbloader-survey").start()

    def _look(self) -> None:
        try:
            self._checkpoint, plan = self._whole.result()
            self._numbers = {os.fspath(shard.path): number for number, shard in enumerate(self._checkpoint.shards)}
            tell_reads(self._checkpoint, self._reporter)
            self._plan_reading(plan, self._options)
            if self._readahead is not None and not self._stopped and not self._readahead.is_little:
                self._readahead.start()
        except BaseException as error:  # noqa: BLE001 - raised on the thread that waits
            self._survey.set_exception(error)
        else:
            self._survey.set_result(None)
        if self._stopped:
            self.stop()

    def _looked(self) -> Readahead | None:
        """Return what reads, once it is known whether something is to be read; None where nothing is.

        A few megabytes are read here and now: another thread would win the interpreter in turns of 5 ms.
        """
        self._reporter.wait(self._survey)
        if self._readahead is not None and self._readahead.is_little and not self._readahead.is_over:
            self._readahead.run()
        return self._readahead

    def _plan_reading(self, plan: LoadPlan, options: LoadOptions) -> None:
        paths = [shard.path for shard in self._checkpoint.shards]
        missing = [find_missing(path) for path in paths]
        to_read = sum(piece.absent for pieces in missing for piece in pieces)
        room = int(_ROOM * sample_memory().available)
        drops = to_read > 0 and drops_cache(paths[0])
        if drops and options.readahead == "auto" and self._checkpoint.bytes <= room:
            missing = [[Missing(0, shard.bytes, shard.bytes)] for shard in self._checkpoint.shards]
            to_read = self._checkpoint.bytes
        for number, (shard, pieces) in enumerate(zip(self._checkpoint.shards, missing, strict=True)):
            self._reporter.tell(events.Resident, number, shard.bytes - sum(piece.absent for piece in pieces))
        if to_read == 0:
            return
        self.may_be_missing = True
        if options.readahead is False:
            return
        copied = plan.host_memory["weights"] if plan.copies else 0
        window = None if to_read + copied <= room else max(_LEAST_WINDOW, room - copied)
        if window is not None and not plan.copies:
            self._reporter.log("warning", "too_large_to_read_ahead", size=size_text(self._checkpoint.bytes))
            return
        if window is not None:
            self._reporter.log("info", "reading_in_window", size=size_text(window))
        if drops and options.readahead == "auto" and window is None:
            self._reporter.log("info", "reading_into_memory")
            self._copies = {number: MemoryFile(shard.bytes) for number, shard in enumerate(self._checkpoint.shards)}
            self.may_be_missing = False
        tensors = self._checkpoint.tensors
        used = (tensors[name] for name in placing_order(tensors))
        # What opening a file takes is in the page cache since the headers were read, but in no copy yet.
        order = self._heads() if self._copies else []
        order += [(tensor.shard, tensor.begin, tensor.end) for tensor in used]
        parts = make_parts(missing, order)
        self._readahead = Readahead(
            paths,
            parts,
            Pace(to_read, MOST_READERS, options.readers),
            lambda shard, size: self._reporter.tell(events.Read, shard, size),
            lambda readers: self._reporter.tell(events.ReadersChanged, readers),
            self._copies,
            window,
        )

    def gate(self) -> Gate | None:
        """Return what placing goes through; None where it finds everything in the files.

        Raises
        ------
        CheckpointError
            Where a file could not be read.
        LoadCancelled
            Once the load is cancelled.
        """
        with self._told(), self._reporter.spending("storage"):
            readahead = self._looked()
        is_reading = readahead is not None and not readahead.is_over
        # Where placing reads the files itself, it does so before it touches: storage that fails would kill who does.
        return self if is_reading or self._copies or self.is_read_by_placing else None

    def wait_for_all(self, keys: Sequence[str]) -> None:
        """Return once these tensors are read, on the loading thread; raises as `wait_for` does."""
        with self._reporter.spending("storage"):
            for key in keys:
                tensor = self._checkpoint.tensors.get(key)
                if tensor is not None:
                    self.wait_for(os.fspath(self._checkpoint.shards[tensor.shard].path), key)

    def wait_for(self, path: str, key: str) -> None:
        """Return once a tensor is read: `path` is its file, `key` its name in it.

        Raises
        ------
        CheckpointError
            Where it could not be read.
        LoadCancelled
            Once the load is cancelled.
        """
        number = self._numbers.get(path)
        tensor = self._checkpoint.tensors.get(key)
        if number is None or not (self._readahead or self.is_read_by_placing):
            return
        begin, end = 0, self._checkpoint.shards[number].bytes
        if tensor is not None and tensor.shard == number:
            begin, end = tensor.begin, tensor.end
        with self._told():
            if self._readahead is None:
                read_through(path, begin, end)
            else:
                self._readahead.wait_for(number, begin, end, self._reporter.check_cancelled)

    def wait(self) -> None:
        """Return once everything is read.

        Raises
        ------
        CheckpointError
            Where something could not be read.
        LoadCancelled
            Once the load is cancelled.
        """
        with self._told(), self._reporter.spending("storage"):
            readahead = self._looked()
            if readahead is not None:
                readahead.wait(self._reporter.check_cancelled)

    def path_of(self, path: str) -> str:
        """Return the path to open in a shard's place, once what opening it takes is read."""
        number = self._numbers.get(path, -1)
        copy = self._copies.get(number)
        # Of a file without a header all is read to open it, and of any other in the page cache next to nothing.
        if self._readahead is not None and (copy is not None or not self._checkpoint.tensors):
            for shard, begin, end in self._heads():
                if shard == number:
                    with self._told(), self._reporter.spending("storage"):
                        self._readahead.wait_for(shard, begin, end, self._reporter.check_cancelled)
        return path if copy is None else copy.path

    def _heads(self) -> list[tuple[int, int, int]]:
        """Return (shard, begin, end) of what lies before and behind the tensors: what opening a file reads."""
        spans: dict[int, tuple[int, int]] = {}
        for tensor in self._checkpoint.tensors.values():
            begin, end = spans.get(tensor.shard, (tensor.begin, tensor.end))
            spans[tensor.shard] = min(begin, tensor.begin), max(end, tensor.end)
        heads = []
        for number, shard in enumerate(self._checkpoint.shards):
            begin, end = spans.get(number, (shard.bytes, shard.bytes))
            heads += [(number, 0, begin), (number, end, shard.bytes)]
        return [(number, begin, end) for number, begin, end in heads if begin < end]

    def stop(self) -> None:
        """End the reading."""
        self._stopped = True
        if self._survey.done() and self._readahead is not None:
            self._readahead.stop()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                text(
                    "error",
                    "unreadable",
                    path=str(error.filename or self._checkpoint.folder),
                    error=str(error.strerror or error),
                ),
                text("hint", "check_disk"),
            ) from None


def place(
    checkpoint: Checkpoint,
    plan: LoadPlan,
    chosen: Chosen,
    options: LoadOptions,
    reporter: Reporter,
    supply: Supply,
) -> Any:
    """Return the model with every tensor in its place."""
    with reporter.stage("weights") as note:
        reporter.tell(events.PeakPredicted, sample_memory().process + plan.peak_memory)
        if not can_wait():
            supply.wait()
        lacking = missing_hooks()
        if lacking:
            reporter.log("warning", "hooks_missing", names=", ".join(lacking))
        tracker = _PlaceTracker(checkpoint, plan, options, reporter)
        if plan.dequantized is not None:
            sizes = {"size": size_text(sum(plan.bytes_to_place)), "files": size_text(checkpoint.bytes)}
            reporter.log("warning", "dequantized", method=plan.dequantized, dtype=plan.dtype or "", **sizes)
        if checkpoint.beside is not None:
            beside, number = checkpoint.beside.file, len(checkpoint.shards)
            reporter.log("info", "adapter_beside", name=beside.name, size=size_text(beside.bytes))
            read_missing([beside.path], reporter, number)
            reporter.tell(events.ReadEnded, number, beside.bytes)
        method = unheeded(checkpoint.config)
        if method:
            reporter.log("warning", "quantization_unheeded", method=method)
        model, info = load_model(
            checkpoint.folder,
            chosen.model_class,
            chosen.config,
            chosen.arguments,
            tracker.watcher(supply),
            [os.fspath(shard.path) for shard in checkpoint.shards] if checkpoint.lacks_index else None,
        )
        tracker.finish()
        supply.wait()
        _log_account(info, reporter)
        note.detail = text("detail", "tensors", count=plan.tensors, format=plan.format)
    return model


def _log_account(info: dict[str, Any], reporter: Reporter) -> None:
    for kind, level in (("missing_keys", "warning"), ("unexpected_keys", "info"), ("mismatched_keys", "warning")):
        keys = sorted(str(key) for key in info.get(kind) or ())
        if keys:
            reporter.log(level, kind, count=len(keys), keys=", ".join(keys[:3]) + (", …" if len(keys) > 3 else ""))


class _PlaceTracker:
    """Turns transformers' steps into bytes placed, shard by shard."""

    def __init__(self, checkpoint: Checkpoint, plan: LoadPlan, options: LoadOptions, reporter: Reporter) -> None:
        beside = {} if checkpoint.beside is None else checkpoint.beside.tensors
        self._files = checkpoint.files
        self._looked: dict[int, float] = {}
        self._tensors = {
            **{key: replace(tensor, shard=len(checkpoint.shards)) for key, tensor in beside.items()},
            **checkpoint.tensors,
        }
        self._sizes = {
            **{key: tensor.bytes for key, tensor in beside.items()},
            **placed_sizes(checkpoint, options),
        }
        self._opened: set[str] = set()
        self._planned = plan.bytes_to_place
        self._is_stored = find_stored(checkpoint.config, options.quantization) is not None
        is_elsewhere = options.placement not in (None, CPU)
        # Without a header the types in the file are not known: a type that was asked for may be another.
        copies = plan.copies or (not checkpoint.tensors and options.dtype != "auto")
        self._copying = "device" if is_elsewhere else "cast" if copies else "other"
        self._working = self._copying if options.quantization is None else "quantization"
        self._trims = plan.quantization in METHODS or plan.dequantized is not None
        self._untrimmed = 0
        self._reporter = reporter
        self._tally = reporter.tally(events.Placed, sum(plan.bytes_to_place))

    def watcher(self, supply: Supply) -> Watcher:
        return Watcher(
            on_open=self._open,
            on_placed=self._placed,
            on_warning=lambda text: self._reporter.log("warning", "transformers_says", text=text),
            check_cancelled=self._reporter.check_cancelled,
            gate=supply.gate(),
            step=lambda keys, tensors: self._step(supply, keys, tensors),
            spending=self._reporter.spending,
            on_stranger=lambda name: self._reporter.log("warning", "stranger", thread=name),
        )

    def finish(self) -> None:
        self._tally.flush()
        if self._trims:
            trim_heap()
        if not self._opened and self._tensors:  # this transformers tells of no step: all is placed now
            for shard, size in enumerate(self._planned):
                self._reporter.tell(events.Placed, shard, size, size)

    @contextmanager
    def _step(self, supply: Supply, keys: Sequence[str], tensors: Sequence[Future[Any]]) -> Iterator[None]:
        """Wait for what a step takes, and then let it work: the two count as what they are."""
        supply.wait_for_all(keys)
        self._check_length(keys)
        with self._reporter.spending("mixed" if supply.is_read_by_placing else self._copying):
            wait(tensors)
        with self._reporter.spending(self._working):
            yield

    def _check_length(self, keys: Sequence[str]) -> None:
        """Look, now and then, whether files still hold what is taken of them: to touch what they do not kills."""
        for key in keys:
            tensor = self._tensors.get(key)
            if tensor is None or self._reporter.now() < self._looked.get(tensor.shard, -math.inf) + _LOOK_SECONDS:
                continue
            self._looked[tensor.shard] = self._reporter.now()
            file = self._files[tensor.shard]
            if os.path.getsize(file.path) < file.bytes:
                raise CheckpointError(text("error", "shortened", path=file.path), text("hint", "again"))

    def _open(self, keys: Sequence[str]) -> None:
        if not self._tensors:
            return  # no header told of tensors: what is placed will say
        # An adapter beside the model is opened once that is placed.
        self._opened.update(keys)
        planned = [0] * len(self._files)
        for key in self._opened:
            shard, size = self._plan_of(key)
            planned[shard] += size
        self._reporter.tell(events.PlacePlanned, tuple(planned))

    def _plan_of(self, key: str) -> tuple[int, int]:
        tensor = self._tensors.get(key)
        return (tensor.shard, self._sizes[key]) if tensor is not None else (0, 0)

    def _placed(self, item: PlacedItem) -> None:
        if self._trims:
            self._untrimmed += sum(self._tensors[key].bytes for key in item.sources if key in self._tensors)
            if self._untrimmed >= _TRIMMED_AT_ONCE:
                self._untrimmed = 0
                trim_heap()
        plans = [self._plan_of(key) for key in item.sources]
        planned = sum(size for _, size in plans)
        # What a quantized tensor becomes is made inside the step.
        actual = planned if item.bytes is None or self._is_stored else item.bytes
        if not planned:
            self._tally.add(plans[0][0] if plans else 0, actual, 0)
            return
        given = 0
        for shard, size in plans[:-1]:
            share = actual * size // planned
            given += share
            self._tally.add(shard, share, size)
        shard, size = plans[-1]
        self._tally.add(shard, actual - given, size)

"""Supply: reads the weights ahead of placing, and decides how far ahead and into which memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

from nbloader._checkpoint.checkpoint import Checkpoint, placing_order
from nbloader._errors import CheckpointError
from nbloader._libraries.transformers.watching import Gate
from nbloader._load.stages.device import tell_reads
from nbloader._options.options import LoadOptions
from nbloader._options.values import MOST_READERS
from nbloader._planning.load_plan import LoadPlan
from nbloader._progress import events
from nbloader._progress.reporter import Reporter
from nbloader._reading.pace import Pace
from nbloader._reading.parts import make_parts
from nbloader._reading.readahead import Readahead
from nbloader._system.memory import sample_memory
from nbloader._system.memory_file import MemoryFile
from nbloader._system.page_cache import Missing, drops_cache, find_missing, read_through, seems_resident
from nbloader._system.threads import make_thread
from nbloader._text.catalogue import text
from nbloader._text.units import size_text

_ROOM = 0.8
"""Share of the available memory that read-ahead may fill without the risk that its bytes are evicted."""
_LEAST_WINDOW = 256 << 20  # bytes
_COUNTED = 256 << 20
"""Bytes of a checkpoint up to which every page is looked at. In a larger one that seems to be in memory, a sample is:
what is missing nevertheless, placing reads. The kernel needs up to 30 ms per GB to count."""


@contextmanager
def reading(whole: Future[tuple[Checkpoint, LoadPlan]], options: LoadOptions, reporter: Reporter) -> Iterator[Supply]:
    """Read the shards in the background, in the order of placing. Leaving the context ends the reading.

    Reading begins once the checkpoint is `whole`.
    """
    supply = Supply(whole, options, reporter)
    try:
        supply.start()
        yield supply
    finally:
        supply.stop()


class Supply:
    """The bytes of a checkpoint: reads them ahead of placing, and waits for those that are not read yet.

    They are read into the page cache: placing maps them from there, and the next load finds them there. If the storage
    drops its cache when a file is opened again, they are read into files in memory. If memory cannot hold all bytes,
    read-ahead stays within a window that memory can hold. If placing makes no copies either, nothing is read ahead.
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
        """Whether bytes may still be missing from the page cache once all are read and placed."""

    @property
    def is_read_by_placing(self) -> bool:
        """Whether there is no read-ahead, so that placing a tensor reads it."""
        return self.may_be_missing and self._readahead is None

    def start(self) -> None:
        """Start to find out which bytes are missing, and to read them; return at once, or soon."""
        checkpoint = self._whole.result()[0] if self._whole.done() else None
        if checkpoint is not None and checkpoint.bytes <= _COUNTED:
            self._look()
        elif checkpoint is not None and all(seems_resident(shard.path) for shard in checkpoint.shards):
            self._look([[] for _ in checkpoint.shards])
        else:
            make_thread(self._look, "nbloader-survey").start()

    def _look(self, missing: list[list[Missing]] | None = None) -> None:
        try:
            self._checkpoint, plan = self._whole.result()
            self._numbers = {os.fspath(shard.path): number for number, shard in enumerate(self._checkpoint.shards)}
            tell_reads(self._checkpoint, self._reporter)
            if missing is None:
                missing = [find_missing(shard.path) for shard in self._checkpoint.shards]
            self._plan_reading(plan, self._options, missing)
            if self._readahead is not None and not self._stopped and not self._readahead.is_little:
                self._readahead.start()
        except BaseException as error:  # noqa: BLE001 - raised on the thread that waits
            self._survey.set_exception(error)
        else:
            self._survey.set_result(None)
        if self._stopped:
            self.stop()

    def _looked(self) -> Readahead | None:
        """Wait until it is known what to read, and return the read-ahead; None if there is nothing to read ahead.

        A few megabytes are read on this thread: a background thread would wait 5 ms for each turn of the GIL.
        """
        self._reporter.wait(self._survey)
        if self._readahead is not None and self._readahead.is_little and not self._readahead.is_over:
            self._readahead.run()
        return self._readahead

    def _plan_reading(self, plan: LoadPlan, options: LoadOptions, missing: list[list[Missing]]) -> None:
        paths = [shard.path for shard in self._checkpoint.shards]
        to_read = sum(piece.absent for pieces in missing for piece in pieces)
        room = int(_ROOM * sample_memory().available)
        drops = to_read > 0 and drops_cache(paths[0])
        if drops and options.readahead == "auto" and self._checkpoint.bytes <= room:
            missing = [[Missing(0, shard.bytes, shard.bytes)] for shard in self._checkpoint.shards]
            to_read = self._checkpoint.bytes
        for number, (shard, pieces) in enumerate(zip(self._checkpoint.shards, missing, strict=True)):
            self._reporter.emit(events.FoundInMemory, number, shard.bytes - sum(piece.absent for piece in pieces))
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
        # Reading the headers has put the bytes that opening a file needs into the page cache, but not into the copies.
        order = self._heads() if self._copies else []
        order += [(tensor.shard, tensor.begin, tensor.end) for tensor in used]
        parts = make_parts(missing, order)
        self._readahead = Readahead(
            paths,
            parts,
            Pace(MOST_READERS, options.readers),
            lambda shard, size: self._reporter.emit(events.Read, shard, size),
            lambda readers: self._reporter.emit(events.ReadersChanged, readers),
            self._copies,
            window,
            opens_once=drops,
        )

    def gate(self) -> Gate | None:
        """Return the gate that placing must pass; None if it can take everything from the files as they are.

        Raises
        ------
        CheckpointError
            If a file could not be read.
        LoadCancelled
            If the load is cancelled.
        """
        with self._as_reading_error(), self._reporter.spending("storage"):
            readahead = self._looked()
        is_reading = readahead is not None and not readahead.is_over
        # If placing reads the files itself, it reads a tensor before it touches its mapped pages: if the storage fails,
        # touching them kills the process.
        return self if is_reading or self._copies or self.is_read_by_placing else None

    def wait_for_all(self, keys: Sequence[str]) -> None:
        """Wait until these tensors are read; raise what `wait_for` raises."""
        if self._readahead is None and not self.is_read_by_placing:
            return
        for key in keys:
            tensor = self._checkpoint.tensors.get(key)
            if tensor is not None:
                self.wait_for(os.fspath(self._checkpoint.shards[tensor.shard].path), key)

    def wait_for(self, path: str, key: str) -> None:
        """Wait until a tensor is read; `path` is its file, and `key` its name in the file.

        Raises
        ------
        CheckpointError
            If the tensor could not be read.
        LoadCancelled
            If the load is cancelled.
        """
        number = self._numbers.get(path)
        tensor = self._checkpoint.tensors.get(key)
        if number is None or not (self._readahead or self.is_read_by_placing):
            return
        begin, end = 0, self._checkpoint.shards[number].bytes
        if tensor is not None and tensor.shard == number:
            begin, end = tensor.begin, tensor.end
        with self._as_reading_error():
            if self._readahead is None:
                read_through(path, begin, end)
            else:
                self._readahead.wait_for(number, begin, end, self._reporter.check_cancelled)

    def wait(self) -> None:
        """Wait until everything is read.

        Raises
        ------
        CheckpointError
            If something could not be read.
        LoadCancelled
            If the load is cancelled.
        """
        with self._as_reading_error(), self._reporter.spending("storage"):
            readahead = self._looked()
            if readahead is not None:
                readahead.wait(self._reporter.check_cancelled)

    def path_of(self, path: str) -> str:
        """Return the path to open instead of a shard's, once the bytes that opening it needs are read."""
        number = self._numbers.get(path, -1)
        copy = self._copies.get(number)
        # Opening a file without a header reads all of it. Opening another file in the page cache reads almost nothing.
        if self._readahead is not None and (copy is not None or not self._checkpoint.tensors):
            for shard, begin, end in self._heads():
                if shard == number:
                    with self._as_reading_error(), self._reporter.spending("storage"):
                        self._readahead.wait_for(shard, begin, end, self._reporter.check_cancelled)
        return path if copy is None else copy.path

    def _heads(self) -> list[tuple[int, int, int]]:
        """Return (shard, begin, end) of the bytes before and after the tensors, which opening a file reads."""
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
    def _as_reading_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                text(
                    "error",
                    "weights_unreadable",
                    path=str(error.filename or self._checkpoint.folder),
                    error=str(error.strerror or error),
                ),
                text("hint", "check_disk"),
            ) from None

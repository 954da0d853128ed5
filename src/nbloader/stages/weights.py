"""Stage "weights": read the shards into memory, and place their tensors in the model."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from nbloader import _events as events
from nbloader import _transformers
from nbloader._checkpoint import Checkpoint
from nbloader._errors import CheckpointError, LoadCancelled
from nbloader._locale import size_text
from nbloader._memory import sample_memory
from nbloader._options import LoadOptions
from nbloader._plan import LoadPlan, placed_bytes, stays_on_cpu
from nbloader._readahead import CHUNK, Missing, find_missing, read_missing
from nbloader._reporter import Reporter
from nbloader._transformers import PlacedItem
from nbloader.stages.config import Chosen

_ROOM = 0.8
"""Share of the available memory up to which reading ahead keeps what it reads; beyond it evicts it again."""


@contextmanager
def reading(checkpoint: Checkpoint, plan: LoadPlan, reporter: Reporter) -> Iterator[Callable[[], bool]]:
    """Read the shards on a thread of its own, and give a function that waits until they are read.

    The function tells whether anything had to be read: what was resident all along stays so, and need not be looked
    at again.

    Leaving the context ends the reading. Where next to all is resident already, the little that is missing is read
    at once: a second thread would win the interpreter from this one in turns of 5 ms, which takes longer. A
    checkpoint that memory cannot hold is not read ahead: placing it, where that makes copies, reads it.
    """
    paths = [shard.path for shard in checkpoint.shards]
    # On this thread: another one would have to win the interpreter back from it at every question.
    missing = [find_missing(path) for path in paths]
    for index, (shard, ranges) in enumerate(zip(checkpoint.shards, missing, strict=True)):
        reporter.tell(events.Resident, index, shard.bytes - sum(part.absent for part in ranges))
    to_read = sum(part.absent for ranges in missing for part in ranges)
    if to_read == 0:
        yield lambda: False
        return
    if to_read > _ROOM * sample_memory().available:
        reporter.log("warning", "too_large_to_read_ahead", size=size_text(sum(plan.bytes_to_read)))
        yield lambda: True
        return
    reader = _Reader(checkpoint, missing, reporter)
    if to_read <= CHUNK:
        reader.read()
    else:
        reader.start()
    try:
        yield reader.wait
    finally:
        reader.stop()


class _Reader:
    def __init__(self, checkpoint: Checkpoint, missing: Sequence[Sequence[Missing]], reporter: Reporter) -> None:
        self._checkpoint = checkpoint
        self._missing = missing
        self._reporter = reporter
        self._done = threading.Event()
        self._stopped = threading.Event()
        self._error: BaseException | None = None

    def start(self) -> None:
        """Read on a thread of its own; returns at once."""
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self.read,), name="nbloader-reader", daemon=True).start()

    def wait(self) -> bool:
        """Return, with True, once every shard is read.

        Raises
        ------
        CheckpointError
            Where one could not be.
        LoadCancelled
            Once the load is cancelled.
        """
        while not self._done.wait(0.05):
            self._reporter.check_cancelled()
        self._reporter.check_cancelled()
        if self._error is not None:
            raise self._error
        return True

    def stop(self) -> None:
        self._stopped.set()
        self._done.wait(0.5)  # a read that hangs in the kernel must not hold the load

    def read(self) -> None:
        """Read; what goes wrong is kept for `wait`."""
        tally = self._reporter.tally(events.Read, self._checkpoint.bytes)
        try:
            paths = [shard.path for shard in self._checkpoint.shards]
            read_missing(paths, self._missing, tally.add, self._check)
            tally.flush()
        except LoadCancelled as error:
            self._error = error.with_traceback(None)
        except OSError as error:
            self._error = CheckpointError(
                f"{error.filename or self._checkpoint.folder} could not be read: {error.strerror or error}.",
                "Check the disk or the network drive, then load again.",
            )
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            self._error = error
        finally:
            self._done.set()

    def _check(self) -> None:
        self._reporter.check_cancelled()
        if self._stopped.is_set():
            raise LoadCancelled("Reading was stopped.")


def place(
    checkpoint: Checkpoint,
    plan: LoadPlan,
    chosen: Chosen,
    options: LoadOptions,
    reporter: Reporter,
    read: Callable[[], bool],
) -> Any:
    """Return the model with every tensor in its place."""
    with reporter.stage("weights") as note:
        on_cpu = stays_on_cpu(options)
        reporter.tell(events.PeakPredicted, sample_memory().process + plan.peak_memory(on_cpu))
        read()
        tracker = _PlaceTracker(checkpoint, plan, reporter)
        model, info = _transformers.load_model(
            checkpoint.folder,
            chosen.model_class,
            chosen.config,
            options.dtype,
            options.placement,
            tracker.watcher(),
        )
        tracker.finish()
        _log_account(info, reporter)
        note.detail = f"{plan.tensors} tensors, {plan.format}"
    return model


def _log_account(info: dict[str, Any], reporter: Reporter) -> None:
    for kind, level in (("missing_keys", "warning"), ("unexpected_keys", "info"), ("mismatched_keys", "warning")):
        keys = sorted(str(key) for key in info.get(kind) or ())
        if keys:
            reporter.log(level, kind, count=len(keys), keys=", ".join(keys[:3]) + (", …" if len(keys) > 3 else ""))


class _PlaceTracker:
    """Turns transformers' steps into bytes placed, shard by shard."""

    def __init__(self, checkpoint: Checkpoint, plan: LoadPlan, reporter: Reporter) -> None:
        self._tensors = checkpoint.tensors
        self._shards = len(checkpoint.shards)
        self._dtype = plan.dtype
        self._reporter = reporter
        self._tally = reporter.tally(events.Placed, sum(plan.bytes_to_place))

    def watcher(self) -> _transformers.Watcher:
        return _transformers.Watcher(
            on_open=self._open,
            on_placed=self._placed,
            on_warning=lambda text: self._reporter.log("warning", "transformers_says", text=text),
            check_cancelled=self._reporter.check_cancelled,
        )

    def finish(self) -> None:
        self._tally.flush()

    def _open(self, keys: Sequence[str]) -> None:
        if not self._tensors:
            return  # no header told of tensors: what is placed will say
        planned = [0] * self._shards
        for key in set(keys):
            shard, size = self._plan_of(key)
            planned[shard] += size
        self._reporter.tell(events.PlacePlanned, tuple(planned))

    def _plan_of(self, key: str) -> tuple[int, int]:
        tensor = self._tensors.get(key)
        return (tensor.shard, placed_bytes(tensor, self._dtype)) if tensor is not None else (0, 0)

    def _placed(self, item: PlacedItem) -> None:
        plans = [self._plan_of(key) for key in item.sources]
        planned = sum(size for _, size in plans)
        actual = planned if item.bytes is None else item.bytes
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

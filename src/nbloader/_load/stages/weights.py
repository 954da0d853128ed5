"""Stage "weights": read the shards into memory, and place their tensors in the model."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from typing import Any

from nbloader._checkpoint.checkpoint import Checkpoint
from nbloader._errors import CheckpointError
from nbloader._libraries.transformers.hooks import missing_hooks
from nbloader._libraries.transformers.loading import load_model
from nbloader._libraries.transformers.watching import PlacedItem, Watcher, can_wait
from nbloader._load.stages.config import Chosen
from nbloader._load.stages.device import read_missing
from nbloader._load.stages.supply import Supply
from nbloader._options.options import LoadOptions
from nbloader._planning.load_plan import LoadPlan
from nbloader._planning.placement import CPU
from nbloader._planning.quantization import METHODS
from nbloader._planning.sizes import placed_sizes
from nbloader._planning.stored import find_stored, unheeded
from nbloader._progress import events
from nbloader._progress.reporter import Reporter
from nbloader._system.memory import sample_memory, trim_heap
from nbloader._text.catalogue import text
from nbloader._text.units import size_text

_LOOK_SECONDS = 0.05  # between two checks of a file's length
_TRIMMED_AT_ONCE = 32 << 20
"""Bytes of weights to quantize before the heap is trimmed: glibc keeps the temporary memory of quantization."""


def place(
    checkpoint: Checkpoint,
    plan: LoadPlan,
    chosen: Chosen,
    options: LoadOptions,
    reporter: Reporter,
    supply: Supply,
) -> Any:
    """Load the weights, and return the model with every tensor in place."""
    with reporter.stage("weights") as note:
        reporter.emit(events.PeakPredicted, sample_memory().process + plan.peak_memory)
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
            reporter.emit(events.ReadEnded, number, beside.bytes)
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
    """Converts the steps of transformers into placed bytes per shard."""

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
        # Without a header, the dtypes in the file are unknown: the requested dtype may be a different one.
        copies = plan.copies or (not checkpoint.tensors and options.dtype != "auto")
        self._copying = "device" if is_elsewhere else "cast" if copies else "other"
        self._working = self._copying if options.quantization is None else "quantization"
        self._trims = plan.quantization in METHODS or plan.dequantized is not None
        self._untrimmed = 0
        self._outer: str | None = None
        self._reporter = reporter
        self._tally = reporter.tally(events.Placed, sum(plan.bytes_to_place))

    def watcher(self, supply: Supply) -> Watcher:
        return Watcher(
            on_open=self._open,
            on_placed=self._placed,
            on_warning=lambda text: self._reporter.log("warning", "transformers_says", text=text),
            check_cancelled=self._reporter.check_cancelled,
            gate=supply.gate(),
            before_step=lambda keys, tensors: self._before_step(supply, keys, tensors),
            spending=self._reporter.spending,
            on_stranger=lambda name: self._reporter.log("warning", "stranger", thread=name),
        )

    def finish(self) -> None:
        self._tally.flush()
        if self._trims:
            trim_heap()
        if not self._opened and self._tensors:  # this transformers reports no steps: all is placed now
            for shard, size in enumerate(self._planned):
                self._reporter.emit(events.Placed, shard, size, size)

    def _before_step(self, supply: Supply, keys: Sequence[str], tensors: Sequence[Future[Any]]) -> None:
        """Wait for the tensors that a step needs; count the times of waiting, of copying and of the step separately."""
        self._outer = self._reporter.turn_to("storage")
        supply.wait_for_all(keys)
        self._check_length(keys)
        self._reporter.turn_to("mixed" if supply.is_read_by_placing else self._copying)
        if not all(tensor.done() for tensor in tensors):  # to wait for none of them takes long, too
            wait(tensors)
        self._reporter.turn_to(self._working)

    def _check_length(self, keys: Sequence[str]) -> None:
        """Check now and then that files are not truncated: touching a mapped page after their end kills the process."""
        for key in keys:
            tensor = self._tensors.get(key)
            if tensor is None or self._reporter.now() < self._looked.get(tensor.shard, -math.inf) + _LOOK_SECONDS:
                continue
            self._looked[tensor.shard] = self._reporter.now()
            file = self._files[tensor.shard]
            if os.path.getsize(file.path) < file.bytes:
                raise CheckpointError(text("error", "truncated_during_load", path=file.path), text("hint", "again"))

    def _open(self, keys: Sequence[str]) -> None:
        if not self._tensors:
            return  # without headers, the tensors are unknown until they are placed
        # An adapter beside the model is opened after the model is placed.
        self._opened.update(keys)
        planned = [0] * len(self._files)
        for key in self._opened:
            shard, size = self._plan_of(key)
            planned[shard] += size
        self._reporter.emit(events.PlacePlanned, tuple(planned))

    def _plan_of(self, key: str) -> tuple[int, int]:
        tensor = self._tensors.get(key)
        return (tensor.shard, self._sizes[key]) if tensor is not None else (0, 0)

    def _placed(self, item: PlacedItem) -> None:
        self._reporter.turn_to(self._outer)
        if self._trims:
            self._untrimmed += sum(self._tensors[key].bytes for key in item.sources if key in self._tensors)
            if self._untrimmed >= _TRIMMED_AT_ONCE:
                self._untrimmed = 0
                trim_heap()
        plans = [self._plan_of(key) for key in item.sources]
        planned = sum(size for _, size in plans)
        # A quantized tensor is made inside the step, so the step does not report its actual bytes.
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

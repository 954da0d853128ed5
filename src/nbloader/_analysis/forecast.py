"""Forecast, before a load begins, of the bytes that it moves, the memory that it needs and the time that it takes."""

from __future__ import annotations

import dataclasses
import os
from typing import NamedTuple

from nbloader._analysis import history
from nbloader._checkpoint.adapter import Adapter, check_adapter, find_adapter, missing_bytes
from nbloader._checkpoint.checkpoint import Checkpoint
from nbloader._checkpoint.source import Source, find_source
from nbloader._errors import os_failure
from nbloader._libraries.peft import check_peft
from nbloader._load.stages.download import look
from nbloader._options.options import LoadOptions, changed_options
from nbloader._planning.load_plan import LoadPlan
from nbloader._planning.plan import make_plan
from nbloader._safety.redaction import clean, leaving
from nbloader._system.memory import find_free
from nbloader._system.page_cache import find_missing


class Looked(NamedTuple):
    """What the headers of a checkpoint tell about it."""

    name: str
    checkpoint: Checkpoint
    bytes_to_download: int
    bytes_resident: int
    is_on_hub: bool


def look_in(model: str | os.PathLike[str], options: LoadOptions) -> Looked:
    """Return what the headers of a checkpoint tell, without reading the weights; raises as `plan` does."""
    source = find_source(model, options)
    checkpoint, left = look(source, options)
    return Looked(source.name, checkpoint, left, resident_bytes(checkpoint), source.repository is not None)


def look_at(model: str | os.PathLike[str], options: LoadOptions) -> tuple[Source, Checkpoint, LoadPlan]:
    """Return the source, the checkpoint and the plan of its load; raises as `plan` does."""
    with leaving(str(model)):
        try:
            source = find_source(model, options)
            checkpoint, bytes_to_download = look(source, options)
            adapter = find_adapter(options)
            check_fits(adapter, os.fspath(model), checkpoint, options)
        except OSError as error:
            raise os_failure(error, os.fspath(model)) from None
        made = foresee(checkpoint, options, bytes_to_download, resident_bytes(checkpoint), adapter)
    return source, checkpoint, clean(made)


def check_fits(adapter: Adapter | None, model: str, checkpoint: Checkpoint, options: LoadOptions) -> None:
    """Refuse an adapter that cannot be attached here or does not fit this checkpoint; None passes."""
    if adapter is not None:
        check_peft()
        check_adapter(adapter, model, checkpoint, options)


def foresee(
    checkpoint: Checkpoint, options: LoadOptions, bytes_to_download: int, resident: int, adapter: Adapter | None
) -> LoadPlan:
    """Return the plan of a load that would begin now, with `resident` bytes of the weights in memory."""
    to_download = bytes_to_download + (0 if adapter is None else missing_bytes(adapter, options))
    made = make_plan(checkpoint, options, to_download, find_free(), adapter)
    known, imports = history.runs(), history.must_import()
    seconds = history.predict_seconds(made, changed_options(options), resident, known, imports=imports)
    return dataclasses.replace(made, seconds=seconds)


def resident_bytes(checkpoint: Checkpoint) -> int:
    """Return how many bytes of the weights are in memory; files yet to be downloaded count, as they pass through it."""
    absent = 0
    for shard in checkpoint.shards:
        if shard.path.is_file():
            absent += sum(piece.absent for piece in find_missing(shard.path))
    return checkpoint.bytes - absent

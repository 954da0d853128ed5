"""Stage "device": make sure that every byte is in memory or on its device, as "ready" promises."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nbloader._checkpoint.checkpoint import Checkpoint
from nbloader._options.values import MOST_READERS
from nbloader._progress import events
from nbloader._progress.reporter import Reporter
from nbloader._reading.pace import Pace
from nbloader._reading.parts import make_parts
from nbloader._reading.readahead import Readahead
from nbloader._system.memory import sample_memory
from nbloader._system.page_cache import find_missing, make_resident, untouched_bytes
from nbloader._system.storage import count_reads


def finish_placing(model: Any, checkpoint: Checkpoint, reporter: Reporter, *, may_be_missing: bool) -> None:
    """Read the mapped bytes that are not resident, and wait for devices to finish their copies.

    Bytes that were read may be gone again: the host is short of memory, or the storage drops its cache when a file is
    opened. Then the model's own memory is touched, which reads its pages again. `may_be_missing` is whether to look
    for missing bytes.
    """
    import torch

    with reporter.stage("device") as note:
        if may_be_missing:
            with reporter.spending("storage"):
                if read_missing([shard.path for shard in checkpoint.shards], reporter):
                    for address, length in _cpu_storages(model):
                        make_resident(address, length, reporter.check_cancelled)
        devices = devices_of(model.parameters())
        with reporter.spending("device"):
            if any(device.startswith("cuda") for device in devices):
                torch.cuda.synchronize()
            if "mps" in devices:
                torch.mps.synchronize()
        for index, shard in enumerate(checkpoint.shards):
            reporter.emit(events.ReadEnded, index, shard.bytes)
        tell_reads(checkpoint, reporter)
        tell_held(model, reporter)
        note.detail = ", ".join(devices)


def tell_held(model: Any, reporter: Reporter) -> None:
    """Emit the memory that the process holds, and the mapped weights in memory that its RSS does not count."""
    untouched = untouched_bytes(list(_cpu_storages(model)))
    reporter.emit(events.MemorySampled, sample_memory())
    reporter.emit(events.Untouched, untouched)


def tell_reads(checkpoint: Checkpoint, reporter: Reporter) -> None:
    """Emit how many bytes have been read so far from the disk that holds the checkpoint."""
    counted = count_reads(checkpoint.folder)
    if counted is not None:
        reporter.emit(events.ReadsCounted, *counted)


def devices_of(tensors: Iterable[Any]) -> list[str]:
    """Return the sorted names of the devices that hold the tensors."""
    return sorted(map(str, {tensor.device for tensor in tensors}))


def read_missing(paths: Sequence[Path], reporter: Reporter, shard: int | None = None) -> bool:
    """Read the bytes of the files that are missing in the page cache; return whether some are still missing.

    If `shard` is given, the bytes are reported as those of that shard.
    """
    missing = [find_missing(path) for path in paths]
    parts = make_parts(missing)
    if shard is not None:
        absent = sum(piece.absent for pieces in missing for piece in pieces)
        reporter.emit(events.FoundInMemory, shard, sum(path.stat().st_size for path in paths) - absent)
    if not parts:
        return False

    def read(file: int, size: int) -> None:
        if shard is not None:
            reporter.emit(events.Read, shard, size)

    readahead = Readahead(paths, parts, Pace(MOST_READERS), read)
    try:
        if readahead.is_little:
            readahead.run()
        else:
            readahead.start()
        readahead.wait(reporter.check_cancelled)
    finally:
        readahead.stop()
    return any(find_missing(path) for path in paths)


def _cpu_storages(model: Any) -> Iterator[tuple[int, int]]:
    seen = set()
    for tensor in (part for whole in (*model.parameters(), *model.buffers()) for part in parts_of(whole)):
        if tensor.device.type != "cpu":
            continue
        storage = tensor.untyped_storage()
        if storage.nbytes() and storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            yield storage.data_ptr(), storage.nbytes()


def parts_of(tensor: Any) -> Iterator[Any]:
    """Yield the tensors with memory of their own that make up a tensor: one tensor of torchao has several."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from parts_of(getattr(tensor, name))
    else:
        yield tensor

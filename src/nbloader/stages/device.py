"""Stage "device": keep the promise of "ready": every byte is in memory, or on its device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nbloader import _events as events
from nbloader._checkpoint import Checkpoint
from nbloader._readahead import find_missing, make_resident
from nbloader._reporter import Reporter


def settle(model: Any, checkpoint: Checkpoint, reporter: Reporter, *, was_read: bool) -> None:
    """Read what is mapped and not resident, and wait for devices to finish their copies.

    What reading had brought in may be gone again: storage that drops its cache when a file is opened, a host short of
    memory. Then the model's own memory is touched, which brings it in wherever it comes from. `was_read` tells whether
    there was anything to read at all.
    """
    import torch

    with reporter.stage("device") as note:
        if was_read and any(find_missing(shard.path) for shard in checkpoint.shards):
            for address, length in _cpu_storages(model):
                make_resident(address, length, reporter.check_cancelled)
        devices = sorted({str(parameter.device) for parameter in model.parameters()})
        if any(device.startswith("cuda") for device in devices):
            torch.cuda.synchronize()
        if "mps" in devices:
            torch.mps.synchronize()
        for index, shard in enumerate(checkpoint.shards):
            reporter.tell(events.ReadEnded, index, shard.bytes)
        note.detail = ", ".join(devices)


def _cpu_storages(model: Any) -> Iterator[tuple[int, int]]:
    seen = set()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type != "cpu":
            continue
        try:
            storage = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):
            continue  # a tensor subclass (quantized weights) that has no storage of its own
        if storage.nbytes() and storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            yield storage.data_ptr(), storage.nbytes()

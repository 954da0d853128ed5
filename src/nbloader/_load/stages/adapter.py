"""Stage "adapter": read an adapter, attach it to the model that is in memory, and merge it if asked to."""

from __future__ import annotations

from typing import Any

from nbloader._checkpoint.adapter import Adapter
from nbloader._libraries import peft
from nbloader._load.stages.device import read_missing, tell_held
from nbloader._options.options import LoadOptions
from nbloader._progress import events
from nbloader._progress.reporter import Reporter
from nbloader._text.catalogue import text
from nbloader._text.units import size_text


def attach_adapter(model: Any, adapter: Adapter, shard: int, options: LoadOptions, reporter: Reporter) -> Any:
    """Attach the adapter and return the model; the adapter's bytes are reported as those of shard number `shard`.

    Raises
    ------
    CheckpointError
        If the adapter does not fit the model, or lacks tensors.
    """
    with reporter.stage("adapter") as note:
        read_missing([adapter.weights.path], reporter, shard)
        reporter.emit(events.ReadEnded, shard, adapter.weights.bytes)
        reporter.emit(events.Placed, shard, 0, 0)

        def warn(warning: str) -> None:
            reporter.log("warning", "peft_says", text=warning)

        model = peft.attach(model, adapter.folder, adapter.name, warn)
        reporter.check_cancelled()
        if options.merge_adapter:
            model = peft.merge(model, adapter.name)
        reporter.emit(events.Placed, shard, adapter.weights.bytes, adapter.weights.bytes)
        tell_held(model, reporter)
        code = "merged" if options.merge_adapter else "attached"
        note.detail = text("detail", code, name=adapter.name, size=size_text(adapter.weights.bytes))
    return model

"""Stage "adapter": read an adapter, attach it to the model that is in memory, and merge it if asked to."""

from __future__ import annotations

from typing import Any

from nbloader import _events as events
from nbloader import _peft
from nbloader._adapter import Adapter
from nbloader._locale import size_text, text
from nbloader._options import LoadOptions
from nbloader._reporter import Reporter
from nbloader.stages.device import read_missing, tell_held


def attach_adapter(model: Any, adapter: Adapter, shard: int, options: LoadOptions, reporter: Reporter) -> Any:
    """Return the model with the adapter, whose bytes are told as those of one more shard, by the number `shard`.

    Raises
    ------
    CheckpointError
        Where it has no place in the model.
    """
    with reporter.stage("adapter") as note:
        read_missing([adapter.weights.path], reporter, shard)
        reporter.tell(events.ReadEnded, shard, adapter.weights.bytes)
        reporter.tell(events.Placed, shard, 0, 0)

        def warn(warning: str) -> None:
            reporter.log("warning", "peft_says", text=warning)

        model = _peft.attach(model, adapter.folder, adapter.name, warn)
        reporter.check_cancelled()
        if options.merge_adapter:
            model = _peft.merge(model, adapter.name)
        reporter.tell(events.Placed, shard, adapter.weights.bytes, adapter.weights.bytes)
        tell_held(model, reporter)
        code = "merged" if options.merge_adapter else "attached"
        note.detail = text("detail", code, name=adapter.name, size=size_text(adapter.weights.bytes))
    return model

"""Stage "metadata": what was loaded, in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from nbloader import _transformers
from nbloader._reporter import Reporter
from nbloader._source import Source
from nbloader.stages.device import devices_of


def describe(model: Any, tokenizer: Any, source: Source, reporter: Reporter) -> Mapping[str, Any]:
    """Return the figures shown for a model that is ready.

    Keys: ``model_class``, ``tokenizer_class`` (None without one), ``parameters`` (elements), ``bytes`` (of parameters
    and buffers, each storage once), ``dtype``, ``device``.
    """
    with reporter.stage("metadata") as note:
        if source.repository is not None:
            _transformers.name_model(model, source.name, source.commit)
        parameters, buffers = list(model.parameters()), list(model.buffers())
        dtypes = Counter(parameter.dtype for parameter in parameters).most_common()
        summary = {
            "model_class": type(model).__name__,
            "tokenizer_class": None if tokenizer is None else type(tokenizer).__name__,
            "parameters": sum(parameter.numel() for parameter in parameters),
            "bytes": sum(tensor.nbytes for tensor in (*parameters, *buffers)),
            "dtype": " + ".join(str(dtype).removeprefix("torch.") for dtype, _ in dtypes),
            "device": ", ".join(devices_of(parameters)),
        }
        note.detail = f"{summary['parameters']:,} parameters"
    return summary

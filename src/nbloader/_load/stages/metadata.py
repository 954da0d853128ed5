"""Stage "metadata": the figures of the loaded model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from nbloader._checkpoint.source import Source
from nbloader._libraries.transformers.loading import name_model
from nbloader._load.stages.device import devices_of, parts_of
from nbloader._planning.load_plan import LoadPlan
from nbloader._progress.reporter import Reporter
from nbloader._text.catalogue import text


def describe(model: Any, tokenizer: Any, source: Source, plan: LoadPlan, reporter: Reporter) -> Mapping[str, Any]:
    """Return the figures shown for a model that is ready.

    Keys: ``model_class``, ``tokenizer_class`` (None without one), ``parameters`` (elements), ``bytes`` (of parameters
    and buffers, each storage once), ``dtype``, ``device``.
    """
    with reporter.stage("metadata") as note:
        if source.repository is not None:
            base = model.get_base_model() if hasattr(model, "get_base_model") else model  # inside peft's wrapper
            name_model(base, source.name, source.commit)
        parameters, buffers = list(model.parameters()), list(model.buffers())
        dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in parameters if not _is_packed(tensor))
        words = [plan.quantization] if plan.quantization is not None else []
        summary = {
            "model_class": type(model).__name__,
            "tokenizer_class": None if tokenizer is None else type(tokenizer).__name__,
            "parameters": _count(model, parameters),
            "bytes": sum(map(stored_bytes, (*parameters, *buffers))),
            "dtype": " + ".join([*words, *(name for name, _ in dtypes.most_common())]),
            "device": ", ".join(device.replace("meta", "disk") for device in devices_of(parameters)),
        }
        note.detail = text("detail", "parameters", count=f"{summary['parameters']:,}")
    return summary


def _count(model: Any, parameters: Sequence[Any]) -> int:
    """Return the number of parameters; transformers knows how many values a packed tensor holds."""
    if hasattr(model, "num_parameters"):
        return int(model.num_parameters())
    return sum(parameter.numel() for parameter in parameters)


def _is_packed(tensor: Any) -> bool:
    """Return whether a parameter is packed by a quantization, so that its dtype is not that of its values."""
    return not tensor.dtype.is_floating_point or hasattr(tensor, "__tensor_flatten__")


def stored_bytes(tensor: Any) -> int:
    """Return the bytes that a tensor takes in memory, with the scales that a quantization stores beside it."""
    state = getattr(tensor, "quant_state", None)  # bitsandbytes' 4-bit, whose scales may be quantized themselves
    states = [state, getattr(state, "state2", None)]
    kept = (getattr(each, name, None) for each in states for name in ("absmax", "code"))
    scales = (getattr(tensor, "SCB", None), getattr(state, "offset", None), *kept)
    parts = [*parts_of(tensor), *(scale for scale in scales if scale is not None)]
    return sum(int(part.nbytes) for part in parts)

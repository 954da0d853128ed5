"""Detects that a model has changed since it was loaded, without reading all of its weights.

Optimizer steps and other in-place operations raise a tensor's version. Casts, moves, other heads and adapters change
its type, its device or the modules around it. A write through ``.data`` (peft merges adapters this way) changes none of
these, so a few elements of each tensor are compared, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_SAMPLES = 4  # elements of each tensor

ModelState = dict[str, tuple[Any, ...]]
"""The values to compare, by the name of a module or tensor."""


def state_of_model(model: Any) -> ModelState:
    """Return the state of a model's modules, parameters and persistent buffers."""
    import torch

    state: ModelState = {f"{name}:": (type(module), module.training) for name, module in model.named_modules()}
    for name, tensor in _tensors(model):
        state[name] = type(tensor), str(tensor.device), tensor.requires_grad
        # Packed weights are left out: bitsandbytes rearranges its own in the first forward pass.
        if type(tensor) in (torch.Tensor, torch.nn.Parameter):
            state[name] += tensor.dtype, tuple(tensor.shape), tensor._version, _sample(tensor)
    return state


def first_change(before: ModelState, model: Any) -> str:
    """Return the name of a module or tensor that has changed; empty if none has."""
    now = state_of_model(model)
    names = (name for name in {**before, **now} if before.get(name) != now.get(name))
    return next((name.rstrip(":") or type(model).__name__ for name in names), "")


def _tensors(model: Any) -> Iterator[tuple[str, Any]]:
    yield from model.named_parameters(remove_duplicate=False)
    for prefix, module in model.named_modules():
        for name, buffer in module._buffers.items():
            # A forward pass may replace buffers that are in no file, such as the frequencies of rotary embeddings.
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield (f"{prefix}.{name}" if prefix else name), buffer


def _sample(tensor: Any) -> bytes:
    """Return a few evenly spaced elements; nothing if the tensor is on the meta device, empty or not contiguous."""
    import torch

    if tensor.is_meta or not tensor.numel() or not tensor.is_contiguous():
        return b""
    elements = tensor.detach().view(-1)[:: -(-tensor.numel() // _SAMPLES)]
    return bytes(elements.contiguous().view(torch.uint8).cpu().numpy())

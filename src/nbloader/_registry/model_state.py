"""What tells a model that has been changed since it was loaded, without reading all of its weights.

Steps of an optimizer and other work in place count up a tensor's version; casts, moves, other heads and adapters change
its type, its place or the modules around it. What is written through ``.data`` (peft merges adapters so) leaves all of
that as it was: of each tensor a few elements are kept, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_SAMPLES = 4  # elements of each tensor

ModelState = dict[str, tuple[Any, ...]]
"""By the name of a module or tensor: what is compared."""


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
    """Return the name of a module or tensor that is not as it was; empty where all are."""
    now = state_of_model(model)
    names = (name for name in {**before, **now} if before.get(name) != now.get(name))
    return next((name.rstrip(":") or type(model).__name__ for name in names), "")


def _tensors(model: Any) -> Iterator[tuple[str, Any]]:
    yield from model.named_parameters(remove_duplicate=False)
    for prefix, module in model.named_modules():
        for name, buffer in module._buffers.items():
            # What is in no file may be made anew by a forward pass: the frequencies of rotary embeddings, for one.
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield (f"{prefix}.{name}" if prefix else name), buffer


def _sample(tensor: Any) -> bytes:
    """Return a few elements, evenly spaced; nothing of what is on disk or not in one piece."""
    import torch

    if tensor.is_meta or not tensor.numel() or not tensor.is_contiguous():
        return b""
    elements = tensor.detach().view(-1)[:: -(-tensor.numel() // _SAMPLES)]
    return bytes(elements.contiguous().view(torch.uint8).cpu().numpy())

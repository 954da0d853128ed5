"""Detects that a model has changed since it was loaded, without reading all of its weights.

Optimizer steps and other in-place operations raise a tensor's version. Casts, moves, other heads and adapters change
its type, its device or the modules around it. A write through ``.data`` (peft merges adapters this way) changes none of
these, so a few elements of each tensor are compared, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_SAMPLES = 4  # elements of each tensor

ModelState = dict[str, tuple[Any, ...]]
"""The values to compare, by the name of a module or tensor."""


def state_of_model(model: Any) -> ModelState:
    """Return the state of a model's modules, parameters and persistent buffers."""
    import torch

    state: ModelState = {f"{name}:": (type(module), module.training) for name, module in model.named_modules()}
    plain = {}
    for name, tensor in _tensors(model):
        state[name] = type(tensor), str(tensor.device), tensor.requires_grad
        # Packed weights are left out: bitsandbytes rearranges its own in the first forward pass.
        if type(tensor) in (torch.Tensor, torch.nn.Parameter):
            state[name] += tensor.dtype, tuple(tensor.shape), tensor._version
            plain[name] = tensor
    for name, sample in _samples(plain).items():
        state[name] += (sample,)
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


def _samples(tensors: Mapping[str, Any]) -> dict[str, bytes]:
    """Return a few evenly spaced elements of each tensor that is not on the meta device, empty or not contiguous.

    The elements of all tensors of one type on one device are copied together: a copy for each would take milliseconds.
    """
    import torch

    groups: dict[tuple[Any, Any], dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if not tensor.is_meta and tensor.numel() and tensor.is_contiguous():
            elements = tensor.detach().view(-1)[:: -(-tensor.numel() // _SAMPLES)]
            groups.setdefault((tensor.dtype, tensor.device), {})[name] = elements
    samples = {}
    for group in groups.values():
        together, begin = bytes(torch.cat([*group.values()]).view(torch.uint8).cpu().numpy()), 0
        for name, elements in group.items():
            end = begin + elements.nbytes
            samples[name], begin = together[begin:end], end
    return samples

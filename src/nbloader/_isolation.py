"""What a library changes for the whole process, for one thread only.

``from_pretrained`` sets torch's default dtype and replaces functions of torch and of its own while it builds a model.
Here are stand-ins that change the same for the thread that builds, and for no other.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

_NAMES_A_TYPE = {"float", "double", "half", "bfloat16", "type", "type_as"}


@contextlib.contextmanager
def here_only(
    owner: Any, name: str, replacement: Callable[..., Any], on_other: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Have calls of ``owner.name`` on this thread go to `replacement`; other threads' go where they went.

    `on_other` is called on another thread that calls it.

    Where somebody else replaces it meanwhile, and puts it back later, what stays is a call of the original.
    """
    thread = threading.get_ident()
    original = vars(owner)[name]
    plain = original.__func__ if isinstance(original, (classmethod, staticmethod)) else original
    is_on = True

    @functools.wraps(plain)
    def dispatch(*args: Any, **kwargs: Any) -> Any:
        if is_on and threading.get_ident() == thread:
            return replacement(*args, **kwargs)
        if is_on:
            on_other()
        return plain(*args, **kwargs)

    ours = type(original)(dispatch) if isinstance(original, (classmethod, staticmethod)) else dispatch
    setattr(owner, name, ours)
    try:
        yield
    finally:
        is_on = False
        if vars(owner)[name] is ours:
            setattr(owner, name, original)


@contextlib.contextmanager
def default_dtype(dtype: Any) -> Iterator[None]:
    """Have tensors that this thread makes without naming a type be of `dtype`."""
    import torch

    with (
        here_only(torch, "get_default_dtype", lambda: dtype),
        _typed_by_hand(dtype),
        _mode(lambda call: _typed(call, dtype)),
    ):
        yield


@contextlib.contextmanager
def _typed_by_hand(dtype: Any) -> Iterator[None]:
    """Have ``torch.Tensor(...)`` of this thread give tensors of `dtype`.

    The old constructor asks no mode. Its ``__init__`` runs after each call, and is that of object, which does nothing;
    ``torch.FloatTensor(...)`` and what else names its type does not call it.
    """
    import torch

    thread = threading.get_ident()
    is_on = True
    outer = vars(torch.Tensor).get("__init__")  # another load's, which was left behind

    def init(tensor: Any, *args: Any, **kwargs: Any) -> None:
        if not is_on or threading.get_ident() != thread:
            if outer is not None:
                outer(tensor, *args, **kwargs)
            return
        if type(tensor) is not torch.Tensor or not tensor.dtype.is_floating_point:
            return
        given = args[0] if len(args) == 1 else None
        is_shape = isinstance(given, (torch.Size, torch.Tensor))
        if not is_shape and (isinstance(given, (list, tuple)) or hasattr(given, "__array__")):
            # From the numbers themselves, so that they are rounded once.
            tensor.data = torch.tensor(given, dtype=dtype, device=tensor.device)
        else:
            tensor.data = tensor.data.to(dtype)

    torch.Tensor.__init__ = init
    try:
        yield
    finally:
        is_on = False
        is_last = vars(torch.Tensor).get("__init__") is init  # else a load that came after goes through this
        if is_last and outer is None:
            del torch.Tensor.__init__
        elif is_last:
            torch.Tensor.__init__ = outer


@contextlib.contextmanager
def linspace_on_cpu() -> Iterator[None]:
    """Have ``torch.linspace`` of this thread make values on the CPU where no device is named."""
    import torch

    def run(call: _Call) -> Any:
        if call.function is torch.linspace:
            call.kwargs.setdefault("device", "cpu")
        return call()

    with _mode(run):
        yield


@contextlib.contextmanager
def replaced_here(replacements: Iterable[tuple[Any, str, Callable[..., Any]]]) -> Iterator[None]:
    """Have calls of each (owner, name, replacement) go to the replacement, as `here_only` does for one."""
    with contextlib.ExitStack() as stack:
        for owner, name, replacement in replacements:
            stack.enter_context(here_only(owner, name, replacement))
        yield


class _Call:
    """A call of a function of torch."""

    __slots__ = ("args", "function", "kwargs")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs

    def __call__(self, **changes: Any) -> Any:
        return self.function(*self.args, **{**self.kwargs, **changes})


def _mode(run: Callable[[_Call], Any]) -> Any:
    """Return a context in which `run` answers every call of this thread to a function of torch."""
    return _mode_class()(run)


@functools.cache
def _mode_class() -> Any:
    from torch.overrides import TorchFunctionMode

    class Mode(TorchFunctionMode):  # type: ignore[misc]
        def __init__(self, run: Callable[[_Call], Any]) -> None:
            super().__init__()
            self._run = run

        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            return self._run(_Call(func, args, dict(kwargs or {})))

    return Mode


def _typed(call: _Call, dtype: Any) -> Any:
    """Return what a call gives where `dtype` is the default: what has another type by default is made anew.

    What the process's default is does not count: another thread may be changing it.
    """
    import torch

    made = call()
    is_right = not isinstance(made, torch.Tensor) or made.dtype == dtype or not made.dtype.is_floating_point
    if is_right or _names_type(call):
        return made
    if _makes(call.function):
        return call(dtype=dtype)
    return made.to(dtype)


def _names_type(call: _Call) -> bool:
    """Tell whether the type of what a call gives is not the default: it is named, or that of something given."""
    import torch

    given = (*call.args, *call.kwargs.values())
    return getattr(call.function, "__name__", "") in _NAMES_A_TYPE or any(
        isinstance(value, torch.dtype) or _is_typed(value) for value in given
    )


def _is_typed(value: Any) -> bool:
    """Tell whether a value brings a floating type along: a tensor or an array of numpy, or a list of such."""
    if isinstance(value, (list, tuple)):
        return any(map(_is_typed, value))
    dtype = getattr(value, "dtype", None)
    return dtype is not None and (getattr(dtype, "is_floating_point", None) or getattr(dtype, "kind", "") == "f")


def _makes(function: Any) -> bool:
    import torch
    from torch.utils._device import _device_constructors

    # torch keeps that list from its first use on, which may have been while transformers had replaced linspace.
    return function in _device_constructors() or function is torch.linspace

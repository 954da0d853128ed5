"""What a library changes for the whole process, for one thread only.

``from_pretrained`` sets torch's default dtype and replaces functions of torch and of its own while it builds a model.
Here are stand-ins that change the same for the thread that builds, and for no other.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

_NAMES_A_TYPE = {"float", "double", "half", "bfloat16", "type", "type_as"}


_switching = threading.Lock()
"""Held while something is replaced or put back, so that no two threads do it at once."""
_outer: weakref.WeakKeyDictionary[Callable[..., Any], Callable[[], Any]] = weakref.WeakKeyDictionary()
"""By stand-in: tells what it stands in front of once it is of no more use, else None."""


class _Patch:
    """Whose calls go to a replacement, and whether they still do."""

    def __init__(self) -> None:
        self.thread, self.is_on = threading.get_ident(), True


_stand_ins: weakref.WeakSet[_Patch] = weakref.WeakSet()


def _begin_anew() -> None:
    """Begin in a process that was forked: other threads are not there, and new ones get their numbers."""
    global _switching
    _switching = threading.Lock()
    for stand_in in list(_stand_ins):
        stand_in.is_on = stand_in.is_on and stand_in.thread == threading.get_ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


@contextlib.contextmanager
def patched_on_this_thread(
    owner: Any,
    name: str,
    replacement: Callable[..., Any],
    elsewhere: Callable[..., Any] | None = None,
    lasting: Callable[[Any], Any] = lambda found: found,
) -> Iterator[None]:
    """Have calls of ``owner.name`` on this thread go to `replacement`; other threads' go where they went.

    `owner` need not have it itself: then calls of other threads do nothing. `elsewhere` takes other threads' calls in
    the place of what was there. `lasting` takes what was found, which a library may have put there for a moment, and
    returns what is there otherwise: that is what is called, and put back.

    Where somebody else replaces it meanwhile, and puts it back later, what stays is a call of the original.
    """
    own = _Patch()
    _stand_ins.add(own)
    ours: Any = None
    try:
        with _switching:
            original = lasting(_in_use(vars(owner).get(name, _nothing)))
            plain = _function_of(original)
            theirs = elsewhere or plain

            @functools.wraps(plain)
            def dispatch(*args: Any, **kwargs: Any) -> Any:
                if not own.is_on:
                    return plain(*args, **kwargs)
                return (replacement if threading.get_ident() == own.thread else theirs)(*args, **kwargs)

            _outer[dispatch] = lambda: None if own.is_on else original
            ours = type(original)(dispatch) if isinstance(original, (classmethod, staticmethod)) else dispatch
            setattr(owner, name, ours)
        yield
    finally:
        with _switching:
            own.is_on = False
            if ours is not None and vars(owner).get(name) is ours:
                found = _in_use(original)
                if found is _nothing:
                    delattr(owner, name)
                else:
                    setattr(owner, name, found)


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """Stand where nothing was found."""


def _function_of(found: Any) -> Any:
    return found.__func__ if isinstance(found, (classmethod, staticmethod)) else found


def _in_use(found: Any) -> Any:
    """Return what was found, or what it stands in front of where it is a stand-in that is of no more use."""
    while True:
        try:
            outer = _outer.get(_function_of(found), lambda: None)()
        except TypeError:  # a callable that cannot be referred to weak_method is none of ours
            return found
        if outer is None:
            return found
        found = outer


@contextlib.contextmanager
def default_dtype(dtype: Any) -> Iterator[None]:
    """Have tensors that this thread makes without naming a type be of `dtype`."""
    import torch

    with (
        patched_on_this_thread(torch, "get_default_dtype", lambda: dtype),
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

    def init(tensor: Any, *args: Any, **kwargs: Any) -> None:
        if type(tensor) is not torch.Tensor or not tensor.dtype.is_floating_point:
            return
        given = args[0] if len(args) == 1 else None
        is_shape = isinstance(given, (torch.Size, torch.Tensor))
        if not is_shape and (isinstance(given, (list, tuple)) or hasattr(given, "__array__")):
            # From the numbers themselves, so that they are rounded once.
            tensor.data = torch.tensor(given, dtype=dtype, device=tensor.device)
        else:
            tensor.data = tensor.data.to(dtype)

    with patched_on_this_thread(torch.Tensor, "__init__", init):
        yield


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
def all_patched_on_this_thread(
    replacements: Iterable[tuple[Any, str, Callable[..., Any]]], lasting: Callable[[Any], Any] = lambda found: found
) -> Iterator[None]:
    """Have calls of each (owner, name, replacement) go to the replacement, as `patched_on_this_thread` does for one."""
    with contextlib.ExitStack() as stack:
        for owner, name, replacement in replacements:
            stack.enter_context(patched_on_this_thread(owner, name, replacement, lasting=lasting))
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
    """Return whether the type of what a call gives is not the default: it is named, or that of something given."""
    import torch

    given = (*call.args, *call.kwargs.values())
    return getattr(call.function, "__name__", "") in _NAMES_A_TYPE or any(
        isinstance(value, torch.dtype) or _is_typed(value) for value in given
    )


def _is_typed(value: Any) -> bool:
    """Return whether a value brings a floating type along: a tensor or an array of numpy, or a list of such."""
    if isinstance(value, (list, tuple)):
        return any(map(_is_typed, value))
    dtype = getattr(value, "dtype", None)
    return dtype is not None and (getattr(dtype, "is_floating_point", None) or getattr(dtype, "kind", "") == "f")


def _makes(function: Any) -> bool:
    import torch
    from torch.utils._device import _device_constructors

    # torch keeps that list from its first use on, which may have been while transformers had replaced linspace.
    return function in _device_constructors() or function is torch.linspace

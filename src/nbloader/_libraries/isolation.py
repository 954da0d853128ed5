"""Patches for one thread, in place of a library's changes to the whole process.

While ``from_pretrained`` builds a model, it sets torch's default dtype and replaces functions of torch and of
transformers. The patches here make the same changes, but only for the thread that builds the model.
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
"""Lock that is held while a function is patched or restored."""
_outer: weakref.WeakKeyDictionary[Callable[..., Any], Callable[[], Any]] = weakref.WeakKeyDictionary()
"""By wrapper: a function that returns what it replaced once its patch has ended; None before."""


class _Patch:
    """The thread that a patch is for, and whether the patch is still active."""

    def __init__(self) -> None:
        self.thread, self.is_on = threading.get_ident(), True


_stand_ins: weakref.WeakSet[_Patch] = weakref.WeakSet()


def _begin_anew() -> None:
    """Reset the lock and the patches after a fork: other threads are gone, and new threads may reuse their ids."""
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
    """Patch ``owner.name`` on this thread: calls go to `replacement`; other threads call the original.

    If `owner` itself does not define `name`, calls from other threads do nothing. `elsewhere` replaces the original for
    other threads. A library may have replaced the function for a short time. `lasting` therefore takes the function
    that was found and returns the lasting one, which is then called and restored.

    Other code may replace the patched function and restore it after the patch has ended. What it restores then only
    calls the original.
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
    """Do nothing, in place of an attribute that the owner does not define."""


def _function_of(found: Any) -> Any:
    return found.__func__ if isinstance(found, (classmethod, staticmethod)) else found


def _in_use(found: Any) -> Any:
    """Return the function that was found; for a wrapper whose patch has ended, return what it replaced."""
    while True:
        try:
            outer = _outer.get(_function_of(found), lambda: None)()
        except TypeError:  # a callable without weak references is not one of our wrappers
            return found
        if outer is None:
            return found
        found = outer


@contextlib.contextmanager
def default_dtype(dtype: Any) -> Iterator[None]:
    """Use `dtype` as the default type of the tensors that this thread makes."""
    import torch

    with (
        patched_on_this_thread(torch, "get_default_dtype", lambda: dtype),
        _typed_by_hand(dtype),
        _modes()[0](dtype),
    ):
        yield


@contextlib.contextmanager
def _typed_by_hand(dtype: Any) -> Iterator[None]:
    """Patch ``torch.Tensor(...)`` on this thread so that it returns tensors of `dtype`.

    This legacy constructor does not go through a ``TorchFunctionMode``. Its ``__init__``, a no-op of ``object``, runs
    after each call, so it can be patched. ``torch.FloatTensor(...)`` and other typed constructors do not call it.
    """
    import torch

    def init(tensor: Any, *args: Any, **kwargs: Any) -> None:
        if type(tensor) is not torch.Tensor or not tensor.dtype.is_floating_point:
            return
        given = args[0] if len(args) == 1 else None
        is_shape = isinstance(given, (torch.Size, torch.Tensor))
        if not is_shape and (isinstance(given, (list, tuple)) or hasattr(given, "__array__")):
            # Start from the given numbers, so that they are rounded only once.
            tensor.data = torch.tensor(given, dtype=dtype, device=tensor.device)
        else:
            tensor.data = tensor.data.to(dtype)

    with patched_on_this_thread(torch.Tensor, "__init__", init):
        yield


def linspace_on_cpu() -> Any:
    """Return a context in which ``torch.linspace`` on this thread makes its values on the CPU by default."""
    return _modes()[1]()


@contextlib.contextmanager
def all_patched_on_this_thread(
    replacements: Iterable[tuple[Any, str, Callable[..., Any]]], lasting: Callable[[Any], Any] = lambda found: found
) -> Iterator[None]:
    """Patch each (owner, name, replacement) on this thread; see `patched_on_this_thread`."""
    with contextlib.ExitStack() as stack:
        for owner, name, replacement in replacements:
            stack.enter_context(patched_on_this_thread(owner, name, replacement, lasting=lasting))
        yield


@functools.cache
def _modes() -> tuple[Any, Any]:
    """Return the classes whose contexts change torch's functions on this thread; torch is imported first here."""
    import torch
    from torch.overrides import TorchFunctionMode

    tensor_type = torch.Tensor

    # These methods run for every call to a torch function while a model is built.
    class Typed(TorchFunctionMode):  # type: ignore[misc]
        """Makes each result as if `dtype` were the default: a tensor of another type is made again or cast.

        The process's real default does not matter, because another thread may be changing it.
        """

        def __init__(self, dtype: Any) -> None:
            super().__init__()
            self._dtype = dtype

        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            kwargs = kwargs or {}
            made, dtype = func(*args, **kwargs), self._dtype
            is_right = not isinstance(made, tensor_type) or made.dtype == dtype or not made.dtype.is_floating_point
            if is_right or _names_type(func, args, kwargs):
                return made
            return func(*args, **{**kwargs, "dtype": dtype}) if _makes(func) else made.to(dtype)

    class LinspaceOnCPU(TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            kwargs = kwargs or {}
            return func(*args, **({"device": "cpu", **kwargs} if func is torch.linspace else kwargs))

    return Typed, LinspaceOnCPU


def _names_type(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a call's arguments determine the type of its result, so that the default does not apply."""
    import torch

    given = (*args, *kwargs.values())
    return getattr(function, "__name__", "") in _NAMES_A_TYPE or any(
        isinstance(value, torch.dtype) or _is_typed(value) for value in given
    )


def _is_typed(value: Any) -> bool:
    """Return whether a value has a floating type: a tensor, a NumPy array, or a list with one of them."""
    if isinstance(value, (list, tuple)):
        return any(map(_is_typed, value))
    dtype = getattr(value, "dtype", None)
    return dtype is not None and (getattr(dtype, "is_floating_point", None) or getattr(dtype, "kind", "") == "f")


def _makes(function: Any) -> bool:
    import torch
    from torch.utils._device import _device_constructors

    # torch caches that list on first use. At that time transformers may have replaced linspace, so it may be missing.
    return function in _device_constructors() or function is torch.linspace

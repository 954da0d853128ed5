"""Limit to one thread the changes that transformers makes to the whole process while it builds a model."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from nbloader._libraries import isolation
from nbloader._libraries.transformers.hooks import missing_hooks
from nbloader._system.frames import frames_of_threads

_LOOK = 0.005  # seconds between two checks whether another thread has initialized its model


@contextlib.contextmanager
def isolated(on_other: Callable[[], None], check_cancelled: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Limit to this thread the changes that transformers makes to the process while it builds a model.

    Known contexts of transformers are replaced one by one; unknown ones stay as they are. Another thread may build a
    model meanwhile, which changes the whole process. `on_other` is then called on that thread.
    """
    from transformers import PreTrainedModel, modeling_utils

    contexts = vars(PreTrainedModel).get("get_init_context")
    initialize = vars(PreTrainedModel).get("initialize_weights")
    local_dtype = getattr(modeling_utils, "local_torch_dtype", None)
    if missing_hooks("isolation"):
        yield
        return
    assert contexts is not None
    assert initialize is not None
    assert local_dtype is not None
    bare = inspect.unwrap(initialize)

    def get_init_context(cls: Any, *args: Any, **kwargs: Any) -> list[Any]:
        return [_kept_here(context) for context in contexts.__func__(cls, *args, **kwargs)]

    def get_their_context(cls: Any, *args: Any, **kwargs: Any) -> list[Any]:
        on_other()
        return list(contexts.__func__(cls, *args, **kwargs))

    def guarded(model: Any, check: Callable[[], None] = lambda: None) -> None:
        import torch

        # A thread that leaves transformers' guard restores the functions for all threads, and so removes our guards.
        while _runs_elsewhere(bare, guarded):
            check()
            time.sleep(_LOOK)
        with torch.no_grad(), _guards():
            bare(model)

    def initialize_weights(model: Any) -> None:
        guarded(model, check_cancelled)
        if not any("tie_weights" in vars(kind) for kind in type(model).__mro__ if kind is not PreTrainedModel):
            # Another thread may have made ``tie_weights`` a no-op for a while, and this model is tied next.
            vars(model)["tie_weights"] = functools.partial(original_tie_weights(), model)

    def local_torch_dtype(dtype: Any, *names: Any) -> Any:
        return isolation.default_dtype(dtype) if dtype.is_floating_point else local_dtype(dtype, *names)

    with (
        # A model may build its parts from their configs, each with its own default type.
        isolation.patched_on_this_thread(modeling_utils, "local_torch_dtype", local_torch_dtype),
        isolation.patched_on_this_thread(PreTrainedModel, "get_init_context", get_init_context, get_their_context),
        # Patch other threads, too: the original would patch torch for all threads, and then restore it.
        isolation.patched_on_this_thread(PreTrainedModel, "initialize_weights", initialize_weights, guarded),
    ):
        yield


def _guards() -> Any:
    """Return a context in which initializers on this thread do not change loaded weights.

    The guards are transformers' own functions, from its own tables. transformers itself would patch all threads.
    """
    from transformers import initialization

    names = initialization.TORCH_INIT_FUNCTIONS
    guards = {name: getattr(initialization, name) for name in names}
    return isolation.all_patched_on_this_thread(
        [(module, name, guards[name]) for module in _guarded_modules() for name in names if hasattr(module, name)],
        lambda found: next((names[name] for name, guard in guards.items() if found is guard), found),
    )


def _guarded_modules() -> list[Any]:
    from transformers import initialization

    return [sys.modules[name] for name in initialization.TORCH_MODULES_TO_PATCH if name in sys.modules]


def _runs_elsewhere(function: Any, but_within: Any) -> bool:
    """Return whether another thread runs `function`, or transformers' guard around it.

    A thread that was called through `but_within` does not count.
    """
    from transformers import initialization

    # Compare by identity: compiled code may contain objects that cannot be hashed.
    codes = {id(function.__code__), id(inspect.unwrap(initialization.guard_torch_init_functions).__code__)}
    with frames_of_threads() as frames:
        stacks = [
            {id(frame.f_code) for frame in stack} for thread, stack in frames.items() if thread != threading.get_ident()
        ]
    return any(codes & stack and id(but_within.__code__) not in stack for stack in stacks)


_known: list[Any] = []


def original_tie_weights() -> Any:
    """Return the original ``PreTrainedModel.tie_weights``, saved the first time that it was found unpatched."""
    from transformers import PreTrainedModel

    found = vars(PreTrainedModel)["tie_weights"]
    if not _known and getattr(found, "__qualname__", "") == "PreTrainedModel.tie_weights":
        _known.append(found)
    return _known[0] if _known else found


def _kept_here(context: Any) -> Any:
    """Return the version for one thread of a context of transformers; return an unknown context unchanged."""
    from transformers import PreTrainedModel

    name = getattr(getattr(context, "func", None), "__name__", "")
    if name != "no_tie_weights":
        return isolation.linspace_on_cpu() if name == "meta_device_safe_creation_ops" else context
    theirs = inspect.unwrap(context.func).__code__.co_consts

    def lasting(found: Any) -> Any:
        code = getattr(found, "__code__", None)
        return original_tie_weights() if code is not None and any(code is each for each in theirs) else found

    return isolation.patched_on_this_thread(
        PreTrainedModel, "tie_weights", lambda *args, **kwargs: None, lasting=lasting
    )

"""Keeping to one thread what transformers changes for the whole process while it builds a model."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from nbloader._libraries import isolation
from nbloader._libraries.transformers.hooks import missing_hooks

_LOOK = 0.005  # seconds between two looks at whether another thread has initialized its model


@contextlib.contextmanager
def isolated(on_other: Callable[[], None], check_cancelled: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Keep to this thread what transformers changes for the whole process while it builds a model.

    Of its contexts those that are known are replaced, in their places; others are left as they are. `on_other` is
    called on another thread that builds a model meanwhile, which changes all of that for everybody.
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

        # What transformers puts back for all when it is through would take the guards away.
        while _runs_elsewhere(bare, guarded):
            check()
            time.sleep(_LOOK)
        with torch.no_grad(), _guards():
            bare(model)

    def initialize_weights(model: Any) -> None:
        guarded(model, check_cancelled)
        if not any("tie_weights" in vars(kind) for kind in type(model).__mro__ if kind is not PreTrainedModel):
            # Another thread may have replaced it for a while, and this model is tied next.
            vars(model)["tie_weights"] = functools.partial(original_tie_weights(), model)

    def local_torch_dtype(dtype: Any, *names: Any) -> Any:
        return isolation.default_dtype(dtype) if dtype.is_floating_point else local_dtype(dtype, *names)

    with (
        # Parts of a model that has several are built from their configs, with the type as their own default.
        isolation.patched_on_this_thread(modeling_utils, "local_torch_dtype", local_torch_dtype),
        isolation.patched_on_this_thread(PreTrainedModel, "get_init_context", get_init_context, get_their_context),
        # Other threads', too: theirs would be put in place, and back, for all.
        isolation.patched_on_this_thread(PreTrainedModel, "initialize_weights", initialize_weights, guarded),
    ):
        yield


def _guards() -> Any:
    """Return a context in which this thread's initializers leave loaded weights alone.

    These are transformers' own functions, by its own tables; it puts them there for all threads.
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
    """Return whether another thread is inside of a function, or in what transformers does just before and after it.

    One that is there within the function `but_within` does not count.
    """
    from transformers import initialization

    # By identity: code that a compiler has made may hold what cannot be hashed.
    codes = {id(function.__code__), id(inspect.unwrap(initialization.guard_torch_init_functions).__code__)}
    others = (frame for thread, frame in sys._current_frames().items() if thread != threading.get_ident())
    stacks = ({id(frame.f_code) for frame in _stack(innermost)} for innermost in others)
    return any(codes & stack and id(but_within.__code__) not in stack for stack in stacks)


def _stack(innermost: FrameType) -> Iterator[FrameType]:
    frame: FrameType | None = innermost
    while frame is not None:
        yield frame
        frame = frame.f_back


_known: list[Any] = []


def original_tie_weights() -> Any:
    """Return the method of PreTrainedModel, as it was when it was first seen to be its own."""
    from transformers import PreTrainedModel

    found = vars(PreTrainedModel)["tie_weights"]
    if not _known and getattr(found, "__qualname__", "") == "PreTrainedModel.tie_weights":
        _known.append(found)
    return _known[0] if _known else found


def _kept_here(context: Any) -> Any:
    """Return what does for this thread what a context of transformers does for all; an unknown one as it is."""
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

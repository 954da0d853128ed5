"""Threads of the background, and what they call without keeping it alive."""

from __future__ import annotations

import contextvars
import threading
import weakref
from collections.abc import Callable
from typing import Any


def make_thread(target: Callable[..., None], name: str, *args: Any) -> threading.Thread:
    """Return a thread that calls `target`, not started, and that Python does not wait for when it ends.

    A copy of the context pins what the thread prints to the cell that made it.
    """
    context = contextvars.copy_context()
    return threading.Thread(target=context.run, args=(target, *args), name=name, daemon=True)


def weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls a method as long as its object is there, and does not keep it; else returns None."""
    reference = weakref.WeakMethod(method)

    def call(*arguments: Any) -> Any:
        bound = reference()
        return None if bound is None else bound(*arguments)

    return call

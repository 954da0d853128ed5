"""Threads of the background."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any


def make_thread(target: Callable[..., None], name: str, *args: Any) -> threading.Thread:
    """Return a thread that calls `target`, not started, and that Python does not wait for when it ends.

    A copy of the context pins what the thread prints to the cell that made it.
    """
    context = contextvars.copy_context()
    return threading.Thread(target=context.run, args=(target, *args), name=name, daemon=True)

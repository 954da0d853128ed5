"""Modules that have been imported completely."""

from __future__ import annotations

import sys
from typing import Any


def imported(name: str) -> Any:
    """Return a module that has been imported completely; None if it has not, or if its import is still running.

    Calling into a half-imported torch can block both threads forever. Its code waits for the import lock, and holds a
    lock that the importing thread needs.
    """
    module = sys.modules.get(name)
    # importlib sets this flag while the module's code runs.
    return None if getattr(getattr(module, "__spec__", None), "_initializing", False) else module

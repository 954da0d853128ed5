"""Modules that are imported already, and usable."""

from __future__ import annotations

import sys
from typing import Any


def imported(name: str) -> Any:
    """Return a module that has been imported to its end; None where it has not, or another thread is importing it.

    To call into half of torch can block both threads for ever: its code waits for the import, and holds what the
    importing thread needs.
    """
    module = sys.modules.get(name)
    # As importlib itself tells: it sets this while the module's code runs.
    return None if getattr(getattr(module, "__spec__", None), "_initializing", False) else module

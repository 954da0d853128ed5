"""Where this process runs: in a notebook with a page, in one without, or elsewhere."""

from __future__ import annotations

import os
import sys
from typing import Any


def can_show() -> bool:
    """Return whether this process can show a panel: in a Jupyter kernel or in marimo, but not in a terminal."""
    return kernel_shell() is not None or "marimo" in sys.modules


def is_watched() -> bool:
    """Return whether the cell that runs now has a page to show output in.

    Programs that run a notebook without a page (nbclient, papermill, nbval) set ``allow_stdin`` to false.
    """
    shell = kernel_shell()
    if shell is None:
        return can_show()
    return bool(shell.get_parent().get("content", {}).get("allow_stdin", True)) or is_voila()


def is_voila() -> bool:
    """Return whether this kernel runs for Voila, which shows a cell's output while the cells run."""
    return os.environ.get("SERVER_SOFTWARE", "").startswith("voila")


def kernel_shell() -> Any:
    """Return the shell of a Jupyter kernel; None outside a kernel."""
    from IPython import get_ipython

    shell = get_ipython()
    return shell if hasattr(shell, "kernel") else None


def name_of(value: object) -> str:
    """Return the name by which the user's code refers to a value; empty if there is none, or outside IPython."""
    from IPython import get_ipython

    shell = get_ipython()
    # Copied first: another thread may run the user's code.
    names = {} if shell is None else dict(shell.user_ns)
    found = (name for name, known in names.items() if known is value and not name.startswith("_"))
    return next(found, "")


def executing() -> object:
    """Return a value that identifies the execution of a cell; None outside IPython."""
    from IPython import get_ipython

    shell = get_ipython()
    return None if shell is None else shell.execution_count

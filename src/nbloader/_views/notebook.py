"""Where this process runs: in a notebook that somebody sees, or not."""

from __future__ import annotations

import os
import sys
from typing import Any


def can_show() -> bool:
    """Return whether somebody may see a panel: whoever runs a kernel, or marimo; in a terminal nobody can."""
    return kernel_shell() is not None or "marimo" in sys.modules


def is_watched() -> bool:
    """Return whether whoever runs this cell has a page to show it in.

    What runs a notebook without one (nbclient, papermill, nbval) says that nobody is there to be asked.
    """
    shell = kernel_shell()
    if shell is None:
        return can_show()
    return bool(shell.get_parent().get("content", {}).get("allow_stdin", True)) or is_voila()


def is_voila() -> bool:
    """Return whether this kernel runs a page of Voila's, which shows a cell's output while it runs the cells."""
    return os.environ.get("SERVER_SOFTWARE", "").startswith("voila")


def kernel_shell() -> Any:
    """Return the shell of a Jupyter kernel; None where this is none."""
    from IPython import get_ipython

    shell = get_ipython()
    return shell if hasattr(shell, "kernel") else None


def executing() -> object:
    """Return what tells one cell's execution from another's; None outside IPython."""
    from IPython import get_ipython

    shell = get_ipython()
    return None if shell is None else shell.execution_count

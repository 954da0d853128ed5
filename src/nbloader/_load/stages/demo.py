"""Stage "demo": write the demo checkpoint when it is loaded for the first time."""

from __future__ import annotations

import os

from nbloader._checkpoint.demo import demo_checkpoint, is_written
from nbloader._checkpoint.source import is_demo
from nbloader._progress.reporter import Reporter


def write_demo(model: str | os.PathLike[str], reporter: Reporter) -> None:
    """Write the demo checkpoint if `model` is the demo and its checkpoint does not exist yet."""
    if is_demo(model) and not is_written():
        with reporter.spending("other"), reporter.stage("demo") as note:
            note.detail = demo_checkpoint(check_cancelled=reporter.check_cancelled).name

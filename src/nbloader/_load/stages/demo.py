"""Stage "demo": write the demo checkpoint, the first time that it is loaded."""

from __future__ import annotations

import os

from nbloader._checkpoint.demo import demo_checkpoint, is_written
from nbloader._checkpoint.source import is_demo
from nbloader._progress.reporter import Reporter


def write_demo(model: str | os.PathLike[str], reporter: Reporter) -> None:
    """Write the demo checkpoint, if it is what is loaded and has not been written yet."""
    if is_demo(model) and not is_written():
        with reporter.spending("other"), reporter.stage("demo") as note:
            note.detail = demo_checkpoint(check_cancelled=reporter.check_cancelled).name

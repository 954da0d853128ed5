"""Stage "imports": torch, transformers and, for an adapter, peft."""

from __future__ import annotations

from nbloader._libraries import peft
from nbloader._libraries.transformers.loading import import_libraries
from nbloader._progress import events
from nbloader._progress.reporter import Reporter
from nbloader._system.storage import thread_work, waited_for_files


def import_all(reporter: Reporter, *, with_adapter: bool) -> None:
    """Import the libraries that a load needs."""
    with reporter.stage("imports") as note, reporter.spending("imports"):
        began, before = reporter.now(), thread_work()
        note.detail = import_libraries()
        if with_adapter:
            peft.import_peft()
        seconds = reporter.now() - began
        reporter.emit(events.Imported, waited_for_files(before, thread_work(), seconds))
        reporter.log("info", "imported", versions=note.detail, seconds=f"{seconds:.1f}")

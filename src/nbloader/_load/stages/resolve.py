"""Stage "resolve": find out where the checkpoint is."""

from __future__ import annotations

import os

from nbloader._checkpoint.source import Source, find_source
from nbloader._options.options import LoadOptions
from nbloader._progress import events
from nbloader._progress.reporter import Reporter
from nbloader._text.catalogue import text


def resolve(model: str | os.PathLike[str], options: LoadOptions, reporter: Reporter) -> Source:
    """Return the source of `model`: where its checkpoint is.

    Raises
    ------
    SourceError, DownloadError
        If it cannot be found or reached.
    """
    with reporter.stage("resolve") as note:
        source = find_source(model, options, reporter.check_cancelled)
        reporter.emit(events.SourceResolved, source.name, source.commit, source.origin)
        repository = source.repository
        if repository is not None and repository.note:
            reporter.log("warning", "offline", reason=repository.note)
        note.detail = text("detail", source.origin)
    return source

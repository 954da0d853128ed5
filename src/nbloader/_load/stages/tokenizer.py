"""Stage "tokenizer": the tokenizer, or the processor if the model has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nbloader._checkpoint.source import Source
from nbloader._errors import CheckpointError, LoadError, RemoteCodeError
from nbloader._libraries.transformers.classes import check_architecture, check_kernels
from nbloader._libraries.transformers.tokenizers import load_tokenizer, name_tokenizer
from nbloader._load.stages.download import Fetched
from nbloader._options.options import LoadOptions
from nbloader._progress.reporter import Reporter
from nbloader._text.catalogue import text
from nbloader._text.units import sentences


def make_tokenizer(
    fetched: Fetched, source: Source, options: LoadOptions, reporter: Reporter, *, allows_code: bool
) -> Any:
    """Return the processor or tokenizer, or None if the checkpoint has neither.

    It comes from the model's folder, or from the checkpoint's top folder if `subfolder` has none.
    """
    with reporter.stage("tokenizer") as note:
        if options.attn_implementation is None:
            check_kernels(fetched.folder, fetched.config)
        check_architecture(fetched.folder, fetched.config, options.auto_class, allows_code)

        tokenizer, note.detail = _make(fetched.folder, source, options, reporter, allows_code=allows_code)
        if tokenizer is not None and source.repository is not None:
            name_tokenizer(tokenizer, source.name)
    return tokenizer


def _make(
    folder: Path, source: Source, options: LoadOptions, reporter: Reporter, *, allows_code: bool
) -> tuple[Any, str]:
    """Return the processor or tokenizer, and the text that the stage shows.

    The first is None if the checkpoint has none, if none is wanted, or if it cannot be made.

    Raises
    ------
    LoadError
        If a tokenizer is required, and there is none or it cannot be made.
    """
    if options.tokenizer is False:
        reporter.log("info", "tokenizer_left_out")
        return None, text("detail", "none")

    def warn(warning: str) -> None:
        reporter.log("warning", "transformers_says", text=warning)

    try:
        tokenizer = load_tokenizer(folder, warn, allows_code)
        if tokenizer is None and options.subfolder:
            tokenizer = load_tokenizer(source.root(options), warn, allows_code)
    except RemoteCodeError:
        raise
    except LoadError as error:
        if options.tokenizer is True:
            raise
        reporter.log("warning", "tokenizer_failed", reason=sentences(error.message, error.hint))
        return None, text("detail", "not_made", reason=error.hint or error.message)
    if tokenizer is not None:
        return tokenizer, type(tokenizer).__name__
    if options.tokenizer is True:
        raise CheckpointError(text("error", "no_tokenizer", folder=folder), text("hint", "leave_tokenizer"))
    reporter.log("info", "no_tokenizer")
    return None, text("detail", "none")

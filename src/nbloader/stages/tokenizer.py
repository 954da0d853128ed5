"""Stage "tokenizer": the tokenizer, or the processor where the model has one."""

from __future__ import annotations

from typing import Any

from nbloader import _events as events
from nbloader import _peft, _transformers
from nbloader._locale import text
from nbloader._options import LoadOptions
from nbloader._reporter import Reporter
from nbloader._source import Source
from nbloader._storage import thread_work, waited_for_files
from nbloader.stages.download import Fetched

_WORTH_SAYING = 0.1  # seconds of importing that belong to the libraries and not to the tokenizer


def make_tokenizer(
    fetched: Fetched, source: Source, options: LoadOptions, reporter: Reporter, *, allows_code: bool
) -> Any:
    """Return the processor or tokenizer, or None where the checkpoint has neither.

    It comes from the model's folder, or from the checkpoint's top where `subfolder` has none of its own.
    """
    with reporter.stage("tokenizer") as note:
        began, before = reporter.now(), thread_work()
        with reporter.spending("imports"):
            versions = _transformers.import_libraries()
            if fetched.adapter is not None:
                _peft.import_peft()
        imports = reporter.now() - began
        reporter.tell(events.Imported, waited_for_files(before, thread_work(), imports))
        reporter.log("info", "imported", versions=versions, seconds=f"{imports:.1f}")
        reporter.check_cancelled()
        if options.attn_implementation is None:
            _transformers.check_kernels(fetched.folder, fetched.config)
        _transformers.check_architecture(fetched.folder, fetched.config, allows_code)

        def warn(warning: str) -> None:
            reporter.log("warning", "transformers_says", text=warning)

        tokenizer = _transformers.load_tokenizer(fetched.folder, warn, allows_code)
        if tokenizer is None and options.subfolder:
            tokenizer = _transformers.load_tokenizer(source.root(options), warn, allows_code)
        if tokenizer is None:
            reporter.log("info", "no_tokenizer")
        elif source.repository is not None:
            _transformers.name_tokenizer(tokenizer, source.name)
        note.detail = type(tokenizer).__name__ if tokenizer is not None else text("detail", "none")
        if imports >= _WORTH_SAYING:
            note.detail = text("detail", "imports", name=note.detail, seconds=f"{imports:.1f}")
    return tokenizer

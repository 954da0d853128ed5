"""The stages of a load, in the order in which the loading thread runs them. Each stage has its own module."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbloader._checkpoint.layout import ADAPTER_CONFIG, ADAPTER_FILES, CONFIG
from nbloader._checkpoint.source import state_of
from nbloader._errors import CheckpointError, RemoteCodeError, WontFitError
from nbloader._libraries.transformers.code import code_of
from nbloader._load.stages.adapter import attach_adapter
from nbloader._load.stages.config import choose_class
from nbloader._load.stages.device import finish_placing
from nbloader._load.stages.download import OnPlan, download_all, fetching
from nbloader._load.stages.imports import import_all
from nbloader._load.stages.metadata import describe
from nbloader._load.stages.supply import reading
from nbloader._load.stages.tokenizer import make_tokenizer
from nbloader._load.stages.weights import place
from nbloader._planning.plan import check_fit, make_plan
from nbloader._registry.outcome import Downloaded, LoadedModels, Outcome
from nbloader._system.garbage import rare_collections
from nbloader._system.memory import find_free
from nbloader._text.catalogue import text
from nbloader._text.units import first_few, sentences

if TYPE_CHECKING:
    from nbloader._checkpoint.adapter import Adapter
    from nbloader._checkpoint.checkpoint import Checkpoint
    from nbloader._checkpoint.source import Source
    from nbloader._options.options import LoadOptions
    from nbloader._progress.reporter import Reporter


_USED = (CONFIG, ".index.json", "generation_config.json", ADAPTER_CONFIG, *(name for _, name in ADAPTER_FILES))
"""Endings of the names of the files, other than the weights, that a model is made from."""


def find(source: Source, reporter: Reporter, loaded_models: LoadedModels) -> Outcome | None:
    """Return the model that is already loaded from `source`; None if it has to be loaded."""
    resident = loaded_models.find(source)
    if resident is None:
        return None
    reporter.log("info", "already_loaded", name=resident.name)
    return Outcome(resident.model, resident.tokenizer, {**resident.summary, "already_loaded": True})


def run(
    model: str | os.PathLike[str],
    source: Source,
    options: LoadOptions,
    reporter: Reporter,
    on_plan: OnPlan,
    loaded_models: LoadedModels,
) -> Outcome:
    """Load `model`; report progress to `reporter`, and call `on_plan` with the plan once it is made.

    Raises
    ------
    LoadError
        If the model could not be loaded.
    LoadCancelled
        If the load was cancelled.
    """
    with ExitStack() as stack:
        with reporter.spending("resolve"):
            before = _states(source, options)
            fetched = stack.enter_context(fetching(model, source, options, reporter, on_plan, loaded_models.free))
            supply = stack.enter_context(reading(fetched.whole, options, reporter))
        with _consenting(source, options):
            allows_code = stack.enter_context(_running_code(source, options))
            with rare_collections():  # both import modules of the libraries
                import_all(reporter, with_adapter=fetched.adapter is not None)
                with reporter.spending("tokenizer"):
                    tokenizer = make_tokenizer(fetched, source, options, reporter, allows_code=allows_code)
                with reporter.spending("imports"):
                    chosen = choose_class(fetched, options, reporter, allows_code=allows_code)
        with reporter.spending("download"):
            checkpoint, plan = reporter.wait(fetched.whole)
        make_room(source, checkpoint, options, reporter, loaded_models, fetched.adapter)
        with reporter.spending("other"):
            loaded = place(checkpoint, plan, chosen, options, reporter, supply)
    with reporter.spending("other"):
        finish_placing(loaded, checkpoint, reporter, may_be_missing=supply.may_be_missing)
    if fetched.adapter is not None:
        with reporter.spending("adapter"):
            loaded = attach_adapter(loaded, fetched.adapter, len(checkpoint.files), options, reporter)
    with reporter.spending("other"):
        _check_unchanged(source, options, checkpoint, before)
    summary = describe(loaded, tokenizer, source, plan, reporter)
    return Outcome(loaded, tokenizer, summary)


def download(source: Source, options: LoadOptions, reporter: Reporter) -> Downloaded:
    """Download what a load of `source` needs; report progress to `reporter`.

    Raises
    ------
    LoadError
        If files cannot be downloaded.
    LoadCancelled
        If the download was cancelled.
    """
    with reporter.spending("download"):
        return Downloaded(download_all(source, options, reporter))


def _states(source: Source, options: LoadOptions) -> Mapping[Path, Mapping[str, Any]]:
    """Return the state of each folder that a load reads and that may be written to during the load."""
    found: dict[Path, Mapping[str, Any]] = {}
    if source.folder is not None and (source.folder / options.subfolder).is_dir():
        found[source.folder] = state_of(source.folder, options.subfolder)
    if options.adapter is not None and Path(options.adapter).expanduser().is_dir():
        adapter = Path(options.adapter).expanduser()
        found[adapter] = state_of(adapter)
    return found


def _check_unchanged(
    source: Source, options: LoadOptions, checkpoint: Checkpoint, before: Mapping[Path, Mapping[str, Any]]
) -> None:
    """Raise an error if files of the model changed while it was loaded.

    Raises
    ------
    CheckpointError
        If files have changed; the error names them.
    """
    weights = {os.path.join(options.subfolder, file.name) for file in checkpoint.files}
    states = _states(source, options)
    for folder, was in before.items():
        is_now = states.get(folder, {})
        # Ignore other files, such as a log or the output of a conversion: no tensor comes from them.
        used = [name for name in sorted(was) if name in weights or os.path.basename(name).endswith(_USED)]
        names = [name for name in used if was[name] != is_now.get(name)]
        if names:
            known = {"folder": folder, "names": first_few(names)}
            raise CheckpointError(text("error", "changed_during_load", **known), text("hint", "changed_meanwhile"))


def make_room(
    source: Source,
    checkpoint: Checkpoint,
    options: LoadOptions,
    reporter: Reporter,
    loaded_models: LoadedModels,
    adapter: Adapter | None,
) -> None:
    """Unload the models that are not to be kept.

    Raises
    ------
    WontFitError
        If that freed less memory than expected, so that the load does not fit.
    """
    reporter.check_cancelled()  # a cancelled load that could not stop must not unload other models
    made = loaded_models.make_room()
    if made is None:
        return
    names, freed = made
    level = "warning" if freed.holders else "info"
    reporter.log(level, "unloaded", names=names, freed=str(freed))
    plan = make_plan(checkpoint, options, 0, find_free(), adapter)
    try:
        check_fit(source.name, checkpoint, plan, options, adapter)
    except WontFitError as error:
        error.hint = sentences(*map(str, freed.holders), error.hint)
        raise


@contextmanager
def _running_code(source: Source, options: LoadOptions) -> Iterator[bool]:
    """Yield whether the checkpoint's own code may run; if so, transformers uses a copy of the code."""
    code = source.allowed_code(options)
    if code is None:
        yield False
        return
    with code.copied() as copy, code_of(code.folder, copy):
        yield True


@contextmanager
def _consenting(source: Source, options: LoadOptions) -> Iterator[None]:
    """Add to the error of code that may not run where the code is, and how to allow it."""
    try:
        yield
    except RemoteCodeError as error:
        files, commit = source.code(options)
        if not files:  # the code is not there, so there is nothing to agree to
            raise CheckpointError(error.message, text("hint", "whole_and_fitting")) from None
        message = error.message
        if options.trust_remote_code:
            message = sentences(message, text("detail", "code_allowed", commit=options.trust_remote_code))
        raise RemoteCodeError(
            message,
            text("hint", "read_code", commit=repr(commit)),
            files,
            commit,
        ) from None

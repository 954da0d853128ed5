"""Loading without a notebook: start() returns at once, load() blocks, plan() only looks."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from typing import Any

from nbloader import _history, _resident
from nbloader._adapter import Adapter, check_adapter, find_adapter, missing_bytes
from nbloader._callback import ProgressCallback, follow
from nbloader._checkpoint import Checkpoint
from nbloader._errors import os_failure
from nbloader._job import Loaded, LoadJob
from nbloader._memory import find_free
from nbloader._options import LoadOptions, changed_options, merge_options
from nbloader._page_cache import find_missing
from nbloader._peft import check_peft
from nbloader._plan import LoadPlan, make_plan
from nbloader._shown import clean, leaving
from nbloader._source import Source, find_source
from nbloader.stages.download import look


def start(
    model: str | os.PathLike[str],
    options: LoadOptions | None = None,
    *,
    progress_callback: ProgressCallback | None = None,
    reload: bool = False,
    replace: bool = False,
    **choices: Any,
) -> LoadJob:
    """Load a checkpoint in the background; returns at once.

    The same model with the same options is loaded once: a load that is under way is joined, and a model that is loaded
    is what the job gives.

    Parameters
    ----------
    model
        A folder, the id of a repository on the Hub, or ``"demo"``.
    options
        The load's options.
    progress_callback
        Called with ``{"status": str, "message": str, "progress": number}`` at each step, on a thread
        of the load and one call at a time. One that raises is logged and not called again.
    reload
        Load again even if the model is loaded, or being loaded.
    replace
        Cancel what is being loaded now, and come next; else loads wait for each other, in order.
    **choices
        Single options, on top of `options`: see `LoadOptions`.

    Raises
    ------
    OptionError
        For an option that does not exist or a value it cannot take. What is wrong with the checkpoint is told by
        the job.
    """
    made = LoadJob(model, merge_options(options, choices), reload=reload)
    return begin(made, progress_callback, replace=replace)


def begin(
    made: LoadJob,
    progress_callback: ProgressCallback | None = None,
    can_ask: Callable[[], bool] = lambda: False,
    *,
    replace: bool = False,
) -> LoadJob:
    """Start a load, or join one that does the same already; return the one that does it."""
    # Before it starts, so that nothing is left to do for it once it has.
    _history.follow(made)
    made.join(can_ask)
    if progress_callback is not None:
        follow(made, progress_callback)
    job = _resident.submit(made, replace=replace)
    if job is not made:
        job.join(can_ask)
        if progress_callback is not None:
            follow(job, progress_callback)
    return job


def preload(*models: str | os.PathLike[str], **choices: Any) -> list[LoadJob]:
    """Load models in the background, one after the other, and keep them until they are unloaded.

    A later request for one of them joins its load, or has the model at once. With no `keep=` all are kept.

    Raises
    ------
    OptionError
        For an option that does not exist or a value it cannot take.
    """
    jobs = [start(model, **{"keep": "all", **choices}) for model in models]
    for job in jobs:
        _resident.keep(job)
    return jobs


def plan(model: str | os.PathLike[str], options: LoadOptions | None = None, **choices: Any) -> LoadPlan:
    """Return what loading a checkpoint will move and hold, without loading it.

    Of a repository, the config, the index and the headers of the weights are fetched, and no weights. Neither torch
    nor transformers is imported.

    Raises
    ------
    LoadError
        Where there is no such checkpoint, or its headers cannot be read.
    """
    return look_at(model, merge_options(options, choices))[2]


def look_at(model: str | os.PathLike[str], options: LoadOptions) -> tuple[Source, Checkpoint, LoadPlan]:
    """Return where a checkpoint is, what it holds, and what loading it will move and hold; raises as `plan` does."""
    with leaving(str(model)):
        try:
            source = find_source(model, options)
            checkpoint, bytes_to_download = look(source, options)
            adapter = find_adapter(options)
            check_fits(adapter, os.fspath(model), checkpoint, options)
        except OSError as error:
            raise os_failure(error, os.fspath(model)) from None
        made = foresee(checkpoint, options, bytes_to_download, resident_bytes(checkpoint), adapter)
    return source, checkpoint, clean(made)


def check_fits(adapter: Adapter | None, model: str, checkpoint: Checkpoint, options: LoadOptions) -> None:
    """Refuse an adapter that cannot be attached here, or not to this checkpoint; None is fine."""
    if adapter is not None:
        check_peft()
        check_adapter(adapter, model, checkpoint, options)


def foresee(
    checkpoint: Checkpoint, options: LoadOptions, bytes_to_download: int, resident: int, adapter: Adapter | None
) -> LoadPlan:
    """Return the plan of a load that would begin now, with `resident` bytes of the weights in memory."""
    to_download = bytes_to_download + (0 if adapter is None else missing_bytes(adapter, options))
    made = make_plan(checkpoint, options, to_download, find_free(), adapter)
    imports = "transformers.modeling_utils" not in sys.modules
    seconds = _history.predict_seconds(made, changed_options(options), resident, _history.runs(), imports=imports)
    return dataclasses.replace(made, seconds=seconds)


def resident_bytes(checkpoint: Checkpoint) -> int:
    """Return how many bytes of the weights are in memory; what is to be downloaded comes through it."""
    absent = 0
    for shard in checkpoint.shards:
        if shard.path.is_file():
            absent += sum(piece.absent for piece in find_missing(shard.path))
    return checkpoint.bytes - absent


def load(
    model: str | os.PathLike[str],
    options: LoadOptions | None = None,
    *,
    progress: bool = True,
    progress_callback: ProgressCallback | None = None,
    reload: bool = False,
    replace: bool = False,
    **choices: Any,
) -> Loaded:
    """Load a checkpoint and return (model, tokenizer), with a progress bar in the terminal meanwhile.

    Parameters
    ----------
    progress
        Whether to show the bar.

    The other parameters are those of `start`.

    Raises
    ------
    LoadError
        Where it could not be loaded: what happened, where, and what to do.
    LoadCancelled
        Where it was cancelled.
    KeyboardInterrupt
        Where it was interrupted; the load is cancelled first.
    """
    job = start(model, options, progress_callback=progress_callback, reload=reload, replace=replace, **choices)
    with job.expecting() as given:
        if progress:
            from nbloader._terminal import show_bar

            show_bar(job)
        return given[0] if given else job.result()

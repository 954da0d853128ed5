"""Loading without a notebook: start() returns at once, load() blocks, plan() only looks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbloader._analysis import history
from nbloader._analysis.forecast import look_at
from nbloader._load.ending import Loaded
from nbloader._load.job import LoadJob
from nbloader._options.options import LoadOptions, merge_options
from nbloader._options.signature import takes_options
from nbloader._planning.load_plan import LoadPlan
from nbloader._registry import models as registry
from nbloader._views.callback import ProgressCallback, follow


@takes_options
def start(
    model: str | os.PathLike[str],
    options: LoadOptions | None = None,
    *,
    progress_callback: ProgressCallback | None = None,
    reload: bool = False,
    replace: bool = False,
    **choices: Any,
) -> LoadJob:
    """Start to load a checkpoint in the background, and return at once.

    The same model with the same options is loaded only once. If its load is running, you get a job for that load. If it
    is loaded already, the job returns the loaded model.

    Parameters
    ----------
    model
        A folder, the id of a repository on the Hub, or ``"demo"``.
    options
        The load's options.
    progress_callback
        Called with ``{"status": str, "message": str, "progress": number}`` at each step, on a thread of the load and
        one call at a time. If it raises, the exception is logged and it is not called again.
    reload
        Load again even if the model is loaded or its load is running.
    replace
        Cancel the load that is running now, and load this model next. By default, loads wait for each other, in order.
    **choices
        Single options, on top of `options`: see `LoadOptions`.

    Raises
    ------
    OptionError
        For an option that does not exist or a value it cannot take. Problems with the checkpoint are raised by the
        job, not here.
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
    """Start a load, or find a running one that does the same; return its job."""
    # Subscribes before the load starts, so that no event is missed.
    history.follow(made)
    made._add_asker(can_ask)
    if progress_callback is not None:
        follow(made, progress_callback)
    job = registry.submit(made, replace=replace)
    if job is not made:
        job._add_asker(can_ask)
        if progress_callback is not None:
            follow(job, progress_callback)
    return job


@takes_options
def preload(*models: str | os.PathLike[str], **choices: Any) -> list[LoadJob]:
    """Load models in the background, one after the other, and keep them until they are unloaded.

    A later request for one of them waits for its load, or gets the model at once. Without `keep=`, all models are kept.

    Raises
    ------
    OptionError
        For an option that does not exist or a value it cannot take.
    """
    jobs = [start(model, **{"keep": "all", **choices}) for model in models]
    for job in jobs:
        registry.keep(job)
    return jobs


@takes_options
def download(
    model: str | os.PathLike[str],
    options: LoadOptions | None = None,
    *,
    progress: bool = True,
    progress_callback: ProgressCallback | None = None,
    **choices: Any,
) -> Path:
    """Download what a load with these options needs, and nothing else; return the folder of the checkpoint.

    Files that are cached already are not downloaded again. What is stored is what huggingface_hub stores: other tools
    find it, and a later load needs no network.

    Parameters
    ----------
    progress
        Whether to show a bar.

    The other parameters are those of `start`.

    Raises
    ------
    LoadError
        If the download failed; the error says what happened, where, and what to do.
    LoadCancelled
        If it was cancelled.
    KeyboardInterrupt
        If the wait was interrupted; the download is cancelled first.

    Examples
    --------
    >>> folder = nbloader.download("HuggingFaceTB/SmolLM2-135M")
    """
    job = begin(LoadJob(model, merge_options(options, choices), download_only=True), progress_callback)
    if progress:
        from nbloader._views.terminal import show_bar

        show_bar(job)
    return job._folder()


@takes_options
def plan(model: str | os.PathLike[str], options: LoadOptions | None = None, **choices: Any) -> LoadPlan:
    """Return what loading a checkpoint will move and how much memory it will need, without loading it.

    For a repository, only the config, the index and the headers of the weights are downloaded, not the weights. Neither
    torch nor transformers is imported.

    Raises
    ------
    LoadError
        If there is no such checkpoint, or its headers cannot be read.
    """
    return look_at(model, merge_options(options, choices))[2]


@takes_options
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
    """Load a checkpoint and return (model, tokenizer), with a progress bar in the terminal.

    Parameters
    ----------
    progress
        Whether to show the bar.

    The other parameters are those of `start`.

    Raises
    ------
    LoadError
        If the load failed; the error says what happened, where, and what to do.
    LoadCancelled
        If the load was cancelled.
    KeyboardInterrupt
        If the wait was interrupted; the load is cancelled first.
    """
    job = start(model, options, progress_callback=progress_callback, reload=reload, replace=replace, **choices)
    with job._expecting() as given:
        if progress:
            from nbloader._views.terminal import show_bar

            show_bar(job)
        return given[0] if given else job.result()

"""Stages "download" and "check": download what the load needs into the cache, and read the headers of the weights."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from nbloader._checkpoint.adapter import Adapter, check_adapter, find_adapter
from nbloader._checkpoint.checkpoint import Checkpoint, read_checkpoint, read_config
from nbloader._checkpoint.source import Source
from nbloader._errors import LoadCancelled
from nbloader._libraries.peft import check_peft
from nbloader._load.stages.from_hub import HubFiles, bring_adapter, check_config
from nbloader._options.options import LoadOptions
from nbloader._planning.load_plan import LoadPlan
from nbloader._planning.plan import check_fit, make_plan, smaller
from nbloader._progress import events
from nbloader._progress.reporter import Reporter
from nbloader._system.memory import Free
from nbloader._system.threads import Flag, make_thread
from nbloader._text.catalogue import text

OnPlan = Callable[[LoadPlan, Callable[[], Sequence[tuple[Mapping[str, Any], int]]]], None]
"""Called with the plan, and with a function that returns option changes that need less memory, and how much."""


class Fetched(NamedTuple):
    """A checkpoint whose folder and config are on this machine; its weights may still be downloading.

    `whole` gives the checkpoint and the plan of its load, once all files are on this machine.
    """

    folder: Path
    config: Mapping[str, Any]
    whole: Future[tuple[Checkpoint, LoadPlan]]
    adapter: Adapter | None = None


@contextmanager
def fetching(
    model: str | os.PathLike[str],
    source: Source,
    options: LoadOptions,
    reporter: Reporter,
    on_plan: OnPlan,
    find_free: Callable[[], Free],
) -> Iterator[Fetched]:
    """Download what the load needs: the weights in the background, all else before the context is entered.

    `find_free` returns the memory that will be free for the weights.

    Leaving the context ends the download.

    Raises
    ------
    DownloadError
        If the Hub refuses or the connection fails.
    CheckpointError
        If the files are incomplete or broken.
    """
    fetch = _Fetch(model, source, options, reporter, on_plan, find_free)
    try:
        yield fetch.begin()
    finally:
        fetch.end()


class _Fetch:
    """Downloads what a load needs, and plans the load as soon as the headers are known."""

    def __init__(
        self,
        model: str | os.PathLike[str],
        source: Source,
        options: LoadOptions,
        reporter: Reporter,
        on_plan: OnPlan,
        find_free: Callable[[], Free],
    ) -> None:
        self._model, self._source, self._options, self._reporter = model, source, options, reporter
        self._on_plan, self._find_free = on_plan, find_free
        self._ended = threading.Event()
        repository = source.repository
        self._download = None
        if repository is not None and repository.files is not None:
            self._download = HubFiles(repository, repository.files, options, reporter, self._check)

    def begin(self) -> Fetched:
        """Download everything but the weights, and start to download the weights."""
        reporter, options, source = self._reporter, self._options, self._source
        with ExitStack() as stage:
            # A folder has nothing to download: reading it is the check.
            note = stage.enter_context(reporter.stage("check" if self._download is None else "download"))
            if self._download is not None:
                with reporter.spending("download"):
                    self._download.bring_support()
                note.detail = self._download.detail
            folder = source.root(options) / options.subfolder
            adapter = find_adapter(options, self._check)
            if adapter is not None:
                check_peft()
            config = read_config(folder)
            check_config(source.name, config, options)
            fetched = Fetched(folder, config, Future(), adapter)
            if adapter is not None and adapter.repository is not None:
                with reporter.spending("download"):
                    bring_adapter(adapter, adapter.repository, options, reporter, self._check, self._download)
            if self._download is None or not self._download.has_more:
                fetched.whole.set_result(self._finish(fetched))
            else:
                make_thread(self._finish_behind, "nbloader-fetch", fetched, stage.pop_all()).start()
        return fetched

    def end(self) -> None:
        """End the download: its result is not needed any more."""
        self._ended.set()

    def _check(self) -> None:
        self._reporter.check_cancelled()
        if self._ended.is_set():
            raise LoadCancelled("Nobody waits for this download any more.")

    def _finish_behind(self, fetched: Fetched, stage: ExitStack) -> None:
        try:
            with stage:
                found = self._finish(fetched)
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
            fetched.whole.set_exception(error)
        else:
            fetched.whole.set_result(found)

    def _finish(self, fetched: Fetched) -> tuple[Checkpoint, LoadPlan]:
        """Download the weights; return the checkpoint and the plan, which is published earlier if possible."""
        options, ahead = self._options, None
        if self._download is not None:
            ahead = self._download.look_ahead(fetched.config) if self._download.has_more else None
            if ahead is not None:
                self._check_base(ahead[0], fetched.adapter)
                self._plan(ahead[0], fetched.adapter, ahead[1])
            self._download.bring_weights()
        with nullcontext() if self._download is None else self._reporter.stage("check"):
            checkpoint = read_checkpoint(fetched.folder, options.variant, options.use_safetensors)
            self._reporter.emit(events.CheckpointRead, os.fspath(fetched.folder), checkpoint.format)
            if ahead is None:
                self._check_base(checkpoint, fetched.adapter)
            return checkpoint, self._plan(checkpoint, fetched.adapter)

    def _plan(self, checkpoint: Checkpoint, adapter: Adapter | None, bytes_to_download: int = 0) -> LoadPlan:
        """Make and publish the plan, and raise an error if the load will not fit."""
        options, free = self._options, self._find_free()
        plan = make_plan(checkpoint, options, bytes_to_download, free, adapter)
        self._on_plan(plan, lambda: smaller(checkpoint, options, free, adapter))
        check_fit(self._source.name, checkpoint, plan, options, adapter)
        sizes = zip(checkpoint.shards, plan.bytes_to_place, strict=True)
        shards = [(shard.name, shard.bytes, to_place) for shard, to_place in sizes]
        if checkpoint.beside is not None:
            beside = checkpoint.beside.file
            shards.append((beside.name, beside.bytes, beside.bytes))
        if adapter is not None:
            shards.append((adapter.weights.name, adapter.weights.bytes, adapter.weights.bytes))
        self._reporter.emit(events.ShardsFound, tuple(shards), plan.copies)
        return plan

    def _check_base(self, checkpoint: Checkpoint, adapter: Adapter | None) -> None:
        if adapter is not None:
            base = check_adapter(adapter, os.fspath(self._model), checkpoint, self._options)
            if base:
                known = {"adapter": adapter.name, "base": base, "model": self._source.name}
                self._reporter.log("warning", "other_base", **known)


def download_all(source: Source, options: LoadOptions, reporter: Reporter) -> Path:
    """Download what a load needs, with its adapter; return the folder of the checkpoint.

    What this environment cannot load is downloaded too: it may be for another machine.

    Raises
    ------
    DownloadError
        If the Hub refuses or the connection fails.
    CheckpointError
        If the repository holds no weights that can be loaded.
    """
    repository, files, check = source.repository, None, reporter.check_cancelled
    with reporter.stage("download") as note:
        note.detail = text("detail", "cached")
        if repository is not None and repository.files is not None:
            files = HubFiles(repository, repository.files, options, reporter, check, will_load=False)
            files.bring_support()
            note.detail = files.detail
            files.bring_weights()
        adapter = find_adapter(options, check)
        if adapter is not None and adapter.repository is not None:
            bring_adapter(adapter, adapter.repository, options, reporter, check, files)
    return source.root(options) / options.subfolder


def look(source: Source, options: LoadOptions) -> tuple[Checkpoint, int]:
    """Return what a checkpoint holds, and the bytes that a load would download, without downloading its weights.

    For a repository, this downloads the config, the index, and the headers of weights that are not cached.

    Raises
    ------
    DownloadError
        If the Hub refuses or the connection fails.
    CheckpointError
        If the files are incomplete or broken.
    """
    repository = source.repository
    if repository is None or repository.files is None:
        folder = source.root(options) / options.subfolder
        check_config(source.name, read_config(folder), options)
        return read_checkpoint(folder, options.variant, options.use_safetensors), 0
    reporter = Reporter(lambda event: None, lambda: 0.0, Flag())
    download = HubFiles(repository, repository.files, options, reporter, lambda: None)
    return download.look()

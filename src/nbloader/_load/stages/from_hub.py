"""The files of a repository that a load needs, and their download."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from nbloader._checkpoint.adapter import Adapter, adapter_options, bring, missing_bytes
from nbloader._checkpoint.checkpoint import Beside, Checkpoint, read_config
from nbloader._checkpoint.code import CODE
from nbloader._checkpoint.headers import ShardFile, read_tensors
from nbloader._checkpoint.layout import (
    ADAPTER_CONFIG,
    ADAPTER_FILES,
    CONFIG,
    OTHER_FORMATS,
    Index,
    choose_weights,
    read_index,
    read_json,
)
from nbloader._checkpoint.needed import support_files
from nbloader._checkpoint.recognise import not_a_checkpoint
from nbloader._errors import CheckpointError, DownloadError
from nbloader._hub.cache import cached_file, kept_bytes, remember_revision, snapshot_folder
from nbloader._hub.download import DownloadWatcher, download_files, open_file
from nbloader._hub.repository import ListedFiles, Repository
from nbloader._libraries.imports import check_packages
from nbloader._options.options import LoadOptions
from nbloader._planning.stored import check_stored
from nbloader._progress import events
from nbloader._progress.reporter import Reporter
from nbloader._safety.files import open_regular
from nbloader._system.page_cache import find_missing
from nbloader._text.catalogue import text
from nbloader._text.units import first_few, size_text

_WEIGHT_ENDINGS = (*OTHER_FORMATS, ".safetensors", ".bin", ".pt", ".msgpack", ".npz")
_LOOKERS = 8  # headers to fetch in parallel


def check_config(where: str, config: Mapping[str, Any], options: LoadOptions) -> None:
    """Raise an error for a config that this environment cannot load, before the weights are downloaded."""
    check_packages(where, config)
    check_stored(where, config, options.quantization, options.placement)


def bring_adapter(
    adapter: Adapter,
    repository: Repository,
    options: LoadOptions,
    reporter: Reporter,
    check: Callable[[], None],
    download: HubFiles | None,
) -> None:
    """Download the weights of an adapter from its own repository, as one more file of the load's download."""
    missing, own = missing_bytes(adapter, options), adapter_options(options)
    if missing == 0:
        remember_revision(repository, own)
        return
    size = adapter.weights.bytes
    number = download.planned if download is not None else 0
    reporter.emit(events.DownloadAdded, (adapter.weights.name, size, size - missing))
    tally = reporter.tally(events.Downloaded, missing)
    lock = threading.Lock()

    def count(size: int) -> None:
        with lock:
            tally.add(number, size)

    bring(repository, [adapter.weights.name], own, check, count, _teller_of_waits(reporter))
    remember_revision(repository, own)
    tally.flush()
    reporter.emit(events.DownloadEnded, number)


def _teller_of_waits(reporter: Reporter) -> Callable[[str, float, str], None]:
    def tell(name: str, seconds: float, reason: str) -> None:
        reporter.log("warning", "download_waits", name=name, seconds=f"{seconds:.0f}", reason=reason)

    return tell


class HubFiles:
    """The files of a repository that a load needs, and their download.

    Without `will_load`, the shards are not reported as bytes to read and to place, and the checkpoint's code is
    downloaded even if it may not run yet.
    """

    def __init__(
        self,
        repository: Repository,
        files: ListedFiles,
        options: LoadOptions,
        reporter: Reporter,
        check: Callable[[], None],
        *,
        will_load: bool = True,
    ) -> None:
        self._repository = repository
        self._will_load = will_load
        self._files = files
        self._options = options
        self._reporter = reporter
        self._check = check
        self._waited = _teller_of_waits(reporter)
        self._prefix = f"{options.subfolder.strip('/')}/" if options.subfolder else ""
        self._lock = threading.Lock()
        self._index: Index | None = None
        self._beside: str | None = None
        self._optional: Collection[str] = ()
        self.detail: str = ""
        self.planned = 0

    @property
    def has_more(self) -> bool:
        """Whether weights are missing."""
        return bool(self._missing_shards)

    def look(self) -> tuple[Checkpoint, int]:
        """Return what the checkpoint holds, and how many of its bytes are not on this machine."""
        config = self._bring_config()
        check_config(self._repository.repo_id, config, self._options)
        wanted = self._choose(config)
        left = self._bytes(wanted) - sum(self._kept(wanted).values())
        return self._read_headers(config), left

    def look_ahead(self, config: Mapping[str, Any]) -> tuple[Checkpoint, int] | None:
        """Return the same as `look`, after `bring_support`; None if the headers cannot be read before the download."""
        left = self._bytes(self._missing_shards) - sum(self._kept(self._missing_shards).values())
        try:
            return self._read_headers(config), left
        except (CheckpointError, DownloadError):
            return None  # the download retries, resumes broken transfers, and reports errors

    def _read_headers(self, config: Mapping[str, Any]) -> Checkpoint:
        top = Path(self._repository.repo_id)
        shards = tuple(
            ShardFile(name.removeprefix(self._prefix), top / name, self._files[name].bytes) for name in self._shards
        )
        with ExitStack() as stack, ThreadPoolExecutor(_LOOKERS) as pool:
            files = [stack.enter_context(file) for file in pool.map(self._open, self._shards)]
            opened = dict(zip(shards, files, strict=True))
            tensors = read_tensors(self._kind, shards, opened.__getitem__)
        index = None if self._index is None else self._index.metadata
        beside = None
        if self._beside is not None:
            name = self._beside
            beside = Beside(ShardFile(name, top / self._prefix / name, self._files[self._prefix + name].bytes), {})
        return Checkpoint(top / self._prefix, self._kind, config, shards, tensors, index, self._lacks_index, beside)

    def _open(self, name: str) -> BinaryIO:
        path = cached_file(self._repository.repo_id, self._repository.commit, name, self._options)
        if path is not None:
            return open_regular(path)
        file = open_file(self._repository, name, self._options, self._check)
        file.read(1)  # fetches the beginning, which holds the header, in parallel with other files
        file.seek(0)
        return file

    def bring_support(self) -> None:
        """Plan the download, and download everything but the weights."""
        wanted = self._choose(self._bring_config())
        self._numbers = {name: number for number, name in enumerate(wanted)}
        missing = self._missing(wanted)
        self._log_skipped(set(wanted))
        if missing:
            if self._will_load:
                self._report_shards()
            self._plan(wanted)
            self.planned = len(wanted)
        counts = {"missing": len(missing), "wanted": len(wanted)}
        self.detail = text("detail", "files", **counts) if missing else text("detail", "cached")
        self._tally = self._reporter.tally(events.Downloaded, self._bytes(wanted))
        self._missing_shards = [name for name in missing if name in self._shards]
        self._bring([name for name in missing if name not in self._shards])

    def bring_weights(self) -> None:
        """Download the weights; the repository's files are complete then."""
        self._bring(self._missing_shards)
        remember_revision(self._repository, self._options)

    def _report_shards(self) -> None:
        sizes = [(name.removeprefix(self._prefix), self._files[name].bytes) for name in self._shards]
        self._reporter.emit(events.ShardsFound, tuple((name, size, size) for name, size in sizes))

    def _plan(self, wanted: Sequence[str]) -> None:
        here = self._kept(wanted)
        files = tuple((name.removeprefix(self._prefix), self._files[name].bytes, here[name]) for name in wanted)
        self._reporter.emit(events.DownloadPlanned, files)
        cached = sum(here.values())
        left = self._bytes(wanted) - cached
        self._reporter.log("info", "downloading", size=size_text(left), cached=size_text(cached))

    def _bytes(self, names: Sequence[str]) -> int:
        return sum(self._files[name].bytes for name in names)

    def _kept(self, names: Sequence[str]) -> dict[str, int]:
        return {name: kept_bytes(self._repository, name, self._options) for name in names}

    def _choose(self, config: Mapping[str, Any]) -> list[str]:
        """Return the names of all files that the load needs, and set the format and the shards of the weights."""
        entry = self._find_weights(config)
        support = [self._prefix + name for name in support_files(self._here, self._options)]
        self._beside = None
        if ADAPTER_CONFIG in self._here and find_spec("peft") is not None:
            self._beside = next((name for _, name in ADAPTER_FILES if name in self._here), None)
            support += [] if self._beside is None else [self._prefix + self._beside]
        if self._prefix:
            support += [name for name in support_files(set(self._files), self._options) if name not in support]
        needs_code = not self._will_load and "auto_map" in config
        if needs_code or self._options.allows_code(self._repository.commit):
            support += sorted(name for name in self._files if name.endswith(CODE))
        wanted = list(dict.fromkeys([*support, entry, *self._shards]))
        self._files.look_up(wanted)
        self._optional = {*support} - {self._prefix + CONFIG, self._prefix + ADAPTER_CONFIG, entry, *self._shards}
        return wanted

    def _find_weights(self, config: Mapping[str, Any]) -> str:
        """Return the index, or the weights file if there is no index; set the format and the shards of the weights."""
        prefix, repo_id = self._prefix, self._repository.repo_id
        self._here = {name.removeprefix(prefix) for name in self._files if name.startswith(prefix)}
        options = self._options
        weights = choose_weights(self._here, config, Path(repo_id), options.variant, options.use_safetensors)
        if weights is None:
            raise self._recognised(has_config=True) or CheckpointError(
                text("error", "no_loadable_weights", where=f"{repo_id}/{prefix}" if prefix else repo_id),
                text("hint", "other_repository"),
            )
        entry, shards = prefix + weights.entry, weights.shards
        self._index = None
        if weights.is_indexed:
            self._bring_untold(entry)
            path = cached_file(repo_id, self._repository.commit, entry, self._options)
            self._index = None if path is None else read_index(path)
            shards = () if self._index is None else self._index.shards
        absent = [name for name in shards if name not in self._here]
        if absent:
            raise CheckpointError(
                text(
                    "error",
                    "repository_missing_shards",
                    repository=repo_id,
                    count=len(absent),
                    entry=entry,
                    names=first_few(absent),
                ),
                text("hint", "tell_authors"),
            )
        self._kind, self._lacks_index = weights.format, weights.lacks_index
        self._shards = [prefix + name for name in shards]
        return entry

    def _bring_config(self) -> Mapping[str, Any]:
        """Download and return the config."""
        if self._prefix + CONFIG in self._files:
            self._bring_untold(self._prefix + CONFIG)
        else:
            known = self._recognised(has_config=False)
            if known is not None:
                raise known
        root = snapshot_folder(self._repository.repo_id, self._repository.commit, self._options, CONFIG)
        return read_config(root / self._prefix)

    def _recognised(self, *, has_config: bool) -> CheckpointError | None:
        """Return the error for a repository that is not a checkpoint; None if its files are not recognised."""
        names = [name.removeprefix(self._prefix) for name in self._files if name.startswith(self._prefix)]

        def read(name: str) -> Mapping[str, Any]:
            self._bring_untold(self._prefix + name)
            root = snapshot_folder(self._repository.repo_id, self._repository.commit, self._options, name)
            return read_json(root / self._prefix / name)

        return not_a_checkpoint(self._repository.repo_id, names, read, has_config)

    def _missing(self, names: Sequence[str]) -> list[str]:
        repo_id, commit = self._repository.repo_id, self._repository.commit
        return [name for name in names if cached_file(repo_id, commit, name, self._options) is None]

    def _bring_untold(self, name: str) -> None:
        """Download a file that the plan depends on, without reporting it: the plan counts it as cached."""
        watcher = DownloadWatcher(lambda name, size: None, lambda name: None, self._waited, self._check)
        download_files(self._repository, self._missing([name]), self._options, watcher)

    def _bring(self, names: Sequence[str]) -> None:
        watcher = DownloadWatcher(
            on_bytes=self._count,
            on_file=self._arrived,
            on_wait=self._waited,
            check_cancelled=self._check,
            on_missing=self._missed,
        )
        download_files(self._repository, names, self._options, watcher, self._optional)

    def _missed(self, name: str, reason: str) -> None:
        self._reporter.log("warning", "file_left_out", name=name, reason=reason)

    def _count(self, name: str, size: int) -> None:
        with self._lock:
            self._tally.add(self._numbers[name], size)

    def _arrived(self, name: str) -> None:
        """Emit that a file has arrived and, for a shard, how many of its bytes the download left in memory."""
        with self._lock:
            self._tally.flush()
            self._reporter.emit(events.DownloadEnded, self._numbers[name])
        if name in self._shards:
            path = cached_file(self._repository.repo_id, self._repository.commit, name, self._options)
            if path is not None:
                absent = sum(piece.absent for piece in find_missing(path))
                size = self._files[name].bytes - absent
                self._reporter.emit(events.FoundInMemory, self._shards.index(name), size)

    def _log_skipped(self, wanted: Collection[str]) -> None:
        """Log which weights in other formats are not downloaded, and how many bytes that saves."""
        skipped = [name for name in self._files if name not in wanted and name.lower().endswith(_WEIGHT_ENDINGS)]
        if skipped:
            known = [self._files.known(name) for name in skipped]
            size = size_text(sum(expected.bytes for expected in known if expected is not None))
            names = ", ".join(skipped[:3]) + (", …" if len(skipped) > 3 else "")
            self._reporter.log("info", "skipped", count=len(skipped), size=size, names=names)

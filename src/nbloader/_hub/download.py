"""Download files of a repository into the cache, or read only parts of a file."""

from __future__ import annotations

import errno
import os
import queue
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from nbloader._errors import DownloadError, LoadCancelled
from nbloader._hub.cache import (
    blobs_of,
    cache_folder,
    cache_root,
    cached_file,
    has_blob,
    kept_bytes,
    link,
    part_file,
)
from nbloader._hub.errors import as_load_error
from nbloader._hub.http import headers_of, opened
from nbloader._hub.remote_file import open_remote
from nbloader._hub.repository import Repository
from nbloader._hub.transfer import BrokenOffError, Reply, WrongContentError, bring
from nbloader._system.threads import make_thread
from nbloader._text.catalogue import text
from nbloader._text.units import size_text

if TYPE_CHECKING:
    from nbloader._options.options import LoadOptions


_WORKERS = 8  # as many as snapshot_download takes
_TICK = 0.05  # seconds between two checks for cancellation
_LOCK_SECONDS = 0.5
_ATTEMPTS = 3
_MOST_SKIPPED = 1 << 20  # bytes before the requested range that are read and dropped


@dataclass(frozen=True)
class DownloadWatcher:
    """Callbacks of a download. They are called from its threads, several at a time.

    Parameters
    ----------
    on_bytes
        Called with a file's name and the bytes received: 0 when its transfer begins, negative when it starts over.
    on_file
        Called with the name of each complete file, whether it was downloaded here or by another process.
    on_wait
        Called with a file's name, the seconds to wait now, and the reason.
    check_cancelled
        Called between chunks; an exception that it raises ends the download.
    """

    on_bytes: Callable[[str, int], None]
    on_file: Callable[[str], None]
    on_wait: Callable[[str, float, str], None]
    check_cancelled: Callable[[], None]


def open_file(repo: Repository, name: str, options: LoadOptions, check_cancelled: Callable[[], None]) -> BinaryIO:
    """Return a seekable file object for a file of the repository; only the parts that are read are downloaded.

    Nothing is stored in the cache. Reading raises DownloadError if the Hub refuses or the connection fails.
    Exceptions of `check_cancelled`, which is called before each request, are raised too.
    """
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(repo.repo_id, name, revision=repo.commit)

    def ask(begin: int, end: int) -> bytes:
        check_cancelled()
        with opened(url, headers_of(options), begin, end) as reply:
            return _taken(reply, begin, end)

    def fetch(begin: int, end: int) -> bytes:
        with as_load_error(repo.repo_id, options):
            for _ in range(_ATTEMPTS - 1):
                with suppress(BrokenOffError):
                    return ask(begin, end)
            return ask(begin, end)

    return open_remote(fetch, repo.expected(name).bytes)


def _taken(reply: Reply, begin: int, end: int) -> bytes:
    """Return the requested bytes of a reply, which may hold more if the server ignored the range."""
    if begin - reply.begin > _MOST_SKIPPED or reply.begin > begin:
        raise BrokenOffError(text("reason", "no_parts"))
    content = bytearray()
    for chunk in reply.chunks:
        content += chunk
        if len(content) >= end - reply.begin:
            break
    if len(content) < end - reply.begin:
        raise BrokenOffError(text("reason", "broke_off"))
    return bytes(content[begin - reply.begin : end - reply.begin])


def download_files(repo: Repository, names: Sequence[str], options: LoadOptions, watcher: DownloadWatcher) -> None:
    """Download files of the repository into the cache, several at a time, in the given order.

    A file becomes part of the snapshot when it is complete and has the hash that the Hub lists. Until then it is a
    part file, from which the next download continues.

    Raises
    ------
    DownloadError
        If the Hub refuses, the connection keeps failing, or there is not enough disk space.
    """
    ended = threading.Event()

    def check() -> None:
        watcher.check_cancelled()
        if ended.is_set():
            raise LoadCancelled("Another file of this download failed.")

    def count(name: str, size: int) -> None:
        check()
        watcher.on_bytes(name, size)

    def pause(name: str, seconds: float, reason: str) -> None:
        watcher.on_wait(name, seconds, reason)
        _pause(seconds, check)

    left = deque(names)
    outcomes: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        while not ended.is_set():
            try:
                name = left.popleft()
            except IndexError:
                return
            try:
                _download_file(repo, name, options, partial(count, name), partial(pause, name), check)
                watcher.on_file(name)
                outcomes.put(None)
            except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
                outcomes.put(error)

    with as_load_error(repo.repo_id, options):
        _check_room(repo, names, options)
        # Not an executor: Python waits for its threads at exit, so a socket that receives nothing would block the exit.
        for _ in range(min(_WORKERS, len(names))):
            make_thread(work, "nbloader-download").start()
        try:
            _wait_for(outcomes, len(names), watcher.check_cancelled)
        finally:
            ended.set()


def _pause(seconds: float, check: Callable[[], None]) -> None:
    deadline = time.monotonic() + seconds
    check()
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, _TICK))
        check()


def _wait_for(
    outcomes: queue.SimpleQueue[BaseException | None], expected: int, check_cancelled: Callable[[], None]
) -> None:
    while expected:
        check_cancelled()
        try:
            outcome = outcomes.get(timeout=_TICK)
        except queue.Empty:
            continue
        if outcome is not None:
            raise outcome
        expected -= 1


def _check_room(repo: Repository, names: Sequence[str], options: LoadOptions) -> None:
    needed = sum(repo.expected(name).bytes - kept_bytes(repo, name, options) for name in names)
    folder = cache_folder(repo.repo_id, options)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise DownloadError(
            text(
                "error",
                "insufficient_disk_space",
                repository=repo.repo_id,
                needed=size_text(needed),
                existing=existing,
                free=size_text(free),
            ),
            text("hint", "free_or_cache_dir"),
        )


def _download_file(
    repo: Repository,
    name: str,
    options: LoadOptions,
    on_bytes: Callable[[int], None],
    on_wait: Callable[[float, str], None],
    check: Callable[[], None],
) -> None:
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(repo.repo_id, name, revision=repo.commit)
    headers = headers_of(options)
    expected = repo.expected(name)
    part = part_file(repo, name, options)
    part.parent.mkdir(parents=True, exist_ok=True)
    with _locked(part, options, repo, check, lambda: on_wait(0.0, text("reason", "other_process"))):
        if cached_file(repo.repo_id, repo.commit, name, options) is not None:
            return
        if has_blob(repo, name, options):  # from another revision, or under another name
            link(repo, name, blobs_of(repo, options) / str(expected.key), options, is_new=False)
            return
        on_bytes(0)
        try:
            found = bring(lambda begin, end: opened(url, headers, begin, end), part, expected, on_bytes, on_wait)
        except WrongContentError as error:
            raise DownloadError(
                text("error", "download_mismatch", name=name, repository=repo.repo_id, error=error.args[0]),
                text("hint", "load_again_proxy"),
            ) from None
        except OSError as error:
            if error.errno == errno.ENOSPC:
                part.unlink(missing_ok=True)  # a disk that stays full is worse than starting over
            raise
        blob = part.with_name(found)
        try:
            os.replace(part, blob)
        except FileNotFoundError:
            if not blob.is_file():  # on a file system without working locks, another process may have been faster
                raise
        link(repo, name, blob, options, is_new=True)


@contextmanager
def _locked(
    part: Path, options: LoadOptions, repo: Repository, check: Callable[[], None], on_wait: Callable[[], None]
) -> Iterator[None]:
    """Lock a part file against every other process that downloads the same file."""
    from filelock import Timeout
    from huggingface_hub.utils import WeakFileLock

    locks = cache_root(options) / ".locks" / cache_folder(repo.repo_id, options).name
    locks.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        waited = False
        while True:
            check()
            try:
                stack.enter_context(WeakFileLock(locks / f"{part.name}.lock", timeout=_LOCK_SECONDS))
                break
            except Timeout:
                if not waited:
                    waited = True
                    on_wait()
        yield

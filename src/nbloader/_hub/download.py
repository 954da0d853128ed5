"""Download files of a repository into the cache, or read only parts of a file."""

from __future__ import annotations

import errno
import os
import queue
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
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
    link_shared_blob,
    part_file,
    share_blob,
)
from nbloader._hub.connections import MOST_CONNECTIONS, Connections
from nbloader._hub.errors import as_load_error, reason_of
from nbloader._hub.http import FileOnHub, headers_of, opened
from nbloader._hub.part_file import PartFile
from nbloader._hub.remote_file import open_remote
from nbloader._hub.repository import Repository
from nbloader._hub.transfer import LEAST_PIECE, BrokenOffError, Reply, Transfer, WrongContentError
from nbloader._hub.xet import XetFile, XetStorage
from nbloader._system.threads import make_thread
from nbloader._text.catalogue import text
from nbloader._text.units import size_text

if TYPE_CHECKING:
    from nbloader._options.options import LoadOptions


_MOST_FILES = 8  # at once, as many as snapshot_download takes
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
    on_missing
        Called with the name of each optional file that cannot be had, and the reason.
    check_cancelled
        Called between chunks; an exception that it raises ends the download.
    """

    on_bytes: Callable[[str, int], None]
    on_file: Callable[[str], None]
    on_wait: Callable[[str, float, str], None]
    check_cancelled: Callable[[], None]
    on_missing: Callable[[str, str], None] = lambda name, reason: None


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


def download_files(
    repo: Repository,
    names: Sequence[str],
    options: LoadOptions,
    watcher: DownloadWatcher,
    optional: Collection[str] = (),
) -> None:
    """Download files of the repository into the cache, several at a time, in the given order.

    Those that are `optional` may be missing in the end, if the Hub refuses them or they cannot be stored.

    A file becomes part of the snapshot when it is complete and has the hash that the Hub lists. Until then it is a
    part file, from which the next download continues.

    Raises
    ------
    DownloadError
        If the Hub refuses, the connection keeps failing, or there is not enough disk space.
    """
    with as_load_error(repo.repo_id, options):
        _check_room(repo, names, options)
        _Download(repo, names, options, watcher, optional).run()


class _Download:
    """A download of several files, by threads that bring them in order, and large ones together."""

    def __init__(
        self,
        repo: Repository,
        names: Sequence[str],
        options: LoadOptions,
        watcher: DownloadWatcher,
        optional: Collection[str],
    ) -> None:
        self._repo = repo
        self._optional = optional
        self._options = options
        self._watcher = watcher
        self._expected = len(names)
        self._left = deque(names)
        self._begun = 0  # files that are not complete
        self._transfers: list[Transfer] = []  # of files that are begun
        self._connections = Connections(min(_MOST_FILES, len(names)))
        self._in_use = 0
        self._changed = threading.Condition()
        self._outcomes: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._has_ended = False
        self._xet = XetStorage(options)

    def run(self) -> None:
        """Return when all files are in the cache."""
        pieces = sum(self._repo.expected(name).bytes // LEAST_PIECE + 1 for name in self._left)
        # Not an executor: Python waits for its threads at exit, so a socket that receives nothing would block the exit.
        for _ in range(min(MOST_CONNECTIONS, pieces)):
            make_thread(self._work, "nbloader-download").start()
        try:
            _wait_for(self._outcomes, self._expected, self._watcher.check_cancelled)
        finally:
            self._has_ended = True
            self._notify()
            self._xet.close()

    def _work(self) -> None:
        while (task := self._next()) is not None:
            task()

    def _next(self) -> Callable[[], None] | None:
        """Wait for something to do: a piece of a file that is begun, or else another file; None at the end."""
        with self._changed:
            while not self._has_ended and (self._left or self._begun):
                helped = next((transfer for transfer in self._transfers if transfer.has_piece), None)
                if helped is not None and self._in_use < self._connections.allowed:
                    return partial(self._help, helped)
                if helped is None and self._left and self._begun < _MOST_FILES:
                    self._begun += 1
                    return partial(self._bring_file, self._left.popleft())
                self._changed.wait()
        return None

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _check(self) -> None:
        self._watcher.check_cancelled()
        if self._has_ended:
            raise LoadCancelled("Another file of this download failed.")

    def _count(self, name: str, size: int) -> None:
        self._check()
        self._watcher.on_bytes(name, size)
        with self._changed:
            before = self._connections.allowed
            self._connections.received(time.monotonic(), size)
            if self._connections.allowed > before:
                self._changed.notify_all()

    def _wait(self, name: str, seconds: float, reason: str) -> None:
        self._watcher.on_wait(name, seconds, reason)
        self._notify()  # there may be more pieces
        _pause(seconds, self._check)

    def _bring_file(self, name: str) -> None:
        try:
            self._bring_into_cache(name)
            self._watcher.on_file(name)
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
            if name in self._optional and _cannot_be_had(error):
                self._watcher.on_missing(name, reason_of(error))
                self._outcomes.put(None)
            else:
                self._outcomes.put(error)
        else:
            self._outcomes.put(None)
        finally:
            with self._changed:
                self._begun -= 1
                self._changed.notify_all()

    def _help(self, transfer: Transfer) -> None:
        with self._connected(), suppress(BaseException):  # the thread that brings the file raises it
            transfer.bring_piece()

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Wait until one more connection is allowed."""
        with self._changed:
            while self._in_use >= self._connections.allowed and not self._has_ended:
                self._changed.wait()
            self._in_use += 1
        try:
            yield
        finally:
            with self._changed:
                self._in_use -= 1
                self._changed.notify_all()

    def _bring_into_cache(self, name: str) -> None:
        repo, options, expected = self._repo, self._options, self._repo.expected(name)
        part = part_file(repo, name, options)
        part.parent.mkdir(parents=True, exist_ok=True)
        waits = partial(self._wait, name, 0.0, text("reason", "other_process"))
        with _locked(repo, name, options, self._check, waits):
            if cached_file(repo.repo_id, repo.commit, name, options) is not None:
                return
            blob = None
            if not has_blob(repo, name, options):  # from another revision, or under another name
                blob = self._bring_blob(name, part)
            known = blobs_of(repo, options) / str(expected.key)
            link(repo, name, blob or known, options, is_new=blob is not None)

    def _bring_blob(self, name: str, part: Path) -> Path | None:
        """Bring the content of a file into the cache; return where it is, or None if it is shared with others."""
        from huggingface_hub import hf_hub_url

        repo, options, expected = self._repo, self._options, self._repo.expected(name)
        url = hf_hub_url(repo.repo_id, name, revision=repo.commit)
        xet = self._xet.find(url, expected.bytes) if expected.sha256 is not None else None
        if xet is not None and link_shared_blob(repo, name, xet.key, options):
            return None
        self._count(name, 0)
        blob = part.with_name(self._bring(name, url, PartFile(part, expected), xet))
        try:
            os.replace(part, blob)
        except FileNotFoundError:
            if not blob.is_file():  # on a file system without working locks, another process may have been faster
                raise
        if xet is not None and share_blob(repo, name, xet.key, options):
            return None
        return blob

    def _bring(self, name: str, url: str, part: PartFile, xet: XetFile | None) -> str:
        """Bring a file into its part file, with the help of other threads; return its hash."""
        on_http = FileOnHub(url, headers_of(self._options))
        transfer = None
        try:
            part.hash_arrived(self._check)
            transfer = Transfer(
                part,
                partial(self._opened, on_http),
                partial(self._count, name),
                partial(self._wait, name),
                None if xet is None else xet.opened,
            )
            with self._changed:
                self._transfers.append(transfer)
                self._changed.notify_all()
            while True:
                if transfer.is_stream:
                    has_more = transfer.bring_piece()
                else:
                    with self._connected():
                        has_more = transfer.bring_piece()
                if not has_more and (found := transfer.finish(self._check)) is not None:
                    part.remove_note()
                    return found
        except WrongContentError as error:
            raise DownloadError(
                text("error", "download_mismatch", name=name, repository=self._repo.repo_id, error=error.args[0]),
                text("hint", "load_again_proxy"),
            ) from None
        except OSError as error:
            if error.errno == errno.ENOSPC:
                part.remove()  # a disk that stays full is worse than starting over
            raise
        finally:
            part.close()
            if transfer is not None:
                with self._changed:
                    self._transfers.remove(transfer)

    @contextmanager
    def _opened(self, file: FileOnHub, begin: int, end: int) -> Iterator[Reply]:
        """Open a file, and ask for less if the server is asked for too much."""
        self._check()
        try:
            with file.opened(begin, end) as reply:
                if reply.requests_left is not None and reply.requests_left < self._connections.allowed:
                    self._connections.refused()
                yield reply
        except BrokenOffError as error:
            if error.is_busy:
                self._connections.refused()
            raise


def _cannot_be_had(error: BaseException) -> bool:
    """Return whether this is about one file: the Hub refuses it, sends another one, or it cannot be stored."""
    from huggingface_hub.errors import HfHubHTTPError

    is_full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    return isinstance(error, (HfHubHTTPError, DownloadError, OSError)) and not is_full


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


@contextmanager
def _locked(
    repo: Repository, name: str, options: LoadOptions, check: Callable[[], None], on_wait: Callable[[], None]
) -> Iterator[None]:
    """Lock a file against every other process that downloads it, as huggingface_hub does."""
    from filelock import Timeout
    from huggingface_hub.utils import WeakFileLock

    locks = cache_root(options) / ".locks" / cache_folder(repo.repo_id, options).name
    locks.mkdir(parents=True, exist_ok=True)
    key = repo.expected(name).key or part_file(repo, name, options).name
    with ExitStack() as stack:
        waited = False
        while True:
            check()
            try:
                stack.enter_context(WeakFileLock(locks / f"{key}.lock", timeout=_LOCK_SECONDS))
                break
            except Timeout:
                if not waited:
                    waited = True
                    on_wait()
        yield

"""The one door to huggingface_hub: what a repository holds, what of it is cached, and getting the rest."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import queue
import re
import shutil
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from nbloader._errors import DownloadError, LoadCancelled, LoadError, SourceError
from nbloader._hub.remote_file import open_remote
from nbloader._hub.transfer import BrokenOffError, Expected, Reply, WrongContentError, bring
from nbloader._safety.redaction import keep_secret
from nbloader._safety.untrusted import is_inside, is_size
from nbloader._system.threads import make_thread
from nbloader._text.catalogue import size_text, text

if TYPE_CHECKING:
    from nbloader._options.options import LoadOptions

_WORKERS = 8  # as many as snapshot_download takes
_TIMEOUT = 10.0  # seconds without an answer
_TICK = 0.05  # seconds between two looks at whether to go on
_LOCK_SECONDS = 0.5
_ATTEMPTS = 3
_MOST_SKIPPED = 1 << 20  # bytes that came before those that were asked for
_MOST_SHOWN = 100  # characters of what makes no sense
_COME_AGAIN = (408, 425, 429, 500, 502, 503, 504)

_sessions: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Repository:
    """One state of a repository.

    `files` maps names to what the Hub lists of them; None where the Hub was not asked or could not be.
    `note` says why not, if it should have been.
    """

    repo_id: str
    commit: str
    files: Mapping[str, Expected] | None
    note: str = ""

    def expected(self, name: str) -> Expected:
        """Return what the Hub lists of a file."""
        assert self.files is not None
        return self.files[name]

    def has(self, name: str, content: bytes, snapshot: Path) -> bool:
        """Tell whether a file of the cache's snapshot has the content that the Hub lists.

        Where the Hub was not asked, the name of what the snapshot links to is its hash.
        """
        if self.files is None:
            key = os.path.basename(os.path.realpath(snapshot / name))
            is_hash = re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", key) is not None
            expected = Expected(len(content), *((key,) if len(key) == 64 else (None, key))) if is_hash else None
        elif name in self.files:
            expected = self.files[name]
        else:
            return False
        if expected is None or expected.key is None:
            return True
        hasher = expected.hasher()
        hasher.update(content)
        return len(content) == expected.bytes and bool(hasher.hexdigest() == expected.key)


@dataclass(frozen=True)
class DownloadWatcher:
    """Sees a download go on, from its threads, several at a time.

    Parameters
    ----------
    on_bytes
        Called with a file's name and the bytes that arrived: 0 when its transfer begins, negative where it starts over.
    on_file
        Called with the name of each file that is whole, whoever brought it.
    on_wait
        Called with a file's name, the seconds it waits now, and why.
    check_cancelled
        Called between portions; its exception ends the download.
    """

    on_bytes: Callable[[str, int], None]
    on_file: Callable[[str], None]
    on_wait: Callable[[str, float, str], None]
    check_cancelled: Callable[[], None]


def is_repo_id(text: str) -> bool:
    """Tell whether `text` can be the id of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def find_repository(repo_id: str, options: LoadOptions, needed: str) -> Repository:
    """Return the state of a repository that `options` ask for, pinned to a commit.

    `needed` is the file by which a snapshot in the cache is known.

    Without the network, or where the user wants none, it is the state that the cache knows.

    Raises
    ------
    SourceError
        Where the Hub or the cache has no such repository or revision.
    DownloadError
        Where the Hub refuses access.
    """
    from huggingface_hub import HfApi, constants

    if options.local_files_only or constants.HF_HUB_OFFLINE:
        why = text("reason", "is_set", name="local_files_only" if options.local_files_only else "HF_HUB_OFFLINE")
        return _cached_repository(repo_id, options, needed, why, "")
    api = HfApi(token=options.token)
    with _told(repo_id, options):
        keep_secret(_headers(options).get("authorization", "").removeprefix("Bearer "))
        try:
            info = api.model_info(repo_id, revision=options.revision, files_metadata=True, timeout=_TIMEOUT)
        except (_httpx().HTTPError, ConnectionError, ValueError) as error:
            if _is_refusal(error):
                raise
            why = text("reason", "no_answer", where=constants.ENDPOINT, error=type(error).__name__)
            return _cached_repository(repo_id, options, needed, why, why)
        except (TypeError, AttributeError, KeyError) as error:  # of a list that is none
            raise _bad_answer(type(error).__name__) from None
    if not isinstance(info.sha, str) or not re.fullmatch(r"[0-9a-f]{40}", info.sha):
        raise DownloadError(
            text("error", "no_commit", endpoint=constants.ENDPOINT, repository=repo_id), text("hint", "later")
        )
    siblings = [sibling for sibling in info.siblings or () if is_inside(_listed_name(sibling))]
    with _told(repo_id, options):
        files = {sibling.rfilename: _expected(sibling, repo_id, info.sha, options) for sibling in siblings}
    return Repository(repo_id, info.sha, {**_converted(repo_id, info.sha, options), **files})


def _converted(repo_id: str, commit: str, options: LoadOptions) -> dict[str, Expected]:
    """Return the safetensors that were made in the cache of a state of the repository: the Hub lists none of them."""
    folder = _cache_folder(repo_id, options) / "snapshots" / commit
    made = (path for path in folder.rglob("*.safetensors*") if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): Expected(path.stat().st_size) for path in made}


def save_tensors(tensors: Mapping[str, Any], folder: Path) -> None:
    """Write tensors as safetensors, in shards where they are many, as the Hub's tools and transformers name them."""
    from huggingface_hub import save_torch_state_dict

    save_torch_state_dict(dict(tensors), folder, safe_serialization=True)


def _expected(sibling: Any, repo_id: str, commit: str, options: LoadOptions) -> Expected:
    size = sibling.size if sibling.size is not None else _asked_size(repo_id, sibling.rfilename, commit, options)
    if not is_size(size):
        raise _bad_answer(f"{sibling.rfilename}: {size!r}"[:_MOST_SHOWN])
    sha256 = getattr(sibling.lfs, "sha256", None)
    if isinstance(sha256, str) and re.fullmatch(r"[0-9a-f]{64}", sha256):
        return Expected(size, sha256=sha256)
    is_git_id = isinstance(sibling.blob_id, str) and re.fullmatch(r"[0-9a-f]{40}", sibling.blob_id)
    return Expected(size, git_id=sibling.blob_id if is_git_id else None)


def _listed_name(sibling: Any) -> str:
    if not isinstance(sibling.rfilename, str):
        raise _bad_answer(f"{type(sibling.rfilename).__name__} …")
    return sibling.rfilename


def _bad_answer(what: str) -> DownloadError:
    from huggingface_hub import constants

    return DownloadError(text("error", "bad_answer", where=constants.ENDPOINT, what=what), text("hint", "bad_answer"))


def _asked_size(repo_id: str, name: str, commit: str, options: LoadOptions) -> int:
    """Ask for a file's size: there are mirrors of the Hub that list none."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    found = get_hf_file_metadata(hf_hub_url(repo_id, name, revision=commit), token=options.token, timeout=_TIMEOUT)
    if found.size is None:
        raise DownloadError(text("error", "no_length", repository=repo_id, name=name), text("hint", "from_hub"))
    return int(found.size)


def _is_refusal(error: Exception) -> bool:
    """Tell whether the Hub said no; a server's own fault, a broken line or a proxy's page is none."""
    response = getattr(error, "response", None)
    return response is not None and response.status_code < 500


def _cached_repository(repo_id: str, options: LoadOptions, needed: str, why: str, note: str) -> Repository:
    name = _in(options.subfolder, needed)
    found = cached_file(repo_id, options.revision or "main", name, options)
    if found is None:
        where = f"{repo_id}@{options.revision}" if options.revision else repo_id
        raise SourceError(
            text("error", "not_cached", where=where, why=why),
            text("hint", "load_once"),
        )
    return Repository(repo_id, _snapshot_of(found, name).name, None, note)


def _httpx() -> Any:
    """Return the HTTP library that this huggingface_hub uses: it has changed it, and the exceptions with it."""
    try:
        from huggingface_hub.utils import httpx
    except ImportError:
        import httpx  # type: ignore[no-redef, unused-ignore]
    return httpx


def cached_file(repo_id: str, commit: str, name: str, options: LoadOptions) -> Path | None:
    """Return where a file of the repository lies in the cache, whole; None where it does not.

    `commit` may be a branch: it is the commit that the cache remembers for it.
    """
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo_id, name, cache_dir=options.cache_dir, revision=commit)
    return Path(found) if isinstance(found, str) else None


def snapshot_folder(repo_id: str, commit: str, options: LoadOptions, needed: str) -> Path:
    """Return the cache's folder for this state of the repository (its root, whatever `subfolder` is).

    `needed` is the file by which it is known.

    Raises
    ------
    SourceError
        Where nothing of it is cached.
    """
    name = _in(options.subfolder, needed)
    found = cached_file(repo_id, commit, name, options)
    if found is None:
        raise SourceError(text("error", "has_no", repository=repo_id, name=name), text("hint", "is_transformers"))
    return _snapshot_of(found, name)


def _snapshot_of(path: Path, name: str) -> Path:
    return path.parents[len(Path(name).parts) - 1]


def kept_bytes(repo: Repository, name: str, options: LoadOptions) -> int:
    """Return how many bytes of a file have arrived already: all of them, or what an interrupted download left."""
    expected = repo.expected(name)
    if cached_file(repo.repo_id, repo.commit, name, options) is not None or _has_blob(repo, name, options):
        return expected.bytes
    try:
        size = _part_file(repo, name, options).stat().st_size
    except OSError:
        return 0
    return size if size <= expected.bytes else 0


def address(repo: Repository, name: str) -> str:
    """Return the page on the Hub that shows a file at the repository's commit."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo.repo_id}/blob/{repo.commit}/{name}"


def open_file(repo: Repository, name: str, options: LoadOptions, check_cancelled: Callable[[], None]) -> BinaryIO:
    """Return a file of the repository to read and to seek in; only what is read of it is downloaded, and not kept.

    Reading raises DownloadError where the Hub refuses or the connection fails, and what `check_cancelled` raises before
    a request.
    """
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(repo.repo_id, name, revision=repo.commit)

    def ask(begin: int, end: int) -> bytes:
        check_cancelled()
        with _opened(url, _headers(options), begin, end) as reply:
            return _taken(reply, begin, end)

    def fetch(begin: int, end: int) -> bytes:
        with _told(repo.repo_id, options):
            for _ in range(_ATTEMPTS - 1):
                with suppress(BrokenOffError):
                    return ask(begin, end)
            return ask(begin, end)

    return open_remote(fetch, repo.expected(name).bytes)


def _taken(reply: Reply, begin: int, end: int) -> bytes:
    """Return the bytes that were asked for, and leave the rest of a reply that ignores what was asked."""
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


def download(repo: Repository, names: Sequence[str], options: LoadOptions, watcher: DownloadWatcher) -> None:
    """Bring files of the repository into the cache, several at a time, beginning with the first.

    A file is in the snapshot once all of it is there and has the hash that the Hub lists; until then it is a part,
    with which the next download goes on.

    Raises
    ------
    DownloadError
        Where the Hub refuses, the connection fails for good, or there is no room.
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

    with _told(repo.repo_id, options):
        _check_room(repo, names, options)
        # Threads of our own, not an executor's: those are waited for when Python ends, and a socket that nothing
        # comes from would hold it.
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
    folder = _cache_folder(repo.repo_id, options)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise DownloadError(
            text(
                "error",
                "disk_short",
                repository=repo.repo_id,
                needed=size_text(needed),
                existing=existing,
                free=size_text(free),
            ),
            text("hint", "free_or_cache_dir"),
        )


def _session() -> Any:
    """Return the HTTP client of this module, which belongs to that of huggingface_hub and is made as that one is.

    It closes its own in every process that is forked, and hangs there where a thread of the parent was just using it.
    """
    from huggingface_hub import get_session
    from huggingface_hub.utils import _http

    theirs = get_session()  # another one once the user has closed it, or asks for another kind
    make = getattr(_http, "_GLOBAL_CLIENT_FACTORY", None)
    if make is None:
        return theirs
    if theirs not in _sessions:
        _sessions.setdefault(theirs, make())
    return _sessions[theirs]


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
    headers = _headers(options)
    expected = repo.expected(name)
    part = _part_file(repo, name, options)
    part.parent.mkdir(parents=True, exist_ok=True)
    with _locked(part, options, repo, check, lambda: on_wait(0.0, text("reason", "other_process"))):
        if cached_file(repo.repo_id, repo.commit, name, options) is not None:
            return
        if _has_blob(repo, name, options):  # as a file of another revision, or under another name
            _link(repo, name, _blobs(repo, options) / str(expected.key), options, is_new=False)
            return
        on_bytes(0)
        try:
            found = bring(lambda begin, end: _opened(url, headers, begin, end), part, expected, on_bytes, on_wait)
        except WrongContentError as error:
            raise DownloadError(
                text("error", "not_as_it_should", name=name, repository=repo.repo_id, error=error.args[0]),
                text("hint", "load_again_proxy"),
            ) from None
        except OSError as error:
            if error.errno == errno.ENOSPC:
                part.unlink(missing_ok=True)  # a disk that stays full hurts more than starting over
            raise
        blob = part.with_name(found)
        try:
            os.replace(part, blob)
        except FileNotFoundError:
            if not blob.is_file():  # on a file system whose locks are none, somebody else may have been quicker
                raise
        _link(repo, name, blob, options, is_new=True)


def _headers(options: LoadOptions) -> dict[str, str]:
    from huggingface_hub.utils import build_hf_headers

    # A file that is packed on its way has no parts to go on from.
    return {**build_hf_headers(token=options.token), "Accept-Encoding": "identity"}


def _link(repo: Repository, name: str, blob: Path, options: LoadOptions, *, is_new: bool) -> None:
    """Make a whole file part of the snapshot (https://huggingface.co/docs/huggingface_hub/guides/manage-cache)."""
    from huggingface_hub import constants

    pointer = _cache_folder(repo.repo_id, options) / "snapshots" / repo.commit / name
    pointer.parent.mkdir(parents=True, exist_ok=True)
    if pointer.is_symlink() and not pointer.exists():
        pointer.unlink()  # it points to nothing
    try:
        if getattr(constants, "HF_HUB_DISABLE_SYMLINKS", False):
            raise OSError("The user wants no links.")
        os.symlink(os.path.relpath(blob, pointer.parent), pointer)
    except FileExistsError:
        return  # somebody else's, of the same content
    except OSError:  # Windows, where links take a right that few have
        if is_new:
            os.replace(blob, pointer)
        else:
            shutil.copyfile(blob, pointer)  # other snapshots may have a link to it


@contextmanager
def _locked(
    part: Path, options: LoadOptions, repo: Repository, check: Callable[[], None], on_wait: Callable[[], None]
) -> Iterator[None]:
    """Keep a part from every other process that brings the same file."""
    from filelock import Timeout
    from huggingface_hub.utils import WeakFileLock

    locks = _cache_root(options) / ".locks" / _cache_folder(repo.repo_id, options).name
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


@contextmanager
def _opened(url: str, headers: Mapping[str, str], begin: int, end: int) -> Iterator[Reply]:
    from huggingface_hub.utils import hf_raise_for_status

    wanted = {**headers, "Range": f"bytes={begin}-{end - 1}"}
    try:
        with _session().stream("GET", url, headers=wanted, timeout=_TIMEOUT, follow_redirects=True) as response:
            if response.status_code in _COME_AGAIN:
                raise BrokenOffError(
                    f"HTTP {response.status_code}", _asked_wait(response.status_code, response.headers)
                )
            if response.status_code == 416:
                raise WrongContentError(text("reason", "has_less"))
            hf_raise_for_status(response)
            yield _reply(response)
    except _httpx().TransportError as error:
        raise BrokenOffError(type(error).__name__) from None
    except RuntimeError as error:
        if "closed" not in str(error):
            raise
        raise BrokenOffError(text("reason", "closed")) from None  # by another download of this process that broke


def _reply(response: Any) -> Reply:
    is_packed = response.headers.get("content-encoding", "identity") != "identity"
    told = re.match(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", response.headers.get("content-range", ""))
    if response.status_code == 206 and told and not is_packed:
        return Reply(int(told[1]), int(told[2]) if told[2] != "*" else None, response.iter_bytes())
    length = response.headers.get("content-length")
    is_told = length is not None and re.fullmatch("[0-9]{1,18}", length) and not is_packed
    return Reply(0, int(length) if is_told else None, response.iter_bytes())


def _asked_wait(status: int, headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait: Retry-After (RFC 9110), or the Hub's own RateLimit."""
    text = headers.get("retry-after", "").strip()
    if re.fullmatch("[0-9]+", text):
        return float(text)
    if text:
        with suppress(ValueError):
            return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    # It comes with every answer, and is the reason for a refusal only where nothing remains.
    limit = headers.get("ratelimit", "")
    found = re.search(r"\bt=(\d+)", limit)
    return float(found[1]) + 1 if status == 429 and found and re.search(r"\br=0\b", limit) else None


def remember_revision(repo: Repository, options: LoadOptions) -> None:
    """Note in the cache which commit the branch is at, so that it is found offline.

    To be called once all that a load needs is there: then what is found offline is never half a snapshot.
    """
    revision = options.revision or "main"
    if revision == repo.commit:
        return
    reference = _cache_folder(repo.repo_id, options) / "refs" / revision
    with suppress(OSError):  # a cache that only others may write
        if not reference.is_file() or reference.read_text() != repo.commit:
            reference.parent.mkdir(parents=True, exist_ok=True)
            draft = reference.with_name(f"{reference.name}.{uuid.uuid4().hex[:8]}.incomplete")
            draft.write_text(repo.commit)
            os.replace(draft, reference)


def _cache_root(options: LoadOptions) -> Path:
    from huggingface_hub import constants

    return Path(options.cache_dir or constants.HF_HUB_CACHE)


def _cache_folder(repo_id: str, options: LoadOptions) -> Path:
    from huggingface_hub.file_download import repo_folder_name

    return _cache_root(options) / str(repo_folder_name(repo_id=repo_id, repo_type="model"))


def _part_file(repo: Repository, name: str, options: LoadOptions) -> Path:
    key = repo.expected(name).key or hashlib.sha256(f"{repo.commit}/{name}".encode()).hexdigest()
    return _blobs(repo, options) / f"{key}.nbloader.incomplete"


def _blobs(repo: Repository, options: LoadOptions) -> Path:
    return _cache_folder(repo.repo_id, options) / "blobs"


def _has_blob(repo: Repository, name: str, options: LoadOptions) -> bool:
    expected = repo.expected(name)
    blob = _blobs(repo, options) / (expected.key or "")
    return expected.key is not None and blob.is_file() and blob.stat().st_size == expected.bytes


@contextmanager
def _told(repo_id: str, options: LoadOptions) -> Iterator[None]:
    """Turn what huggingface_hub raises into a LoadError that says what, where and what to do."""
    try:
        yield
    except (LoadError, LoadCancelled):
        raise
    except Exception as error:
        told = _explain(error, repo_id, options)
        if told is None:
            raise
        raise told from None


def _explain(error: Exception, repo_id: str, options: LoadOptions) -> LoadError | None:
    from huggingface_hub import constants, errors

    where = f"{repo_id} on {constants.ENDPOINT}"
    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
    if isinstance(cause, errors.GatedRepoError):
        return DownloadError(
            text("error", "gated", where=where),
            text("hint", "ask_access"),
        )
    if isinstance(cause, errors.RevisionNotFoundError):
        return SourceError(
            text("error", "no_revision", where=where, revision=repr(options.revision)), text("hint", "check_revision")
        )
    if isinstance(cause, errors.RepositoryNotFoundError):
        return SourceError(text("error", "no_repository", where=where), text("hint", "spelling_or_token"))
    if isinstance(cause, errors.HfHubHTTPError):
        # In our words: the server's may repeat what it was sent, the token too.
        return DownloadError(
            text("error", "answered", where=where, status=_status_text(cause.response.status_code)),
            text("hint", "later"),
        )
    if isinstance(cause, BrokenOffError) and cause.wait is not None:
        return DownloadError(
            text("error", "left_alone", where=where, status=cause.args[0], seconds=f"{cause.wait:.0f}"),
            text("hint", "again_then"),
        )
    if isinstance(cause, (_httpx().HTTPError, ConnectionError, BrokenOffError)):
        return DownloadError(
            text("error", "broke", where=where, reason=_reason(cause)),
            text("hint", "again_kept"),
        )
    if isinstance(cause, OSError):
        return DownloadError(text("error", "not_stored", where=where, cause=str(cause)), text("hint", "room_or_rights"))
    return None


def _reason(error: Exception) -> str:
    return error.args[0] if isinstance(error, BrokenOffError) else type(error).__name__


def _status_text(status: int) -> str:
    phrase = http.client.responses.get(status, "")
    return f"HTTP {status} {phrase}".strip()


def _in(subfolder: str, name: str) -> str:
    return f"{subfolder.strip('/')}/{name}" if subfolder else name

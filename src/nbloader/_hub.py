"""The one door to huggingface_hub: what a repository holds, what of it is cached, and getting the rest."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbloader._checkpoint import CONFIG
from nbloader._errors import DownloadError, LoadCancelled, LoadError, SourceError

if TYPE_CHECKING:
    from nbloader._options import LoadOptions

_WORKERS = 8  # as many as snapshot_download takes
_TIMEOUT = 10.0  # seconds without an answer
_MOST_OVER_HTTP = 50 * 10**9  # bytes
_CHUNK = 256 << 10  # bytes between two signs of life; the Hub's own 10 MiB are 10 s on a slow line


@dataclass(frozen=True)
class Repository:
    """One state of a repository.

    `files` maps names to bytes as the Hub lists them; None where the Hub was not asked or could not be.
    `note` says why not, if it should have been.
    """

    repo_id: str
    commit: str
    files: Mapping[str, int] | None
    note: str = ""


def is_repo_id(text: str) -> bool:
    """Tell whether `text` can be the id of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def find_repository(repo_id: str, options: LoadOptions) -> Repository:
    """Return the state of a repository that `options` ask for, pinned to a commit.

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
        why = "local_files_only is set" if options.local_files_only else "HF_HUB_OFFLINE is set"
        return _cached_repository(repo_id, options, why, "")
    api = HfApi(token=options.token)
    with _told(repo_id, options):
        try:
            info = api.model_info(repo_id, revision=options.revision, files_metadata=True, timeout=_TIMEOUT)
        except (_httpx().HTTPError, ConnectionError, ValueError) as error:
            if _is_refusal(error):
                raise
            why = f"{constants.ENDPOINT} does not answer ({type(error).__name__})"
            return _cached_repository(repo_id, options, why, why)
    if info.sha is None:
        raise DownloadError(f"{constants.ENDPOINT} names no commit of {repo_id}.", "Try again later.")
    _remember_revision(repo_id, options, info.sha)
    files = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or ()}
    return Repository(repo_id, info.sha, files)


def _is_refusal(error: Exception) -> bool:
    """Tell whether the Hub said no; a server's own fault, a broken line or a proxy's page is none."""
    response = getattr(error, "response", None)
    return response is not None and response.status_code < 500


def _remember_revision(repo_id: str, options: LoadOptions, commit: str) -> None:
    """Note in the cache which commit the branch was at, so that it is found offline (a commit's files do not say)."""
    from huggingface_hub import hf_hub_download

    if options.revision == commit:
        return
    with suppress(Exception):  # a later convenience must not end this load
        hf_hub_download(
            repo_id,
            _in(options.subfolder, CONFIG),
            revision=options.revision,
            cache_dir=options.cache_dir,
            token=options.token,
            tqdm_class=_byte_bar(lambda size: None),
        )


def _cached_repository(repo_id: str, options: LoadOptions, why: str, note: str) -> Repository:
    name = _in(options.subfolder, CONFIG)
    found = cached_file(repo_id, options.revision or "main", name, options)
    if found is None:
        raise SourceError(
            f"{repo_id}{f' at {options.revision}' if options.revision else ''} is not in the cache, and {why}.",
            "Load it once with the network, or give the cache_dir= that holds it.",
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


def snapshot_folder(repo_id: str, commit: str, options: LoadOptions) -> Path:
    """Return the cache's folder for this state of the repository (its root, whatever `subfolder` is).

    Raises
    ------
    SourceError
        Where nothing of it is cached.
    """
    name = _in(options.subfolder, CONFIG)
    found = cached_file(repo_id, commit, name, options)
    if found is None:
        raise SourceError(f"{repo_id} has no {name}.", "Is it a transformers checkpoint? See subfolder=.")
    return _snapshot_of(found, name)


def _snapshot_of(path: Path, name: str) -> Path:
    return path.parents[len(Path(name).parts) - 1]


def download(
    repo: Repository,
    names: Sequence[str],
    options: LoadOptions,
    on_bytes: Callable[[int], None],
    check_cancelled: Callable[[], None],
) -> None:
    """Bring files of the repository into the cache, several at a time.

    Parameters
    ----------
    on_bytes
        Called with the bytes that arrived since its last call, negative where a file starts over; one call at a time.
    check_cancelled
        Called between portions; its exception ends the download.

    Raises
    ------
    DownloadError
        Where the Hub refuses, or the connection fails for good.
    """
    lock = threading.Lock()
    ended = threading.Event()

    def count(size: int) -> None:
        check_cancelled()
        if ended.is_set():
            raise LoadCancelled("Another file of this download failed.")
        with lock:
            on_bytes(size)

    left = deque(names)
    outcomes: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        while not ended.is_set():
            try:
                name = left.popleft()
            except IndexError:
                return
            try:
                _download_file(repo, name, options, count)
                outcomes.put(None)
            except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
                outcomes.put(error)

    largest = max((repo.files or {}).get(name, 0) for name in names) if names else 0
    with _honest_transfers(largest), _told(repo.repo_id, options):
        # Threads of our own, not an executor's: those are waited for when Python ends, and a socket that nothing
        # comes from would hold it.
        for _ in range(min(_WORKERS, len(names))):
            context = contextvars.copy_context()
            threading.Thread(target=context.run, args=(work,), name="nbloader-download", daemon=True).start()
        try:
            _wait_for(outcomes, len(names), check_cancelled)
        finally:
            ended.set()


def _wait_for(
    outcomes: queue.SimpleQueue[BaseException | None], expected: int, check_cancelled: Callable[[], None]
) -> None:
    while expected:
        check_cancelled()
        try:
            outcome = outcomes.get(timeout=0.05)
        except queue.Empty:
            continue
        if outcome is not None:
            raise outcome
        expected -= 1


def _download_file(repo: Repository, name: str, options: LoadOptions, count: Callable[[int], None]) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download(
        repo.repo_id,
        name,
        revision=repo.commit,
        cache_dir=options.cache_dir,
        token=options.token,
        tqdm_class=_byte_bar(count),
    )


def _byte_bar(count: Callable[[int], None]) -> type:
    class ByteBar:
        """What huggingface_hub needs of a tqdm: it is told bytes, and draws nothing."""

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

        def __enter__(self) -> ByteBar:
            return self

        def __exit__(self, *error: object) -> None: ...

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *args, **kwargs: None

        def update(self, size: float | None = 1) -> None:
            count(int(size or 0))

    return ByteBar


@contextmanager
def _honest_transfers(largest: int) -> Iterator[None]:
    """Have the Hub's files come over HTTP, in chunks small enough to tell progress by.

    Transfers by Xet go on when they are cancelled, and tell each byte twice; plain HTTP cannot take files of 50 GB and
    more. Both settings are process-wide, and harmless to others: their files come all the same.
    """
    from huggingface_hub import constants

    changes: dict[str, Any] = {"DOWNLOAD_CHUNK_SIZE": _CHUNK}
    if largest < _MOST_OVER_HTTP:
        changes["HF_HUB_DISABLE_XET"] = True
    former = {name: getattr(constants, name) for name in changes if hasattr(constants, name)}
    for name in former:
        setattr(constants, name, changes[name])
    try:
        yield
    finally:
        for name, value in former.items():
            setattr(constants, name, value)


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
            f"{where} is gated, and this token has no access.",
            "Ask for access on its page, then log in or pass token=.",
        )
    if isinstance(cause, errors.RevisionNotFoundError):
        return SourceError(
            f"{where} has no revision {options.revision!r}.", "Check revision= on the repository's page."
        )
    if isinstance(cause, errors.RepositoryNotFoundError):
        return SourceError(
            f"There is no {where}, or it is private.", "Check the spelling; for a private one log in or pass token=."
        )
    if isinstance(cause, errors.HfHubHTTPError):
        return DownloadError(f"{where} answered: {str(cause).splitlines()[0]}", "Try again later.")
    if isinstance(cause, (_httpx().HTTPError, ConnectionError)):
        return DownloadError(
            f"The connection to {where} broke: {type(cause).__name__}.", "Load again: whole files are kept."
        )
    if isinstance(cause, OSError):
        return DownloadError(f"{where} could not be stored: {cause}", "Is the disk full? See cache_dir=.")
    return None


def _in(subfolder: str, name: str) -> str:
    return f"{subfolder.strip('/')}/{name}" if subfolder else name

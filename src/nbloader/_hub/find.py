"""Find the commit of a repository that is meant, and the files that the Hub lists for it."""

from __future__ import annotations

import re
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from nbloader._errors import DownloadError, SourceError
from nbloader._hub.cache import cache_folder, cached_file, path_in, snapshot_of
from nbloader._hub.errors import as_load_error, reason_of, status_of
from nbloader._hub.http import answer_timeout, headers_of, http_library, opened
from nbloader._hub.part_file import Expected
from nbloader._hub.repository import ListedFiles, Repository
from nbloader._safety.redaction import keep_secret
from nbloader._safety.untrusted import is_inside, is_size
from nbloader._text.catalogue import text

if TYPE_CHECKING:
    from nbloader._options.options import LoadOptions


_NO_HEAD = (HTTPStatus.FORBIDDEN, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)  # of some mirrors
_MOST_SHOWN = 100  # characters shown of an answer that makes no sense


def find_repository(repo_id: str, options: LoadOptions, needed: str) -> Repository:
    """Return the state of a repository that `options` ask for, pinned to a commit.

    `needed` is a file that identifies a snapshot in the cache.

    Without a network connection, or with ``local_files_only`` or HF_HUB_OFFLINE, it is the state that the cache knows.

    Raises
    ------
    SourceError
        If the Hub or the cache has no such repository or revision.
    DownloadError
        If the Hub refuses access.
    """
    from huggingface_hub import HfApi, constants

    if options.local_files_only or constants.HF_HUB_OFFLINE:
        why = text("reason", "is_set", name="local_files_only" if options.local_files_only else "HF_HUB_OFFLINE")
        return _cached_repository(repo_id, options, needed, why, "")
    api = HfApi(token=options.token)
    with as_load_error(repo_id, options):
        keep_secret(headers_of(options).get("authorization", "").removeprefix("Bearer "))
        try:
            info = api.model_info(repo_id, revision=options.revision, files_metadata=True, timeout=answer_timeout())
        except (http_library().HTTPError, ConnectionError, ValueError) as error:
            if _is_refusal(error):
                raise
            why = text("reason", "no_answer", where=constants.ENDPOINT, error=reason_of(error))
            try:
                return _cached_repository(repo_id, options, needed, why, why)
            except SourceError:
                if status_of(error) in range(400, 500):
                    raise error from None  # what the server says is more than that nothing is cached
                raise
        except (TypeError, AttributeError, KeyError) as error:  # raised for an answer that is not a list of files
            raise _bad_answer(type(error).__name__) from None
    if not isinstance(info.sha, str) or not re.fullmatch(r"[0-9a-f]{40}", info.sha):
        raise DownloadError(
            text("error", "no_commit_hash", endpoint=constants.ENDPOINT, repository=repo_id), text("hint", "bad_answer")
        )
    siblings = [sibling for sibling in info.siblings or () if _is_path(_listed_name(sibling))]
    listed = {sibling.rfilename: _expected(sibling) for sibling in siblings}
    files = ListedFiles({**_converted(repo_id, info.sha, options), **listed}, partial(_ask, repo_id, info.sha, options))
    return Repository(repo_id, info.sha, files, revision=options.revision)


def _converted(repo_id: str, commit: str, options: LoadOptions) -> dict[str, Expected]:
    """Return the safetensors that a conversion added to the cached snapshot; the Hub lists none of them."""
    folder = cache_folder(repo_id, options) / "snapshots" / commit
    made = (path for path in folder.rglob("*.safetensors*") if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): Expected(path.stat().st_size) for path in made}


def _expected(sibling: Any) -> Expected | None:
    """Return what the Hub lists for a file; None if it lists no size."""
    if sibling.size is None:
        return None
    if not is_size(sibling.size):
        raise _bad_answer(f"{sibling.rfilename}: {sibling.size!r}"[:_MOST_SHOWN])
    sha256 = getattr(sibling.lfs, "sha256", None)
    if isinstance(sha256, str) and re.fullmatch(r"[0-9a-f]{64}", sha256):
        return Expected(sibling.size, sha256=sha256)
    is_git_id = isinstance(sibling.blob_id, str) and re.fullmatch(r"[0-9a-f]{40}", sibling.blob_id)
    return Expected(sibling.size, git_id=sibling.blob_id if is_git_id else None)


def _is_path(name: str) -> bool:
    """Return whether a name from the Hub is a valid path in git, in its only spelling."""
    return is_inside(name) and "." not in name.split("/")


def _listed_name(sibling: Any) -> str:
    if not isinstance(sibling.rfilename, str):
        raise _bad_answer(f"{type(sibling.rfilename).__name__} …")
    return sibling.rfilename


def _bad_answer(what: str) -> DownloadError:
    from huggingface_hub import constants

    return DownloadError(
        text("error", "invalid_hub_response", where=constants.ENDPOINT, what=what), text("hint", "bad_answer")
    )


def _ask(repo_id: str, commit: str, options: LoadOptions, name: str) -> Expected:
    """Ask for a file's size."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    url = hf_hub_url(repo_id, name, revision=commit)
    etag = ""
    with as_load_error(repo_id, options):
        try:
            found = get_hf_file_metadata(url, token=options.token, timeout=answer_timeout())
            size, etag = found.size, found.etag or ""
        except HfHubHTTPError as error:
            if status_of(error) not in _NO_HEAD:
                raise
            with opened(url, headers_of(options), 0, 1) as reply:
                size = reply.total
    if size is None or not is_size(size):
        raise DownloadError(text("error", "unknown_file_size", repository=repo_id, name=name), text("hint", "from_hub"))
    sha256 = etag if re.fullmatch(r"[0-9a-f]{64}", etag) else None
    return Expected(size, sha256, etag if re.fullmatch(r"[0-9a-f]{40}", etag) else None)


def _is_refusal(error: Exception) -> bool:
    """Return whether the Hub itself refused: no proxy, captive portal or overloaded server did."""
    from huggingface_hub import errors

    is_told = isinstance(error, (errors.RepositoryNotFoundError, errors.RevisionNotFoundError))
    return is_told or status_of(error) == HTTPStatus.UNAUTHORIZED


def _cached_repository(repo_id: str, options: LoadOptions, needed: str, why: str, note: str) -> Repository:
    name = path_in(options.subfolder, needed)
    found = cached_file(repo_id, options.revision or "main", name, options)
    if found is None:
        where = f"{repo_id}@{options.revision}" if options.revision else repo_id
        raise SourceError(
            text("error", "not_cached", where=where, why=why),
            text("hint", "load_once"),
        )
    return Repository(repo_id, snapshot_of(found, name).name, None, note, options.revision)

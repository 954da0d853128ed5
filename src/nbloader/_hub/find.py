"""Find the commit of a repository that is meant, and the files that the Hub lists for it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from nbloader._errors import DownloadError, SourceError
from nbloader._hub.cache import cache_folder, cached_file, path_in, snapshot_of
from nbloader._hub.errors import as_load_error
from nbloader._hub.http import TIMEOUT, headers_of, http_library
from nbloader._hub.repository import Repository
from nbloader._hub.transfer import Expected
from nbloader._safety.redaction import keep_secret
from nbloader._safety.untrusted import is_inside, is_size
from nbloader._text.catalogue import text

if TYPE_CHECKING:
    from nbloader._options.options import LoadOptions


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
            info = api.model_info(repo_id, revision=options.revision, files_metadata=True, timeout=TIMEOUT)
        except (http_library().HTTPError, ConnectionError, ValueError) as error:
            if _is_refusal(error):
                raise
            why = text("reason", "no_answer", where=constants.ENDPOINT, error=type(error).__name__)
            return _cached_repository(repo_id, options, needed, why, why)
        except (TypeError, AttributeError, KeyError) as error:  # raised for an answer that is not a list of files
            raise _bad_answer(type(error).__name__) from None
    if not isinstance(info.sha, str) or not re.fullmatch(r"[0-9a-f]{40}", info.sha):
        raise DownloadError(
            text("error", "no_commit_hash", endpoint=constants.ENDPOINT, repository=repo_id), text("hint", "bad_answer")
        )
    siblings = [sibling for sibling in info.siblings or () if _is_path(_listed_name(sibling))]
    with as_load_error(repo_id, options):
        files = {sibling.rfilename: _expected(sibling, repo_id, info.sha, options) for sibling in siblings}
    return Repository(repo_id, info.sha, {**_converted(repo_id, info.sha, options), **files})


def _converted(repo_id: str, commit: str, options: LoadOptions) -> dict[str, Expected]:
    """Return the safetensors that a conversion added to the cached snapshot; the Hub lists none of them."""
    folder = cache_folder(repo_id, options) / "snapshots" / commit
    made = (path for path in folder.rglob("*.safetensors*") if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): Expected(path.stat().st_size) for path in made}


def _expected(sibling: Any, repo_id: str, commit: str, options: LoadOptions) -> Expected:
    size = sibling.size if sibling.size is not None else _asked_size(repo_id, sibling.rfilename, commit, options)
    if not is_size(size):
        raise _bad_answer(f"{sibling.rfilename}: {size!r}"[:_MOST_SHOWN])
    sha256 = getattr(sibling.lfs, "sha256", None)
    if isinstance(sha256, str) and re.fullmatch(r"[0-9a-f]{64}", sha256):
        return Expected(size, sha256=sha256)
    is_git_id = isinstance(sibling.blob_id, str) and re.fullmatch(r"[0-9a-f]{40}", sibling.blob_id)
    return Expected(size, git_id=sibling.blob_id if is_git_id else None)


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


def _asked_size(repo_id: str, name: str, commit: str, options: LoadOptions) -> int:
    """Ask for a file's size, because some mirrors of the Hub list no sizes."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    found = get_hf_file_metadata(hf_hub_url(repo_id, name, revision=commit), token=options.token, timeout=TIMEOUT)
    if found.size is None:
        raise DownloadError(text("error", "unknown_file_size", repository=repo_id, name=name), text("hint", "from_hub"))
    return int(found.size)


def _is_refusal(error: Exception) -> bool:
    """Return whether the Hub refused, as opposed to a server fault or a failed connection."""
    response = getattr(error, "response", None)
    return response is not None and response.status_code < 500


def _cached_repository(repo_id: str, options: LoadOptions, needed: str, why: str, note: str) -> Repository:
    name = path_in(options.subfolder, needed)
    found = cached_file(repo_id, options.revision or "main", name, options)
    if found is None:
        where = f"{repo_id}@{options.revision}" if options.revision else repo_id
        raise SourceError(
            text("error", "not_cached", where=where, why=why),
            text("hint", "load_once"),
        )
    return Repository(repo_id, snapshot_of(found, name).name, None, note)

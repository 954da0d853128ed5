"""The translation of huggingface_hub's exceptions into LoadErrors."""

from __future__ import annotations

import errno
import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

from nbloader._errors import DownloadError, LoadCancelled, LoadError, SourceError
from nbloader._hub.http import headers_of, http_library
from nbloader._hub.transfer import BrokenOffError
from nbloader._text.catalogue import text
from nbloader._text.units import sentences

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

    from nbloader._options.options import LoadOptions

_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


@contextmanager
def as_load_error(repo_id: str, options: LoadOptions) -> Iterator[None]:
    """Turn exceptions of huggingface_hub into a LoadError that says what happened, where, and what to do."""
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
            text("error", "gated_repository", where=where),
            sentences(text("hint", "ask_access", page=f"{constants.ENDPOINT}/{repo_id}"), _about_token(cause, options)),
        )
    if isinstance(cause, errors.RevisionNotFoundError):
        return SourceError(
            text("error", "revision_not_found", where=where, revision=repr(options.revision)),
            text("hint", "check_revision"),
        )
    if isinstance(cause, errors.RepositoryNotFoundError) and not _refuses_token(cause, options):
        return SourceError(
            text("error", "repository_not_found", where=where),
            sentences(text("hint", "spelling_or_private"), _about_token(cause, options)),
        )
    if isinstance(cause, errors.HfHubHTTPError):
        # not the server's text, which may repeat the request, token included
        status = cause.response.status_code
        is_about_token = status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
        return DownloadError(
            text("error", "hub_http_error", where=where, status=_status_text(status)),
            _about_token(cause, options) if is_about_token else text("hint", "later"),
        )
    if isinstance(cause, BrokenOffError) and cause.wait is not None:
        return DownloadError(
            text("error", "hub_retry_later", where=where, status=cause.args[0], seconds=f"{cause.wait:.0f}"),
            text("hint", "again_then"),
        )
    if isinstance(cause, (http_library().HTTPError, ConnectionError, BrokenOffError)):
        return DownloadError(
            text("error", "connection_failed", where=where, reason=reason_of(cause)),
            text("hint", "again_kept"),
        )
    if isinstance(cause, OSError):
        cannot_lock = cause.errno in (errno.ENOLCK, errno.ENOTSUP)
        return DownloadError(
            text("error", "cache_write_failed", where=where, cause=str(cause)),
            text("hint", "no_locks" if cannot_lock else "room_or_rights"),
        )
    return None


def _refuses_token(error: HfHubHTTPError, options: LoadOptions) -> bool:
    """Return whether the Hub does not know the token that was sent; huggingface_hub says "not found" then, too."""
    is_named = error.response.headers.get("X-Error-Code") == "RepoNotFound"
    return status_of(error) == HTTPStatus.UNAUTHORIZED and not is_named and "authorization" in headers_of(options)


def _about_token(error: HfHubHTTPError, options: LoadOptions) -> str:
    """Return what to do about the access token: it is missing, not valid any more, or without access."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError

    page = f"{constants.ENDPOINT}/settings/tokens"
    if "authorization" not in headers_of(options):
        return text("hint", "token_missing", page=page)
    named = next((name for name in _TOKEN_VARIABLES if os.environ.get(name)), "hf auth login")
    origin = "token=" if isinstance(options.token, str) else named
    is_invalid = status_of(error) == HTTPStatus.UNAUTHORIZED and not isinstance(error, GatedRepoError)
    if is_invalid:
        return text("hint", "token_expired", origin=origin, page=page)
    return text("hint", "token_without_access", origin=origin, page=page)


def reason_of(error: BaseException) -> str:
    """Return why a connection failed, in words if that is known."""
    if isinstance(error, BrokenOffError):
        return str(error.args[0])
    status = status_of(error)
    if status is not None:
        return _status_text(status)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return text("reason", "certificate", error=cause.verify_message or cause)
        if isinstance(cause, socket.gaierror):
            return text("reason", "unresolved")
        if isinstance(cause, ConnectionRefusedError):
            return text("reason", "connection_refused")
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, http_library().ProxyError):
        return text("reason", "proxy", error=str(error))
    if isinstance(error, http_library().TimeoutException):
        return text("reason", "timeout")
    if isinstance(error, json.JSONDecodeError):
        return text("reason", "other_page")
    if isinstance(error, LoadError):
        return error.message
    return str(error) if isinstance(error, OSError) and error.strerror else type(error).__name__


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an error is about; None if no server answered."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _status_text(status: int) -> str:
    phrase = http.client.responses.get(status, "")
    return f"HTTP {status} {phrase}".strip()

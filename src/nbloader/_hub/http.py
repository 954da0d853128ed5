"""HTTP requests to the Hub and to its file storage."""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from nbloader._errors import DownloadError
from nbloader._hub.transfer import BrokenOffError, Reply, WrongContentError
from nbloader._text.catalogue import text

if TYPE_CHECKING:
    from nbloader._options.options import LoadOptions


_COME_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_BUSY = (429, 503)
_sessions: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def http_library() -> Any:
    """Return the HTTP library that the installed huggingface_hub uses: versions differ, and so do their exceptions."""
    try:
        from huggingface_hub.utils import httpx
    except ImportError:
        import httpx  # type: ignore[no-redef, unused-ignore]
    return httpx


def _session() -> Any:
    """Return a separate HTTP client, made as huggingface_hub makes its own, and kept as long as that one.

    huggingface_hub closes its own client in every forked process. That hangs if a thread of the parent was using it.
    """
    from huggingface_hub import get_session
    from huggingface_hub.utils import _http

    theirs = get_session()  # a new one after the user closed it or configured another kind
    make = getattr(_http, "_GLOBAL_CLIENT_FACTORY", None)
    if make is None:
        return theirs
    if theirs not in _sessions:
        _sessions.setdefault(theirs, make())
    return _sessions[theirs]


def answer_timeout() -> float:
    """Return after how many seconds without an answer a request for metadata fails (HF_HUB_ETAG_TIMEOUT)."""
    from huggingface_hub import constants

    return float(constants.HF_HUB_ETAG_TIMEOUT)


def headers_of(options: LoadOptions) -> dict[str, str]:
    """Return the headers of a request: those of huggingface_hub, with the token from the options."""
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalTokenNotFoundError
    from huggingface_hub.utils import build_hf_headers

    try:
        made = build_hf_headers(token=options.token)
    except LocalTokenNotFoundError:  # token=True, and nobody has logged in
        page = f"{constants.ENDPOINT}/settings/tokens"
        raise DownloadError(text("error", "no_saved_token"), text("hint", "token_missing", page=page)) from None
    # A compressed transfer cannot be resumed at a byte offset.
    return {**made, "Accept-Encoding": "identity"}


@contextmanager
def opened(url: str, headers: Mapping[str, str], begin: int, end: int) -> Iterator[Reply]:
    """Request a range of a file's bytes; leaving the context closes the connection."""
    with _response(url, headers, begin, end) as response:
        yield _reply(response)


class FileOnHub:
    """A file on the Hub. Once a request was redirected to the file's storage, that is asked for all other ranges.

    Parameters
    ----------
    url
        The file's address on the Hub.
    headers
        The headers of a request to the Hub.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url = url
        self._headers = headers
        self._storage: str | None = None

    @contextmanager
    def opened(self, begin: int, end: int) -> Iterator[Reply]:
        """Request a range of the file's bytes; leaving the context closes the connection."""
        from huggingface_hub.errors import HfHubHTTPError

        storage = self._storage
        if storage is not None:
            # Its address is signed: it needs no token, and expires.
            asked = {name: value for name, value in self._headers.items() if name.lower() != "authorization"}
            with ExitStack() as stack:
                try:
                    response = stack.enter_context(_response(storage, asked, begin, end))
                except HfHubHTTPError:
                    self._storage = None
                else:
                    yield _reply(response)
                    return
        with _response(self._url, self._headers, begin, end) as response:
            if urlsplit(str(response.url)).netloc != urlsplit(self._url).netloc:
                self._storage = str(response.url)
            yield _reply(response)


@contextmanager
def _response(url: str, headers: Mapping[str, str], begin: int, end: int) -> Iterator[Any]:
    from huggingface_hub import constants
    from huggingface_hub.utils import hf_raise_for_status

    wanted = {**headers, "Range": f"bytes={begin}-{end - 1}"}
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    try:
        with _session().stream("GET", url, headers=wanted, timeout=timeout, follow_redirects=True) as response:
            if response.status_code in _COME_AGAIN:
                wait = _asked_wait(response.status_code, response.headers)
                raise BrokenOffError(f"HTTP {response.status_code}", wait, is_busy=response.status_code in _BUSY)
            if response.status_code == 416:
                raise WrongContentError(text("reason", "has_less"))
            hf_raise_for_status(response)
            yield response
    except http_library().TransportError as error:
        raise BrokenOffError(type(error).__name__) from None
    except RuntimeError as error:
        if "closed" not in str(error):
            raise
        # Other code closed huggingface_hub's client, if that is the one in use.
        raise BrokenOffError(text("reason", "closed")) from None


def _reply(response: Any) -> Reply:
    is_packed = response.headers.get("content-encoding", "identity") != "identity"
    told = re.match(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", response.headers.get("content-range", ""))
    if response.status_code == 206 and told and not is_packed:
        total = int(told[2]) if told[2] != "*" else None
        return Reply(int(told[1]), total, response.iter_raw(), requests_left=_requests_left(response.headers))
    length = response.headers.get("content-length")
    is_told = length is not None and re.fullmatch("[0-9]{1,18}", length) and not is_packed
    return Reply(0, int(length) if is_told else None, response.iter_bytes(), is_whole=True)


def _requests_left(headers: Mapping[str, str]) -> int | None:
    """Return how many more requests the Hub answers in its present window, by its RateLimit header."""
    left = re.search(r"\br=(\d{1,9})\b", headers.get("ratelimit", ""))
    return None if left is None else int(left[1])


def _asked_wait(status: int, headers: Mapping[str, str]) -> float | None:
    """Return how many seconds the server asks to wait, by Retry-After (RFC 9110) or the Hub's own RateLimit header."""
    text = headers.get("retry-after", "").strip()
    if re.fullmatch("[0-9]+", text):
        return float(text)
    if text:
        with suppress(ValueError):
            return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    # The header comes with every answer. It explains a refusal only if no requests remain.
    limit = headers.get("ratelimit", "")
    found = re.search(r"\bt=(\d+)", limit)
    return float(found[1]) + 1 if status == 429 and found and re.search(r"\br=0\b", limit) else None

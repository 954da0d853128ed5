"""Files in the Hub's Xet storage, brought by the Hub's own library hf_xet."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from nbloader._hub.http import answer_timeout, headers_of, http_library
from nbloader._hub.repository import hub_host
from nbloader._hub.transfer import BrokenOffError, Open, Reply
from nbloader._text.catalogue import text

if TYPE_CHECKING:
    from nbloader._options.options import LoadOptions

_LEAST = 1 << 20  # bytes of a file; the requests that Xet takes before the first byte cost more than a smaller file

_SETTINGS = {  # a minute for each of several tries is too long where the file can come by HTTP
    "client.connect_timeout": "10s",
    "client.retry_max_attempts": 2,
    "client.retry_base_delay": "1s",
    # what has come and is not written yet: by default up to 1.6 GB, which a load needs itself
    "reconstruction.download_buffer_size": 128_000_000,
    "reconstruction.download_buffer_perfile_size": 64_000_000,
    "reconstruction.download_buffer_limit": 256_000_000,
    "reconstruction.min_prefetch_buffer": 128_000_000,
    "reconstruction.min_reconstruction_fetch_size": 64_000_000,
}


class XetFile(NamedTuple):
    """A file in Xet storage: the hash that names its content there, and what opens it at an offset."""

    key: str
    opened: Open


class XetStorage:
    """The Xet storage of a repository's files, for one download.

    Parameters
    ----------
    options
        Whose token is used.
    """

    def __init__(self, options: LoadOptions) -> None:
        self._options = options
        self._groups: dict[str, Any] = {}  # by the address that gives access tokens for the storage
        self._own: Any = None  # not shared with huggingface_hub, so that closing it ends nothing of others
        self._lock = threading.Lock()
        self._opening = threading.Lock()  # held while the Hub and the storage are asked, which may take long
        self._is_closed = False

    def find(self, url: str, size: int) -> XetFile | None:
        """Return a file on the Hub as it is in Xet storage; None if it is not there, or hf_xet is not.

        `url` is the file's address on the Hub.
        """
        from huggingface_hub import constants, get_hf_file_metadata
        from huggingface_hub.errors import HfHubHTTPError

        if size < _LEAST or constants.HF_HUB_DISABLE_XET or not _has_streams():
            return None
        try:
            found = get_hf_file_metadata(url, token=self._options.token, timeout=answer_timeout()).xet_file_data
        except (HfHubHTTPError, http_library().HTTPError, ConnectionError, ValueError):
            return None  # the request for the file itself says what is wrong, if anything is
        if found is None:
            return None

        @contextmanager
        def opened(begin: int, end: int) -> Iterator[Reply]:
            yield Reply(begin, size, self._chunks(found.refresh_route, found.file_hash, size, begin, end))

        return XetFile(found.file_hash, opened)

    def _chunks(self, route: str, key: str, size: int, begin: int, end: int) -> Iterator[bytes]:
        from hf_xet import XetFileInfo

        stream, left = None, end - begin
        try:
            stream = self._group(route).download_stream(XetFileInfo(key, size), start=begin, end=end)
            for chunk in stream:
                left -= len(chunk)
                yield chunk
            if left > 0:  # a stream that cannot reach its storage may end as if it were complete
                raise EOFError
        except (EOFError, RuntimeError, OSError, ValueError) as error:
            raise BrokenOffError(text("reason", "xet_failed", error=type(error).__name__)) from None
        finally:
            if stream is not None:
                stream.cancel()

    def _group(self, route: str) -> Any:
        with self._opening:
            if route not in self._groups:
                headers = headers_of(self._options)
                without = {name: value for name, value in headers.items() if name.lower() != "authorization"}
                is_hub = urlsplit(route).netloc == hub_host()  # nobody else gets the token
                self._groups[route] = self._session().new_download_stream_group(
                    token_refresh_url=route,
                    token_refresh_headers=headers if is_hub else without,
                    custom_headers=without,
                )
            return self._groups[route]

    def _session(self) -> Any:
        from hf_xet import XetSession

        config = _config()
        with self._lock:
            if self._is_closed:
                raise BrokenOffError(text("reason", "closed"))
            if self._own is None:
                self._own = XetSession(config)
            return self._own

    def close(self) -> None:
        """End all transfers."""
        with self._lock:
            self._is_closed = True
            if self._own is not None:
                self._own.sigint_abort()  # aborting a group would leave requests that are tried again


def _config() -> Any:
    """Return hf_xet's settings: those of the environment, and ours where it says nothing."""
    from hf_xet import XetConfig

    own = {
        path: value for path, value in _SETTINGS.items() if f"HF_XET_{path.upper().replace('.', '_')}" not in os.environ
    }
    return XetConfig().with_config(own)


def _has_streams() -> bool:
    """Return whether hf_xet is installed, can be imported, and is new enough."""
    try:
        import hf_xet
    except ImportError:
        return False
    return hasattr(hf_xet, "XetDownloadStreamGroup")

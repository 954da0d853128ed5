"""progress_callback: the progress of a load as a sequence of small dicts, for custom front ends."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from nbloader._progress import events
from nbloader._progress.state import SUCCEEDED
from nbloader._text.catalogue import text

if TYPE_CHECKING:
    from nbloader._load.job import LoadJob
    from nbloader._progress.state import LoadState

ProgressCallback = Callable[[Mapping[str, Any]], None]
"""Called with ``{"status": str, "message": str, "progress": number}``; progress goes from 0 to 100 and never falls.

If the load failed, ``"code"`` is that of the `LoadError`.
"""

_TOKENIZED, _LOADING = 20, 25
_ON_START = {
    "tokenizer": ("loading_tokenizer", 10),
    "weights": ("loading_model", _LOADING),
    "device": ("moving_to_device", 90),
}
_ON_END = {
    "tokenizer": ("tokenizer_loaded", _TOKENIZED),
    "weights": ("model_loaded", 85),
    "metadata": ("metadata_extracted", 95),
}


def follow(job: LoadJob, callback: ProgressCallback) -> None:
    """Call `callback` for each step of `job`, on the thread that takes the step, and one call at a time.

    If the callback raises, the exception is logged and the callback is not called again.
    """
    teller = _Teller(job, callback)
    job.subscribe(teller)
    teller.catch_up()


class _Teller:
    def __init__(self, job: LoadJob, callback: ProgressCallback) -> None:
        self._job = weakref.ref(job)
        self._downloads_until = 100 if job._download_only else 10
        self._callback = callback
        self._has_ended = False
        self._progress = 0.0
        self._in_weights = False
        self._lock = threading.RLock()

    def catch_up(self) -> None:
        """Report the current state of a load that has already started or ended."""
        with self._lock:
            state = self._state()
            if state.stage is not None:
                self._take(events.StageStarted(0.0, state.stage))
            if state.status in SUCCEEDED:
                self._tell_end(events.Ready(0.0, {}))
            elif state.error is not None:
                error = state.error
                self._tell_end(events.Failed(0.0, error.kind, error.message, error.hint, code=error.code))
            elif state.status == "cancelled":
                self._tell_end(events.Cancelled(0.0))

    def _state(self) -> LoadState:
        job = self._job()
        assert job is not None  # only the job calls this
        return job.state

    def __call__(self, event: events.Event) -> None:
        with self._lock:  # several threads emit events
            self._take(event)

    def _take(self, event: events.Event) -> None:
        if isinstance(event, events.StageStarted):
            self._in_weights = event.stage == "weights"
            self._tell(*_ON_START.get(event.stage, (None, 0)))
        elif isinstance(event, events.StageEnded):
            self._in_weights = self._in_weights and event.stage != "weights"
            self._tell(*_ON_END.get(event.stage, (None, 0)))
        elif isinstance(event, events.Downloaded):
            state = self._state()
            # The tokenizer is loaded during the download.
            begin, end = (_TOKENIZED, _LOADING) if self._progress >= _TOKENIZED else (0, self._downloads_until)
            share = _share(state.bytes_downloaded, state.bytes_to_download)
            self._tell("downloading", begin + (end - begin) * share)
        elif isinstance(event, (events.Read, events.Placed)) and self._in_weights:
            state = self._state()
            done, to_do = state.bytes_read + state.bytes_placed, state.bytes_to_read + state.bytes_to_place
            self._tell("loading_model", 25 + 60 * _share(done, to_do))
        else:
            self._tell_end(event)

    def _tell_end(self, event: events.Event) -> None:
        if isinstance(event, (events.Ready, events.DownloadReady)):
            self._tell("complete", 100)
        elif isinstance(event, events.Failed):
            message = text("message", "error", message=event.message, hint=event.hint).strip()
            self._send("error", message, code=event.code)
        elif isinstance(event, events.Cancelled):
            self._send("error", text("message", "cancelled"))

    def _tell(self, status: str | None, progress: float) -> None:
        if status is not None:
            self._progress = max(self._progress, progress)
            job = self._job()
            assert job is not None  # only the job calls this
            device = job.options.placement or "cpu"
            self._send(status, text("message", status, device=device if isinstance(device, str) else "…"))

    def _send(self, status: str, message: str, **more: str) -> None:
        if self._has_ended:
            return
        self._has_ended = status in ("complete", "error")
        self._callback({"status": status, "message": message, "progress": round(self._progress, 1), **more})


def _share(done: int, to_do: int) -> float:
    return min(done / to_do, 1.0) if to_do else 0.0

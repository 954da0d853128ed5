"""What is said of a load that makes no progress: what it waits for, where it is, and whether it is slow or stuck."""

from __future__ import annotations

import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.hub import Hub, Repo
from support.waiting import wait_for

import nbloader
from nbloader import LoadOptions, LoadState, OptionError
from nbloader._errors import LoadCancelled
from nbloader._load import stall as _stall
from nbloader._load.stall import StallWatch, ThreadActivity, find_thread_activity
from nbloader._progress import events
from nbloader._progress.fold import fold

MB = 10**6


class Watched:
    """A load at times that a test chooses, whose thread is the test's own and does what the test says."""

    def __init__(self, *happened: events.Event) -> None:
        self.doing = ThreadActivity(0.0, 0, waits_for_storage=False)
        self.watch = StallWatch(threading.get_native_id(), threading.get_ident(), lambda _: self.doing)
        self.state = LoadState()
        for event in (events.Started(0.0), *happened):
            self.state = fold(self.state, event)

    def at(self, seconds: float, offer_after: float = 120.0) -> events.Stall | None:
        self.state = self.state.at(seconds)
        stall = self.watch.look(self.state, offer_after)
        self.state = fold(self.state, events.Stalled(seconds, stall))
        return stall

    def until(self, seconds: int) -> events.Stall | None:
        stalls = [self.at(float(second)) for second in range(int(self.state.now), seconds + 1)]
        return stalls[-1]


def reading() -> Watched:
    return Watched(
        events.StageStarted(0.0, "weights"),
        events.ShardsFound(0.0, (("model-1.safetensors", MB, MB), ("model-2.safetensors", MB, MB))),
        events.Read(0.0, 0, 0),
    )


def test_ten_seconds_without_progress_are_said_with_the_reason() -> None:
    load = reading()
    assert load.until(9) is None
    stall = load.at(10)
    assert stall is not None
    assert (stall.since, stall.reason, stall.is_working) == (0.0, "storage", False)
    assert stall.arguments == {"names": "model-1.safetensors", "rate": "0 B"}
    assert "test_ten_seconds_without_progress" in stall.stack
    assert not stall.offers_cancel


def test_progress_ends_it() -> None:
    load = reading()
    assert load.until(12) is not None
    load.state = fold(load.state, events.Read(12.0, 0, MB))
    assert load.at(12.5) is None
    assert load.until(22) is None
    stall = load.until(23)
    assert stall is not None
    assert stall.since == 12.5


@pytest.mark.parametrize("event", [events.StageEnded(9.0, "weights"), events.StageStarted(9.0, "device")])
def test_a_stage_that_begins_or_ends_is_progress(event: events.Event) -> None:
    load = reading()
    load.until(9)
    load.state = fold(load.state, event)
    assert load.until(18) is None


def test_a_trickle_is_slow_and_its_rate_is_said() -> None:
    """Which is what a connection brings that hangs, and is taken up again every ten seconds."""
    load = reading()
    stalls = []
    for second in range(60):
        if second % 10 == 0:
            load.state = fold(load.state, events.Read(float(second), 0, 65_536))
        stalls.append(load.at(float(second)))
    assert stalls[:10] == [None] * 10
    told = [stall for stall in stalls[10:] if stall is not None]
    assert len(told) == 50
    assert {stall.since for stall in told} == {0.0}
    slow = [stall for stall in told if stall.bytes]
    assert {(stall.is_working, stall.bytes, stall.arguments["rate"]) for stall in slow} == {(True, 65_536, "13.1 kB")}
    assert {stall.is_working for stall in told if not stall.bytes} == {False}


def test_a_cancel_is_offered_after_a_while() -> None:
    load = reading()
    before, after = load.until(119), load.at(121)
    assert before is not None
    assert after is not None
    assert (before.offers_cancel, after.offers_cancel) == (False, True)
    assert (before.since, after.since) == (0.0, 0.0)
    longer = load.at(126, offer_after=200.0)
    assert longer is not None
    assert not longer.offers_cancel


@pytest.mark.parametrize(
    "event",
    [events.Queued(0.0, ((1, "us/first"),)), events.Asked(0.0, "WontFitError", "It will not fit.", ())],
)
def test_who_waits_for_a_turn_or_for_a_person_is_not_stalled(event: events.Event) -> None:
    load = Watched(event)
    assert load.until(60) is None


@pytest.mark.parametrize(
    ("doing", "reason", "is_working"),
    [
        (ThreadActivity(4.0, 0, waits_for_storage=False), "computes", True),
        (ThreadActivity(0.5, 300, waits_for_storage=True), "pages", True),
        (ThreadActivity(0.5, 0, waits_for_storage=True), "pages", False),
        (ThreadActivity(0.5, 0, waits_for_storage=False), "storage", False),
        (ThreadActivity(0.5), "storage", False),
        (ThreadActivity(4.0), "computes", True),
    ],
)
def test_slow_and_stuck_are_told_apart_by_what_the_thread_does(
    doing: ThreadActivity, reason: str, is_working: bool
) -> None:
    load = reading()
    load.until(9)
    load.doing = doing
    stall = load.at(10)
    assert stall is not None
    assert (stall.reason, stall.is_working) == (reason, is_working)


def test_only_what_was_done_lately_counts() -> None:
    load = reading()
    load.doing = ThreadActivity(100.0, 5000, waits_for_storage=False)
    stall = load.until(10)
    assert stall is not None
    assert (stall.reason, stall.is_working) == ("storage", False)


def test_downloads_are_named() -> None:
    files = tuple((f"model-{number}.safetensors", MB, 0) for number in range(4))
    begun = [events.Downloaded(0.0, number, 0) for number in range(4)]
    load = Watched(events.StageStarted(0.0, "download"), events.DownloadPlanned(0.0, files), *begun)
    stall = load.until(10)
    assert stall is not None
    assert (stall.reason, stall.arguments["names"]) == ("network", "model-0.safetensors, model-1.safetensors + 2")


@pytest.mark.parametrize("others", [(), (events.Downloaded(0.2, 1, 0), events.Downloaded(1.0, 1, MB))])
def test_what_a_download_said_that_it_waits_for_is_said(others: tuple[events.Event, ...]) -> None:
    load = Watched(
        events.StageStarted(0.0, "download"),
        events.DownloadPlanned(0.0, (("a.safetensors", MB, 0), ("b.safetensors", MB, 0))),
        events.Logged(0.1, "warning", "download_waits", {"name": "a.safetensors", "reason": "a lock", "seconds": "0"}),
        *others,
    )
    stall = load.until(12)
    assert stall is not None
    assert (stall.reason, stall.arguments) == ("waits", {"name": "a.safetensors", "reason": "a lock"})


def test_a_wait_that_is_over_is_no_reason() -> None:
    load = Watched(
        events.StageStarted(0.0, "download"),
        events.DownloadPlanned(0.0, (("a.safetensors", MB, 0),)),
        events.Downloaded(0.0, 0, 0),
        events.Logged(
            0.1, "warning", "download_waits", {"name": "a.safetensors", "reason": "HTTP 503", "seconds": "1"}
        ),
        events.Downloaded(1.2, 0, 10),
    )
    stall = load.until(12)
    assert stall is not None
    assert stall.reason == "network"


def test_what_nothing_tells_of_is_said_by_its_function() -> None:
    load = Watched(events.StageStarted(0.0, "config"))
    stall = load.until(10)
    assert stall is not None
    assert stall.reason == "unknown"
    assert stall.arguments["function"].startswith("nbloader._load.stall.")


@contextmanager
def thread_that(work: Callable[[], object], end: threading.Event) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=work, name="at work")
    thread.start()
    try:
        yield thread
    finally:
        end.set()
        thread.join()


def stall_of(thread: threading.Thread) -> events.Stall:
    assert thread.native_id is not None
    assert thread.ident is not None
    watch = StallWatch(thread.native_id, thread.ident, find_thread_activity)
    state = fold(fold(LoadState(), events.Started(0.0)), events.StageStarted(0.0, "config"))
    looks = [watch.look(state.at(seconds), 120.0) for seconds in (0.0, 5.0, 10.0)]
    assert looks[-1] is not None
    return looks[-1]


def test_a_thread_that_waits_is_found_where_it_waits() -> None:
    end = threading.Event()
    with thread_that(end.wait, end) as thread:
        wait_for(lambda: "wait" in sys._current_frames()[thread.ident or 0].f_code.co_name)
        stall = stall_of(thread)
    assert (stall.reason, stall.is_working) == ("unknown", False)
    assert "waiter.acquire()" in stall.stack
    assert stall.stack.startswith("at work:")


def test_looking_keeps_nothing_that_a_thread_works_on() -> None:
    class Weights: ...

    end = threading.Event()
    held: list[weakref.ref[Weights]] = []

    def work() -> None:
        weights = Weights()
        held.append(weakref.ref(weights))
        end.wait()

    gc.disable()
    try:
        with thread_that(work, end) as thread:
            wait_for(lambda: bool(held))
            stall_of(thread)
        assert held[0]() is None
    finally:
        gc.enable()


def test_the_import_that_a_thread_waits_for_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, end = threading.Event(), threading.Event()
    monkeypatch.setattr(sys, "nbloader_test_events", (begun, end), raising=False)
    (tmp_path / "imported_slowly.py").write_text("import sys\nb, e = sys.nbloader_test_events\nb.set()\ne.wait()\n")
    monkeypatch.syspath_prepend(tmp_path)

    def load() -> None:
        import imported_slowly  # noqa: F401

    with thread_that(load, end):
        assert begun.wait(30)
        with thread_that(load, end) as second:
            wait_for(lambda: "_bootstrap" in sys._current_frames()[second.ident or 0].f_globals["__name__"])
            wait_for(lambda: sys._current_frames()[second.ident or 0].f_code.co_name == "acquire")
            stall = stall_of(second)
    assert stall.reason == "import"
    assert stall.arguments == {"module": "imported_slowly", "thread": "at work"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell of no thread")
def test_the_processor_time_of_a_thread_is_its_own() -> None:
    end = threading.Event()
    with thread_that(end.wait, end) as idle:
        before = find_thread_activity(threading.get_native_id()).seconds
        while find_thread_activity(threading.get_native_id()).seconds < before + 0.2:
            sum(range(10_000))
        assert find_thread_activity(idle.native_id or 0).seconds < 0.1


def test_elsewhere_it_is_the_process_s() -> None:
    doing = find_thread_activity(-1)
    assert doing.seconds > 0
    assert (doing.faults, doing.waits_for_storage) == (None, None)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stall, "_LOOK_SECONDS", 0.2)


@pytest.mark.usefixtures("soon")
def test_a_download_that_hangs_is_told_with_the_stack_and_ends_with_it(
    hub: Hub, demo_small: Path, tmp_path: Path
) -> None:
    repo = hub.repos["us/demo"] = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    job = nbloader.start("us/demo", cache_dir=tmp_path, stall_seconds=0.5)

    def stalls() -> list[events.Stall]:
        told = [event.stall for event in job.events if isinstance(event, events.Stalled)]
        # Its thread may still import torch at first.
        return [stall for stall in told if stall is not None and stall.reason == "network" and stall.offers_cancel]

    wait_for(lambda: bool(stalls()))
    stall = stalls()[0]
    assert "model-00002-of-00004.safetensors" in stall.arguments["names"]
    assert "nbloader-load:" in stall.stack
    assert "nbloader-download" in stall.stack
    repo.stall = None
    repo.release.set()
    assert job.result(60).model is not None
    assert job.state.stall is None
    lines = [line for line in job.state.log if line.code == "stalled"]
    assert lines


@pytest.mark.usefixtures("soon")
def test_a_read_that_hangs_is_told_by_its_file(demo_small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from support.page_cache import make_cold

    from nbloader._reading import part_reader, readahead

    may_go_on, take = threading.Event(), part_reader._Sink.take

    def hang(sink: object, fd: int, offset: int, length: int) -> int:
        may_go_on.wait(60)
        return take(sink, fd, offset, length)  # type: ignore[arg-type]

    monkeypatch.setattr(part_reader._Sink, "take", hang)
    monkeypatch.setattr(readahead.Readahead, "is_little", False)
    make_cold(demo_small)
    job = nbloader.start(demo_small)
    wait_for(lambda: job.state.stall is not None)
    stall = job.state.stall
    may_go_on.set()
    assert stall is not None
    assert (stall.reason, stall.arguments["rate"]) == ("storage", "0 B")
    assert ".safetensors" in stall.arguments["names"]
    assert "nbloader-reader" in stall.stack
    assert job.result(60).model is not None


@pytest.mark.usefixtures("soon")
def test_a_load_that_computes_is_slow(demo_small: Path) -> None:
    job = nbloader.LoadJob(demo_small, LoadOptions())
    seen: list[events.Stall] = []

    def compute(event: events.Event) -> None:
        if isinstance(event, events.StageStarted) and event.stage == "device":
            end = time.monotonic() + 30
            while not seen and time.monotonic() < end:
                sum(range(1000))
                seen.extend([job.state.stall] if job.state.stall is not None else [])

    job.subscribe(compute)
    job.start()
    assert job.result(60).model is not None
    assert [(stall.reason, stall.is_working) for stall in seen] == [("computes", True)]
    assert "in compute" in seen[0].stack


@pytest.mark.usefixtures("soon")
def test_a_cancel_ends_what_is_stalled(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    hub.repos["us/demo"] = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    job = nbloader.start("us/demo", cache_dir=tmp_path)
    wait_for(lambda: job.state.stall is not None)
    job.cancel()
    with pytest.raises(LoadCancelled):
        job.result(30)
    hub.repos["us/demo"].release.set()


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), True, "long"])
def test_a_time_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(OptionError, match="stall_seconds"):
        LoadOptions(stall_seconds=value)  # type: ignore[arg-type]

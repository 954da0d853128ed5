"""The headline, and what it is made from: the phase, its bytes and its rate, and the samples of a load."""

from __future__ import annotations

import pytest

from nbloader import LoadState, Memory, Sample, events
from nbloader._progress.fold import MOST_SAMPLES, fold
from nbloader._progress.state import stages_of
from nbloader._views.headline import headline, status_code
from nbloader._views.view import view_of

MB = 10**6
MEMORY = Memory(total=100 * MB, available=50 * MB, process=10 * MB)


def folded(*happened: events.Event, start: LoadState | None = None) -> LoadState:
    state = start or LoadState()
    for event in happened:
        state = fold(state, event)
    return state


def two_shards(*happened: events.Event) -> LoadState:
    shards = (("a", 100 * MB, 200 * MB), ("b", 100 * MB, 200 * MB))
    return folded(events.Started(0.0), events.StageStarted(0.0, "resolve"), events.ShardsFound(0.0, shards), *happened)


def test_it_says_what_is_downloaded_with_its_rate() -> None:
    files = (("config.json", MB, MB), ("a", 100 * MB, 0), ("b", 100 * MB, 0))
    state = two_shards(
        events.StageStarted(0.0, "download"),
        events.DownloadPlanned(0.0, files),
        events.Downloaded(0.0, 1, 0),
        events.Downloaded(1.0, 1, 100 * MB),
        events.Downloaded(2.0, 2, 20 * MB),
    )
    assert state.phase == "download"
    assert headline(state) == "Downloading file 2 of 2 · 121 of 201 MB downloaded · 60.0 MB/s · about 2 s left"


def test_it_says_what_is_read_while_libraries_are_imported_and_then_only_that_it_is_there() -> None:
    importing = events.StageStarted(0.0, "imports")
    state = two_shards(importing, events.Read(0.0, 0, 0), events.Read(1.0, 0, 50 * MB))
    assert (state.phase, state.phase_bytes) == ("read", (50 * MB, 200 * MB))
    assert headline(state) == "Importing torch, transformers · 50 of 200 MB in memory · 50.0 MB/s"
    state = folded(events.Read(2.0, 0, 50 * MB), events.Read(2.0, 1, 100 * MB), start=state)
    assert headline(state) == "Importing torch, transformers · 200 MB already in memory"
    # Nothing has to move: no word about bytes that do not.
    assert headline(state.at(60.0)) == headline(state)


def test_bytes_in_the_model_are_those_of_the_files_and_counted_once() -> None:
    state = two_shards(
        events.FoundInMemory(0.0, 0, 100 * MB),
        events.FoundInMemory(0.0, 1, 100 * MB),
        events.StageStarted(1.0, "weights"),
        events.Placed(1.0, 0, 0, 0),
        events.Placed(2.0, 0, 200 * MB, 200 * MB),
        events.Placed(3.0, 1, 100 * MB, 100 * MB),
    )
    assert (state.phase, state.phase_bytes) == ("place", (150 * MB, 200 * MB))
    assert state.rate == pytest.approx(75 * MB)  # 150 MB of the files in two seconds, 300 MB in the model
    assert headline(state).startswith("Placing shard 2 of 2 · 150 of 200 MB in the model · 75.0 MB/s")
    assert headline(state.at(6.5)) == "Placing shard 2 of 2 · 150 of 200 MB in the model · no bytes for 3 s"


def test_shards_that_the_model_does_not_use_are_not_waited_for() -> None:
    state = two_shards(events.PlacePlanned(0.0, (0, 200 * MB)), events.StageStarted(0.0, "weights"))
    assert state.phase_bytes == (0, 100 * MB)
    assert "shard 1 of 1" in headline(state)


@pytest.mark.parametrize(
    ("happened", "status", "line"),
    [
        ((events.Queued(0.0, ((3, "us/first"), (4, "us/second"))),), "queued", "Waiting for us/first"),
        ((events.Asked(0.0, "WontFitError", "Why?", ()),), "asking", "Waiting for your choice"),
        ((events.Cancelled(0.0),), "cancelled", ""),
    ],
)
def test_it_says_what_it_waits_for(happened: tuple[events.Event, ...], status: str, line: str) -> None:
    state = two_shards(*happened)
    assert (status_code(state), headline(state)) == (status, line)


def test_a_download_without_a_load_is_not_called_loading() -> None:
    start = LoadState(stages=stages_of(with_adapter=False, download_only=True))
    assert status_code(folded(events.Started(0.0), start=start)) == "downloading"


def test_samples_are_bounded_and_keep_the_first_and_the_last() -> None:
    state = two_shards(events.MemorySampled(0.0, MEMORY), events.Read(0.0, 0, 0))
    for step in range(1, 5000):
        state = fold(state, events.Read(0.1 * step, 0, 1000))
    assert len(state.samples) <= MOST_SAMPLES
    assert state.samples[0].seconds == 0.0
    assert state.now - state.samples[-1].seconds <= state.sample_seconds
    pauses = [after.seconds - before.seconds for before, after in zip(state.samples, state.samples[1:], strict=False)]
    assert max(pauses) <= 2 * state.sample_seconds
    assert all(sample.read == pytest.approx(10_000 * sample.seconds) for sample in state.samples[1:])


def test_an_answer_begins_the_samples_anew() -> None:
    state = two_shards(events.MemorySampled(0.0, MEMORY), events.Read(0.0, 0, 0), events.Read(1.0, 0, MB))
    state = folded(events.Asked(2.0, "WontFitError", "Why?", ()), events.Answered(9.0, {}), start=state)
    assert (state.samples, state.began) == ((), 9.0)
    state = fold(state, events.MemorySampled(9.5, MEMORY))
    assert state.samples == (Sample(9.5, 0, 0, 0, 10 * MB),)


def test_a_view_says_what_earlier_loads_took() -> None:
    expected = events.Expected(1.0, None, 2.0, 0.5, {"imports": 1.0, "weights": 2.0})
    state = two_shards(events.TimeExpected(0.0, expected))
    assert view_of(state)["_state"]["expected"] == {"imports": 1.0, "weights": 2.0}


def test_the_time_axis_begins_with_the_work_and_after_a_wait() -> None:
    state = folded(events.Started(0.5), events.StageStarted(0.6, "demo"), events.Started(5.0))
    assert state.began == 0.5
    state = folded(events.Queued(6.0, ((1, "us/first"),)), events.Started(60.0), start=state)
    assert state.began == 60.0


@pytest.mark.parametrize(("origin", "is_left"), [("folder", False), ("cache", False), ("hub", True)])
def test_only_what_may_be_downloaded_has_that_stage(origin: str, is_left: bool) -> None:
    state = folded(events.Started(0.0), events.SourceResolved(0.1, "model", None, origin))
    assert ("download" in [stage.name for stage in state.stages]) == is_left
    state = folded(events.StageStarted(0.2, "download"), start=state)  # of an adapter
    assert "download" in [stage.name for stage in state.stages]


def test_the_time_of_the_imports_is_not_called_a_stall() -> None:
    state = two_shards(events.StageStarted(1.0, "imports"), events.StageEnded(6.0, "imports", ""))
    state = folded(events.StageStarted(6.0, "weights"), start=state)
    assert state.at(6.5).stalled_for == 0.5
    state = folded(events.DownloadPlanned(6.5, (("a", 10 * MB, 0),)), events.StageStarted(6.5, "download"), start=state)
    assert state.at(9.0).stalled_for == 2.5

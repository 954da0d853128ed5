"""LoadState is a pure fold: every figure on screen, without a thread, a notebook or a model."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbloader import LoadState
from nbloader._progress import events
from nbloader._progress.fold import fold
from nbloader._progress.freed import Freed, Holder
from nbloader._progress.state import FINAL
from nbloader._system.memory import Memory
from nbloader._views.view import view_of

MB = 10**6


def folded(*happened: events.Event, start: LoadState | None = None) -> LoadState:
    state = start or LoadState()
    for event in happened:
        state = fold(state, event)
    return state


def running(*sizes: int, copies: bool = True) -> LoadState:
    shards = tuple((f"shard-{index}", size, size) for index, size in enumerate(sizes))
    return folded(events.Started(0.0), events.ShardsFound(0.0, shards, copies))


def test_a_new_state_knows_nothing() -> None:
    state = LoadState()
    assert (state.status, state.fraction, state.rate, state.eta, state.stalled_for) == ("idle", 0.0, None, None, 0.0)
    assert [stage.name for stage in state.stages] == [name for name in events.STAGES if name not in events.NOT_ALWAYS]


def test_fraction_counts_download_read_and_place_together() -> None:
    state = fold(running(100 * MB), events.DownloadPlanned(0.0, (("a", 100 * MB, 0),)))
    assert fold(state, events.Downloaded(1.0, 0, 100 * MB)).fraction == pytest.approx(1 / 3)
    state = folded(events.Downloaded(1.0, 0, 100 * MB), events.Read(2.0, 0, 50 * MB), start=state)
    assert state.fraction == pytest.approx(1 / 2)
    assert (state.bytes_done, state.bytes_to_do) == (150 * MB, 300 * MB)


def test_fraction_is_one_only_when_ready() -> None:
    state = folded(events.Read(1.0, 0, MB), events.Placed(1.0, 0, MB, MB), start=running(MB))
    assert 0.99 < state.fraction < 1
    assert fold(state, events.Ready(2.0, {})).fraction == 1


def test_a_download_that_starts_over_does_not_take_the_bar_back() -> None:
    state = folded(
        events.DownloadPlanned(0.0, (("a", 10 * MB, 0),)),
        events.Downloaded(1.0, 0, 8 * MB),
        events.Downloaded(2.0, 0, -8 * MB),
        start=running(10 * MB),
    )
    assert state.bytes_downloaded == 0
    assert state.fraction == pytest.approx(8 / 30)


INDEX = st.integers(0, 3)  # of shards and files that may not be there
SIZE = st.integers(0, 5 * MB)
FILE = st.tuples(st.sampled_from(["a", "b", "shard-0"]), st.integers(0, 20 * MB), st.just(0))
MEMORY = st.builds(Memory, total=SIZE, available=SIZE, process=SIZE, process_peak=st.none() | SIZE)
T = st.just(0.0)
SECONDS = st.floats(0, 100)
KINDS = {
    events.Queued: st.builds(events.Queued, T, st.just(((1, "us/first"),))),
    events.Started: st.builds(events.Started, T),
    events.StageStarted: st.builds(events.StageStarted, T, st.sampled_from(events.STAGES)),
    events.StageEnded: st.builds(events.StageEnded, T, st.sampled_from(events.STAGES)),
    events.SourceResolved: st.builds(events.SourceResolved, T, st.just("us/demo"), st.none(), st.just("hub")),
    events.DownloadPlanned: st.builds(events.DownloadPlanned, T, st.lists(FILE, max_size=3).map(tuple)),
    events.DownloadAdded: st.builds(events.DownloadAdded, T, FILE),
    events.Downloaded: st.builds(events.Downloaded, T, INDEX, st.integers(-5 * MB, 5 * MB)),
    events.DownloadEnded: st.builds(events.DownloadEnded, T, INDEX),
    events.ShardsFound: st.builds(
        events.ShardsFound, T, st.lists(st.tuples(FILE.map(lambda file: file[0]), SIZE, SIZE), max_size=3).map(tuple)
    ),
    events.FoundInMemory: st.builds(events.FoundInMemory, T, INDEX, SIZE),
    events.Read: st.builds(events.Read, T, INDEX, SIZE),
    events.ReadEnded: st.builds(events.ReadEnded, T, INDEX, SIZE),
    events.ReadersChanged: st.builds(events.ReadersChanged, T, st.integers(1, 64)),
    events.Placed: st.builds(events.Placed, T, INDEX, SIZE, SIZE),
    events.PlacePlanned: st.builds(events.PlacePlanned, T, st.lists(SIZE, max_size=4).map(tuple)),
    events.PeakPredicted: st.builds(events.PeakPredicted, T, SIZE),
    events.TimeExpected: st.builds(
        events.TimeExpected,
        T,
        st.builds(events.Expected, SECONDS, st.none() | st.floats(1, 1e10), SECONDS, SECONDS),
    ),
    events.MemorySampled: st.builds(events.MemorySampled, T, MEMORY),
    events.Untouched: st.builds(events.Untouched, T, SIZE),
    events.Stalled: st.builds(events.Stalled, T, st.none() | st.just(events.Stall(0.0, "unknown", {"function": "f"}))),
    events.Logged: st.builds(events.Logged, T, st.just("info"), st.just("offline"), st.just({"reason": "none"})),
    events.Asked: st.builds(
        events.Asked, T, st.just("WontFitError"), st.just("Why?"), st.just((({"force": True}, 1),))
    ),
    events.Answered: st.builds(events.Answered, T, st.just({"force": True})),
    events.CancelRequested: st.builds(events.CancelRequested, T),
    events.Spent: st.builds(events.Spent, T, st.dictionaries(st.sampled_from(events.PARTS), st.floats(0, 100))),
    events.Imported: st.builds(events.Imported, T, st.none() | st.floats(0, 100)),
    events.CheckpointRead: st.builds(events.CheckpointRead, T, st.just("folder"), st.just("bin")),
    events.ReadsCounted: st.builds(events.ReadsCounted, T, SIZE, SIZE),
    events.Ready: st.builds(
        events.Ready, T, st.just({"model_class": "M", "parameters": 1, "bytes": 1, "dtype": "float32", "device": "cpu"})
    ),
    events.DownloadReady: st.builds(events.DownloadReady, T, st.just("folder")),
    events.Failed: st.builds(events.Failed, T, st.just("LoadError"), st.just("No."), st.just("Try.")),
    events.Cancelled: st.builds(events.Cancelled, T),
    events.Unloaded: st.builds(
        events.Unloaded, T, st.builds(Freed, MEMORY, MEMORY, st.just((Holder("model", "name"),)))
    ),
}
ANY = st.one_of(*KINDS.values())
WHOLE = (events.Ready, events.DownloadReady, events.Unloaded)
UNENDED = st.one_of(*(kind for event, kind in KINDS.items() if event not in WHOLE))


def test_every_event_is_among_them() -> None:
    assert set(KINDS) == set(events.Event.__subclasses__())


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.floats(-0.5, 2), ANY), max_size=40))
def test_whatever_happens_in_whatever_order_the_figures_hold_together(
    steps: list[tuple[float, events.Event]],
) -> None:
    state, now = running(10 * MB, 10 * MB), 0.0
    for pause, event in steps:
        now = max(0.0, now + pause)  # threads stamp an event, and are overtaken before they tell it
        before, state = state, fold(state, replace(event, t=now))
        assert 0 <= before.fraction <= state.fraction <= 1
        assert state.fraction < 1 or state.status in ("ready", "downloaded") or state.gone is not None
        assert before.status not in FINAL or isinstance(event, events.Unloaded) or state is before
        assert state.now >= before.now
        assert (state.rate or 0) >= 0
        assert (state.eta or 0) >= 0
        assert min(state.stalled_for, state.elapsed, state.bytes_downloaded) >= 0
        assert state.bytes_done == state.bytes_downloaded + state.bytes_read + state.bytes_placed
        for item in (*state.shards, *state.downloads):
            starts = [value for name, value in asdict(item).items() if name.endswith("started") and value is not None]
            assert all(0 <= start <= state.now for start in starts)
        assert len(state.log) <= 200
        assert state.stall is None or state.status == "running"
        json.dumps(view_of(state), allow_nan=False)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 2), UNENDED), max_size=40))
def test_nothing_is_whole_that_is_not_ready(steps: list[tuple[float, events.Event]]) -> None:
    state, now = running(10 * MB), 0.0
    for pause, event in steps:
        now += pause
        state = fold(state, replace(event, t=now))
        assert state.fraction < 1


def test_bytes_of_what_is_not_known_change_nothing() -> None:
    state = running(MB)
    for event in (events.Read(1.0, 1, 5), events.Placed(1.0, 7, 5, 5), events.Downloaded(1.0, 0, 5)):
        assert fold(state, event).bytes_done == 0


def test_rate_is_taken_over_the_last_seconds() -> None:
    state = running(1000 * MB)
    for second in range(1, 21):
        state = fold(state, events.Read(float(second), 0, (10 if second <= 10 else 50) * MB))
    assert state.rate == pytest.approx(50 * MB)


def test_what_was_resident_is_read_but_is_no_speed() -> None:
    state = folded(events.FoundInMemory(1.0, 0, 100 * MB), start=running(100 * MB)).at(2.0)
    assert state.bytes_read == 100 * MB
    assert state.rate is None
    assert state.shards[0].bytes_resident == 100 * MB
    assert state.shards[0].read_started is None


def placing(*sizes: int, copies: bool = True) -> LoadState:
    """Return the state of a load that places from the start."""
    begun = events.StageStarted(0.0, "resolve"), events.StageStarted(0.0, "weights")
    return folded(*begun, start=running(*sizes, copies=copies))


def expecting(preparing: float, read_rate: float | None, placing: float, finishing: float) -> LoadState:
    """Return the state of a load of 100 MB that should take this long."""
    expected = events.Expected(preparing, read_rate, placing, finishing)
    return folded(events.StageStarted(0.0, "resolve"), events.TimeExpected(0.0, expected), start=running(100 * MB))


def test_rate_and_eta_are_unknown_while_nothing_moves() -> None:
    state = folded(*(events.Read(t / 10, 0, MB) for t in range(1, 11)), start=placing(100 * MB, copies=False))
    state = folded(*(events.Placed(t / 10, 0, MB, MB) for t in range(1, 11)), start=state)
    assert state.at(1.5).rate is not None
    assert state.at(1.5).eta is not None
    assert state.at(9.0).eta is None
    assert state.at(9.0).rate is None
    assert state.at(9.0).stalled_for == pytest.approx(8.0)


def test_eta_takes_each_phase_at_its_own_rate() -> None:
    state = placing(200 * MB)
    for step in range(0, 11):
        moves = events.Read(step / 10, 0, 10 * MB), events.Placed(step / 10, 0, 5 * MB, 5 * MB)
        state = folded(*moves, start=state)
    # 90 MB to read at 100 MB/s, 145 to place at 50: placing goes on while they are read.
    assert state.eta == pytest.approx(145 / 50, rel=0.1)


def test_without_an_earlier_load_no_time_is_told_before_placing() -> None:
    begun = folded(events.Started(0.0), events.StageStarted(0.5, "resolve"), events.StageEnded(1.0, "resolve"))
    assert (begun.eta, begun.fraction) == (None, 0.0)
    state = folded(*(events.Read(t / 10, 0, 10 * MB) for t in range(0, 8)), start=running(100 * MB))
    assert state.eta is None
    assert state.fraction == pytest.approx(80 / 200)  # of the bytes
    state = folded(*(events.Placed(t / 10, 0, MB, MB) for t in range(8, 16)), start=placing(100 * MB))
    assert state.eta is None  # so little is placed that its rate tells nothing


def test_no_time_is_told_from_the_first_moment_alone() -> None:
    state = folded(
        events.Read(0.0, 0, 0), events.Read(0.2, 0, MB), events.Placed(0.2, 0, MB, MB), start=placing(100 * MB)
    )
    assert state.eta is None


def test_eta_of_a_download_is_its_own() -> None:
    state = fold(running(200 * MB), events.DownloadPlanned(0.0, (("a", 200 * MB, 0),)))
    for step in range(0, 11):
        state = fold(state, events.Downloaded(step / 10, 0, 10 * MB))
    assert state.eta == pytest.approx(0.9, rel=0.01)


def test_an_earlier_load_tells_the_time_before_anything_moves() -> None:
    state = expecting(preparing=4.0, read_rate=500e6, placing=1.0, finishing=0.5)
    assert state.eta == pytest.approx(4 + 1 + 0.5)  # reading ends before
    assert state.at(2.0).eta == pytest.approx(2 + 1 + 0.5)
    assert state.at(8.0).eta == pytest.approx(0.8 + 1 + 0.5)  # it takes longer
    slow = expecting(preparing=4.0, read_rate=10e6, placing=1.0, finishing=0.5)
    assert slow.eta == pytest.approx(10 + 0.5)
    assert expecting(preparing=4.0, read_rate=None, placing=1.0, finishing=0.5).eta is None
    resident = fold(slow, events.FoundInMemory(0.0, 0, 100 * MB))
    assert resident.eta == pytest.approx(4 + 1 + 0.5)


def test_the_rate_of_now_counts_the_more_is_read() -> None:
    state = expecting(preparing=0.0, read_rate=100e6, placing=0.0, finishing=0.0)
    state = folded(events.Read(0.0, 0, 0), events.Read(1.0, 0, 10 * MB), start=state)
    assert state.eta == pytest.approx(0.1 * 90 / 10 + 0.9 * 90 / 100)
    state = folded(*(events.Read(float(t), 0, 10 * MB) for t in range(2, 10)), start=state)
    assert state.eta == pytest.approx(0.9 * 10 / 10 + 0.1 * 10 / 100)


def test_a_download_passes_through_memory() -> None:
    state = expecting(preparing=0.5, read_rate=1.0, placing=1.0, finishing=0.5)
    state = fold(state, events.DownloadPlanned(0.0, (("a", 100 * MB, 0),)))
    state = folded(events.Downloaded(0.0, 0, 0), events.Downloaded(1.0, 0, 50 * MB), start=state)
    assert state.eta == pytest.approx(1 + 1 + 0.5)


def test_fraction_is_the_share_of_the_time() -> None:
    state = expecting(preparing=4.0, read_rate=50e6, placing=1.0, finishing=0.0)
    for step in range(1, 41):
        state = fold(state, events.Read(step / 20, 0, 100 * MB // 40))
        assert state.fraction == pytest.approx(step / 20 / 5, abs=0.001)
    assert fold(state, events.Logged(3.0, "info", "offline")).fraction == pytest.approx(3 / 5)


def test_waiting_for_a_turn_or_an_answer_is_no_progress() -> None:
    state = folded(events.Queued(0.0, ((1, "us/first"),)), events.Started(100.0), events.StageStarted(100.0, "resolve"))
    expected = events.TimeExpected(100.0, events.Expected(9.0, None, 1.0, 0.0))
    state = folded(expected, events.ShardsFound(101.0, (("a", 0, 10),)), start=state)
    assert state.fraction == pytest.approx(1 / 10)


def test_what_was_on_disk_is_downloaded_but_is_no_speed() -> None:
    files = (("a", 100 * MB, 100 * MB), ("b", 100 * MB, 40 * MB))
    state = folded(events.DownloadPlanned(0.0, files), events.Downloaded(1.0, 1, 0), start=running(200 * MB))
    assert (state.bytes_downloaded, state.bytes_to_download) == (140 * MB, 200 * MB)
    state = folded(*(events.Downloaded(1 + step / 10, 1, MB) for step in range(1, 11)), start=state)
    assert state.rate == pytest.approx(10 * MB)
    assert [file.bytes_cached for file in state.downloads] == [100 * MB, 40 * MB]
    assert (state.downloads[1].started, state.downloads[1].ended) == (1.0, None)


def test_what_somebody_else_downloaded_counts_as_there() -> None:
    state = folded(
        events.DownloadPlanned(0.0, (("a", 100 * MB, 10 * MB),)),
        events.Downloaded(1.0, 0, 20 * MB),
        events.DownloadEnded(2.0, 0),
        start=running(100 * MB),
    )
    assert (state.downloads[0].bytes_downloaded, state.downloads[0].bytes_cached) == (100 * MB, 80 * MB)
    assert state.downloads[0].ended == 2.0


def test_shards_keep_what_is_known_of_them_when_their_headers_are_read() -> None:
    state = folded(events.FoundInMemory(1.0, 0, 7 * MB), start=running(10 * MB))
    state = fold(state, events.ShardsFound(2.0, ((state.shards[0].name, 10 * MB, 20 * MB),)))
    assert (state.bytes_read, state.bytes_to_place) == (7 * MB, 20 * MB)


def test_the_stage_is_the_one_that_still_runs() -> None:
    started = [events.StageStarted(0.0, name) for name in ("download", "tokenizer")]
    state = folded(*started, start=running(MB))
    assert state.stage == "tokenizer"
    assert fold(state, events.StageEnded(1.0, "tokenizer")).stage == "download"


def test_the_clock_runs_on_between_events_and_stops_at_the_end() -> None:
    state = running(MB)
    assert state.at(7.5).elapsed == 7.5
    assert fold(state, events.Failed(3.0, "CheckpointError", "broken", "mend")).at(9.0).elapsed == 3.0
    assert state.at(5.0).at(4.0).now == 5.0


def test_stalled_counts_from_the_last_byte() -> None:
    state = folded(events.Read(1.0, 0, MB), events.Read(2.0, 0, 0), start=running(10 * MB))
    assert state.at(6.0).stalled_for == 5.0
    assert fold(state, events.Ready(6.0, {})).at(9.0).stalled_for == 0.0


def test_a_shard_is_timed_from_its_first_byte_to_its_last() -> None:
    state = folded(
        events.Read(1.0, 1, 0), events.Read(2.0, 1, MB), events.Read(3.0, 1, MB), events.Placed(4.0, 1, 0, 0),
        events.Placed(5.0, 1, 2 * MB, 2 * MB), start=running(MB, 2 * MB),
    )  # fmt: skip
    shard = state.shards[1]
    assert (shard.read_started, shard.read_ended, shard.place_started, shard.place_ended) == (1.0, 3.0, 4.0, 5.0)
    assert state.shards[0].read_started is None


def test_what_is_really_placed_corrects_what_was_planned() -> None:
    state = folded(events.Placed(1.0, 0, 4 * MB, 2 * MB), start=running(10 * MB))
    assert state.bytes_to_place == 12 * MB
    assert state.bytes_placed == 4 * MB


def test_what_was_read_by_others_is_counted_at_the_end() -> None:
    state = folded(events.Read(1.0, 0, MB), events.ReadEnded(2.0, 0, 3 * MB), start=running(3 * MB))
    assert state.bytes_read == 3 * MB
    assert fold(state, events.ReadEnded(3.0, 0, 3 * MB)).bytes_read == 3 * MB


@pytest.mark.parametrize(
    "final",
    [
        events.Ready(1.0, {}),
        events.DownloadReady(1.0, "folder"),
        events.Failed(1.0, "LoadError", "a", "b"),
        events.Cancelled(1.0),
    ],
)
def test_nothing_changes_after_the_end(final: events.Event) -> None:
    state = fold(running(MB), final)
    assert state.status in FINAL
    assert fold(state, events.Read(2.0, 0, MB)) is state
    assert fold(state, events.Failed(2.0, "LoadError", "other", "")) is state


def test_the_log_is_bounded() -> None:
    state = folded(*(events.Logged(float(t), "info", "offline", {"reason": str(t)}) for t in range(500)))
    assert len(state.log) == 200
    assert state.log[-1].arguments == {"reason": "499"}


def test_memory_keeps_the_highest_peak() -> None:
    memory = [Memory(100, 50, held) for held in (10, 30, 20)]
    state = folded(events.PeakPredicted(0.0, 25), *(events.MemorySampled(1.0, sample) for sample in memory))
    assert (state.predicted_peak, state.observed_peak) == (25, 30)
    assert state.memory == memory[-1]


def test_an_unknown_event_is_refused() -> None:
    with pytest.raises(TypeError, match="no such event"):
        fold(LoadState(), events.Event(0.0))


def test_every_event_can_be_folded() -> None:
    from nbloader._progress.fold import _apply

    kinds = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, events.Event)]
    assert [kind for kind in kinds if kind is not events.Event and kind not in _apply.registry] == []


def test_the_process_s_own_peak_counts_once_it_has_risen() -> None:
    def sampled(*peaks: int | None) -> LoadState:
        samples = [Memory(100, 50, 10, process_peak=peak) for peak in peaks]
        return folded(*(events.MemorySampled(float(t), sample) for t, sample in enumerate(samples)))

    assert sampled(40, 40).observed_peak == 10  # of something before this load
    assert sampled(40, 40, 45).observed_peak == 45
    assert sampled(None, None).observed_peak == 10
    untouched = fold(sampled(40, 45), events.Untouched(3.0, 30))
    assert untouched.observed_peak == 45
    assert fold(sampled(40, 40), events.Untouched(3.0, 30)).observed_peak == 10 + 30


def test_a_question_stops_the_clock_of_stalls_and_an_answer_starts_anew() -> None:
    choices = (({"dtype": "bfloat16"}, 10), ({"force": True}, None))
    state = fold(running(100), events.StageStarted(1.0, "weights"))
    state = folded(events.Asked(2.0, "WontFitError", "too large", choices), start=state)
    assert state.question is not None
    assert (state.question.choices, state.at(9.0).stalled_for) == (choices, 0.0)
    state = fold(state, events.Answered(3.0, choices[0][0]))
    assert (state.question, state.shards, state.stage) == (None, (), None)
    assert {stage.started for stage in state.stages} == {None}
    assert fold(state, events.Cancelled(4.0)).question is None
    failed = fold(state, events.Failed(4.0, "WontFitError", "too large", "choose", choices))
    assert failed.error is not None
    assert failed.error.choices == choices


def test_an_adapter_s_bytes_stay_when_the_model_s_are_planned_anew() -> None:
    state = fold(running(100, 7), events.PlacePlanned(1.0, (80,)))
    assert [shard.bytes_to_place for shard in state.shards] == [80, 7]
    state = fold(state, events.DownloadAdded(1.0, ("adapter", 7, 2)))
    assert (state.bytes_to_download, state.bytes_downloaded) == (7, 2)

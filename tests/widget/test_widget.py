"""LoaderWidget with a comm that records: what is sent, how often, and what a click does."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import comm
import pytest
from support import archs
from support.comm import RecordingComm
from support.hub import Hub, Repo
from support.waiting import all_at_once, own_threads, wait_for
from support.wire import misfits

import nbloader
from nbloader import (
    LoadCancelled,
    LoadError,
    LoaderWidget,
    LoadState,
    Memory,
    OptionError,
    SourceError,
    events,
)
from nbloader._load import run
from nbloader._progress.fold import fold
from nbloader._views import wire
from nbloader._views.publisher import INTERVAL
from nbloader._views.view import view_of
from nbloader.widget import _THEIRS


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(comm, "create_comm", RecordingComm)
    yield
    LoaderWidget.close_all()


def comm_of(widget: LoaderWidget) -> RecordingComm:
    assert isinstance(widget.comm, RecordingComm)
    return widget.comm


def wait_for_final(widget: LoaderWidget) -> dict[str, object]:
    publisher = widget._controller._publisher
    assert publisher is not None
    publisher.join(30)
    return comm_of(widget).states()[-1]


def test_show_returns_the_widget_and_the_load_runs(demo_small: Path) -> None:
    widget = LoaderWidget(demo_small)
    assert widget.state.status == "idle"
    assert widget.show() is widget
    model, tokenizer = widget.result()
    assert widget.model is model
    assert widget.tokenizer is tokenizer is widget.processor
    assert widget.plan is not None
    final = wait_for_final(widget)
    assert final["status"] == "ready"
    assert comm_of(widget).states("_now")[-1]["fraction"] == 1
    assert final["summary"]["model_class"] == "LlamaForCausalLM"  # type: ignore[index]
    assert repr(widget) == f"LoaderWidget({str(demo_small)!r}): ready"


def test_result_starts_a_load_that_was_not_started(demo_small: Path) -> None:
    assert LoaderWidget(demo_small).result().model is not None


async def test_it_can_be_awaited(demo_small: Path) -> None:
    model, tokenizer = await LoaderWidget(demo_small)
    assert model.config.model_type == "llama"
    assert tokenizer is not None


async def test_cancelling_the_wait_cancels_the_load(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    hub.repos["us/demo"] = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    widget = LoaderWidget("us/demo", cache_dir=str(tmp_path)).load()

    async def wait() -> object:
        return await widget

    task = asyncio.create_task(wait())
    await asyncio.to_thread(hub.repos["us/demo"].stalled.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(LoadCancelled):
        await asyncio.to_thread(widget.result, 5)


@pytest.mark.parametrize("layers", [2, 1112])
def test_few_messages_whatever_the_model(layers: int, tmp_path: Path) -> None:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip
    folder = archs.save(transformers.LlamaForCausalLM(config), tmp_path, shards=3)
    widget = LoaderWidget(folder).load()
    comm_of(widget).click({"kind": "drawn"})
    widget.result()
    assert wait_for_final(widget)["status"] == "ready"
    sent = comm_of(widget).messages
    assert len(sent) <= 15 + 10 * widget.state.elapsed
    times = [t for t, kind, _ in sent if kind == "comm_msg"]
    for first, eleventh in zip(times, times[11:], strict=False):
        assert eleventh - first >= 10 * INTERVAL * 0.95


def test_names_of_shards_are_sent_once(demo_small: Path) -> None:
    widget = LoaderWidget(demo_small).load()
    comm_of(widget).click({"kind": "drawn"})
    widget.result()
    wait_for_final(widget)
    updates = [data["state"] for _, kind, data in comm_of(widget).messages if kind == "comm_msg"]
    assert sum("_shards" in update for update in updates) == 1
    assert not any("_esm" in update for update in updates)


def test_a_failing_comm_never_ends_a_load(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    repo = hub.repos["us/demo"] = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    widget = LoaderWidget("us/demo", cache_dir=str(tmp_path))
    comm_of(widget).broken = True
    try:
        widget.load()
        assert repo.stalled.wait(30)
        repo.release.set()
        assert widget.result().model is not None
        assert widget._controller._publisher is not None
        widget._controller._publisher.join(30)
        assert [line.code for line in widget.state.log].count("publish_failed") == 1
    finally:
        comm_of(widget).broken = False


def test_a_closed_widget_never_ends_a_load(demo_small: Path) -> None:
    widget = LoaderWidget(demo_small).load()
    widget.close()
    assert widget.result().model is not None


def test_a_widget_that_goes_in_mid_load_leaves_a_load_that_ends(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    """A closed widget that nobody refers to is collected with the load's end, and the model with it."""
    repo = hub.repos["us/demo"] = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    widget: LoaderWidget | None = LoaderWidget("us/demo", cache_dir=str(tmp_path)).load()
    assert widget is not None
    gone, job = weakref.ref(widget), weakref.ref(widget.job)
    assert repo.stalled.wait(30)
    widget.close()
    widget = None
    gc.collect()
    state = job().state
    assert (state.status, state.cancelling) == ("running", False)
    ended = threading.Event()
    job().subscribe(lambda event: ended.set() if type(event).__name__ == "Ready" else None)
    repo.release.set()
    assert ended.wait(60)
    wait_for(lambda: not own_threads())
    gc.collect()
    assert (gone(), job(), nbloader.loaded()) == (None, None, [])


def test_sixty_four_threads_wait_in_four_ways_for_one_load(demo_small: Path) -> None:
    shared = LoaderWidget(demo_small, dtype="float32")

    async def awaited(widget: LoaderWidget) -> object:
        return (await widget).model

    def called_back() -> object:
        ended = threading.Event()
        widget = LoaderWidget(
            demo_small, dtype="float32", progress_callback=lambda told: ended.set() if told["progress"] == 100 else None
        ).load()
        assert ended.wait(60)
        return widget.model

    ways = [
        lambda: LoaderWidget(demo_small, dtype="float32").result().model,
        lambda: asyncio.run(awaited(LoaderWidget(demo_small, dtype="float32"))),
        lambda: asyncio.run(awaited(shared)),
        called_back,
    ]

    models = all_at_once(64, lambda number: ways[number % len(ways)]())
    assert len(models) == 64
    assert len({id(model) for model in models}) == 1
    assert len(nbloader.loaded()) == 1
    assert not any(parameter.is_meta for parameter in shared.model.parameters())


def test_a_click_cancels(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    repo = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    hub.repos["us/demo"] = repo
    widget = LoaderWidget("us/demo", cache_dir=str(tmp_path)).load()
    assert repo.stalled.wait(30)
    comm_of(widget).click({"kind": "cancel", "number": widget._state["number"]})
    with pytest.raises(LoadCancelled):
        widget.result(30)
    assert wait_for_final(widget)["status"] == "cancelled"


def test_a_click_that_comes_late_cancels_no_other_load(stalled: LoaderWidget) -> None:
    assert stalled.job is not None
    comm_of(stalled).click({"kind": "cancel", "number": stalled.job.number - 1})
    assert not stalled.state.cancelling
    comm_of(stalled).click({"kind": "cancel", "number": stalled.job.number})
    assert stalled.state.cancelling


def test_nothing_is_sent_to_a_page_that_was_closed(stalled: LoaderWidget) -> None:
    comm = comm_of(stalled)
    stalled.close()
    sent = len(comm.messages)
    stalled.cancel()
    with pytest.raises(LoadCancelled):
        stalled.result(30)
    wait_for(lambda: not own_threads())
    assert len(comm.messages) == sent


def test_without_a_page_the_end_is_sent_by_who_waits_for_it(demo_small: Path) -> None:
    widget = LoaderWidget(demo_small).load()
    widget.result()
    assert comm_of(widget).states()[-1]["status"] == "ready"  # at once, and not when the publisher comes round


@pytest.fixture
def stalled(hub: Hub, demo_small: Path, tmp_path: Path) -> Iterator[LoaderWidget]:
    """A widget whose load waits for its download."""
    repo = hub.repos["us/demo"] = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    widget = LoaderWidget("us/demo", cache_dir=str(tmp_path)).load()
    assert repo.stalled.wait(30)
    yield widget
    widget.cancel()
    repo.release.set()


FORGED = [
    None,
    {"kind": "drop"},
    {"kind": ["cancel"]},
    {"kind": "cancel", "number": "1"},
    {"kind": "cancel", "path": "/etc/passwd"},
    {"kind": "load", "choices": {"dtype": "x" * 5_000_000}},
]


@pytest.mark.parametrize("content", FORGED)
def test_a_forged_message_gets_a_line_and_changes_nothing(content: object, stalled: LoaderWidget) -> None:
    comm_of(stalled).click(content)
    line = stalled.state.log[-1]
    assert (line.level, line.code) == ("warning", "refused")
    assert len(line.arguments["reason"]) < 300
    assert (stalled.state.status, stalled.state.cancelling) == ("running", False)


def merged(messages: list[tuple[float, str, dict[str, Any]]]) -> dict[str, Any]:
    """Return what a page has after these messages: whole lanes and samples, with what changed since."""
    has: dict[str, Any] = {"_lanes": [], "_samples": []}
    for _, _, data in messages:
        has |= data.get("state", {})
        if "_now" not in has:
            continue
        for row, lane in has["_now"]["lanes"].items():
            has["_lanes"] = [*has["_lanes"]]
            has["_lanes"][int(row)] = lane
        last = has["_samples"][-1][0] if has["_samples"] else -1
        has["_samples"] = [*has["_samples"], *(new for new in has["_now"]["samples"] if new[0] > last)]
    return has


def states_of_two_hundred_shards() -> Iterator[LoadState]:
    size, memory = 10**9, Memory(total=10**11, available=10**11, process=10**9)
    state = fold(LoadState(), events.Started(0.0))
    state = fold(state, events.ShardsFound(0.0, tuple((f"model-{shard}", size, size) for shard in range(200))))
    for shard in range(200):
        t = 0.5 * shard
        state = fold(fold(state, events.Read(t, shard, size)), events.Placed(t + 0.2, shard, size, size))
        state = fold(state, events.MemorySampled(t + 0.3, memory))
        yield state


def test_only_what_has_changed_is_sent_and_a_page_has_all_of_it(tmp_path: Path) -> None:
    widget = LoaderWidget(tmp_path)
    sent = comm_of(widget).messages
    for step, state in enumerate(states_of_two_hundred_shards()):
        if step == 0:
            sent.clear()
        widget._page.send(view_of(state, 5))
        # They are sent whole where every second sample was dropped.
        assert step == 0 or "_samples" in sent[-1][2]["state"] or len(json.dumps(sent[-1][2])) < 1500
        if step == 100:  # a page that draws the panel anew needs what was sent before it came
            comm_of(widget).click({"kind": "drawn"})
            assert comm_of(widget).states("_lanes")[-1] == widget._page._traits["_lanes"]
            assert comm_of(widget).states("_samples")[-1] == widget._page._traits["_samples"]
    has, kept = merged(sent), widget._page._traits
    assert has["_lanes"] == kept["_lanes"]
    assert [sample[0] for sample in has["_samples"]] == [sample[0] for sample in kept["_samples"]]
    # The end is sent whole: a page that missed something is right in the end.
    widget._page.send(view_of(fold(state, events.Cancelled(200.0)), 5))
    assert comm_of(widget).states("_lanes")[-1] == kept["_lanes"]


def test_a_forged_state_gets_a_line_and_changes_nothing(stalled: LoaderWidget) -> None:
    forged = {"status": "ready", "name": "<img src=x onerror=alert(1)>"}
    before = stalled._state
    data = {"method": "update", "state": {"_state": forged, "_form": {"code": "rm"}, "tooltip": "a tip"}}
    comm_of(stalled).handle_msg({"content": {"data": data}, "buffers": []})
    assert stalled._form is None
    assert stalled._state["name"] == before["name"]
    assert stalled.tooltip == "a tip"
    assert stalled.state.log[-1].arguments["reason"].count("_form, _state") == 1


def test_a_page_sets_nothing_but_what_is_its_own(stalled: LoaderWidget) -> None:
    before = {name: value for name, value in stalled.get_state().items() if name not in _THEIRS}
    assert {"_esm", "_css", "_view_module", "_view_name", "_model_module", "_state", "_anchor"} <= before.keys()
    for name in before:
        data = {"method": "update", "state": {name: "import('https://evil.example')"}}
        comm_of(stalled).handle_msg({"content": {"data": data}, "buffers": []})
        assert stalled.state.log[-1].code == "refused"
        assert name in stalled.state.log[-1].arguments["reason"]
    after = stalled.get_state()
    moving = {"_state", "_now", "_shards", "_lanes", "_samples"}
    assert [name for name in before.keys() - moving if after[name] != before[name]] == []
    assert "evil" not in repr(after["_state"]["name"])


def test_a_flood_of_forged_messages_is_told_of_a_hundred_times(stalled: LoaderWidget) -> None:
    assert stalled.job is not None
    for _ in range(20_000):
        comm_of(stalled).click({"kind": "drop"})
    refused = [event for event in stalled.job.events if getattr(event, "code", "") == "refused"]
    assert len(refused) == 100
    assert "not listed" in str(refused[-1].arguments["reason"])


def test_a_forged_message_to_a_form_is_told_there(demo_small: Path) -> None:
    widget = LoaderWidget(demo_small)
    widget._repr_mimebundle_()
    for choices in ({"trust_remote_code": "true"}, {"token": "mine"}, {"model": "/etc"}):
        comm_of(widget).click({"kind": "load", "choices": choices})
        assert widget._form is not None
        assert "The form does not accept" in widget._form["error"]["message"]
    comm_of(widget).click({"kind": "drop"})
    assert "unexpected message from the page" in widget._form["error"]["message"]
    assert widget.job is None


def test_a_forged_message_after_the_end_is_logged(demo_small: Path, caplog: pytest.LogCaptureFixture) -> None:
    widget = LoaderWidget(demo_small).load()
    assert widget.result().model is not None
    comm_of(widget).click({"kind": "drop"})
    assert "unexpected message from the page" in caplog.text
    assert widget.state.status == "ready"


def test_a_choice_that_is_not_there_answers_nothing(tmp_path: Path) -> None:
    widget = LoaderWidget(tmp_path / "nowhere").load()
    with pytest.raises(SourceError):
        widget.result()
    for choice in (-1, 0, 10**9):
        comm_of(widget).click({"kind": "answer", "number": widget.job.number, "question": 0, "choice": choice})
    assert widget.state.status == "failed"


def test_a_click_goes_where_the_front_end_sent_it(demo_small: Path) -> None:
    widget = LoaderWidget(demo_small)
    assert comm_of(widget)._reply_subshell_for({}, "its own shell") == "its own shell"


def test_loading_again_takes_changes(demo_small: Path) -> None:
    widget = LoaderWidget(demo_small).load()
    comm_of(widget).click({"kind": "drawn"})
    assert str(widget.model.dtype) == "torch.bfloat16"
    assert str(widget.load(dtype="float32").model.dtype) == "torch.float32"
    wait_for_final(widget)
    ready = [state for state in comm_of(widget).states() if state["status"] == "ready"]
    assert len(ready) in {1, 2}
    assert ready[-1]["summary"]["dtype"] == "float32"


def test_a_failure_is_shown_and_raised(tmp_path: Path) -> None:
    widget = LoaderWidget(tmp_path / "nowhere").load()
    with pytest.raises(SourceError, match="There is no folder"):
        widget.result()
    final = wait_for_final(widget)
    assert final["status"] == "failed"
    assert "There is no folder" in final["error"]["message"]  # type: ignore[index]
    assert final["error"]["hint"]  # type: ignore[index]


def test_unknown_options_are_refused_at_once() -> None:
    with pytest.raises(OptionError, match="Did you mean 'device_map'"):
        LoaderWidget("demo", devicemap="auto")


def test_the_state_is_sent_from_the_thread_while_the_main_thread_waits(demo_small: Path) -> None:
    widget = LoaderWidget(demo_small, dtype="float32").load()
    widget.result()
    wait_for_final(widget)
    assert len(comm_of(widget).states()) >= 1
    assert threading.current_thread() is threading.main_thread()


def sent_by(widget: LoaderWidget) -> list[str]:
    """Return where the traits differ from what the front end is told that they are."""
    traits = {name: getattr(widget, name) for name in get_type_hints(wire.Traits)}
    return misfits(traits, wire.Traits)


def test_what_is_sent_is_of_the_types_that_the_front_end_has(demo_small: Path, tmp_path: Path) -> None:
    bench = LoaderWidget(demo_small)
    bench._repr_mimebundle_()
    wait_for(lambda: bench._form is not None and bench._form["plan"] is not None)
    assert sent_by(bench) == []
    bench.load(reload=True).result()
    wait_for(lambda: bool((bench._diagnosis or {}).get("parts")))
    assert bench._state["summary"]
    assert bench._runs["runs"]
    assert sent_by(bench) == []
    bench.unload()
    wait_for(lambda: bench._state["gone"] is not None)
    assert sent_by(bench) == []
    failed = LoaderWidget(tmp_path).show()
    wait_for(lambda: failed._state["status"] == "failed")
    assert failed._state["error"]["code"] == "no-config"
    assert sent_by(failed) == []


def test_two_widgets_share_one_load_and_one_line(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    repo = hub.repos["us/demo"] = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    first, second = (LoaderWidget("us/demo", cache_dir=str(tmp_path)).load() for _ in range(2))
    assert first.job is second.job
    assert repo.stalled.wait(30)
    waits = LoaderWidget(demo_small).load()
    assert waits.job is not None
    told = threading.Event()
    waits.job.subscribe(lambda event: told.set() if waits.state.ahead else None)
    assert told.wait(30) or waits.state.ahead
    ahead = waits.state.ahead[0][0]
    for forged in (ahead + 1, "1", -1, True, [ahead], {}):
        comm_of(waits).click({"kind": "cancel", "number": forged})
    assert not waits.job.done()
    assert not first.state.cancelling
    comm_of(waits).click({"kind": "cancel", "number": ahead})
    assert waits.result(30).model is not None
    assert wait_for_final(second)["status"] == wait_for_final(first)["status"] == "cancelled"


def test_loading_the_same_again_goes_on(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    repo = hub.repos["us/demo"] = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    widget = LoaderWidget("us/demo", cache_dir=str(tmp_path)).load()
    job = widget.job
    assert repo.stalled.wait(30)
    assert widget.load(readers=2).job is job
    again = widget.load(reload=True).job
    assert again is not job
    repo.release.set()
    assert widget.result(30).model is not None
    assert job is not None
    assert job.state.status == "cancelled"


def test_a_click_gives_it_back(demo_small: Path) -> None:
    widget = LoaderWidget(demo_small, dtype="float32")
    with pytest.raises(LoadError, match="is not loaded"):
        widget.unload()
    comm_of(widget).click({"kind": "unload"})
    assert widget.result().model is not None
    wait_for_final(widget)
    comm_of(widget).click({"kind": "unload"})
    final = comm_of(widget).states()[-1]
    assert final["status"] == widget.state.status == "idle"
    name, before, after = final["gone"]["places"][0]
    assert (name, before > after) == ("This process", True)
    assert nbloader.loaded() == []
    with pytest.raises(LoadError, match="was unloaded"):
        widget.result()
    assert widget.load().result().model is not None


def test_the_same_cell_again_has_it_at_once(demo_small: Path) -> None:
    first = LoaderWidget(demo_small).show()
    model = first.result().model
    second = LoaderWidget(demo_small).show()
    assert second.model is model
    final = wait_for_final(second)
    assert (final["status"], second._lanes) == ("ready", [])
    assert final["summary"]["already_loaded"] is True  # type: ignore[index]
    assert LoaderWidget(demo_small, reload=True).show().model is not model


def test_a_load_that_ended_is_diagnosed(demo_small: Path) -> None:
    widget = LoaderWidget(demo_small)
    assert widget._diagnosis is None
    widget.result()
    wait_for(lambda: bool((widget._diagnosis or {}).get("facts")))
    told = widget._diagnosis
    assert not told["measuring"]
    assert sum(seconds for _, _, seconds in told["parts"]) == pytest.approx(widget.state.elapsed, abs=0.02)
    assert told["verdict"] == nbloader.diagnose(widget).verdict
    widget.load()  # which is there already
    widget.result()
    wait_for(lambda: not own_threads())
    assert widget._diagnosis is None


def test_loading_again_finds_the_model_that_only_the_widget_holds(
    demo_small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widget = LoaderWidget(demo_small)
    widget.result()
    wait_for(lambda: not own_threads())
    has_returned = threading.Event()
    resolve = run.resolve
    monkeypatch.setattr(run, "resolve", lambda *args: has_returned.wait(60) and resolve(*args))
    widget.load()
    gc.collect()
    has_returned.set()
    assert widget.job is not None
    widget.result()
    assert (widget.job.state.summary or {}).get("already_loaded")


def test_the_front_end_has_the_texts_that_it_shows() -> None:
    assert LoaderWidget("demo")._texts["panel"]["cancel"] == "Cancel"


def test_a_panel_speaks_the_browser_s_language(demo_small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    widget = LoaderWidget(demo_small)
    assert widget._texts["panel"]["cancel"] == "Cancel"
    widget._handle_custom_msg({"kind": "drawn", "language": "ko-KR"}, [])
    assert widget._texts["panel"]["cancel"] == "취소"
    widget.result()
    wait_for(lambda: bool((widget._diagnosis or {}).get("facts")) and widget._state["status"] == "ready")
    details = {stage["name"]: stage["detail"] for stage in widget._state["stages"]}
    assert details["resolve"] == "폴더"
    assert widget._diagnosis["parts"][-1][1] == "기타"
    widget._handle_custom_msg({"kind": "drawn", "language": "en-US"}, [])
    assert {stage["name"]: stage["detail"] for stage in widget._state["stages"]}["resolve"] == "folder"


def test_a_language_that_was_chosen_stays(demo_small: Path) -> None:
    widget = LoaderWidget(demo_small, locale="ko")
    widget._handle_custom_msg({"kind": "drawn", "language": "en-US"}, [])
    assert widget._texts["panel"]["cancel"] == "취소"


def test_a_language_that_is_chosen_with_a_load_is_spoken(demo_small: Path) -> None:
    widget = LoaderWidget(demo_small)
    widget.load(locale="ko").result()
    assert widget._texts["panel"]["cancel"] == "취소"


def test_a_diagnosis_that_fails_is_not_waited_for(demo_small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(job: object) -> None:
        told.append(widget._diagnosis)
        raise OSError("the drive is gone")

    told: list[object] = []
    monkeypatch.setattr("nbloader._views.controller.diagnose", fail)
    widget = LoaderWidget(demo_small).load(reload=True)
    widget.result()
    wait_for(lambda: bool(told) and widget._diagnosis is None)
    assert told[0] is not None

"""The widget as a cell's last line: a form, its plan and the runs, and what clicks in it do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comm
import pytest
from support import archs
from support.comm import RecordingComm
from support.hub import Hub, Repo

import nbloader
from nbloader import LoaderWidget, WontFitError
from nbloader._analysis import history as _history


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(comm, "create_comm", RecordingComm)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield
    LoaderWidget.close_all()


class Watched:
    """A workbench whose view can be waited for."""

    def __init__(self, *arguments: Any, **choices: Any) -> None:
        self.widget = LoaderWidget(*arguments, **choices)
        self.changed = threading.Condition()
        self.widget.observe(self._notice, ["_form", "_state", "_runs"])
        self.widget._repr_mimebundle_()

    def _notice(self, change: object) -> None:
        with self.changed:
            self.changed.notify_all()

    def form(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        with self.changed:
            assert self.changed.wait_for(lambda: holds(self.widget._form or {"plan": None, "error": None}), 30)
        return dict(self.widget._form)

    def planned(self) -> dict[str, Any]:
        return self.form(lambda form: form["plan"] is not None and not form["planning"])

    def value(self, name: str) -> str:
        fields = [field for group in self.widget._form["groups"] for field in group["fields"]]
        return str(next(field["value"] for field in fields if field["name"] == name))

    def state(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        with self.changed:
            assert self.changed.wait_for(lambda: holds(self.widget._state), 60)
        return dict(self.widget._state)

    def click(self, kind: str, **rest: Any) -> None:
        assert isinstance(self.widget.comm, RecordingComm)
        self.widget.comm.click({"kind": kind, **rest})


def test_it_plans_and_loads_nothing(demo_small: Path) -> None:
    bench = Watched(demo_small)
    plan = bench.planned()["plan"]
    lines = dict(plan["lines"])
    assert (plan["verdict"], lines["Model size"]) == ("fits", "19.4 MB bfloat16")
    assert lines["Weights"].startswith("safetensors, 4 shards")
    assert bench.widget.job is None
    code = f'w = LoaderWidget("{demo_small}").show()\nmodel, tokenizer = w.result()'
    assert bench.widget._form["code"] == code
    assert bench.widget._runs == {"runs": [], "note": ""}


def test_a_panel_that_was_shown_has_no_form(demo_small: Path) -> None:
    widget = LoaderWidget(demo_small).show()
    widget.result()
    widget._repr_mimebundle_()
    assert widget._form is None


def test_a_choice_is_planned_for(demo_small: Path) -> None:
    bench = Watched(demo_small)
    bench.planned()
    bench.click("plan", choices={"dtype": "float32"})
    after = bench.form(
        lambda form: form["plan"] is not None and ["Model size", "38.8 MB float32"] in form["plan"]["lines"]
    )
    assert 'dtype="float32"' in after["code"]
    assert bench.value("dtype") == "float32"


def test_a_choice_that_cannot_be_is_told_and_changes_nothing(demo_small: Path) -> None:
    bench = Watched(demo_small)
    bench.planned()
    for choices in ({"max_memory": "potatoes"}, {"nothing": ""}, "no dict at all"):
        bench.click("load", choices=choices)
    form = bench.form(lambda form: form["error"] is not None)
    assert form["error"]["kind"] == "OptionError"
    assert form["plan"] is None
    assert bench.widget.job is None
    bench.click("plan", choices={})
    assert bench.planned()["error"] is None


def test_the_field_that_is_wrong_is_named(demo_small: Path) -> None:
    bench = Watched(demo_small)
    bench.planned()
    bench.click("plan", choices={"dtype": "float32", "max_memory": "potatoes"})
    assert bench.form(lambda form: form["error"] is not None)["field"] == "max_memory"
    assert bench.value("dtype") == "auto"  # none of the choices is taken over
    bench.click("plan", choices={"dtype": "float32"})
    assert bench.form(lambda form: form["error"] is None)["field"] == ""


def test_a_load_from_the_form_reloads_and_replaces_as_the_widget_was_told(demo_small: Path) -> None:
    model = LoaderWidget(demo_small).load().model
    bench = Watched(demo_small, reload=True, replace=True)
    assert bench.planned()["code"].startswith(f'w = LoaderWidget("{demo_small}", reload=True, replace=True).show()')
    bench.click("load", choices={})
    assert bench.widget.model is not model


def test_what_would_be_asked_is_asked_before_the_click(demo_small: Path) -> None:
    bench = Watched(demo_small, dtype="float32", max_memory="30MB")
    form = bench.planned()
    assert form["plan"]["verdict"] == "wont_fit"
    asked = form["asked"]
    with pytest.raises(WontFitError) as raised:
        LoaderWidget(demo_small, dtype="float32", max_memory="30MB").result()
    # One number for one question: what the form says is what the load says.
    assert (asked["message"].split(";")[0], asked["available"]) == (raised.value.message.split(";")[0], 30 * 10**6)
    assert [size for _, size in asked["choices"]] == list(raised.value.needed)
    assert form["plan"]["rooms"][0]["needed"] == asked["choices"][-1][1]
    for choice in (99, -1):
        bench.click("load_so", choice=choice)
    assert bench.widget.job is None
    bench.click("load_so", choice=0)
    assert str(bench.widget.model.dtype) == "torch.bfloat16"
    assert bench.form(lambda form: not form["planning"])["asked"] is None


def test_a_click_on_the_plan_s_question_answers_a_load_that_asks_the_same(demo_small: Path) -> None:
    bench = Watched(demo_small, dtype="float32", max_memory="30MB")
    bench.planned()
    bench.click("drawn", language="en")
    job = bench.widget.load().job
    assert job is not None
    bench.state(lambda state: state["question"] is not None)
    bench.click("load_so", choice=0)
    assert str(job.result().model.dtype) == "torch.bfloat16"
    assert bench.widget.job is job


def test_the_options_of_a_past_run_are_taken_over(demo_small: Path) -> None:
    for choices in ({"dtype": "float32"}, {"dtype": "float32"}, {}):
        LoaderWidget(demo_small, **choices).load(reload=True).result()
    bench = Watched(demo_small, token="hf_mine", subfolder="")
    bench.planned()
    titles = [run["title"] for run in bench.widget._runs["runs"]]
    assert titles == ["defaults", "dtype='float32' × 2"]
    bench.click("use_run", choice=7)
    bench.click("use_run", choice=1)
    bench.form(lambda form: 'dtype="float32"' in form["code"])
    assert bench.widget._controller.options.token == "hf_mine"
    assert bench.widget.job is None


def test_a_model_that_is_loaded_can_be_used_or_unloaded(demo_small: Path) -> None:
    model = LoaderWidget(demo_small, dtype="float32").load().model
    bench = Watched(demo_small)
    form = bench.planned()
    assert "float32 · 38.8 MB" in form["resident"]
    assert form["unloads"] == f"Loading unloads {demo_small.name}."
    bench.click("use_resident")
    assert bench.widget.model is model
    other = Watched(demo_small)
    assert other.planned()["resident"]
    other.click("unload")
    other.form(lambda form: form["resident"] == "")
    assert nbloader.loaded() == []


def test_a_source_that_is_not_there_is_told(tmp_path: Path) -> None:
    bench = Watched(tmp_path / "nothing")
    form = bench.form(lambda form: form["error"] is not None)
    assert form["error"]["kind"] == "SourceError"
    assert not form["planning"]


def test_load_from_the_form_and_from_code_are_the_same(demo_small: Path) -> None:
    bench = Watched(demo_small)
    bench.planned()
    bench.click("load", choices={"dtype": "float32"})
    assert str(bench.widget.model.dtype) == "torch.float32"
    bench.widget.load(dtype="float16")
    assert str(bench.widget.model.dtype) == "torch.float16"
    assert bench.value("dtype") == "float16"
    history = bench.widget.history
    assert [run["options"] for run in history] == [{"dtype": "float32"}, {"dtype": "float16"}]
    newest_first = ["dtype='float16'", "dtype='float32'"]
    with bench.changed:
        assert bench.changed.wait_for(lambda: [run["title"] for run in bench.widget._runs["runs"]] == newest_first, 10)
    bench.form(lambda form: form["plan"] is not None and form["plan"]["seconds"] is not None)
    bench.click("clear_history")
    assert bench.widget.history == bench.widget._runs["runs"] == []


def test_unlike_runs_are_pointed_out(demo_small: Path) -> None:
    bench = Watched(demo_small)
    run = {"model": str(demo_small), "time": "1", "options": {}, "stages": [], "copies": False, "seconds": 1.0}
    run |= {"device": "cpu", "weights_seconds": 1.0, "imports_seconds": 0.0, "bytes_downloaded": 0, "bytes_read": 1}
    for cache in ("warm", "cold"):
        _history.remember({**run, "cache": cache})
    assert bench.widget._controller._workbench is not None
    assert "loads of the same kind" in bench.widget._controller._workbench.runs()["note"]


def test_what_will_not_fit_is_asked_where_somebody_sees_it(demo_small: Path) -> None:
    bench = Watched(demo_small, dtype="float32", max_memory="30MB")
    bench.click("drawn")
    bench.click("load", choices={})
    state = bench.state(lambda state: state.get("question") is not None)
    question = state["question"]
    assert state["status"] == "running"
    assert question["kind"] == "WontFitError"
    labels = [label for label, _ in question["choices"]]
    assert labels[0] == "bfloat16"
    assert question["available"] == 30 * 10**6
    assert labels[-1] == "Load anyway"
    for choice in (99, -1, "0", None, True):
        bench.click("answer", number=state["number"], question=question["number"], choice=choice)
    bench.click("answer", number=state["number"], question=question["number"], choice=0)
    assert str(bench.widget.model.dtype) == "torch.bfloat16"
    assert bench.widget.state.question is None
    bench.form(lambda form: 'dtype="bfloat16"' in form["code"] and not form["planning"])


def test_without_anybody_there_it_fails_and_the_choices_stay(demo_small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbloader._views.page._DRAWN_SECONDS", 0.0)
    bench = Watched(demo_small, max_memory="1MB")
    bench.widget.load()
    with pytest.raises(WontFitError):
        bench.widget.result()
    state = bench.state(lambda state: state.get("error") is not None)
    last = len(state["error"]["choices"]) - 1
    for number, question in ((state["number"] + 1, 0), (state["number"], 1)):
        bench.click("answer", number=number, question=question, choice=last)
        assert bench.widget.state.status == "failed"
    bench.click("answer", number=state["number"], question=0, choice=last)
    assert bench.widget.model is not None


def test_nothing_is_held_back_that_one_thread_tells_while_another_does(demo_small: Path) -> None:
    """ipywidgets holds back what is set while another thread's updates are held back, and may send those just then."""
    widget = LoaderWidget(demo_small)
    assert isinstance(widget.comm, RecordingComm)
    is_held_back, have_been_sent = threading.Event(), threading.Event()
    other = threading.Thread(target=widget._page.send, args=({"_runs": {"runs": [], "note": "new"}},))

    class Preempted(set[str]):
        def add(self, name: str) -> None:
            if threading.current_thread() is other and not have_been_sent.is_set():
                is_held_back.set()
                have_been_sent.wait(30)
            super().add(name)

    def begin(change: object) -> None:
        other.start()
        is_held_back.wait(0.3)  # or it waits until the first has told everything

    widget._states_to_send = Preempted()
    widget.observe(begin, "_state")
    widget._page.send({"_state": {**widget._state, "name": "another"}})
    have_been_sent.set()
    other.join(30)
    updates = [data["state"] for _, kind, data in widget.comm.messages if kind == "comm_msg"]
    assert {"runs": [], "note": "new"} in [update.get("_runs") for update in updates]


def test_a_page_that_draws_an_unshown_widget_opens_its_workbench(demo_small: Path) -> None:
    """In a box or a tab the page makes the view, and nobody asks the widget for its own."""
    watched = Watched.__new__(Watched)
    watched.widget, watched.changed = LoaderWidget(demo_small), threading.Condition()
    watched.widget.observe(watched._notice, ["_form", "_state", "_runs"])
    assert watched.widget._form is None
    watched.widget._handle_custom_msg({"kind": "drawn", "language": "en"}, [])
    assert watched.planned()["plan"] is not None
    watched.widget._handle_custom_msg({"kind": "load", "choices": {}}, [])
    watched.state(lambda state: state["status"] == "ready")


def test_a_model_can_be_downloaded_only_and_loaded_later(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    hub.repos["us/demo"] = Repo.of_folder(demo_small)
    bench = Watched("us/demo", cache_dir=tmp_path)
    assert bench.planned()["plan"]["download"] > 0
    bench.click("download", choices={})
    state = bench.state(lambda state: state["status"] == "downloaded")
    assert bench.widget._now["fraction"] == 1
    assert [stage["name"] for stage in state["stages"]] == ["resolve", "download"]
    bench.form(lambda form: form["plan"] is not None and form["plan"]["download"] == 0)
    assert bench.widget._runs["runs"] == []
    hub.requests.clear()
    assert bench.widget.result().model is not None
    assert not any("/resolve/" in path for method, path in hub.requests if method == "GET")


def test_a_page_that_draws_a_panel_opens_none(demo_small: Path) -> None:
    widget = LoaderWidget(demo_small).load()
    widget._handle_custom_msg({"kind": "drawn", "language": "en"}, [])
    widget.result()
    assert widget._form is None


def test_a_second_click_answers_no_other_question(tmp_path: Path) -> None:
    """The first question is whether to load what will not fit; the next one, whether the checkpoint's code may run."""
    folder = archs.with_code(tmp_path / "mine", "clicked")
    bench = Watched(folder, max_memory="1kB")
    bench.click("drawn")
    bench.click("load", choices={})
    state = bench.state(lambda state: state.get("question") is not None)
    first = {"number": state["number"], "question": state["question"]["number"]}
    anyway = len(state["question"]["choices"]) - 1
    bench.click("answer", **first, choice=anyway)
    state = bench.state(lambda state: (state.get("question") or {}).get("kind") == "RemoteCodeError")
    for choice in range(anyway + 1):
        bench.click("answer", **first, choice=choice)
    assert bench.widget.state.question is not None
    assert bench.widget.job is not None
    bench.widget.job._ending.done.wait(0.3)
    assert bench.widget.state.question is not None
    bench.click("answer", number=state["number"], question=state["question"]["number"], choice=0)
    assert bench.widget.model.ran

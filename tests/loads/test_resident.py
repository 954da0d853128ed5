"""Load once, one at a time, keep one: what is loaded, what is waited for, and what unloading gives back."""

from __future__ import annotations

import functools
import gc
import os
import shutil
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import archs
from support.hub import Hub, Repo
from support.waiting import all_at_once, own_threads, wait_for

import nbloader
from nbloader import LoadCancelled, LoadError, LoadJob, LoadOptions, SourceError, WontFitError
from nbloader._checkpoint.adapter import adapter_state
from nbloader._progress import events
from nbloader._progress.freed import Holder
from nbloader._registry import models as registry
from nbloader._registry.holders import find_holders
from nbloader._system.memory import Free

MAIN = sys.modules["__main__"]


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return archs.save(archs.build("llama"), tmp_path / "one")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return archs.save(archs.build("qwen3"), tmp_path / "other")


def stalled_load(hub: Hub, folder: Path, tmp_path: Path, **choices: Any) -> LoadJob:
    """Return a load from the Hub, of "us/demo", whose download has stopped half-way until it is released."""
    repo = hub.repos["us/demo"] = Repo.of_folder(folder, stall="model-00002-of-00004.safetensors")
    job = nbloader.start("us/demo", cache_dir=tmp_path / "cache", **choices)
    assert repo.stalled.wait(30)
    return job


def kinds(job: LoadJob) -> list[type]:
    return [type(event) for event in job.events]


def codes(job: LoadJob) -> list[str]:
    return [line.code for line in job.state.log]


def test_what_is_loaded_is_given_at_once(one: Path) -> None:
    model, tokenizer = nbloader.load(one, progress=False)
    job = nbloader.start(one)
    assert job.result() == (model, tokenizer)
    assert job.result().model is model
    state = job.state
    assert (state.status, state.bytes_to_read, state.fraction) == ("ready", 0, 1.0)
    assert state.summary is not None
    assert state.summary["already_loaded"]
    assert "already_loaded" in codes(job)
    assert events.Placed not in kinds(job)
    (resident,) = nbloader.loaded()
    assert resident.model is model
    assert (resident.name, resident.bytes) == (one.name, state.summary["bytes"])


def test_sixty_four_threads_load_once(demo_small: Path) -> None:
    jobs: list[LoadJob] = []

    def load(number: int) -> Any:
        job = nbloader.start(demo_small, dtype="float32")
        jobs.append(job)
        return job.result().model

    models: list[Any] = all_at_once(64, load)
    assert len(models) == 64
    assert len({id(model) for model in models}) == 1
    assert sum(events.Placed in kinds(job) for job in set(jobs)) == 1
    assert not any(parameter.is_meta for parameter in models[0].parameters())


@pytest.mark.parametrize(
    ("choices", "is_same"),
    [
        ({}, True),
        ({"device": "cpu"}, True),
        ({"readers": 3, "readahead": False, "force": True, "keep": "all"}, True),
        ({"token": "hf_other", "local_files_only": True, "stall_seconds": 9}, True),
        ({"dtype": "float16"}, False),
        ({"attn_implementation": "eager"}, False),
        ({"extra": {"output_attentions": True}}, False),
        ({"reload": True}, False),
    ],
)
def test_the_same_is_what_makes_the_same_model(one: Path, choices: dict[str, Any], is_same: bool) -> None:
    first = nbloader.load(one, progress=False, keep="all").model
    again = nbloader.load(one, progress=False, **{"keep": "all", **choices}).model
    assert (again is first) == is_same


def test_the_same_folder_by_other_names(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nbloader.load(one, progress=False).model
    monkeypatch.chdir(one.parent)
    (one.parent / "link").symlink_to(one, target_is_directory=True)
    for name in ("one", "./one", one.parent / "link"):
        assert nbloader.load(name, progress=False).model is model


def test_files_that_have_changed_are_loaded_again(one: Path, tmp_path: Path) -> None:
    lora = tmp_path / "lora"
    model = nbloader.load(one, progress=False).model
    file = one / "model.safetensors"
    os.utime(file, ns=(1, file.stat().st_mtime_ns + 1))
    again = nbloader.load(one, progress=False).model
    assert again is not model
    assert nbloader.load(one, progress=False).model is again
    lora.mkdir()
    options = LoadOptions(adapter=str(lora))
    before = adapter_state(options)
    (lora / "adapter_config.json").write_text("{}")
    assert adapter_state(options) != before


def test_a_commit_that_moved_is_loaded_again(hub: Hub, one: Path, tmp_path: Path) -> None:
    hub.repos["us/one"] = Repo.of_folder(one)
    model = nbloader.load("us/one", progress=False, cache_dir=tmp_path / "cache").model
    commit = hub.repos["us/one"].commit
    assert nbloader.load("us/one", progress=False, cache_dir=tmp_path / "cache", revision=commit).model is model
    hub.repos["us/one"].move({**hub.repos["us/one"].files, "generation_config.json": b"{}"})
    job = nbloader.start("us/one", cache_dir=tmp_path / "cache")
    assert job.result().model is not model
    assert job.state.commit != commit


def test_another_model_takes_the_place_of_the_first(demo_1gb: Path, other: Path) -> None:
    first = nbloader.start(demo_1gb, dtype="float32")
    assert first.result() is not None
    held = nbloader.loaded()[0].bytes
    second = nbloader.start(other)
    second.result()
    assert [resident.name for resident in nbloader.loaded()] == [other.name]
    told = second.events
    unloaded = next(i for i, event in enumerate(told) if isinstance(event, events.Logged) and event.code == "unloaded")
    placed = next(i for i, event in enumerate(told) if isinstance(event, events.Placed))
    assert unloaded < placed
    state = first.state
    assert (state.status, state.memory) == ("idle", state.gone and state.gone.after)
    assert state.gone is not None
    assert state.gone.successor == other.name
    assert state.gone.before.process - state.gone.after.process > 0.5 * held
    with pytest.raises(LoadError, match=f"was unloaded to make room for {other.name}") as raised:
        first.result()
    assert "keep='all'" in raised.value.hint


def test_all_are_kept_where_that_is_wanted(one: Path, other: Path) -> None:
    jobs = [nbloader.start(folder, keep="all") for folder in (one, other)]
    assert [job.result().model.config.model_type for job in jobs] == ["llama", "qwen3"]
    assert len(nbloader.loaded()) == 2


def test_who_waits_gets_it_though_the_next_takes_its_place(one: Path, other: Path) -> None:
    got: dict[Path, Any] = {}
    threads = [
        threading.Thread(target=lambda folder=folder: got.setdefault(folder, nbloader.load(folder, progress=False)))
        for folder in (one, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {folder: loaded.model.config.model_type for folder, loaded in got.items()} == {one: "llama", other: "qwen3"}


def test_what_is_loaded_need_not_wait_for_another_load(hub: Hub, one: Path, demo_small: Path, tmp_path: Path) -> None:
    model = nbloader.load(one, progress=False).model
    slow = stalled_load(hub, demo_small, tmp_path, keep="all")
    assert nbloader.start(one).result(30).model is model
    assert not slow.done()
    slow.cancel()


def test_loads_wait_in_order_and_can_be_cancelled_from_the_line(
    hub: Hub, one: Path, other: Path, demo_small: Path, tmp_path: Path
) -> None:
    running = stalled_load(hub, demo_small, tmp_path)
    second, third = nbloader.start(one, keep="all"), nbloader.start(other, keep="all")
    # A load in line has its whole path for a name, until it is known what that is.
    wait_for(lambda: third.state.ahead == ((running.number, "us/demo"), (second.number, one.name)))
    assert third.state.status == "queued"
    registry.cancel_waiting(second.number)
    with pytest.raises(LoadCancelled):
        second.result(30)
    wait_for(lambda: len(third.state.ahead) == 1)
    assert not third.done()
    registry.cancel_waiting(running.number)
    assert third.result(30).model is not None
    assert running.state.status == "cancelled"


def test_replace_cancels_what_loads_and_comes_next(
    hub: Hub, one: Path, other: Path, demo_small: Path, tmp_path: Path
) -> None:
    running = stalled_load(hub, demo_small, tmp_path)
    waits = nbloader.start(one, keep="all")
    wait_for(lambda: bool(waits.state.ahead))
    urgent = nbloader.start(other, replace=True, keep="all")
    assert urgent.result(30).model is not None
    assert waits.result(30).model is not None
    with pytest.raises(LoadCancelled):
        running.result(30)
    ahead_of_it = [event.ahead for event in waits.events if isinstance(event, events.Queued)]
    assert [number for number, _ in ahead_of_it[-1]] == [urgent.number]


def test_who_asks_anew_does_not_join(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    running = stalled_load(hub, demo_small, tmp_path)
    anew = nbloader.start("us/demo", cache_dir=tmp_path / "cache", reload=True)
    assert anew is not running
    assert nbloader.start("us/demo", cache_dir=tmp_path / "cache") in (running, anew)
    hub.repos["us/demo"].release.set()
    assert anew.result(60).model is not None
    assert events.Placed in kinds(anew)


def test_nobody_joins_a_load_that_is_being_cancelled(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    cancelled = stalled_load(hub, demo_small, tmp_path)
    cancelled.cancel()
    again = nbloader.start("us/demo", cache_dir=tmp_path / "cache")
    hub.repos["us/demo"].release.set()
    assert again.result(60).model is not None
    with pytest.raises(LoadCancelled):
        cancelled.result(60)


def test_who_joins_hears_of_it(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    heard: list[str] = []
    first = stalled_load(hub, demo_small, tmp_path)
    choices: dict[str, Any] = {
        "cache_dir": tmp_path / "cache",
        "progress_callback": lambda told: heard.append(told["status"]),
    }
    second = nbloader.start("us/demo", **choices)
    assert second is first
    hub.repos["us/demo"].release.set()
    second.result()
    assert heard[-1] == "complete"
    heard.clear()
    nbloader.start("us/demo", **choices).result()
    assert heard == ["complete"]


def test_a_failure_is_everybodys_and_the_next_one_tries_again(tmp_path: Path, one: Path) -> None:
    folder = tmp_path / "late"
    for _ in range(2):
        with pytest.raises(SourceError):
            nbloader.load(folder, progress=False)
    shutil.copytree(one, folder)
    assert nbloader.load(folder, progress=False).model is not None


def test_preloaded_models_stay_until_they_are_unloaded(one: Path, other: Path) -> None:
    jobs = nbloader.preload(one, other)
    for job in jobs:
        job.result()
    first = weakref.ref(jobs[0])
    del job, jobs
    gc.collect()
    assert [resident.name for resident in nbloader.loaded()] == [one.name, other.name]
    again = nbloader.start(one)
    again.result()
    assert again.state.bytes_to_read == 0
    del again
    nbloader.unload(one)
    wait_for(lambda: not own_threads())
    gc.collect()
    assert first() is None
    assert [resident.name for resident in nbloader.loaded()] == [other.name]


def test_a_model_goes_with_its_last_name(one: Path) -> None:
    loaded = nbloader.load(one, progress=False, progress_callback=lambda told: None)
    ref = weakref.ref(loaded.model)
    wait_for(lambda: not own_threads())
    gc.collect()
    gc.disable()
    try:
        del loaded
        assert ref() is None
    finally:
        gc.enable()
    assert nbloader.loaded() == []


@pytest.mark.parametrize("meant", ["name", "path", "model", "job", "resident"])
def test_what_to_unload_can_be_said_in_many_ways(one: Path, other: Path, meant: str) -> None:
    job, kept = nbloader.start(one, keep="all"), nbloader.start(other, keep="all")
    ways = {"name": one.name, "path": one, "model": job.result().model, "job": job, "resident": nbloader.loaded()[0]}
    kept.result()
    nbloader.unload(ways[meant])
    assert [resident.name for resident in nbloader.loaded()] == [other.name]
    with pytest.raises(LoadError, match="was unloaded"):
        job.result()
    with pytest.raises(LoadError, match="is not loaded") as raised:
        nbloader.unload("nothing")
    assert other.name in raised.value.hint


def test_a_folder_means_what_was_loaded_from_it_and_nothing_else(
    one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    namesake = Path(shutil.copytree(one, tmp_path / "elsewhere" / one.name))
    monkeypatch.chdir(one.parent)
    job = nbloader.start(one.name)
    model = job.result().model
    took = job.state.elapsed
    del job
    gc.collect()
    monkeypatch.chdir(namesake.parent)
    assert nbloader.diagnose(one).seconds == took
    assert nbloader.diagnose(one.name).seconds is None  # the namesake, which is not loaded
    with pytest.raises(LoadError, match="is not loaded"):
        nbloader.unload(namesake)
    nbloader.unload(one)
    assert nbloader.loaded() == []
    assert model is not None


def test_unloading_gives_the_memory_back(demo_1gb: Path) -> None:
    job = nbloader.start(demo_1gb, dtype="float32")
    job.result()
    held = nbloader.loaded()[0].bytes
    freed = job.unload()
    assert freed.holders == ()
    assert freed.host > 0.5 * held
    assert "of host memory" in str(freed)
    assert nbloader.unload().holders == ()


class Owner:
    def __init__(self, model: Any) -> None:
        self.model = model


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    return lambda name, value: monkeypatch.setattr(MAIN, name, value, raising=False)


@pytest.mark.parametrize(
    ("name", "make", "path"),
    [
        ("model", lambda model: model, "model"),
        ("results", lambda model: {"a": [1, (2, model)]}, "results['a'][1][1]"),
        ("pipe", Owner, "pipe.model"),
        ("layer", lambda model: model.model.layers[1], "layer"),
        ("weight", lambda model: [model.lm_head.weight], "weight[0]"),
        ("call", lambda model: functools.partial(print, model), "call"),
        ("method", lambda model: model.generate, "method"),
        ("inner", lambda model: lambda: model, "inner"),
    ],
)
def test_who_holds_a_model_is_named(
    one: Path, main: Callable[[str, Any], None], name: str, make: Callable[[Any], Any], path: str
) -> None:
    job = nbloader.start(one)
    main(name, make(job.result().model))
    freed = job.unload()
    assert freed.holders == (Holder(path, "name"),)
    assert path in str(freed)


def test_outputs_of_a_notebook_are_told_as_such(one: Path, main: Callable[[str, Any], None]) -> None:
    model = nbloader.load(one, progress=False).model
    for name, value in {"Out": {3: [model]}, "_oh": {3: [model]}, "_": [model], "_3": [model]}.items():
        main(name, value)
    del model, value
    (holder,) = nbloader.unload().holders
    assert holder == ("Out[3][0]", "output")
    assert "%reset -f out" in str(holder)


def test_the_last_error_can_hold_a_model(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        held = nbloader.load(one, progress=False).model
        raise ValueError(held.config.model_type)

    with pytest.raises(ValueError, match="llama") as raised:
        fail()
    monkeypatch.setattr(sys, "last_value", raised.value, raising=False)
    assert Holder("sys.last_value", "error") in nbloader.unload().holders


def test_what_comes_after_unloading_changes_nothing(demo_small: Path) -> None:
    job = nbloader.start(demo_small, reload=True)
    job.result()
    job.unload()
    events, state = job.events, job.state
    job.cancel()
    job._add_line("info", "library_says", text="late")
    assert job.events == events
    assert not job.state.cancelling
    assert (job.state.gone, job.state.log) == (state.gone, state.log)


def test_a_function_that_runs_can_hold_a_model(one: Path) -> None:
    model = nbloader.load(one, progress=False).model
    ref = weakref.ref(model)
    (holder,) = nbloader.unload().holders
    assert holder == ("model in test_a_function_that_runs_can_hold_a_model()", "function")
    del model
    gc.collect()
    assert ref() is None  # looking for it has left nothing behind


def test_what_cannot_be_found_is_said_so() -> None:
    found = find_holders([object()])
    assert found == (Holder("", "unknown"),)


@pytest.mark.parametrize(("dtype", "is_copy"), [("auto", False), ("float32", True)])
def test_only_what_was_copied_is_counted_on(
    dtype: str, is_copy: bool, demo_small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is mapped counts as available while it is mapped."""
    job = nbloader.start(demo_small, dtype=dtype)
    job.result()
    assert job.plan is not None
    assert job.plan.copies == is_copy
    monkeypatch.setattr("nbloader._registry.models.find_free", lambda: Free(1000, {}))
    weights = job.plan.host_memory["weights"] if is_copy else 0
    assert registry.LoadedModelsOfJob(LoadJob(demo_small, LoadOptions())).free().host == 1000 + weights


def test_a_load_counts_on_what_it_will_take_the_place_of(
    demo_small: Path, monkeypatch: pytest.MonkeyPatch, main: Callable[[str, Any], None]
) -> None:
    job = nbloader.start(demo_small, dtype="float32")
    size = job.result() and nbloader.loaded()[0].bytes
    monkeypatch.setattr("nbloader._registry.models.find_free", lambda: Free(size // 2, {"cuda:0": None}))
    with pytest.raises(WontFitError):
        nbloader.load(demo_small, progress=False, dtype="float32", reload=True, keep="all")
    assert job.result() is not None
    monkeypatch.setattr("nbloader._load.stages.pipeline.find_free", lambda: Free(2 * size, {}))
    assert nbloader.load(demo_small, progress=False, dtype="float32", reload=True).model is not None
    # And where somebody holds on to that, it is said who.
    monkeypatch.setattr("nbloader._registry.models.find_free", lambda: Free(2 * size, {}))
    main("mine", nbloader.load(demo_small, progress=False, dtype="float32").model)
    monkeypatch.setattr("nbloader._load.stages.pipeline.find_free", lambda: Free(size // 2, {}))
    with pytest.raises(WontFitError, match="mine still refers to the model"):
        nbloader.load(demo_small, progress=False, dtype="float32", reload=True)

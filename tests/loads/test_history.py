"""The runs so far: what is kept of a load, for how long, and what it tells of the next one."""

from __future__ import annotations

import json
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pytest

import nbloader
from nbloader import LoadOptions, LoadPlan
from nbloader._analysis import history
from nbloader._checkpoint.checkpoint import read_checkpoint
from nbloader._options.options import changed_options
from nbloader._planning.plan import make_plan


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "nbloader"


def record(**changes: Any) -> dict[str, Any]:
    made = {"model": "us/demo", "time": "2026-01-01", "options": {}, "stages": [], "cache": "warm", "copies": False}
    made |= {
        "device": "cpu",
        "seconds": 3.0,
        "weights_seconds": 2.0,
        "imports_seconds": 0.0,
        "bytes_downloaded": 0,
        "bytes_read": 1000,
    }
    return {**made, **changes}


def test_a_load_that_is_ready_is_kept(demo_small: Path) -> None:
    choices: dict[str, Any] = {"dtype": "float32", "token": "hf_secret", "extra": {"bos_token_id": 7}}
    model = nbloader.load(demo_small, progress=False, **choices).model
    (run,) = history.runs(str(demo_small))
    assert run["options"] == {"dtype": "float32", "extra": ["bos_token_id"]}
    assert run["seconds"] > run["weights_seconds"] > 0
    assert run["bytes_read"] == read_checkpoint(demo_small).bytes
    assert run["bytes_placed"] == sum(parameter.nbytes for parameter in model.parameters())
    begun = [stage.name for stage in nbloader.LoadState().stages if stage.name != "download"]  # of a folder
    assert [name for name, _, _ in run["stages"]] == begun
    assert (run["cache"], run["copies"], run["verdict"]) == ("warm", True, "fits")
    assert run["observed_peak"] > 0
    assert "hf_secret" not in json.dumps(run)
    assert history.runs("another") == []


def test_a_name_that_cannot_be_shown_as_it_is_is_found(demo_small: Path, tmp_path: Path) -> None:
    strange = tmp_path / "a\x1b[31mb"
    strange.symlink_to(demo_small)
    nbloader.load(strange, progress=False)
    (run,) = history.runs(str(strange))
    assert "\x1b" not in run["model"]


def test_a_load_that_failed_or_was_refused_is_not(demo_small: Path, tmp_path: Path) -> None:
    with pytest.raises(nbloader.WontFitError):
        nbloader.load(demo_small, progress=False, max_memory=1)
    with pytest.raises(nbloader.SourceError):
        nbloader.load(tmp_path / "nothing", progress=False)
    assert history.runs() == []


def test_only_the_last_are_kept_and_all_are_cleared_at_once(folder: Path) -> None:
    for number in range(history.MOST_RUNS + 5):
        history.remember(record(seconds=number))
    kept = history.runs()
    assert [run["seconds"] for run in kept] == list(range(5, history.MOST_RUNS + 5))
    history.clear()
    assert history.runs() == []
    assert sorted(path.name for path in folder.iterdir()) in (["runs.jsonl"], ["runs.jsonl", "runs.lock"])


def test_what_cannot_be_read_or_written_hurts_nothing(folder: Path, demo_small: Path) -> None:
    history.remember(record())
    with open(folder / "runs.jsonl", "a") as file:
        file.write('{"model": "cut sh\n[]\n{"model": 3}\n')
    history.remember(record(seconds=4))
    assert [run["seconds"] for run in history.runs()] == [3.0, 4]
    (folder / "runs.jsonl").unlink()
    (folder / "runs.jsonl").mkdir()
    assert nbloader.load(demo_small, progress=False).model is not None
    assert [run["model"] for run in history.runs()] == [str(demo_small)]  # in its place


def plan_of(demo_small: Path, to_read: int = 2000, **changes: Any) -> LoadPlan:
    plan = make_plan(read_checkpoint(demo_small), LoadOptions())
    return replace(plan, bytes_to_read=(to_read,), **changes)


def test_times_follow_from_earlier_loads_of_the_kind(demo_small: Path) -> None:
    def predicted(
        plan: LoadPlan, known: list[dict[str, Any]], resident: int = 2000, *, imports: bool = False
    ) -> tuple[float, float] | None:
        return history.predict_seconds(plan, changed_options(LoadOptions()), resident, known, imports=imports)

    plan = plan_of(demo_small)
    assert predicted(plan, []) is None
    assert predicted(plan, [record()]) == (2000 / 500 + 1, 2000 / 500 + 1)
    assert predicted(plan, [record(), record(seconds=2.5, weights_seconds=1.0)]) == (2 + 1, 4 + 1.5)
    others = [
        record(cache="cold"),
        record(copies=True),
        record(options={"quantization": "8bit"}),
        record(bytes_read=10),
        record(bytes_downloaded=50),
        record(weights_seconds=0),
        record(device="cuda:0, disk"),
    ]
    assert predicted(plan, others) is None
    on_devices = replace(plan, device_memory={"mps": {}})
    assert predicted(on_devices, [record()]) is None
    assert predicted(on_devices, [record(device="cpu, mps:0")]) == (5, 5)
    assert predicted(replace(plan, device_memory=None), [record()]) is None
    assert predicted(plan, [record(cache="cold")], resident=0) == (5, 5)
    importing = record(seconds=6.5, imports_seconds=3.5)
    assert predicted(plan, [importing]) == (4 + 1, 4 + 1)
    assert predicted(plan, [importing, record()], imports=True) == (4 + 4.5, 4 + 4.5)
    assert predicted(plan, [record()], imports=True) is None
    waited = record(seconds=33.0, spent={"queue": 20.0, "choice": 6.0}, stages=[["demo", 0, 4]], read_rate=None)
    assert predicted(plan, [waited]) == (5, 5)
    download = replace(plan, bytes_to_download=200)
    assert predicted(download, [record(bytes_downloaded=100)]) == (4 + 2, 4 + 2)


def test_a_plan_knows_the_time_once_there_was_a_load(demo_small: Path) -> None:
    assert nbloader.plan(demo_small).seconds is None
    nbloader.load(demo_small, progress=False)
    seconds = nbloader.plan(demo_small).seconds
    assert seconds is not None
    assert 0 < seconds[0] == seconds[1]


def test_a_load_is_told_what_the_earlier_ones_took(demo_small: Path) -> None:
    first = nbloader.start(demo_small, reload=True)
    first.result()
    assert first.state.expected is None
    job = nbloader.start(demo_small, reload=True)
    job.result()
    (run,) = history.runs(str(demo_small))[:1]
    expected = job.state.expected
    assert expected is not None
    stages = {name: end - start for name, start, end in run["stages"]}
    assert expected.finishing == pytest.approx(stages["device"] + stages["metadata"])
    assert expected.placing == pytest.approx(max(0, stages["weights"] - run["spent"].get("storage", 0)))
    assert expected.preparing == pytest.approx(
        sum(run["spent"].get(part, 0) for part in ("resolve", "imports", "tokenizer"))
    )
    assert expected.read_rate is None


def test_what_is_expected_follows_from_the_latest_of_the_kind(demo_small: Path) -> None:
    def expected(known: list[dict[str, Any]], resident: int | None = 2000, **more: Any) -> tuple[Any, ...] | None:
        imports = more.pop("imports", False)
        plan = plan_of(demo_small, **more)
        made = history.expect(plan, LoadOptions(), "us/demo", resident, known, imports=imports)
        return None if made is None else astuple(made)[:4]

    stages = [["weights", 1.0, 2.0], ["device", 2.0, 2.5], ["metadata", 2.5, 2.75]]
    parts = {"spent": {"resolve": 0.25, "tokenizer": 0.5, "storage": 0.5}, "read_rate": 1000.0, "stages": stages}
    run = record(**parts)
    assert expected([]) is expected([record()]) is None  # none has its parts
    assert expected([run]) == (0.75, 1000.0, 1.0, 0.75)
    slower = [record(**{**parts, "read_rate": rate}, model="another") for rate in (10.0, 20.0, 30.0)]
    assert expected(slower) == (0.75, 20.0, 1.0, 0.75)
    assert expected([*slower, run]) == expected([run])  # of the same model
    assert expected([{**run, "cache": "cold"}]) is None
    assert expected([{**run, "cache": "cold"}], resident=None) is not None
    assert expected([run], imports=True) is None
    importing = {**run, "imports_seconds": 3.0, "spent": {**parts["spent"], "imports": 3.0}}
    assert expected([run, importing], imports=True) == (3.75, 1000.0, 1.0, 0.75)
    assert expected([run, importing]) == expected([run])
    assert expected([{**run, "read_rate": None}]) == (0.75, None, 1.0, 0.75)
    assert expected([{**run, "spent": {"resolve": "long"}}]) is None

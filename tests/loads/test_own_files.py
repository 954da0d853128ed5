"""What nbloader has written itself is read as a stranger's: nothing in it ends a load, a plan or a form."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nbloader
from nbloader import LoaderWidget
from nbloader._analysis import history
from nbloader._load import heartbeat
from nbloader._system import own_files

RUN: dict[str, Any] = {
    "model": "us/demo", "time": "2026-01-01", "options": {}, "stages": [["weights", 0.1, 0.2]], "cache": "warm",
    "copies": True, "device": "cpu", "seconds": 3.0, "weights_seconds": 2.0, "imports_seconds": 1.0,
    "bytes_downloaded": 0, "bytes_read": 10_000_000, "rate": 1e9, "verdict": "fits", "observed_peak": 1,
}  # fmt: skip
SIGN: dict[str, Any] = {
    "pid": 1, "began": 1.0, "machine": own_files.machine(), "name": "us/demo", "fraction": 0.5, "process": 1,
    "available": 1, "total": 2,
}  # fmt: skip
STRANGE = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(10**400) | st.just(-1)
    | st.lists(st.integers(), max_size=4) | st.lists(st.lists(st.text(max_size=3), max_size=3), max_size=3)
    | st.dictionaries(st.text(max_size=3), st.none(), max_size=2)
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "state" / "nbloader" / "loads").mkdir(parents=True)
    return tmp_path / "state" / "nbloader"


def is_in_order(folder: Path, demo: Path) -> None:
    """Have everything that reads what was written read it, and written anew."""
    heartbeat.find_killed()
    plan = nbloader.plan(demo)
    history.predict_seconds(plan, {}, 0, history.runs(), imports=False)
    widget = LoaderWidget(demo)
    widget.clear_history()
    assert widget.history == []
    history.remember({**RUN, "model": str(demo)})
    assert len(widget.history) == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([*RUN, "version"]), STRANGE, min_size=1, max_size=3))
def test_any_record_is_used_or_left_out(folder: Path, demo_small: Path, changes: dict[str, Any]) -> None:
    (folder / "runs.jsonl").write_text(
        json.dumps({**RUN, "model": str(demo_small), **changes}) + "\n" + json.dumps(RUN)
    )
    assert RUN in history.runs()
    is_in_order(folder, demo_small)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([*SIGN, "version"]), STRANGE, min_size=1, max_size=3))
def test_any_sign_of_life_is_used_or_left_out(folder: Path, changes: dict[str, Any]) -> None:
    (folder / "loads" / "1-1.json").write_text(json.dumps({**SIGN, **changes}))
    assert all((killed.name and killed.total >= 0) or True for killed in heartbeat.find_killed())


def fifo(path: Path) -> None:
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("something")


def dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def binary(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00" * 100)


def nested(path: Path) -> None:
    path.write_text("[" * 100_000 + "\n" + '{"a":' * 5_000)


def negative(path: Path) -> None:
    path.write_text(json.dumps({**SIGN, "pid": -1}))


def digits(path: Path) -> None:
    path.write_text(json.dumps({**SIGN, "began": 10**400}) + "\n" + json.dumps({**RUN, "seconds": 10**400}))


def many(path: Path) -> None:
    path.write_bytes(b"x" * 9_000_000)


@pytest.mark.parametrize("place", [fifo, a_folder, dangling, binary, nested, negative, digits, many])
@pytest.mark.parametrize("name", ["runs.jsonl", "loads/1-1.json", "loads", "runs.lock"])
def test_whatever_lies_there_is_left_out_and_said_once(
    name: str, place: Callable[[Path], None], folder: Path, demo_small: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if name == "loads":
        (folder / "loads").rmdir()
    place(folder / name)
    caplog.set_level(logging.WARNING)
    job = nbloader.start(demo_small, reload=True)
    assert job.result(60).model is not None
    assert nbloader.plan(demo_small).verdict == "fits"
    said = [record.getMessage() for record in caplog.records if "cannot be read" in record.getMessage()]
    is_read = name.endswith((".json", ".jsonl")) and place is not dangling
    assert len(said) == (is_read and not (place is negative and name == "loads/1-1.json"))
    if name != "runs.lock" or place in (binary, nested, negative, digits, many):
        is_in_order(folder, demo_small)


def test_a_user_without_a_home_goes_without(demo_small: Path, tmp_path: Path) -> None:
    code = """
import os, pwd, sys
def nobody(number):
    raise KeyError(number)
pwd.getpwuid = nobody
for name in ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
    os.environ.pop(name, None)
import nbloader
print(type(nbloader.load(sys.argv[1], progress=False).model).__name__, nbloader.LoaderWidget(sys.argv[1]).history)
nbloader.LoaderWidget(sys.argv[1]).clear_history()
try:
    nbloader.load("demo", progress=False)
except nbloader.OptionError as error:
    print(error.hint)
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(demo_small)], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.stdout.splitlines()[0] == "LlamaForCausalLM []", done.stderr
    assert "XDG_CACHE_HOME" in done.stdout.splitlines()[1]


def test_a_process_is_known_by_more_than_its_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = own_files.one_process()
    assert own_files.is_alive(own) is True
    assert own_files.is_alive({**own, "began": own["began"] - 100}) is False
    for number in (-1, 0, 2**40, 10**18):
        assert own_files.is_alive({**own, "pid": number}) is False
    with monkeypatch.context() as patch:  # the machine's clock is set
        real = psutil.boot_time
        patch.setattr(psutil, "boot_time", lambda: real() + 3600)
        patch.setattr(psutil._pslinux, "boot_time", lambda: real() + 3600)
        assert own_files.is_alive(own) is True
    # In another container of the same host name its number means nothing here.
    elsewhere = {**SIGN, **own, "machine": "elsewhere"}
    assert own_files.is_alive(elsewhere) is None
    (folder / "loads" / "1-1.json").write_text(json.dumps(elsewhere))
    assert heartbeat.find_killed() == []
    assert (folder / "loads" / "1-1.json").exists()
    old = os.stat(folder).st_mtime - 40 * 86_400
    os.utime(folder / "loads" / "1-1.json", (old, old))
    assert heartbeat.find_killed() == []
    assert not (folder / "loads" / "1-1.json").exists()

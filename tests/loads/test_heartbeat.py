"""A load whose process was killed: what the next one says of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.hub import Hub, Repo

import nbloader
from nbloader import LoadJob
from nbloader._load.heartbeat import Heartbeat, Killed, find_killed
from nbloader._system import own_files

CODE = """
import nbloader, sys, time
job = nbloader.start("us/demo", cache_dir=sys.argv[1])
while not list(__import__("pathlib").Path(sys.argv[2]).glob("nbloader/loads/*.json")):
    time.sleep(0.01)
print("beats", flush=True)
job.result()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of signs of life, of this test alone."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert own_files.state_folder() == tmp_path / "state" / "nbloader"
    return tmp_path / "state" / "nbloader" / "loads"


def told(job: LoadJob) -> dict[str, dict[str, Any]]:
    return {line.code: dict(line.arguments) for line in job.state.log}


def killed_load(hub: Hub, demo_small: Path, tmp_path: Path) -> int:
    """Have a process killed in the midst of a load; return its number."""
    hub.repos["us/demo"] = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    arguments = [sys.executable, "-c", CODE, str(tmp_path / "cache"), str(tmp_path / "state")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "beats"
        process.kill()
    return process.pid


def test_the_next_load_says_that_the_last_was_killed(hub: Hub, demo_small: Path, tmp_path: Path, folder: Path) -> None:
    killed_load(hub, demo_small, tmp_path)
    (file,) = folder.glob("*.json")
    said = json.loads(file.read_text())
    job = nbloader.start(demo_small)
    job.result()
    line = told(job)["killed"]
    assert line["name"] == "us/demo"
    assert line["percent"] == f"{100 * said['fraction']:.0f}"
    assert "takes" not in told(job)
    assert list(folder.iterdir()) == []
    again = nbloader.start(demo_small, reload=True)
    again.result()
    assert "killed" not in told(again)


def test_short_memory_is_named_as_the_cause_with_what_takes_less(
    hub: Hub, demo_small: Path, tmp_path: Path, folder: Path
) -> None:
    killed_load(hub, demo_small, tmp_path)
    (file,) = folder.glob("*.json")
    known = {**json.loads(file.read_text()), "fraction": 0.82, "process": 22_100_000_000}
    file.write_text(json.dumps({**known, "available": 300_000_000, "total": 23_500_000_000}))
    job = nbloader.start(demo_small, dtype="float32")
    job.result()
    line = told(job)["killed_for_memory"]
    assert (line["percent"], line["process"], line["total"]) == ("82", "22.1 GB", "23.5 GB")
    assert told(job)["takes"]["needed"] == "38.8 MB"
    assert told(job)["takes"]["ways"].startswith("dtype='bfloat16': 19.4 MB, quantization='8bit': ")


def test_what_takes_as_much_is_no_way(hub: Hub, demo_small: Path, tmp_path: Path, folder: Path) -> None:
    killed_load(hub, demo_small, tmp_path)
    (file,) = folder.glob("*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "available": 0}))
    job = nbloader.start(demo_small)
    job.result()
    assert told(job)["takes"]["ways"].startswith("quantization='8bit': ")


def test_a_process_that_ends_by_itself_is_no_killed_one(
    hub: Hub, demo_small: Path, tmp_path: Path, folder: Path
) -> None:
    hub.repos["us/demo"] = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    code = CODE.replace("job.result()", "sys.exit(0)")
    arguments = [sys.executable, "-c", code, str(tmp_path / "cache"), str(tmp_path / "state")]
    assert subprocess.run(arguments, timeout=60, check=False).returncode == 0
    assert list(folder.glob("*.json")) == []


def test_a_load_that_ends_leaves_no_sign(demo_small: Path, folder: Path) -> None:
    nbloader.load(demo_small, progress=False, reload=True)
    with pytest.raises(nbloader.LoadError):
        nbloader.load(demo_small, progress=False, extra={"nonsense": 1}, reload=True)
    assert not folder.is_dir() or not list(folder.glob("*.json"))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"pid": 1}', '{"pid": "x", "host": 3}', "\\ud800", "[" * 100_000]
)
def test_a_sign_that_makes_no_sense_is_taken_away(folder: Path, text: str) -> None:
    folder.mkdir(parents=True)
    (folder / "1-1.json").write_text(text)
    assert find_killed() == []
    assert list(folder.iterdir()) == []


def test_what_was_being_written_for_the_first_time_is_taken_away_once_it_is_old(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("1-1.json.draft", "1-2.json.draft"):
        (folder / name).write_text("{")
    os.utime(folder / "1-1.json.draft", (0, 0))
    assert find_killed() == []
    assert [path.name for path in folder.iterdir()] == ["1-2.json.draft"]


def test_others_are_left_alone(folder: Path, demo_small: Path) -> None:
    job = nbloader.start(demo_small, reload=True)
    job.result()
    heartbeat = Heartbeat(7)
    heartbeat.begin()
    heartbeat.beat(job.state)
    (mine,) = folder.glob("*.json")
    known = json.loads(mine.read_text())
    (folder / "2-1.json").write_text(json.dumps({**known, "machine": "elsewhere", "pid": 2**22}))
    assert find_killed() == []
    assert len(list(folder.glob("*.json"))) == 2
    # A number that another process has got since.
    mine.write_text(json.dumps({**known, "began": known["began"] - 100}))
    (killed,) = find_killed()
    assert killed == Killed(demo_small.name, 1.0, known["process"], known["available"], known["total"])
    heartbeat.stop()


def test_where_nothing_can_be_written_a_load_goes_on(folder: Path, demo_small: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("a file is in the way")
    assert nbloader.load(demo_small, progress=False, reload=True).model is not None

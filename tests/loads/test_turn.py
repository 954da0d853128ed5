"""The one turn to load is always given back: by what ends, what is left behind, and what never began."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from support import archs
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import nbloader
from nbloader import LoadCancelled, LoadError, demo_checkpoint
from nbloader._checkpoint.checkpoint import check_depth
from nbloader._checkpoint.headers import Tensor
from nbloader._load.event_log import EventLog
from nbloader._progress import events
from nbloader._registry import models as registry

ROUNDS = int(os.environ.get("NBLOADER_TEST_ROUNDS", 60))


def test_a_load_that_is_left_behind_keeps_no_other_waiting(demo_small: Path) -> None:
    held, let_go = threading.Event(), threading.Event()

    def hold(event: events.Event) -> None:
        if isinstance(event, events.StageStarted) and event.stage == "weights":
            held.set()
            let_go.wait(60)

    stuck = nbloader.LoadJob(demo_small, nbloader.LoadOptions(), reload=True)
    stuck.subscribe(hold)
    registry.submit(stuck)
    try:
        assert held.wait(60)
        stuck.cancel()
        with pytest.raises(LoadCancelled):
            stuck.result(60)
        after = nbloader.start(demo_small, reload=True)
        model = after.result(60).model
        assert [type(event) for event in after.events if isinstance(event, events.Queued)] == []
    finally:
        let_go.set()
    # What was left behind ends, and neither takes what the other has made nor anybody's turn.
    assert nbloader.start(demo_small).result(60).model is model
    assert (registry._registry.active, registry._registry.running) == ([], None)


@pytest.mark.parametrize("which", ["nbloader-load", "nbloader-watch"])
def test_where_no_thread_can_be_started_nothing_is_left_in_line(
    which: str, demo_small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == which:
            raise RuntimeError("can't start new thread")
        begin(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(LoadError, match="cannot start another thread in this process: can't start new thread"):
            nbloader.load(demo_small, reload=True, progress=False)
    assert registry._registry.active == []
    assert nbloader.load(demo_small, reload=True, progress=False).model is not None


def test_a_thread_that_fails_in_its_last_steps_leaves_nobody_waiting(
    demo_small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = EventLog.publish

    def fail(log: EventLog, event: events.Event) -> None:
        if isinstance(event, events.Ready):
            raise MemoryError
        publish(log, event)

    with monkeypatch.context() as patch:
        patch.setattr(EventLog, "publish", fail)
        assert nbloader.start(demo_small, reload=True).result(60).model is not None
    assert nbloader.load(demo_small, reload=True, progress=False).model is not None


INTERRUPTED = """
import random, signal, sys, time
import nbloader
from nbloader._registry import models as registry

model, rounds, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
left, job = 0, None

def interrupt(number, frame):
    global left
    while frame is not None and frame.f_code.co_name != "attempt":
        frame = frame.f_back
    if frame is not None and left > 0:
        left -= 1
        raise KeyboardInterrupt

def attempt():
    global job
    job = nbloader.LoaderWidget(model, reload=True).show() if how == "show" else nbloader.start(model, reload=True)
    if how != "start":
        job.result()

signal.signal(signal.SIGALRM, interrupt)
chance = random.Random(18)
nbloader.load(model, progress=False)
hit = 0
for _ in range(rounds):
    left, last, job = (1, 2.5e-3, None) if how == "start" else (3, 2e-2, None)
    signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, last), chance.uniform(1e-5, 2e-4))
    try:
        attempt()
    except BaseException:
        hit += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    if job is not None:
        job.cancel()
    until = time.monotonic() + 20
    while registry._registry.active and time.monotonic() < until:
        time.sleep(0.001)
    if registry._registry.active:
        break
job = nbloader.start(model, reload=True)
print(hit, type(job.result(60).model).__name__, registry._registry.active, registry._registry._line)
"""


@pytest.mark.parametrize("how", ["start", "wait", "show"])
def test_interrupts_at_any_moment_leave_nobody_in_line(how: str) -> None:
    """One within 2.5 ms of a start, or three in a row while its result is waited for."""
    folder = nbloader.demo_checkpoint("1MB", shards=1)
    arguments = [str(folder), str(ROUNDS), how]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *arguments], capture_output=True, text=True, timeout=60 + ROUNDS
    )
    hit, kind, *left = done.stdout.split()
    assert int(hit) > ROUNDS // 10, done.stderr
    assert (kind, left) == ("LlamaForCausalLM", ["[]", "[]"])


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    """A checkpoint of two shards with a tokenizer, and an adapter in a folder below."""
    folder = archs.save(archs.build("llama"), tmp_path / "model", shards=2)
    for path in demo_checkpoint("1MB", shards=1).iterdir():
        if not (folder / path.name).exists() and "safetensors" not in path.name:
            shutil.copy(path, folder / path.name)
    archs.make_adapter(folder, folder / "lora", str(folder))
    return folder


def names_of_everything() -> list[str]:
    ours = ["config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors", "generation_config.json"]
    theirs = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"]
    absent = ["preprocessor_config.json", "processor_config.json", "vocab.txt", "tokenizer.model", "added_tokens.json"]
    adapters = ["lora/adapter_config.json", "lora/adapter_model.safetensors", "adapter_config.json"]
    return [*ours, *theirs, *absent, *adapters]


@pytest.mark.parametrize("name", names_of_everything())
def test_a_fifo_in_a_files_place_is_not_waited_for(name: str, everything: Path) -> None:
    path = everything / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    adapter = {"adapter": str(everything / "lora")} if name.startswith("lora") else {}
    job = nbloader.start(everything, **adapter)
    with suppress(LoadError):
        job.result(60)
    assert job.state.status in ("ready", "failed")
    assert path.is_fifo()


@pytest.mark.parametrize("key", ["num_hidden_layers", "text_config", "depths", "num_decoder_layers"])
def test_a_config_that_asks_for_what_the_weights_do_not_hold_is_refused(key: str, everything: Path) -> None:
    config = json.loads((everything / "config.json").read_text())
    config[key] = {"text_config": {"n_layer": 10**7}, "depths": [10**7, 1]}.get(key, 10**7)
    (everything / "config.json").write_text(json.dumps(config))
    with pytest.raises(nbloader.CheckpointError, match="json sets"):
        nbloader.plan(everything)
    with pytest.raises(nbloader.CheckpointError, match="json sets"):
        nbloader.load(everything, progress=False)


def test_no_model_type_of_transformers_asks_for_so_much() -> None:
    tensor = Tensor(0, "F32", (1,), 4, 0, 4)
    for model_type in CONFIG_MAPPING:
        with suppress(Exception):  # those that cannot be made without a word
            config = CONFIG_MAPPING[model_type]().to_dict()
        check_depth(model_type, config, {"weight": tensor})


def test_a_model_that_is_being_built_is_cancelled_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = archs.save(archs.build("llama"), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 10**6, "layer_types": None}))
    monkeypatch.setattr("nbloader._planning.plan.check_depth", lambda *of_checkpoint: None)
    job = nbloader.start(folder)
    while job.state.stage != "weights":
        job._ending.done.wait(0.01)
    job._ending.done.wait(0.2)
    job.cancel()
    with pytest.raises(LoadCancelled):
        job.result(60)
    assert job._thread is not None
    job._thread.join(30)  # where it went on, that would take minutes
    assert not job._thread.is_alive()

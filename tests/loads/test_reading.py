"""Loads whose weights are read ahead: into what, in which order, and what becomes of faults meanwhile."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import archs
from support.compare import tensor_differences
from support.page_cache import are_resident, make_cold
from support.waiting import wait_for

import nbloader
from nbloader import CheckpointError, LoadCancelled, LoadOptions, OptionError
from nbloader._load.stages import supply, tokenizer, weights
from nbloader._progress import events


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough to be read by readers of its own, small enough for many loads."""
    return nbloader.demo_checkpoint("40MB", shards=4, cache_dir=tmp_path_factory.mktemp("demo"))


def codes(job: nbloader.LoadJob) -> list[str]:
    return [line.code for line in job.state.log]


@pytest.fixture
def dropping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have storage look as if it dropped its cache at every open; whether it does is tested with the page cache."""
    monkeypatch.setattr(supply, "drops_cache", lambda path: True)


@pytest.mark.usefixtures("dropping")
@pytest.mark.parametrize("kind", ["safetensors", "bin", "sharded bin", "legacy bin"])
def test_read_into_memory_every_tensor_is_the_same(kind: str, tmp_path: Path) -> None:
    model = archs.build("llama")
    folder = (
        archs.save(model, tmp_path, shards=3)
        if kind == "safetensors"
        else archs.save_bin(model, tmp_path, 3 if kind == "sharded bin" else 1, kind == "legacy bin")
    )
    make_cold(folder)
    before = len(os.listdir("/proc/self/fd"))
    job = nbloader.start(folder)
    assert tensor_differences(job.result().model, model) == []
    assert "reading_into_memory" in codes(job)
    assert job.state.bytes_read == job.state.bytes_to_read
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.usefixtures("dropping")
def test_read_into_memory_takes_the_checkpoint_once(demo_1gb: Path) -> None:
    nbloader.load(demo_1gb, progress=False)  # the libraries are in memory from now on
    make_cold(demo_1gb)
    before = nbloader._system.memory.sample_memory().process
    job = nbloader.start(demo_1gb, reload=True)
    loaded = job.result()
    peak = job.state.observed_peak
    assert peak is not None
    assert peak - before < 1.1 * job.state.bytes_to_read
    assert loaded.model is not None


@pytest.mark.usefixtures("dropping")
def test_storage_that_is_not_read_past_the_page_cache_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preadv = os.preadv

    def refuse(fd: int, buffers: list[memoryview], offset: int) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", refuse)
    model = archs.build("llama")
    folder = archs.save(model, tmp_path)
    make_cold(folder)
    assert tensor_differences(nbloader.load(folder, progress=False).model, model) == []


@pytest.mark.usefixtures("dropping")
def test_told_to_use_the_page_cache_it_is_used(demo: Path) -> None:
    make_cold(demo)
    job = nbloader.start(demo, readahead=True)
    job.result()
    assert "reading_into_memory" not in codes(job)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_cold_bin_is_read_ahead_and_the_same(shards: int, tmp_path: Path) -> None:
    model = archs.build("llama")
    folder = archs.save_bin(model, tmp_path, shards)
    make_cold(folder)
    job = nbloader.start(folder)
    assert tensor_differences(job.result().model, model) == []
    assert are_resident(folder.glob("*.bin"))
    assert any(isinstance(event, events.Read) for event in job.events)


def test_each_tensor_of_a_bin_is_where_the_headers_say(tmp_path: Path) -> None:
    from nbloader._checkpoint.checkpoint import read_checkpoint

    model = archs.build("llama")
    checkpoint = read_checkpoint(archs.save_bin(model, tmp_path, 1))
    content = checkpoint.shards[0].path.read_bytes()
    for name, parameter in model.state_dict().items():
        tensor = checkpoint.tensors[name]
        assert parameter.numpy().tobytes() in content[tensor.begin : tensor.end]


def test_a_shard_is_placed_while_another_is_read(demo: Path) -> None:
    make_cold(demo)
    placed = threading.Event()
    overlapped = []

    def hold(event: events.Event) -> None:
        if isinstance(event, events.Placed) and event.bytes:
            placed.set()
        if isinstance(event, events.Read) and job.state.shards[2].bytes_read > 2 << 20 and not overlapped:
            overlapped.append(placed.wait(60))

    job = nbloader.LoadJob(demo, LoadOptions(dtype="float32", readers=1))
    job.subscribe(hold)
    job.start().result()
    assert overlapped == [True]


def test_reading_goes_on_while_the_tokenizer_is_made(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = threading.Event()
    in_time: list[bool] = []
    load_tokenizer = tokenizer.load_tokenizer

    def wait_and_load(*args: Any) -> Any:
        in_time.append(began.wait(30))
        return load_tokenizer(*args)

    monkeypatch.setattr(tokenizer, "load_tokenizer", wait_and_load)
    make_cold(demo)
    job = nbloader.LoadJob(demo, LoadOptions())
    job.subscribe(lambda event: began.set() if isinstance(event, events.Read) else None)
    job.start().result()
    assert in_time == [True]
    assert job.state.readers >= 1


def test_without_readahead_ready_means_read_all_the_same(demo: Path) -> None:
    make_cold(demo)
    job = nbloader.start(demo, readahead=False)
    job.result()
    assert "ReadersChanged" not in {type(event).__name__ for event in job.events}
    assert are_resident(demo.glob("*.safetensors"))


def test_what_memory_cannot_hold_is_read_in_a_window(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = weights.sample_memory
    size = sum(path.stat().st_size for path in demo.glob("*.safetensors"))
    monkeypatch.setattr(supply, "sample_memory", lambda: replace(sample(), available=size))
    monkeypatch.setattr(supply, "_LEAST_WINDOW", 2 << 20)
    make_cold(demo)
    job = nbloader.start(demo, dtype="float32")
    job.result()
    assert "reading_in_window" in codes(job)
    ahead = read = used = 0
    for event in job.events:
        if isinstance(event, events.Read):
            read += event.bytes
        if isinstance(event, events.Placed):
            used += event.planned // 2  # bfloat16 in the file
        ahead = max(ahead, read - used)
    assert ahead < 0.8 * size


def test_what_memory_cannot_hold_and_nothing_copies_is_not_read_ahead(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = weights.sample_memory
    monkeypatch.setattr(supply, "sample_memory", lambda: replace(sample(), available=1000))
    make_cold(demo)
    job = nbloader.start(demo)
    job.result()
    assert "too_large_to_read_ahead" in codes(job)


@pytest.mark.parametrize("copied", [False, True])
def test_a_file_that_shrinks_meanwhile_ends_in_an_error(
    copied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supply, "drops_cache", lambda path: copied)
    folder = nbloader.demo_checkpoint("40MB", shards=4, cache_dir=tmp_path)
    last = sorted(folder.glob("*.safetensors"))[-1]
    make_cold(folder)

    def shrink(event: events.Event) -> None:
        if isinstance(event, events.ReadersChanged):
            os.truncate(last, 2 << 20)

    job = nbloader.LoadJob(folder, LoadOptions(readers=1))
    job.subscribe(shrink)
    with pytest.raises(CheckpointError, match=last.name if copied else "not fully covered"):
        job.start().result()
    assert not [thread for thread in threading.enumerate() if thread.name == "nbloader-reader"]


def test_a_cancel_while_reading_ends_it(demo_1gb: Path) -> None:
    make_cold(demo_1gb)
    before = len(os.listdir("/proc/self/fd"))

    def cancel(event: events.Event) -> None:
        if isinstance(event, events.Read) and event.bytes:
            job.cancel()

    job = nbloader.LoadJob(demo_1gb, LoadOptions())
    job.subscribe(cancel)
    job.start()
    with pytest.raises(LoadCancelled):
        job.result(30)
    assert job.state.bytes_read < job.state.bytes_to_read
    # A read that slow storage has yet to answer ends behind the load.
    wait_for(lambda: not [thread for thread in threading.enumerate() if thread.name == "nbloader-reader"])
    wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before)


def test_other_threads_open_files_as_ever(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors
    from transformers import modeling_utils

    shard = next(demo.glob("*.safetensors"))
    seen: list[Any] = []

    def elsewhere() -> None:
        with modeling_utils.safe_open(shard, framework="pt") as file:
            seen.append((type(file), modeling_utils.safe_open))

    def look(event: events.Event) -> None:
        if isinstance(event, events.Placed) and not seen:
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()

    sendfile = os.sendfile

    def late(*args: int) -> int:
        """Read once placing has begun, so that it has to wait for bytes."""
        wait_for(lambda: modeling_utils.safe_open is not safetensors.safe_open)
        return sendfile(*args)

    make_cold(demo)
    monkeypatch.setattr(os, "sendfile", late)
    job = nbloader.LoadJob(demo, LoadOptions())
    job.subscribe(look)
    job.start().result()
    kind, during = seen[0]
    assert kind is safetensors.safe_open
    assert during is not safetensors.safe_open
    assert modeling_utils.safe_open is safetensors.safe_open


def test_a_warm_load_opens_files_as_plain_does(demo: Path) -> None:
    import safetensors
    from transformers import modeling_utils

    nbloader.load(demo, progress=False)
    opened: list[Any] = []
    job = nbloader.LoadJob(demo, LoadOptions(), reload=True)
    job.subscribe(lambda event: opened.append(modeling_utils.safe_open) if isinstance(event, events.Placed) else None)
    job.start().result()
    assert set(opened) == {safetensors.safe_open}


@pytest.mark.parametrize("choice", [{"readahead": "maybe"}, {"readers": 0}, {"readers": 65}, {"readers": True}])
def test_a_choice_that_cannot_be_is_refused(choice: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(choice))):
        LoadOptions(**choice)

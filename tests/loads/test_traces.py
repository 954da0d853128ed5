"""Leave no trace: after loads that were cancelled or failed at any moment, nothing of them is left.

NBLOADER_TEST_ROUNDS sets how many rounds are run; docs/reliability.md says how many have been.
"""

from __future__ import annotations

import ctypes
import gc
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from huggingface_hub import set_client_factory
from huggingface_hub.utils._http import default_client_factory
from support import archs
from support.hub import Hub, Repo
from support.page_cache import make_cold
from support.waiting import exit_code_of, own_threads, wait_for

import nbloader
from nbloader import LoadCancelled, LoadError, LoadJob, LoadOptions
from nbloader._progress import events
from nbloader._system.memory import sample_memory

ROUNDS = int(os.environ.get("NBLOADER_TEST_ROUNDS", "40"))
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1  # of malloc.h
SWAY = 60 * 10**6
"""Bytes by which a process sways while nothing stays: of small blocks the allocator keeps now more and now fewer."""


@pytest.fixture(autouse=True, scope="module")
def _freed_blocks_are_given_back() -> None:
    """Let glibc give back what is freed, so that memory which grows is held by somebody.

    By itself it keeps blocks of up to 32 MB and, of each thread's arena, a free end of up to 64 MB, which malloc_trim
    does not reach (https://man7.org/linux/man-pages/man3/mallopt.3.html). This cannot be undone, and does no harm.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            assert mallopt(parameter, 2**20) == 1


def open_files() -> int:
    return psutil.Process().num_fds()


def files_in(*folders: Path) -> set[Path]:
    return {path for folder in folders for path in folder.rglob("*") if path.is_file()}


def settled() -> tuple[int, int]:
    """Return what the process holds and how many files it has open, once the load's threads have ended."""
    wait_for(lambda: not own_threads())
    nbloader.unload()
    gc.collect()
    return sample_memory().process, open_files()


def end_early(job: LoadJob, chance: random.Random, longest: float) -> str:
    """Cancel a load at a moment by chance, now and then twice; return how it ended."""
    timer = threading.Timer(chance.uniform(0, longest), job.cancel)
    timer.start()
    again = threading.Timer(chance.uniform(0, longest), job.cancel)
    again.start()
    with suppress(LoadCancelled, LoadError):
        job.result(60)
    for each in (timer, again):
        each.cancel()
        each.join()
    return job.state.status


def test_loads_that_end_at_any_moment_leave_nothing(
    hub: Hub, tmp_path: Path, demo_small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    large = nbloader.demo_checkpoint("100MB", shards=2)
    broken = archs.save(archs.build("llama"), tmp_path / "broken", shards=3)
    shard = sorted(broken.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    hub.repos["us/demo"] = Repo.of_folder(demo_small)
    cache = tmp_path / "cache"
    kinds: list[Mapping[str, Any]] = [
        {"model": demo_small},
        {"model": demo_small, "dtype": "float32"},
        {"model": large, "dtype": "float32"},
        {"model": large, "cold": True},
        {"model": large, "dtype": "float16", "cold": True},
        {"model": demo_small, "quantization": "8bit"},
        {"model": broken},
        {"model": demo_small, "extra": {"nonsense": 1}},
        {"model": "us/demo", "cache_dir": str(cache)},
    ]
    for kind in kinds:  # what the first use of each leaves is the libraries' own
        run(kind, None)
    nbloader.load("us/demo", progress=False, cache_dir=cache)
    known = files_in(cache, large, demo_small, broken, temporary)
    chance, ends = random.Random(0), []
    for kind in kinds:
        ends.append(run(kind, chance))
    held, opened = settled()
    for number in range(ROUNDS):
        ends.append(run(kinds[number % len(kinds)], chance))
    after, opened_after = settled()
    assert after - held < SWAY
    assert opened_after <= opened
    assert files_in(cache, large, demo_small, broken, temporary) == known
    assert nbloader.load(demo_small, progress=False).model is not None
    assert {"cancelled", "failed"} <= set(ends)


def run(kind: Mapping[str, Any], chance: random.Random | None) -> str:
    """Run a load of a kind, to its end or to a moment by chance; return how it ended."""
    choices = dict(kind)
    model, is_cold = choices.pop("model"), choices.pop("cold", False)
    if is_cold:
        make_cold(model)
    job = LoadJob(model, LoadOptions(**choices), reload=True).start()
    if chance is not None:
        return end_early(job, chance, 0.4)
    with suppress(LoadError):
        job.result(60)
    return job.state.status


def test_cancel_while_placing_gives_the_memory_back(demo_1gb: Path) -> None:
    nbloader.load(demo_1gb, progress=False)
    before = sample_memory().process
    peaks = []

    def cancel(event: events.Event) -> None:
        if isinstance(event, events.Placed) and job.state.bytes_placed > 0.5 * job.state.bytes_to_place:
            peaks.append(sample_memory().process)
            job.cancel()

    job = nbloader.LoadJob(demo_1gb, nbloader.LoadOptions(dtype="float32"))
    job.subscribe(cancel)
    job.start()
    with pytest.raises(LoadCancelled):
        job.result(60)
    assert peaks[0] - before > 500e6
    assert sample_memory().process - before < SWAY
    assert job.state.bytes_placed < job.state.bytes_to_place


def test_loading_and_unloading_over_and_over_grows_nothing(demo_small: Path, tmp_path: Path) -> None:
    other = archs.save(archs.build("qwen3"), tmp_path)
    held, opened = 0, 0
    for number in range(max(20, ROUNDS)):
        assert nbloader.load((demo_small, other)[number % 2], progress=False, dtype="float32").model is not None
        if number == 5:
            held, opened = settled()
    after, opened_after = settled()
    assert after - held < SWAY
    assert opened_after <= opened


def test_a_load_that_nobody_refers_to_ends_and_leaves_nothing(demo_small: Path) -> None:
    settled()
    ended = threading.Event()
    nbloader.start(
        demo_small, dtype="float32", progress_callback=lambda told: ended.set() if told["progress"] == 100 else None
    )
    assert ended.wait(30)
    wait_for(lambda: not own_threads())
    gc.collect()
    assert nbloader.loaded() == []


def test_a_fork_in_mid_load_is_the_childs_problem_alone(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    repo = hub.repos["us/demo"] = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    ready = nbloader.load(demo_small, progress=False, keep="all")
    job = nbloader.start("us/demo", cache_dir=tmp_path, keep="all")
    assert repo.stalled.wait(30)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            job.result(30)
        except LoadError as error:
            is_told = "forked" in error.message and job.state.status == "failed"
            again = nbloader.start(demo_small)
            code = 0 if is_told and again.result(30).model is ready.model else 2
        finally:
            os._exit(code)
    assert exit_code_of(child) == 0
    repo.release.set()
    assert job.result(30).model is not None


def test_who_is_forked_in_a_download_does_not_wait_for_its_threads(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    repo = hub.repos["us/demo"] = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    sending, made = [], []

    def make_client() -> Any:
        client: Any = default_client_factory()
        send = client.stream

        @contextmanager
        def stream(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with send(*args, **kwargs) as response:
                sending.append(client)
                try:
                    yield response
                finally:
                    sending.remove(client)

        client.stream = stream
        made.append(client)
        return client

    set_client_factory(make_client)
    try:
        job = nbloader.start("us/demo", cache_dir=tmp_path)
        assert repo.stalled.wait(30)
        child = os.fork()
        if child == 0:
            # huggingface_hub has closed its own by now: it takes a lock for that, which a sending thread may hold.
            os._exit(any(client.is_closed for client in sending))
        assert sending != []
        assert len(made) == 2  # huggingface_hub's own one, and the download's
        assert exit_code_of(child) == 0
        repo.release.set()
        assert job.result(30).model is not None
    finally:
        set_client_factory(default_client_factory)


def test_a_second_interrupt_gets_through_at_once(tmp_path: Path) -> None:
    code = """
import signal, sys, threading, time
import nbloader
from nbloader._load import job as _job, watch as _watch
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job has not
def interrupt():  # on this thread: what the main one waits for is not broken off, as when it was just about to wait
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
def waits():
    return sys._current_frames()[threading.main_thread().ident].f_code.co_name == "wait"
_job.CANCEL_SECONDS = _watch.CANCEL_SECONDS = 60  # not left behind meanwhile
job = nbloader.LoadJob(sys.argv[1], nbloader.LoadOptions())
def never(event):
    if type(event).__name__ == "StageStarted" and event.stage == "config":
        interrupt()
        cancelled.wait(30)
        while not waits():  # what comes while the callbacks are told is taken for theirs
            time.sleep(0.01)
        interrupt()
        gone.wait(30)
    if type(event).__name__ == "CancelRequested":
        cancelled.set()
cancelled, gone = threading.Event(), threading.Event()
job.subscribe(never)
job.start()
try:
    job.result()
except KeyboardInterrupt:
    print(job.state.cancelling, job.done())
    gone.set()
try:
    job.result()
except nbloader.LoadCancelled:
    print(job.state.status)
"""
    folder = archs.save(archs.build("llama"), tmp_path)
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, ["True", "False", "cancelled"]), done.stderr


def test_a_process_that_ends_in_mid_load_ends(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    repo = hub.repos["us/demo"] = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    code = """
import sys
import nbloader
job = nbloader.start("us/demo", cache_dir=sys.argv[1])
job.subscribe(lambda event: print(type(event).__name__, flush=True))
sys.stdin.readline()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert repo.stalled.wait(60)
            told, _ = process.communicate(b"go\n", timeout=60)
        finally:
            process.kill()  # the test is to fail then, not to wait
    assert process.returncode == 0
    assert b"CancelRequested" in told


def test_workers_that_are_forked_in_mid_load_leave_it_alone(demo_small: Path) -> None:
    code = """
import sys, threading
import torch
import nbloader
held, go_on = threading.Event(), threading.Event()
def hold(event):
    if getattr(event, "stage", "") == "weights" and not held.is_set():
        held.set()
        go_on.wait(60)
job = nbloader.LoadJob(sys.argv[1], nbloader.LoadOptions())
job.subscribe(hold)
job.start()
held.wait(60)
loader = torch.utils.data.DataLoader(torch.arange(64), batch_size=8, num_workers=2, multiprocessing_context="fork")
print(sum(int(batch.sum()) for batch in loader), job.done())
go_on.set()
print(type(job.result(60).model).__name__, job.state.status)
"""
    arguments = [sys.executable, "-c", code, str(demo_small)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == [str(sum(range(64))), "False", "LlamaForCausalLM", "ready"], done.stderr

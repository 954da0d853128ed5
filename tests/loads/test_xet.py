"""Downloads from Xet storage on loopback, by the real hf_xet."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants, hf_hub_download
from support.compare import assert_whole
from support.hub import Hub, Repo
from support.waiting import wait_for

import nbloader
from nbloader import DownloadError, LoadCancelled
from nbloader._hub.download import DownloadWatcher, download_files
from nbloader._hub.find import find_repository

SHARD = "model-00002-of-00004.safetensors"


@pytest.fixture
def demo(hub: Hub, demo_small: Path) -> Repo:
    hub.repos["us/demo"] = Repo.of_folder(demo_small, xet=True)
    return hub.repos["us/demo"]


def load(cache: Path, name: str = "us/demo", **choices: Any) -> nbloader.LoadJob:
    job = nbloader.start(name, cache_dir=cache, reload=True, **choices)
    job.result(60)
    return job


def waits_of(job: nbloader.LoadJob) -> list[str]:
    return [line.arguments["reason"] for line in job.state.log if line.code == "download_waits"]


def shards_by_http(hub: Hub) -> set[str]:
    return {name for name, _ in hub.ranges if name.endswith(".safetensors")}


@pytest.mark.parametrize("refused", ["symlink", "link", "flock"])
def test_a_file_system_that_lacks_something(
    refused: str, hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: Any, **_more: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl if refused == "flock" else os, refused, refuse)
    assert_whole(load(tmp_path), demo_small)


@pytest.mark.parametrize("xet", [True, False])
def test_a_link_to_nothing_is_downloaded_again(
    xet: bool, hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path
) -> None:
    demo.xet = xet
    link = nbloader.download("us/demo", cache_dir=tmp_path, progress=False) / SHARD
    link.resolve().unlink()
    assert link.is_symlink()
    assert not link.exists()
    assert_whole(load(tmp_path), demo_small)


@pytest.mark.parametrize("folder", ["models--us--demo", "models--us--demo/blobs"])
@pytest.mark.parametrize("xet", [True, False])
def test_a_cache_of_which_a_part_is_on_another_file_system(
    xet: bool, folder: str, hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path
) -> None:
    demo.xet = xet
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        assert os.stat(elsewhere).st_dev != os.stat(tmp_path).st_dev
        (tmp_path / folder).parent.mkdir(exist_ok=True)
        (tmp_path / folder).symlink_to(elsewhere)
        job = load(tmp_path)
        assert_whole(job, demo_small)
        nbloader.unload()


def test_weights_come_from_xet_storage(hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path) -> None:
    job = load(tmp_path)
    assert_whole(job, demo_small)
    assert shards_by_http(hub) == set()
    weights = sum(len(content) for name, content in demo.files.items() if name.endswith(".safetensors"))
    assert weights <= sum(size for _, size in hub.xet.requests) < 1.05 * weights
    assert waits_of(job) == []
    assert not list(tmp_path.rglob("*.nbloader.incomplete*"))


def test_xet_can_be_turned_off(
    hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    assert_whole(load(tmp_path), demo_small)
    assert hub.xet.requests == []


def test_a_token_stays_with_the_hub(hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path) -> None:
    demo.token = "hf_secret"
    assert_whole(load(tmp_path, token="hf_secret"), demo_small)
    assert shards_by_http(hub) == set()
    assert hub.xet.authorizations <= {"Bearer let-me-in", None}


@pytest.mark.parametrize("fault", ["503", "cut", "401", "403"])
def test_a_fault_of_the_storage_is_passed_over(
    fault: str, hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path
) -> None:
    hub.xet.faults = ["", fault]
    assert_whole(load(tmp_path), demo_small)


@pytest.mark.parametrize("refusals", [[401], [500, 503]])
def test_a_refusal_of_the_storage_is_passed_over(
    refusals: list[int], hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path
) -> None:
    hub.xet.refusals = refusals
    assert_whole(load(tmp_path), demo_small)


@pytest.mark.parametrize("status", [404, 403])
def test_storage_that_lacks_a_part_is_left_for_http(
    status: int, hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path
) -> None:
    hub.xet.faults = [""] + [str(status)] * 1000
    job = load(tmp_path)
    assert_whole(job, demo_small)
    assert len(shards_by_http(hub)) >= 3
    assert waits_of(job)[0].startswith("Xet storage does not answer as it should")


def test_storage_that_a_network_blocks_is_left_for_http(hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path) -> None:
    hub.xet.url = "http://127.0.0.1:9"
    job = load(tmp_path)
    assert_whole(job, demo_small)
    assert waits_of(job)[0].startswith("Xet storage does not answer as it should")


def test_a_wrong_chunk_never_reaches_the_model(hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path) -> None:
    hub.xet.faults = ["wrong"]
    with pytest.raises(DownloadError, match="its hash is"):
        load(tmp_path)
    with pytest.raises(nbloader.LoadError):
        load(tmp_path, local_files_only=True)
    assert_whole(load(tmp_path), demo_small)


def test_cancel_ends_a_transfer_that_sends_nothing_and_the_next_goes_on(
    hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path
) -> None:
    hub.xet.faults = [""] * 8 + ["stall"] * 1000
    job = nbloader.start("us/demo", cache_dir=tmp_path)
    assert hub.xet.stalled.wait(30)
    wait_for(lambda: sum(file.bytes_downloaded for file in job.state.downloads) > 4 << 20)
    job.cancel()
    with pytest.raises(LoadCancelled):
        job.result(30)
    hub.xet.release.set()
    hub.xet.faults = []
    again = load(tmp_path)
    assert_whole(again, demo_small)
    assert sum(file.bytes_cached for file in again.state.downloads) > 4 << 20


@pytest.mark.parametrize("silent", ["/xet-read-token/", "/v1/"])
def test_cancel_ends_a_transfer_that_waits_for_its_first_answer(
    silent: str, hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path
) -> None:
    """The download itself ends, not only the load that waits for it."""
    demo.silent = hub.xet.silent = silent
    cancelled = threading.Event()

    def check() -> None:
        if cancelled.is_set():
            raise LoadCancelled("cancelled")

    def download() -> None:
        options = nbloader.LoadOptions(cache_dir=str(tmp_path))
        watcher = DownloadWatcher(lambda name, size: None, lambda name: None, lambda *wait: None, check)
        with contextlib.suppress(LoadCancelled):
            download_files(find_repository("us/demo", options, "config.json"), [SHARD], options, watcher)

    thread = threading.Thread(target=download, daemon=True)
    thread.start()
    wait_for(lambda: any(silent in path for _, path in hub.requests))
    cancelled.set()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("hf_xet", [None, SimpleNamespace()])
def test_a_library_that_is_missing_or_too_old_is_done_without(
    hf_xet: Any, hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hf_xet", hf_xet)
    assert_whole(load(tmp_path), demo_small)
    assert hub.xet.requests == []


def test_content_of_another_repository_is_not_downloaded_again(
    hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path
) -> None:
    """Both ways: what huggingface_hub has shared is used, and what is stored is shared with it."""
    hub.repos["us/copy"] = Repo(demo.files, xet=True)
    path = hf_hub_download("us/copy", SHARD, cache_dir=tmp_path)
    hub.xet.requests.clear()
    assert_whole(load(tmp_path), demo_small)
    asked = {key for key, _ in hub.xet.requests}
    assert hub.xet.add(demo.files[SHARD]) not in asked
    hub.xet.requests.clear()
    other = hf_hub_download("us/copy", "model-00001-of-00004.safetensors", cache_dir=tmp_path)
    assert hub.xet.requests == []
    assert Path(other).read_bytes() == demo.files["model-00001-of-00004.safetensors"]
    assert Path(path).resolve() == (tmp_path / "models--us--demo/snapshots" / demo.commit / SHARD).resolve()
    load(tmp_path, local_files_only=True)

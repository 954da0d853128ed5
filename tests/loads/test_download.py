"""Downloading without loading: what comes, what does not, and what a later load finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download
from support import archs
from support.compare import tensor_differences
from support.hub import Hub, Repo

import nbloader
from nbloader import LoadCancelled, LoadError, LoadJob, LoadOptions, SourceError
from nbloader._api import begin
from nbloader._options.options import merge_options

JUNK = {"README.md": b"x" * 50_000, "pytorch_model.bin": b"x" * 90_000, "onnx/model.onnx": b"x", "a.gguf": b"x"}
LAST = "model-00004-of-00004.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, demo_small: Path) -> Path:
    folder = archs.save(archs.build("llama"), tmp_path_factory.mktemp("llama"), shards=3)
    return archs.copy_tokenizer(demo_small, folder)


def start(model: str, **choices: object) -> LoadJob:
    return LoadJob(model, merge_options(LoadOptions(), choices), download_only=True).start()


def test_what_a_load_needs_and_nothing_else(hub: Hub, folder: Path, tmp_path: Path) -> None:
    files = Repo.of_folder(folder).files
    hub.repos["us/llama"] = Repo({**files, **JUNK})
    assert nbloader.plan("us/llama", cache_dir=tmp_path).bytes_to_download > 0
    job = start("us/llama", cache_dir=tmp_path)
    brought = job._folder(60)
    state = job.state
    assert (state.status, state.fraction, state.shards) == ("downloaded", 1.0, ())
    assert [stage.name for stage in state.stages] == ["resolve", "download"]
    assert {path.name: path.read_bytes() for path in brought.iterdir()} == files
    assert state.bytes_downloaded == state.bytes_to_do == sum(map(len, files.values()))
    assert nbloader.loaded() == []
    hub.requests.clear()
    loaded = nbloader.start("us/llama", cache_dir=tmp_path, local_files_only=True)
    model, tokenizer = loaded.result()
    assert hub.requests == []
    assert tokenizer is not None
    assert tensor_differences(model, type(model).from_pretrained(folder)) == []
    with pytest.raises(LoadError, match="was only downloaded"):
        job.result()


def test_a_second_time_nothing_comes(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.repos["us/llama"] = Repo.of_folder(folder)
    first = nbloader.download("us/llama", cache_dir=tmp_path, progress=False)
    assert first == Path(snapshot_download("us/llama", cache_dir=tmp_path, local_files_only=True))
    hub.requests.clear()
    assert nbloader.download("us/llama", cache_dir=tmp_path, progress=False) == first
    assert not any("/resolve/" in path for method, path in hub.requests if method == "GET")
    assert nbloader.download("us/llama", cache_dir=tmp_path, local_files_only=True, progress=False) == first


def test_a_folder_is_here_already(folder: Path) -> None:
    assert nbloader.download(folder, progress=False) == folder


def test_what_this_machine_cannot_load_is_downloaded(hub: Hub, folder: Path, tmp_path: Path) -> None:
    files = dict(Repo.of_folder(folder).files)
    stored = {"quant_method": "gptq", "bits": 4}
    files["config.json"] = json.dumps({**json.loads(files["config.json"]), "quantization_config": stored}).encode()
    hub.repos["us/quantized"] = Repo(files)
    with pytest.raises(LoadError, match="gptq"):
        nbloader.load("us/quantized", cache_dir=tmp_path, progress=False)
    brought = nbloader.download("us/quantized", cache_dir=tmp_path, progress=False)
    assert {path.name for path in brought.iterdir()} == files.keys()


def test_code_comes_and_does_not_run(hub: Hub, tmp_path: Path) -> None:
    mine = archs.with_code(tmp_path / "mine", "only_downloaded")
    hub.repos["us/mine"] = repo = Repo.of_folder(mine)
    cache = tmp_path / "cache"
    brought = nbloader.download("us/mine", cache_dir=cache, progress=False)
    assert {path.name for path in brought.glob("*.py")} == {path.name for path in mine.glob("*.py")} != set()
    choices = {"trust_remote_code": repo.commit, "local_files_only": True}
    assert nbloader.load("us/mine", cache_dir=cache, progress=False, **choices).model.ran


def test_an_adapter_comes_too(hub: Hub, folder: Path, tmp_path: Path) -> None:
    adapter = archs.make_adapter(folder, tmp_path / "adapter")
    hub.repos["us/llama"] = Repo.of_folder(folder)
    hub.repos["us/adapter"] = Repo.of_folder(adapter)
    choices = {"adapter": "us/adapter", "cache_dir": tmp_path / "cache"}
    job = start("us/llama", **choices)
    job._folder(60)
    assert job.state.bytes_downloaded == job.state.bytes_to_download
    assert any(file.name == "adapter_model.safetensors" for file in job.state.downloads)
    model = nbloader.load("us/llama", progress=False, local_files_only=True, **choices).model
    assert model.peft_config


def test_a_download_waits_for_no_load(hub: Hub, folder: Path, demo_small: Path, tmp_path: Path) -> None:
    slow = hub.repos["us/slow"] = Repo.of_folder(demo_small, stall=LAST)
    hub.repos["us/llama"] = Repo.of_folder(folder)
    load = nbloader.start("us/slow", cache_dir=tmp_path / "slow")
    try:
        assert slow.stalled.wait(30)
        assert start("us/llama", cache_dir=tmp_path / "other")._folder(60).is_dir()
        assert not load.done()
    finally:
        slow.release.set()
        load.result()


def test_a_load_waits_for_no_download(hub: Hub, folder: Path, demo_small: Path, tmp_path: Path) -> None:
    slow = hub.repos["us/slow"] = Repo.of_folder(demo_small, stall=LAST)
    download = start("us/slow", cache_dir=tmp_path)
    try:
        assert slow.stalled.wait(30)
        assert nbloader.start(folder).result(60).model is not None
        assert not download.done()
    finally:
        slow.release.set()
        download._folder(60)


def test_two_equal_requests_are_one_download_and_a_load_is_another(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    repo = hub.repos["us/demo"] = Repo.of_folder(demo_small, stall=LAST)
    one, two = (LoadJob("us/demo", LoadOptions(cache_dir=str(tmp_path)), download_only=True) for _ in range(2))
    first = begin(one)
    try:
        assert repo.stalled.wait(30)
        assert begin(two) is first
        load = nbloader.start("us/demo", cache_dir=str(tmp_path))
        assert load is not first
    finally:
        repo.release.set()
    assert first._folder(60).is_dir()
    assert load.result().model is not None


def test_a_cancelled_download_goes_on_the_next_time(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    repo = hub.repos["us/demo"] = Repo.of_folder(demo_small, stall=LAST)
    job = start("us/demo", cache_dir=tmp_path)
    assert repo.stalled.wait(30)
    job.cancel()
    with pytest.raises(LoadCancelled):
        job._folder(30)
    assert job.state.status == "cancelled"
    repo.release.set()
    again = start("us/demo", cache_dir=tmp_path)
    again._folder(60)
    assert again.state.bytes_cached > 0


def test_progress_is_that_of_the_download(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.repos["us/llama"] = Repo.of_folder(folder)
    told: list[dict[str, object]] = []
    nbloader.download("us/llama", cache_dir=tmp_path, progress=False, progress_callback=told.append)
    shares = [float(str(one["progress"])) for one in told]
    assert shares == sorted(shares)
    assert (told[-1]["status"], shares[-1]) == ("complete", 100)
    assert {one["status"] for one in told} == {"downloading", "complete"}
    assert any(10 < share < 100 for share in shares)


def test_what_is_not_there_is_refused(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="Check the spelling"):
        nbloader.download("us/nothing", cache_dir=tmp_path, progress=False)

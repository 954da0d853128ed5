"""Loading from a Hub on loopback: what is asked, what is stored, what is told."""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path

import pytest
from support import archs
from support.hub import Hub, Repo

import nbloader
from nbloader import DownloadError, LoadCancelled, SourceError, _events


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, demo_small: Path) -> Path:
    folder = archs.save(archs.build("llama"), tmp_path_factory.mktemp("llama"), shards=3)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((demo_small / name).read_bytes())
    return folder


def test_a_repository_is_downloaded_and_loaded(hub: Hub, folder: Path, tmp_path: Path) -> None:
    junk = {"README.md": b"x" * 50_000, "pytorch_model.bin": b"x" * 90_000, "onnx/model.onnx": b"x", "a.gguf": b"x"}
    hub.repos["us/llama"] = Repo({**Repo.of_folder(folder).files, **junk})
    job = nbloader.start("us/llama", cache_dir=tmp_path)
    model, tokenizer = job.result()
    plain = type(model).from_pretrained(folder)
    assert archs.differences(model, plain) == []
    state = job.state
    needed = sum(len(content) for name, content in hub.repos["us/llama"].files.items() if name not in junk)
    config = len(hub.repos["us/llama"].files["config.json"])
    index = len(hub.repos["us/llama"].files["model.safetensors.index.json"])
    assert state.bytes_downloaded == state.bytes_to_download == needed - config - index
    assert state.commit == hub.repos["us/llama"].commit
    assert (state.name, state.origin) == ("us/llama", "hub")
    assert not any(name in path for name in junk for _, path in hub.requests)
    assert model.config.name_or_path == model.name_or_path == tokenizer.name_or_path == "us/llama"
    assert model.config._commit_hash == state.commit


def test_a_second_load_downloads_nothing(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.repos["us/llama"] = Repo.of_folder(folder)
    nbloader.load("us/llama", cache_dir=tmp_path, progress=False)
    hub.requests.clear()
    job = nbloader.start("us/llama", cache_dir=tmp_path)
    job.result()
    assert job.state.bytes_to_download == 0
    assert not any("/resolve/" in path for method, path in hub.requests if method == "GET")


def test_a_cached_repository_loads_without_the_hub(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.repos["us/llama"] = Repo.of_folder(folder)
    nbloader.load("us/llama", cache_dir=tmp_path, progress=False)
    hub.requests.clear()
    job = nbloader.start("us/llama", cache_dir=tmp_path, local_files_only=True)
    job.result()
    assert hub.requests == []
    assert job.state.origin == "cache"
    assert job.state.commit == hub.repos["us/llama"].commit


def test_a_branch_and_a_commit_are_told_apart(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.repos["us/llama"] = Repo.of_folder(folder, branches=("main", "v2"))
    commit = hub.repos["us/llama"].commit
    for revision in ("v2", commit):
        job = nbloader.start("us/llama", cache_dir=tmp_path, revision=revision)
        job.result()
        assert job.state.commit == commit
    with pytest.raises(SourceError, match="no revision 'v3'"):
        nbloader.load("us/llama", cache_dir=tmp_path, revision="v3", progress=False)


def test_a_subfolder_of_a_repository(hub: Hub, folder: Path, tmp_path: Path) -> None:
    files = Repo.of_folder(folder, prefix="deep/").files
    tokenizers = {name.removeprefix("deep/"): content for name, content in files.items() if "tokenizer" in name}
    models = {name: content for name, content in files.items() if "tokenizer" not in name}
    hub.repos["us/llama"] = Repo({**models, **tokenizers})
    model, tokenizer = nbloader.load("us/llama", cache_dir=tmp_path, subfolder="deep", progress=False)
    assert model.config.model_type == "llama"
    assert tokenizer is not None


def test_a_private_repository_takes_a_token_and_never_shows_it(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.repos["us/private"] = Repo.of_folder(folder, token="hf_secret")
    job = nbloader.start("us/private", cache_dir=tmp_path, token="hf_secret")
    job.result()
    assert "hf_secret" not in repr(job.options) + repr(job.events) + repr(job.state)
    with pytest.raises(SourceError, match="private"):
        nbloader.load("us/private", cache_dir=tmp_path / "other", token=False, progress=False)


def test_a_gated_repository_says_how_to_get_in(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.repos["us/gated"] = Repo.of_folder(folder, token="hf_secret", gated=True)
    with pytest.raises(DownloadError, match="Ask for access"):
        nbloader.load("us/gated", cache_dir=tmp_path, progress=False)


def test_a_repository_that_is_not_there(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="Check the spelling"):
        nbloader.load("us/nothing", cache_dir=tmp_path, progress=False)


def test_not_cached_while_offline(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not in the cache, and local_files_only is set"):
        nbloader.load("us/nothing", cache_dir=tmp_path, local_files_only=True, progress=False)


def test_a_hub_that_cannot_be_reached(hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    hub.repos["us/llama"] = Repo.of_folder(folder)
    nbloader.load("us/llama", cache_dir=tmp_path, progress=False)

    class Unreachable(huggingface_hub.HfApi):
        def __init__(self, **kwargs: object) -> None:
            super().__init__(endpoint="http://127.0.0.1:9")

    monkeypatch.setattr(huggingface_hub, "HfApi", Unreachable)
    job = nbloader.start("us/llama", cache_dir=tmp_path)
    job.result()
    assert "offline" in [line.code for line in job.state.log]
    with pytest.raises(SourceError, match="does not answer"):
        nbloader.load("us/other", cache_dir=tmp_path, progress=False)


def test_a_half_cached_repository_is_not_taken_for_whole(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.repos["us/llama"] = Repo.of_folder(folder)
    nbloader.load("us/llama", cache_dir=tmp_path, progress=False)
    next(tmp_path.rglob("model-00002-*.safetensors")).unlink()
    with pytest.raises(nbloader.CheckpointError, match="incomplete"):
        nbloader.load("us/llama", cache_dir=tmp_path, local_files_only=True, progress=False)
    assert nbloader.load("us/llama", cache_dir=tmp_path, progress=False).model is not None


def test_progress_of_a_download_is_counted_in_bytes(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    hub.repos["us/demo"] = Repo.of_folder(demo_small)
    told: list[dict[str, object]] = []
    fractions = []
    job = nbloader.LoadJob("us/demo", nbloader.LoadOptions(cache_dir=str(tmp_path)))

    def note(event: _events.Event) -> None:
        fractions.append(job.state.fraction)
        if isinstance(event, _events.Downloaded):
            told.append({"bytes": job.state.bytes_downloaded})

    job.subscribe(note)
    job.start().result()
    counts = [step["bytes"] for step in told]
    assert len(counts) >= 10
    assert counts == sorted(counts)
    assert fractions == sorted(fractions)
    assert (
        max(f for f, event in zip(fractions, job.events, strict=False) if isinstance(event, _events.Downloaded)) < 0.4
    )


def test_cancel_while_a_download_stalls(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    repo = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    hub.repos["us/demo"] = repo
    job = nbloader.start("us/demo", cache_dir=tmp_path)
    assert repo.stalled.wait(30)
    job.cancel()
    with pytest.raises(LoadCancelled):
        job.result(5)
    requested = next(event.t for event in job.events if isinstance(event, _events.CancelRequested))
    assert job.state.elapsed - requested < 1.0
    repo.release.set()
    repo.stall = None
    assert nbloader.load("us/demo", cache_dir=tmp_path, progress=False).model is not None


def test_no_bytes_for_some_seconds_is_said(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    repo = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    hub.repos["us/demo"] = repo
    clock = Clock()
    job = nbloader.LoadJob("us/demo", nbloader.LoadOptions(cache_dir=str(tmp_path)), clock=clock)
    job.start()
    assert repo.stalled.wait(30)
    while job.state.stalled_for < 12:  # the other files arrive first
        clock.seconds += 1
        threading.Event().wait(0.02)
    assert job.state.bytes_downloaded > 0
    assert job.state.eta is None
    repo.release.set()
    job.result()


def test_a_bar_serves_every_way_the_hub_transfers() -> None:
    from nbloader._hub import _byte_bar

    counted: list[int] = []
    with _byte_bar(counted.append)(total=10, unit="B") as bar:
        bar.update(3)
        bar.update_transfer(5)
        bar.set_postfix_str("1 MB/s", refresh=False)
        bar.set_description("a file")
    assert counted == [3]


def test_transfers_are_over_http_and_settings_come_back(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    from huggingface_hub import constants

    hub.repos["us/llama"] = Repo.of_folder(demo_small)
    before = constants.DOWNLOAD_CHUNK_SIZE, constants.HF_HUB_DISABLE_XET
    seen = []
    job = nbloader.LoadJob("us/llama", nbloader.LoadOptions(cache_dir=str(tmp_path)))

    def look(event: _events.Event) -> None:
        if isinstance(event, _events.Downloaded):
            seen.append((before[0] > constants.DOWNLOAD_CHUNK_SIZE, constants.HF_HUB_DISABLE_XET))

    job.subscribe(look)
    job.start().result()
    assert (True, True) in seen  # the last portion is told when the settings have come back
    assert before == (constants.DOWNLOAD_CHUNK_SIZE, constants.HF_HUB_DISABLE_XET)


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_hub_that_is_broken_is_no_reason_to_fail(hub: Hub, folder: Path, tmp_path: Path, status: int) -> None:
    hub.repos["us/llama"] = Repo.of_folder(folder)
    nbloader.load("us/llama", cache_dir=tmp_path, progress=False)
    hub.repos["us/llama"].broken = status
    job = nbloader.start("us/llama", cache_dir=tmp_path)
    job.result()
    assert "offline" in [line.code for line in job.state.log]


def test_weights_that_the_config_names(hub: Hub, folder: Path, tmp_path: Path) -> None:
    files = dict(Repo.of_folder(archs.save(archs.build("llama"), tmp_path / "one")).files)
    files["named.safetensors"] = files.pop("model.safetensors")
    files["config.json"] = json.dumps(
        {**json.loads(files["config.json"]), "transformers_weights": "named.safetensors"}
    ).encode()
    hub.repos["us/named"] = Repo(files)
    job = nbloader.start("us/named", cache_dir=tmp_path / "cache")
    job.result()
    assert [shard.name for shard in job.state.shards] == ["named.safetensors"]


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_file_cut_short_is_no_model(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    hub.repos["us/demo"] = Repo.of_folder(demo_small, cut="model-00002-of-00004.safetensors")
    job = nbloader.start("us/demo", cache_dir=tmp_path)
    with contextlib.suppress(DownloadError):  # what the Hub's own retries do not mend is told
        job.result(60)
    hub.repos["us/demo"].cut = None
    plain = nbloader.load(demo_small, progress=False).model
    assert archs.differences(nbloader.load("us/demo", cache_dir=tmp_path, progress=False).model, plain) == []

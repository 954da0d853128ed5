"""Loading from a Hub on loopback: what is asked, what is stored, what is told."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.utils import WeakFileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import archs
from support.compare import assert_whole, tensor_differences
from support.hub import Hub, Repo, sha256
from support.waiting import wait_for

import nbloader
from nbloader import DownloadError, LoadCancelled, LoadError, SourceError
from nbloader._hub import http, part_file
from nbloader._hub.connections import Connections
from nbloader._hub.download import DownloadWatcher, download_files
from nbloader._hub.find import find_repository
from nbloader._progress import events


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, demo_small: Path) -> Path:
    folder = archs.save(archs.build("llama"), tmp_path_factory.mktemp("llama"), shards=3)
    return archs.copy_tokenizer(demo_small, folder)


def test_a_repository_is_downloaded_and_loaded(hub: Hub, folder: Path, tmp_path: Path) -> None:
    junk = {"README.md": b"x" * 50_000, "pytorch_model.bin": b"x" * 90_000, "onnx/model.onnx": b"x", "a.gguf": b"x"}
    hub.repos["us/llama"] = Repo({**Repo.of_folder(folder).files, **junk})
    job = nbloader.start("us/llama", cache_dir=tmp_path)
    model, tokenizer = job.result()
    plain = type(model).from_pretrained(folder)
    assert tensor_differences(model, plain) == []
    state = job.state
    needed = sum(len(content) for name, content in hub.repos["us/llama"].files.items() if name not in junk)
    assert state.bytes_downloaded == state.bytes_to_download == needed
    assert {file.name for file in state.downloads} == hub.repos["us/llama"].files.keys() - junk.keys()
    assert all(file.bytes_downloaded == file.bytes for file in state.downloads)
    skipped = next(line for line in state.log if line.code == "skipped")
    assert (skipped.arguments["count"], skipped.arguments["size"]) == (3, "90.0 kB")
    assert state.commit == hub.repos["us/llama"].commit
    assert (state.name, state.origin) == ("us/llama", "hub")
    assert not any(name in path for name in junk for _, path in hub.requests)
    assert model.config.name_or_path == model.name_or_path == tokenizer.name_or_path == "us/llama"
    assert model.config._commit_hash == state.commit


def test_a_second_load_downloads_nothing(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.repos["us/llama"] = Repo.of_folder(folder)
    nbloader.load("us/llama", cache_dir=tmp_path, progress=False)
    hub.requests.clear()
    job = nbloader.start("us/llama", reload=True, cache_dir=tmp_path)
    job.result()
    assert job.state.bytes_to_download == 0
    assert not any("/resolve/" in path for method, path in hub.requests if method == "GET")


def test_a_cached_repository_loads_without_the_hub(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.repos["us/llama"] = Repo.of_folder(folder)
    nbloader.load("us/llama", cache_dir=tmp_path, progress=False)
    hub.requests.clear()
    job = nbloader.start("us/llama", reload=True, cache_dir=tmp_path, local_files_only=True)
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
    with pytest.raises(DownloadError, match="Request access"):
        nbloader.load("us/gated", cache_dir=tmp_path, progress=False)


MISSING, EXPIRED, POWERLESS = "No access token was sent", "is not valid or has expired", "does not give access"


@pytest.mark.parametrize(
    ("faults", "token", "variable", "kind", "said"),
    [
        (
            {"token": "hf_right"},
            None,
            None,
            SourceError,
            ["whether the repository is private", MISSING, "/settings/tokens"],
        ),
        ({"token": "hf_right"}, "hf_other", None, SourceError, ["private", f"from token= {POWERLESS}"]),
        ({"token": "hf_right"}, False, "hf_right", SourceError, ["private", MISSING]),
        ({"token": "hf_right", "gated": True}, None, None, DownloadError, ["Request access on http", MISSING]),
        ({"token": "hf_right", "gated": True}, None, "hf_other", DownloadError, ["/us/model", f"HF_TOKEN {POWERLESS}"]),
        ({"knows_tokens": False}, "hf_old", None, DownloadError, [f"from token= {EXPIRED}", "create another on"]),
        ({"knows_tokens": False}, None, "hf_old", DownloadError, [f"from HF_TOKEN {EXPIRED}"]),
        ({}, True, None, DownloadError, [MISSING, "hf auth login"]),  # plain refuses this too, of a public model
    ],
)
def test_what_is_wrong_with_the_token_is_said(
    hub: Hub,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    faults: dict[str, Any],
    token: Any,
    variable: str | None,
    kind: type[LoadError],
    said: list[str],
) -> None:
    hub.repos["us/model"] = Repo.of_folder(folder, **faults)
    if variable is not None:
        monkeypatch.setenv("HF_TOKEN", variable)
    with pytest.raises(kind) as raised:
        nbloader.load("us/model", cache_dir=tmp_path, token=token, progress=False)
    assert [words for words in said if words not in raised.value.hint] == []
    assert ("spelling" in raised.value.hint) == (kind is SourceError)
    assert not any(each in str(raised.value) + raised.value.hint for each in (token, variable) if isinstance(each, str))


def test_a_repository_that_is_not_there(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="Check the spelling"):
        nbloader.load("us/nothing", cache_dir=tmp_path, progress=False)


def test_not_cached_while_offline(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not in the cache, and local_files_only is set"):
        nbloader.load("us/nothing", cache_dir=tmp_path, local_files_only=True, progress=False)


@pytest.fixture
def untrusted() -> Iterator[str]:
    """The address of a server whose certificate nobody trusts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).parents[1] / "support/self_signed.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def portal() -> Iterator[str]:
    """The address of a network's page for logging in, which answers every request."""

    class Portal(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>Please log in to this network.</html>")

        do_HEAD = do_GET

        def log_message(self, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Portal)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("http://127.0.0.1:9", "the connection was refused"),
        ("http://hub.invalid", "its name could not be resolved"),
        ("untrusted", "the server's certificate is not trusted: self"),
        ("portal", "another page answers in its place"),
    ],
)
def test_a_hub_that_cannot_be_reached(
    where: str, said: str, hub: Hub, folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    import huggingface_hub

    hub.repos["us/llama"] = Repo.of_folder(folder)
    nbloader.load("us/llama", cache_dir=tmp_path, progress=False)
    address = where if where.startswith("http") else request.getfixturevalue(where)

    class Unreachable(huggingface_hub.HfApi):
        def __init__(self, **kwargs: object) -> None:
            super().__init__(endpoint=address)

    monkeypatch.setattr(huggingface_hub, "HfApi", Unreachable)
    job = nbloader.start("us/llama", cache_dir=tmp_path)
    job.result()
    assert said in next(line.arguments["reason"] for line in job.state.log if line.code == "offline")
    with pytest.raises(SourceError, match=said):
        nbloader.load("us/other", cache_dir=tmp_path, progress=False)


def test_a_half_cached_repository_is_not_taken_for_whole(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.repos["us/llama"] = Repo.of_folder(folder)
    nbloader.load("us/llama", cache_dir=tmp_path, progress=False)
    next(tmp_path.rglob("model-00002-*.safetensors")).unlink()
    with pytest.raises(nbloader.CheckpointError, match="incomplete"):
        nbloader.load("us/llama", reload=True, cache_dir=tmp_path, local_files_only=True, progress=False)
    assert nbloader.load("us/llama", reload=True, cache_dir=tmp_path, progress=False).model is not None


def test_progress_of_a_download_is_counted_in_bytes(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    hub.repos["us/demo"] = Repo.of_folder(demo_small)
    told: list[dict[str, object]] = []
    fractions = []
    job = nbloader.LoadJob("us/demo", nbloader.LoadOptions(cache_dir=str(tmp_path)))

    def note(event: events.Event) -> None:
        fractions.append(job.state.fraction)
        if isinstance(event, events.Downloaded):
            told.append({"bytes": job.state.bytes_downloaded})

    job.subscribe(note)
    job.start().result()
    counts = [step["bytes"] for step in told]
    assert len(counts) >= 10
    assert counts == sorted(counts)
    assert fractions == sorted(fractions)
    assert max(f for f, event in zip(fractions, job.events, strict=False) if isinstance(event, events.Downloaded)) < 0.7


def test_cancel_while_a_download_stalls(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    repo = Repo.of_folder(demo_small, stall="model-00002-of-00004.safetensors")
    hub.repos["us/demo"] = repo
    job = nbloader.start("us/demo", cache_dir=tmp_path)
    assert repo.stalled.wait(30)
    job.cancel()
    with pytest.raises(LoadCancelled):
        job.result(30)
    assert not repo.release.is_set()
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


@pytest.mark.parametrize("status", [403, 404, 407, 408, 429, 500, 502, 503, 504])
def test_a_hub_that_is_broken_is_no_reason_to_fail(hub: Hub, folder: Path, tmp_path: Path, status: int) -> None:
    hub.repos["us/llama"] = Repo.of_folder(folder)
    nbloader.load("us/llama", cache_dir=tmp_path, progress=False)
    hub.repos["us/llama"].broken = status
    job = nbloader.start("us/llama", cache_dir=tmp_path)
    job.result()
    said = next(line.arguments["reason"] for line in job.state.log if line.code == "offline")
    assert str(status) in said


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


SHARD = "model-00002-of-00004.safetensors"


@pytest.fixture
def demo(hub: Hub, demo_small: Path) -> Repo:
    hub.repos["us/demo"] = Repo.of_folder(demo_small)
    return hub.repos["us/demo"]


def load_demo(cache: Path, **choices: Any) -> nbloader.LoadJob:
    job = nbloader.start("us/demo", cache_dir=cache, reload=True, **choices)
    job.result(60)
    return job


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        (["cut"], "RemoteProtocolError"),
        (["reset"], "ReadError"),
        (["cut", "whole"], "RemoteProtocolError"),
        (["502"], "HTTP 502"),
        (["503 0"], "HTTP 503"),
        (["429 0", "503 0", "cut"], "HTTP 429"),
    ],
)
def test_a_download_that_is_disturbed_goes_on(
    hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path, faults: list[str], said: str
) -> None:
    disturbances = len([fault for fault in faults if fault != "whole"])
    demo.faults[SHARD] = list(faults)
    job = load_demo(tmp_path)
    assert_whole(job, demo_small)
    waits = [line.arguments for line in job.state.log if line.code == "download_waits"]
    assert len(waits) == disturbances
    assert waits[0]["name"] == SHARD
    assert said in waits[0]["reason"]
    starts = [start for name, start in hub.ranges if name == SHARD]
    assert starts[0] == 0
    assert (starts[-1] > 0) == ("cut" in faults or "reset" in faults)
    assert max(line.arguments["seconds"] for line in job.state.log if line.code == "download_waits") == "0"


@pytest.mark.parametrize(("fault", "seconds"), [("429 3600", 3600), ("429 limit", 401)])
def test_a_server_that_asks_for_a_long_wait_is_told(demo: Repo, tmp_path: Path, fault: str, seconds: int) -> None:
    demo.faults[SHARD] = [fault]
    with pytest.raises(DownloadError, match=f"HTTP 429 and asks to wait {seconds} s") as raised:
        load_demo(tmp_path)
    assert "Load again" in raised.value.hint


def test_a_connection_that_always_breaks_ends(
    demo: Repo, demo_small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("nbloader._hub.download._pause", lambda seconds, check: waits.append(seconds))
    demo.faults[SHARD] = ["503"] * 6
    with pytest.raises(DownloadError, match=r"The connection .* failed: HTTP 503"):
        load_demo(tmp_path)
    assert waits == [0.0, 1.0, 2.0, 4.0, 8.0]
    assert_whole(load_demo(tmp_path), demo_small)


@pytest.mark.parametrize(("fault", "said"), [("wrong", "its hash is"), ("short", "the server has")])
def test_a_file_that_is_not_what_the_hub_lists_is_refused(
    demo: Repo, demo_small: Path, tmp_path: Path, fault: str, said: str
) -> None:
    demo.faults[SHARD] = [fault]
    with pytest.raises(DownloadError, match=f"{SHARD} .* does not match the repository's file list: {said}") as raised:
        load_demo(tmp_path)
    assert "Load again" in raised.value.hint
    with pytest.raises(LoadError):
        load_demo(tmp_path, local_files_only=True)
    assert_whole(load_demo(tmp_path), demo_small)


def test_a_part_that_was_spoilt_on_disk_is_brought_anew(hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path) -> None:
    demo.faults[SHARD] = ["cut", "429 3600"]
    with pytest.raises(DownloadError):
        load_demo(tmp_path)
    part = next(tmp_path.rglob(f"blobs/{sha256(demo.files[SHARD])}.nbloader.incomplete"))
    part.write_bytes(bytes(part.stat().st_size))
    hub.ranges.clear()
    assert_whole(load_demo(tmp_path), demo_small)
    starts = [start for name, start in hub.ranges if name == SHARD]
    assert len(starts) == 2
    assert starts[0] > 0
    assert starts[1] == 0


def test_a_page_that_stands_between_costs_nothing(hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path) -> None:
    demo.faults[SHARD] = ["cut", "html"]
    with pytest.raises(DownloadError, match=f"{SHARD} .* file list: the server has 43 bytes"):
        load_demo(tmp_path)
    hub.ranges.clear()
    assert_whole(load_demo(tmp_path), demo_small)
    assert min(start for name, start in hub.ranges if name == SHARD) > 0


def test_a_large_file_comes_in_several_requests(
    hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbloader._hub.transfer.LEAST_PIECE", 1_000_003)
    assert_whole(load_demo(tmp_path), demo_small)
    size = len(demo.files[SHARD])
    assert sorted(start for name, start in hub.ranges if name == SHARD) == list(range(0, size, 1_000_003))


@pytest.fixture
def _eight_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces, and as many connections at once as otherwise only measuring brings."""
    monkeypatch.setattr("nbloader._hub.transfer.LEAST_PIECE", 300_001)
    monkeypatch.setattr("nbloader._hub.download.LEAST_PIECE", 300_001)
    monkeypatch.setattr("nbloader._hub.download.Connections", lambda first: Connections(8))


@pytest.mark.usefixtures("_eight_connections")
def test_several_connections_bring_one_file(hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path) -> None:
    demo.stall = SHARD
    job = nbloader.start("us/demo", cache_dir=tmp_path)
    half = len(demo.files[SHARD]) // 2
    wait_for(lambda: len([begin for name, begin in hub.ranges if name == SHARD and begin > half]) >= 4)
    demo.release.set()
    job.result(60)
    assert_whole(job, demo_small)
    begins = [begin for name, begin in hub.ranges if name == SHARD]
    assert len(begins) == len(set(begins))
    assert not list(tmp_path.rglob("*.nbloader.incomplete*"))


@pytest.mark.usefixtures("_eight_connections")
@pytest.mark.parametrize("fault", ["whole", "cut", "reset", "503", "429 0"])
def test_several_connections_are_disturbed(fault: str, hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path) -> None:
    demo.faults[SHARD] = ["", *[fault] * 5]
    assert_whole(load_demo(tmp_path), demo_small)


@pytest.mark.usefixtures("_eight_connections")
def test_several_connections_go_on_where_they_were_cancelled(
    hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path
) -> None:
    demo.stall = SHARD
    job = nbloader.start("us/demo", cache_dir=tmp_path)
    assert demo.stalled.wait(30)
    size = len(demo.files[SHARD])
    wait_for(lambda: next(file.bytes_downloaded for file in job.state.downloads if file.name == SHARD) > size // 3)
    job.cancel()
    with pytest.raises(LoadCancelled):
        job.result(30)
    demo.release.set()
    demo.stall = None
    wait_for(lambda: not any(thread.name.startswith("nbloader-download") for thread in threading.enumerate()))
    again = load_demo(tmp_path)
    assert_whole(again, demo_small)
    assert next(file.bytes_cached for file in again.state.downloads if file.name == SHARD) > size // 3


def test_a_token_stays_with_the_hub(hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path) -> None:
    demo.token = "hf_secret"
    hub.cdn = Hub()
    hub.cdn.repos, hub.cdn.wants_no_token = hub.repos, True
    assert_whole(load_demo(tmp_path, token="hf_secret"), demo_small)
    assert SHARD in [name for name, _ in hub.cdn.ranges]
    hub.cdn.close()


@pytest.mark.usefixtures("_eight_connections")
def test_the_storage_of_a_file_is_asked_for_all_of_it_until_its_address_expires(
    hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbloader._hub.download.Connections", lambda first: Connections(2))
    hub.cdn = Hub()
    hub.cdn.repos, hub.cdn.wants_no_token = {"us/demo": Repo(demo.files)}, True
    hub.cdn.repos["us/demo"].faults[SHARD] = [*[""] * 10, "403"]  # the first ones were sent on by the Hub
    assert_whole(load_demo(tmp_path), demo_small)
    pieces = [name for name, _ in hub.cdn.ranges if name == SHARD]
    asked = [path for method, path in hub.requests if method == "GET" and path.endswith(SHARD)]
    assert len(pieces) > 10
    assert 3 <= len(asked) <= 5  # for the header, and by each connection at first, and after the refusal
    hub.cdn.close()


def test_a_hub_that_lists_neither_sizes_nor_hashes(demo: Repo, demo_small: Path, tmp_path: Path) -> None:
    demo.unsized = True
    demo.faults[SHARD] = ["cut"]
    assert_whole(load_demo(tmp_path), demo_small)


def test_a_hub_that_lists_no_sizes_is_asked_only_about_what_is_wanted(
    hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path
) -> None:
    demo.unsized = True
    demo.files = {**demo.files, **{f"photo-{number}.png": b"x" * 100 for number in range(50)}, "model.onnx": b"x"}
    assert_whole(load_demo(tmp_path), demo_small)
    asked = [path for method, path in hub.requests if method == "HEAD"]
    assert len(asked) >= 4
    assert not any(path.endswith((".png", ".onnx")) for path in asked)


@pytest.mark.parametrize("xet", [False, True])
def test_a_mirror_that_answers_no_head(demo: Repo, demo_small: Path, tmp_path: Path, xet: bool) -> None:
    demo.unsized = demo.blocks_head = True
    demo.xet = xet
    assert_whole(load_demo(tmp_path), demo_small)


def test_a_file_that_no_load_needs_may_be_blocked(demo: Repo, demo_small: Path, tmp_path: Path) -> None:
    demo.files = {**demo.files, "LICENSE.txt": b"x", "notes.json": b"{}"}
    demo.blocked = ("LICENSE.txt", "notes.json")
    job = load_demo(tmp_path)
    plain = nbloader.load(demo_small, progress=False, keep="all").model
    assert tensor_differences(job.result().model, plain) == []
    left_out = {
        line.arguments["name"]: line.arguments["reason"] for line in job.state.log if line.code == "file_left_out"
    }
    assert left_out == dict.fromkeys(demo.blocked, "HTTP 403 Forbidden")


@pytest.mark.parametrize("name", ["config.json", SHARD])
def test_a_file_that_a_load_needs_may_not(demo: Repo, tmp_path: Path, name: str) -> None:
    demo.blocked = (name,)
    with pytest.raises(DownloadError, match="403"):
        load_demo(tmp_path)


def test_a_file_that_cannot_be_stored_is_left_out_if_no_load_needs_it(
    demo: Repo, demo_small: Path, tmp_path: Path
) -> None:
    demo.files = {**demo.files, "notes.json": b"{}"}
    (tmp_path / "models--us--demo/snapshots" / demo.commit / "notes.json").mkdir(parents=True)
    job = load_demo(tmp_path)
    assert job.result().model is not None


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_disk_that_refuses_to_lock_files(
    number: int, demo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(DownloadError, match="could not be stored") as raised:
        nbloader.load("us/demo", cache_dir=tmp_path, progress=False)
    assert "cannot lock files" in raised.value.hint


def test_a_full_disk(demo: Repo, demo_small: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "models--us--demo" / "blobs"
    blobs.mkdir(parents=True)
    part = blobs / f"{sha256(demo.files[SHARD])}.nbloader.incomplete"
    part.symlink_to("/dev/full")
    with pytest.raises(DownloadError, match="No space left") as raised:
        load_demo(tmp_path)
    assert "cache_dir" in raised.value.hint
    assert not part.is_symlink()
    assert_whole(load_demo(tmp_path), demo_small)


class FillingFile(io.FileIO):
    """A file on a disk that is full after the first write."""

    def write(self, content: Any) -> int:
        if self.tell():
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(content)


def test_a_disk_that_fills_meanwhile_gets_its_room_back(
    demo: Repo, demo_small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tmp_path / "models--us--demo" / "blobs" / f"{sha256(demo.files[SHARD])}.nbloader.incomplete"

    def open_filling(path: Path, mode: str, buffering: int = -1) -> Any:
        return FillingFile(path, mode) if path == part else open(path, mode, buffering)

    with monkeypatch.context() as patch:
        patch.setattr(part_file, "open", open_filling, raising=False)
        with pytest.raises(DownloadError, match="No space left"):
            load_demo(tmp_path)
    assert not part.exists()
    assert_whole(load_demo(tmp_path), demo_small)


def test_too_little_room_is_said_before_anything_is_fetched(
    hub: Hub, demo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=50_000))
    with pytest.raises(DownloadError, match=r"needs .* more disk space, but .* has only 50\.0 kB free"):
        load_demo(tmp_path)
    assert not any(name.endswith(".safetensors") for name, _ in hub.ranges)


def test_a_revision_that_moves_while_it_is_loaded(hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path) -> None:
    first, files = demo.commit, demo.files
    demo.stall = SHARD
    job = nbloader.start("us/demo", cache_dir=tmp_path)
    assert demo.stalled.wait(30)
    demo.move({name: content for name, content in files.items() if name != "tokenizer.json"})
    demo.release.set()
    job.result(60)
    assert job.state.commit == first
    assert_whole(job, demo_small)
    again = nbloader.start("us/demo", cache_dir=tmp_path, local_files_only=True)
    again.result(60)
    assert again.state.commit == first


def test_an_interrupted_snapshot_is_never_taken_for_whole(demo: Repo, demo_small: Path, tmp_path: Path) -> None:
    whole, files = demo.commit, demo.files
    load_demo(tmp_path)
    config = json.loads(files["config.json"])
    demo.move({**files, SHARD: files[SHARD][:-4] + b"abcd", "config.json": json.dumps({**config, "x": 1}).encode()})
    demo.faults[SHARD] = ["cut", "429 3600"]
    with pytest.raises(DownloadError):
        load_demo(tmp_path)
    job = load_demo(tmp_path, local_files_only=True)
    assert job.state.commit == whole
    assert tensor_differences(job.result().model, nbloader.load(demo_small, progress=False, keep="all").model) == []


def test_cancel_stops_the_traffic_and_the_next_load_goes_on(
    hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path
) -> None:
    demo.faults[SHARD] = ["slow"]
    job = nbloader.LoadJob("us/demo", nbloader.LoadOptions(cache_dir=str(tmp_path)))
    some = threading.Event()

    def look(event: events.Event) -> None:
        state = job.state
        shard = next((file for file in state.downloads if file.name == SHARD), None)
        if shard is not None and shard.bytes_downloaded > shard.bytes // 8:
            some.set()

    job.subscribe(look)
    job.start()
    assert some.wait(30)
    job.cancel()
    assert demo.hung_up.wait(30)
    with pytest.raises(LoadCancelled):
        job.result(30)
    hub.ranges.clear()
    again = load_demo(tmp_path)
    assert_whole(again, demo_small)
    starts = [start for name, start in hub.ranges if name == SHARD]
    assert len(starts) == 1
    assert starts[0] > 0
    kept = next(file for file in again.state.downloads if file.name == SHARD)
    assert kept.bytes_cached == starts[0]
    moved = again.state.moves[-1][1]
    assert moved == again.state.bytes_to_download - sum(file.bytes_cached for file in again.state.downloads)


def test_a_file_that_fails_ends_the_others(demo: Repo, tmp_path: Path) -> None:
    options = nbloader.LoadOptions(cache_dir=str(tmp_path))
    demo.faults = {SHARD: ["slow"], "model-00001-of-00004.safetensors": ["wrong"]}
    watcher = DownloadWatcher(
        on_bytes=lambda name, size: None,
        on_file=lambda name: None,
        on_wait=lambda name, seconds, reason: None,
        check_cancelled=lambda: None,
    )
    with pytest.raises(DownloadError, match="its hash is"):
        download_files(find_repository("us/demo", options, "config.json"), list(demo.faults), options, watcher)
    assert demo.hung_up.wait(30)


def test_what_has_arrived_is_used_while_the_rest_downloads(demo: Repo, demo_small: Path, tmp_path: Path) -> None:
    demo.stall = "model-00004-of-00004.safetensors"
    job = nbloader.start("us/demo", cache_dir=tmp_path)
    assert demo.stalled.wait(30)
    deadline = time.monotonic() + 30

    def is_used() -> bool:
        stages = {stage.name: stage for stage in job.state.stages}
        read = [shard.bytes_read == shard.bytes for shard in job.state.shards]
        return stages["config"].ended is not None and read == [True, True, True, False]

    while not is_used():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)
    assert job.state.stage == "download"
    demo.release.set()
    job.result(60)
    assert_whole(job, demo_small)


def waits_of(job: nbloader.LoadJob) -> list[str]:
    return [line.arguments["reason"] for line in job.state.log if line.code == "download_waits"]


def test_a_file_that_another_process_brings_is_waited_for(
    hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path
) -> None:
    load_demo(tmp_path / "other")
    key = sha256(demo.files[SHARD])
    lock = tmp_path / ".locks" / "models--us--demo" / f"{key}.lock"  # that of huggingface_hub
    lock.parent.mkdir(parents=True)
    hub.ranges.clear()
    with WeakFileLock(lock):
        job = nbloader.start("us/demo", cache_dir=tmp_path)
        while not any(name == "model-00004-of-00004.safetensors" for name, _ in hub.ranges):
            threading.Event().wait(0.02)
        snapshot = tmp_path / "models--us--demo" / "snapshots" / demo.commit
        while not (snapshot / "model-00004-of-00004.safetensors").exists() or not waits_of(job):
            threading.Event().wait(0.02)
        (snapshot / SHARD).write_bytes(demo.files[SHARD])
    job.result(60)
    assert_whole(job, demo_small)
    assert SHARD not in [name for name, _ in hub.ranges]
    assert waits_of(job) == ["another process is downloading this file"]


def test_the_same_content_is_not_downloaded_twice(hub: Hub, demo: Repo, demo_small: Path, tmp_path: Path) -> None:
    load_demo(tmp_path)
    demo.move({**demo.files, "generation_config.json": b"{}"})
    hub.ranges.clear()
    job = load_demo(tmp_path)
    assert_whole(job, demo_small)
    assert {name for name, _ in hub.ranges} <= {"generation_config.json"}


NUMBERS = st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
ANY = NUMBERS | st.dictionaries(st.text(max_size=5), NUMBERS, max_size=2)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.sampled_from(["", "sha", "siblings", "rfilename", "size", "blobId", "lfs", "sha256"]), strange=ANY)
def test_any_list_of_files_is_used_or_refused_in_words(part: str, strange: Any, hub: Hub, demo: Repo) -> None:
    def listed(whole: dict[str, Any]) -> Any:
        weights = next(each for each in whole["siblings"] if "lfs" in each)
        places = {"": {"": whole}, "sha": whole, "siblings": whole, "sha256": weights["lfs"]}
        places.get(part, weights)[part] = strange
        return strange if part == "" else whole

    demo.lists = listed
    with tempfile.TemporaryDirectory() as cache:
        try:
            nbloader.plan("us/demo", cache_dir=cache)
        except LoadError as error:
            assert error.hint  # noqa: PT017


@pytest.mark.parametrize("size", [-1, 1.5, "1", True, [1], 10**400])
def test_a_size_that_is_none_is_refused(size: Any, demo: Repo, tmp_path: Path) -> None:
    def listed(whole: dict[str, Any]) -> Any:
        next(each for each in whole["siblings"] if each["rfilename"] == "config.json").update(size=size, blobId=None)
        return whole

    demo.lists = listed
    with pytest.raises(DownloadError):
        load_demo(tmp_path / "cache")


@pytest.mark.parametrize("wait", ["²", "9" * 400, "-1", "soon", "Thu, 99 Foo 2026"])
def test_any_time_to_wait_is_understood_or_left(wait: str) -> None:
    found = http._asked_wait(503, {"retry-after": wait})
    assert found is None or found >= 0


def test_names_that_leave_the_cache_are_not_followed(hub: Hub, demo: Repo, tmp_path: Path) -> None:
    demo.files = {**demo.files, "../tokenizer_config.json": b"{}", "../../../../evil.json": b"{}"}
    load_demo(tmp_path / "cache")
    assert not any(".." in name for name, _ in hub.ranges)
    assert not (tmp_path / "evil.json").exists()

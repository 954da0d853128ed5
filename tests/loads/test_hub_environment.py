"""The environment variables of huggingface_hub: each that concerns downloads changes ours in the same way."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from huggingface_hub import constants
from support.hub import Hub, Repo

CERTIFICATE = Path(__file__).parents[1] / "support/self_signed.pem"
SHARD = "model-00001-of-00004.safetensors"

_DOWNLOAD = """
import json, sys
from pathlib import Path
import nbloader
from nbloader._hub.cache import cache_root
from nbloader._hub.download import DownloadWatcher, download_files
from nbloader._hub.find import find_repository
options = nbloader.LoadOptions()
told = {"cache": str(cache_root(options))}
try:
    found = find_repository("us/demo", options, "config.json")
    if found.files is not None:
        watcher = DownloadWatcher(lambda name, size: None, lambda name: None, lambda *wait: None, lambda: None)
        download_files(found, ["config.json", sys.argv[1]], options, watcher)
        path = cache_root(options) / "models--us--demo" / "snapshots" / found.commit / sys.argv[1]
        told |= {"is_link": path.is_symlink(), "is_shared": (cache_root(options) / "blobs").exists()}
except nbloader.LoadError as error:
    told["error"] = str(error)
print(json.dumps(told))
"""

ELSEWHERE = {
    "HF_HUB_DISABLE_TELEMETRY": "none is sent", "HF_HUB_DISABLE_UPDATE_CHECK": "its command line",
    "HF_HUB_DISABLE_EXPERIMENTAL_WARNING": "a warning", "HF_HUB_DISABLE_SYMLINKS_WARNING": "a warning",
    "HF_HUB_DISABLE_PROGRESS_BARS": "its own bars", "HF_HUB_ENABLE_HF_TRANSFER": "deprecated, without effect there",
    "HF_DEBUG": "its log", "HF_ASSETS_CACHE": "not models", "HUGGINGFACE_ASSETS_CACHE": "not models",
    "HF_INFERENCE_ENDPOINT": "not models", "HUGGINGFACE_CO_STAGING": "its own tests",
    "HF_DEVICE_CODE_OAUTH_CLIENT_ID": "logging in", "HF_STORED_TOKENS_PATH": "logging in",
    "HF_XET_CACHE": "read by hf_xet", "HF_XET_HIGH_PERFORMANCE": "read by hf_xet",
}  # fmt: skip
"""Variables that concern no download of ours, and why."""


def download(hub: Hub, home: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    known = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_", "HUGGING"))}
    known |= {"HF_ENDPOINT": hub.url, "HF_HOME": f"{home}/home", "XDG_STATE_HOME": f"{home}/state", **environment}
    known = {key: value for key, value in known.items() if value}
    command = [sys.executable, "-c", _DOWNLOAD, SHARD]
    done = subprocess.run(command, env=known, capture_output=True, text=True, check=True, timeout=60)
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture
def demo(hub: Hub, demo_small: Path) -> Repo:
    hub.repos["us/demo"] = Repo.of_folder(demo_small, xet=True)
    hub.headers.clear()
    return hub.repos["us/demo"]


CACHES = {
    "HF_HUB_CACHE": "{value}", "HUGGINGFACE_HUB_CACHE": "{value}", "HF_HOME": "{value}/hub",
    "XDG_CACHE_HOME": "{value}/huggingface/hub",
}  # fmt: skip


@pytest.mark.parametrize("name", CACHES)
def test_the_place_of_the_cache(name: str, hub: Hub, demo: Repo, tmp_path: Path) -> None:
    home = "" if name == "XDG_CACHE_HOME" else f"{tmp_path}/home"
    told = download(hub, tmp_path, {"HF_HOME": home, name: f"{tmp_path}/there"})
    assert told["cache"] == CACHES[name].format(value=f"{tmp_path}/there")
    assert list(Path(told["cache"]).rglob(SHARD))


@pytest.mark.parametrize("end", ["", "/"])
@pytest.mark.parametrize("xet", [True, False])
def test_a_hub_below_a_path(xet: bool, end: str, hub: Hub, demo: Repo, tmp_path: Path) -> None:
    demo.xet, hub.below = xet, "/mirror/hf"
    told = download(hub, tmp_path, {"HF_ENDPOINT": f"{hub.url}{hub.below}{end}"})
    assert "error" not in told
    assert (hub.xet.requests != []) == xet
    assert all(path.startswith(hub.below) for _, path in hub.requests if not path.startswith(("/v1", "/v2", "/xorb")))


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_no_network(name: str, hub: Hub, demo: Repo, tmp_path: Path) -> None:
    hub.requests.clear()
    assert "not in the cache" in download(hub, tmp_path, {name: "1"})["error"]
    assert hub.requests == []


@pytest.mark.parametrize("name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"])
def test_the_token(name: str, hub: Hub, demo: Repo, tmp_path: Path) -> None:
    demo.token = "hf_secret"
    (tmp_path / "token").write_text("hf_secret")
    given = {name: str(tmp_path / "token") if name == "HF_TOKEN_PATH" else "hf_secret"}
    assert "error" not in download(hub, tmp_path, given)
    assert "error" in download(hub, tmp_path / "other", {**given, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"})


def test_the_user_agent(hub: Hub, demo: Repo, tmp_path: Path) -> None:
    download(hub, tmp_path, {"HF_HUB_USER_AGENT_ORIGIN": "a-class-on-models"})
    agents = [headers.get("user-agent", "") for path, headers in hub.headers if "/resolve/" in path]
    assert agents
    assert all("origin/a-class-on-models" in agent for agent in agents)


@pytest.mark.parametrize("name", ["HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"])
def test_how_long_an_answer_is_waited_for(name: str, hub: Hub, demo: Repo, tmp_path: Path) -> None:
    demo.xet = False
    demo.silent = "/api/" if name == "HF_HUB_ETAG_TIMEOUT" else "/resolve/"
    told = download(hub, tmp_path, {name: "1"})
    demo.release.set()
    assert "no answer in time" in told["error"] or "ReadTimeout" in told["error"]


def test_xet(hub: Hub, demo: Repo, tmp_path: Path) -> None:
    assert download(hub, tmp_path / "with", {})["is_shared"]
    assert hub.xet.requests
    hub.xet.requests.clear()
    assert not download(hub, tmp_path / "without", {"HF_HUB_DISABLE_XET": "1"})["is_shared"]
    assert hub.xet.requests == []


def test_what_the_cache_is_made_of(hub: Hub, demo: Repo, tmp_path: Path) -> None:
    assert download(hub, tmp_path / "links", {})["is_link"]
    assert not download(hub, tmp_path / "none", {"HF_HUB_DISABLE_SYMLINKS": "1"})["is_link"]
    assert not download(hub, tmp_path / "own", {"HF_HUB_DISABLE_SHARED_BLOBS": "1"})["is_shared"]


class Proxy(ThreadingHTTPServer):
    """A proxy that passes everything on, or refuses it with `status`; `paths` lists what it was asked for."""

    def __init__(self, status: int | None = None) -> None:
        self.paths: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                proxy.paths.append(url.path)
                if status is not None:
                    return self.send_error(status)
                server = HTTPConnection(url.netloc)
                server.request(self.command, f"{url.path}?{url.query}", headers=dict(self.headers))
                answer = server.getresponse()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.read())
                return None

            do_HEAD = do_GET

            def log_message(self, *args: Any) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        super().__exit__(*args)


def test_a_proxy(hub: Hub, demo: Repo, tmp_path: Path) -> None:
    with Proxy() as proxy:
        told = download(hub, tmp_path, {"HTTP_PROXY": f"http://127.0.0.1:{proxy.server_port}"})
    assert "error" not in told
    asked = [path.split("/")[1] for path in proxy.paths]
    assert {"api", "us", "v1", "xorb"} <= set(asked)


@pytest.mark.parametrize("status", [407, 502])
def test_a_proxy_that_refuses(status: int, hub: Hub, demo: Repo, tmp_path: Path) -> None:
    with Proxy(status) as proxy:
        told = download(hub, tmp_path, {"HTTP_PROXY": f"http://127.0.0.1:{proxy.server_port}"})
    assert f"HTTP {status}" in told["error"]


def test_a_certificate_of_ones_own(demo_small: Path, tmp_path: Path) -> None:
    hub = Hub(CERTIFICATE)
    hub.repos["us/demo"] = Repo.of_folder(demo_small, xet=True)
    assert "the server's certificate is not trusted" in download(hub, tmp_path / "untrusted", {})["error"]
    assert "error" not in download(hub, tmp_path, {"SSL_CERT_FILE": str(CERTIFICATE)})
    hub.close()


def test_no_variable_of_huggingface_hub_is_unknown() -> None:
    """Its installed sources are the list; a new variable has to be tested here, or said why it need not be."""
    text = Path(constants.__file__).read_text()
    found = set(re.findall(r'(?:environ\.get|getenv)\(\s*"((?:HF|HUGGING|XDG|TRANSFORMERS)\w*)"', text))
    tested = set(re.findall(r'"((?:HF|HUGGING|XDG|TRANSFORMERS)\w*)"', Path(__file__).read_text()))
    assert len(found) > 20
    assert found - tested - set(ELSEWHERE) == set()

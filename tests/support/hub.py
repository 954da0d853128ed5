"""A Hub on loopback: the part of the protocol that loading a checkpoint takes, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

CHUNK = 64 << 10


@dataclass
class Repo:
    """A repository: files by name, and how it misbehaves.

    `stall` names a file that stops half-way until `release` is set, `cut` one that ends there; `token` is who may
    read; `broken` is a status that every request gets.
    """

    files: Mapping[str, bytes]
    branches: tuple[str, ...] = ("main",)
    gated: bool = False
    token: str | None = None
    stall: str | None = None
    cut: str | None = None
    broken: int | None = None
    release: threading.Event = field(default_factory=threading.Event)
    stalled: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def of_folder(cls, folder: Path, prefix: str = "", **faults: Any) -> Repo:
        files = {prefix + path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
        return cls(files, **faults)

    @property
    def commit(self) -> str:
        return hashlib.sha1(
            repr(sorted((n, hashlib.sha1(c).hexdigest()) for n, c in self.files.items())).encode()
        ).hexdigest()


class Hub:
    """The server. `requests` lists (method, path) of all that was asked."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[tuple[str, str]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._answer(self, with_body=True)

            def do_HEAD(self) -> None:
                hub._answer(self, with_body=False)

            def log_message(self, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        for repo in self.repos.values():
            repo.release.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler, with_body: bool) -> None:
        path = urlsplit(request.path).path
        self.requests.append((request.command, request.path))
        parts = [unquote(part) for part in path.strip("/").split("/")]
        is_api = parts[:2] == ["api", "models"]
        repo_id = "/".join(parts[2:4] if is_api else parts[:2])
        repo = self.repos.get(repo_id)
        if repo is None:
            return _refuse(request, 401 if is_api else 404, "RepoNotFound")
        if repo.broken is not None:
            return _refuse(request, repo.broken, "Broken")
        if repo.token and request.headers.get("authorization") != f"Bearer {repo.token}":
            return _refuse(request, 403 if repo.gated else 401, "GatedRepo" if repo.gated else "RepoNotFound")
        revision = (parts[5] if len(parts) > 5 else "main") if is_api else parts[3]
        if revision not in (*repo.branches, repo.commit):
            return _refuse(request, 404, "RevisionNotFound")
        if is_api:
            return _describe(request, repo_id, repo, "blobs" in parse_qs(urlsplit(request.path).query))
        return _send_file(request, repo, "/".join(parts[4:]), with_body)


def _describe(request: BaseHTTPRequestHandler, repo_id: str, repo: Repo, sizes: bool) -> None:
    siblings = [
        {"rfilename": name, **({"size": len(content)} if sizes else {})} for name, content in repo.files.items()
    ]
    _send_json(request, 200, {"id": repo_id, "sha": repo.commit, "siblings": siblings})


def _send_file(request: BaseHTTPRequestHandler, repo: Repo, name: str, with_body: bool) -> None:
    content = repo.files.get(name)
    if content is None:
        return _refuse(request, 404, "EntryNotFound", repo.commit)
    start = int((request.headers.get("range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
    request.send_response(206 if start else 200)
    request.send_header("X-Repo-Commit", repo.commit)
    request.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
    request.send_header("Content-Length", str(len(content) - start))
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    request.end_headers()
    if not with_body:
        return None
    try:
        for offset in range(start, len(content), CHUNK):
            request.wfile.write(content[offset : offset + CHUNK])
            if name == repo.cut and offset >= len(content) // 2:
                request.close_connection = True
                return None
            if name == repo.stall and offset + CHUNK >= len(content) // 2 and not repo.release.is_set():
                request.wfile.flush()
                repo.stalled.set()
                repo.release.wait(60)
    except OSError:
        request.close_connection = True  # the client went away, as a cancelled one does


def _refuse(request: BaseHTTPRequestHandler, status: int, code: str, commit: str | None = None) -> None:
    headers = {"X-Error-Code": code, "X-Error-Message": code, **({"X-Repo-Commit": commit} if commit else {})}
    _send_json(request, status, {"error": code}, headers)


def _send_json(
    request: BaseHTTPRequestHandler, status: int, content: Any, headers: Mapping[str, str] | None = None
) -> None:
    body = json.dumps(content).encode()
    request.send_response(status)
    for name, value in {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **(headers or {}),
    }.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)

"""A Hub on loopback: the part of the protocol that loading a checkpoint takes, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from support.xet import XetStorage, access, keep_to

CHUNK = 64 << 10
LOOK = 256 << 10  # bytes that are asked for to see a header


@cache
def sha256(content: bytes) -> str:
    """Return the hash of a file, computed once."""
    return hashlib.sha256(content).hexdigest()


@cache
def git_id(content: bytes) -> str:
    """Return the id by which git knows a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repo:
    """A repository: files by name, and how it misbehaves.

    `stall` names a file that stops half-way until `release` is set; `token` is who may read, and no token is
    known without `knows_tokens`; `broken` is a status that
    every request gets. `faults` lists, by file, what befalls the requests for it, one after the other: "cut" ends
    half-way, "reset" breaks the connection there, "whole" ignores the range asked for, "wrong" changes a byte,
    "short" serves a shorter file, "html" another page altogether, "slow" takes its time, "503 7" is a status with
    Retry-After, and "429 limit" one with the Hub's own header; those of "NAME head" befall looks at a file's header.
    `unsized` leaves sizes and hashes out of the list. `echoes` has a `broken` one repeat the token it was sent.
    `lists` returns what the list of files is to be, from what it would be. The weights of one with `xet` are in Xet
    storage, too. `rate` is how many bytes a second each connection gets; None for as many as it can. `blocks_head`
    answers no HEAD, and files that are `blocked` are refused with 403. Requests with `silent` in their path get no
    answer.
    """

    files: Mapping[str, bytes]
    branches: tuple[str, ...] = ("main",)
    gated: bool = False
    knows_tokens: bool = True
    token: str | None = None
    stall: str | None = None
    unsized: bool = False
    xet: bool = False
    rate: float | None = None
    blocks_head: bool = False
    blocked: tuple[str, ...] = ()
    silent: str | None = None
    broken: int | None = None
    echoes: bool = False
    lists: Callable[[dict[str, Any]], Any] = lambda listed: listed
    faults: dict[str, list[str]] = field(default_factory=dict)
    release: threading.Event = field(default_factory=threading.Event)
    stalled: threading.Event = field(default_factory=threading.Event)
    hung_up: threading.Event = field(default_factory=threading.Event)
    older: dict[str, Mapping[str, bytes]] = field(default_factory=dict)

    @classmethod
    def of_folder(cls, folder: Path, prefix: str = "", **faults: Any) -> Repo:
        files = {prefix + path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
        return cls(files, **faults)

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(sorted((n, sha256(c)) for n, c in self.files.items())).encode()).hexdigest()

    def move(self, files: Mapping[str, bytes]) -> None:
        """Have the branches go on to another commit; the one before can still be asked for."""
        self.older[self.commit] = self.files
        self.files = files


class Hub:
    """The server. `requests` lists (method, path) of all that was asked, `headers` (path, headers), and of all files
    that were, `ranges` lists (name, first byte), those for headers left out, and `asked` (name, bytes).

    Weights are sent by `cdn`, another server, where there is one; that one wants no token. `xet` is its Xet storage.
    One with a `certificate` speaks TLS. `below` is the path that it answers under, as some mirrors do.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[tuple[str, str]] = []
        self.headers: list[tuple[str, dict[str, str]]] = []
        self.ranges: list[tuple[str, int]] = []
        self.asked: list[tuple[str, int]] = []
        self.cdn: Hub | None = None
        self.xet = XetStorage()
        self.wants_no_token = False
        self.below = ""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._answer(self, with_body=True)

            def do_HEAD(self) -> None:
                hub._answer(self, with_body=False)

            def log_message(self, *args: Any) -> None: ...

        class Server(ThreadingHTTPServer):
            def handle_error(self, *args: Any) -> None:
                """Say nothing: a load that is cancelled hangs up, after the test maybe."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            self.url = f"https://localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        for repo in self.repos.values():
            repo.release.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler, with_body: bool) -> None:
        path = urlsplit(request.path).path
        self.requests.append((request.command, request.path))
        self.headers.append((request.path, {name.lower(): value for name, value in request.headers.items()}))
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[0] in ("v1", "v2", "xorb"):
            return self.xet.answer(request, parts, self.url)
        above = [part for part in self.below.split("/") if part]
        if parts[: len(above)] != above:
            return _refuse(request, 404, "NothingHere")
        parts = parts[len(above) :]
        is_api = parts[:2] == ["api", "models"]
        repo_id = "/".join(parts[2:4] if is_api else parts[:2])
        repo = self.repos.get(repo_id)
        if repo is None:
            return _refuse(request, 401 if is_api else 404, "RepoNotFound")
        if repo.broken is not None:
            return _refuse(request, repo.broken, str(request.headers["authorization"]) if repo.echoes else "Broken")
        if self.wants_no_token and request.headers.get("authorization"):
            return _refuse(request, 400, "OneWayOfAuthorization")
        if repo.silent and repo.silent in path:
            repo.release.wait(60)
            return _refuse(request, 503, "Silent")
        sent = request.headers.get("authorization")
        if sent and not repo.knows_tokens:
            return _refuse(request, 401, "", "Access token has expired")
        if repo.token and not self.wants_no_token and sent != f"Bearer {repo.token}":
            if repo.gated:
                return _refuse(request, 403 if sent else 401, "GatedRepo")
            return _refuse(request, 404 if sent else 401, "RepoNotFound")
        revision = (parts[5] if len(parts) > 5 else "main") if is_api else parts[3]
        if revision not in (*repo.branches, repo.commit, *repo.older):
            return _refuse(request, 404, "RevisionNotFound")
        if is_api and parts[4:5] == ["xet-read-token"]:
            return _send_json(request, 200, *access(self.xet.url or self.url))
        if is_api and parts[4:5] == ["tree"]:
            top = "".join(f"{part}/" for part in parts[6:])
            listed = [self._listed(repo, name, repo.files[name]) for name in repo.files if name.startswith(top)]
            return _send_json(request, 200, listed) if listed else _refuse(request, 404, "EntryNotFound")
        if is_api:
            return _describe(request, repo_id, repo, not repo.unsized)
        name = "/".join(parts[4:])
        if request.command == "HEAD" and repo.blocks_head:
            return _refuse(request, 405, "NoHead")
        if name in repo.blocked:
            return _refuse(request, 403, "Blocked")
        if self.cdn is not None and name.endswith(".safetensors"):
            return _send_json(request, 302, {}, {"Location": self.cdn.url + request.path})
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range") or "")
        span = (int(asked[1]), int(asked[2]) + 1 if asked[2] else None) if asked else None
        size = len(repo.files.get(name, b""))
        if request.command == "GET":
            self.asked.append((name, span[1] - span[0] if span and span[1] else size))
            if not _looks(span, size):
                self.ranges.append((name, span[0] if span else 0))
        return _send_file(request, repo, revision, name, span, with_body, self._in_xet(repo, repo_id, name))

    def _listed(self, repo: Repo, name: str, content: bytes) -> dict[str, Any]:
        """Return what the Hub's tree of files says of one, as huggingface_hub 2 asks."""
        told = _details(name, content)
        entry = {"type": "file", "path": name, "size": told["size"], "oid": told["blobId"]}
        if "lfs" in told:
            entry["lfs"] = {**told["lfs"], "oid": told["lfs"]["sha256"]}
            entry |= {"xetHash": self.xet.add(content)} if repo.xet else {}
        return entry

    def _in_xet(self, repo: Repo, repo_id: str, name: str) -> dict[str, str]:
        """Return the headers that say where in Xet storage a file is."""
        if not repo.xet or not _is_in_lfs(name) or name not in repo.files:
            return {}
        route = f"{self.url}{self.below}/api/models/{repo_id}/xet-read-token/{repo.commit}"
        return {"X-Xet-Hash": self.xet.add(repo.files[name]), "X-Xet-Refresh-Route": route}


def _is_in_lfs(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def _describe(request: BaseHTTPRequestHandler, repo_id: str, repo: Repo, details: bool) -> None:
    siblings = [
        {"rfilename": name, **(_details(name, content) if details else {})} for name, content in repo.files.items()
    ]
    _send_json(request, 200, repo.lists({"id": repo_id, "sha": repo.commit, "siblings": siblings}))


def _details(name: str, content: bytes) -> dict[str, Any]:
    """Return what the Hub lists of a file: weights are in LFS, and known by their SHA-256."""
    size = len(content)
    details: dict[str, Any] = {
        "size": size,
        "blobId": git_id(content),
    }
    if _is_in_lfs(name):
        details["lfs"] = {"size": size, "sha256": sha256(content), "pointerSize": 134}
    return details


def _looks(span: tuple[int, int | None] | None, size: int) -> bool:
    """Return whether a request is for a file's header, not for the file."""
    return span is not None and span[1] is not None and span[1] - span[0] == LOOK and span[1] < size


def _send_file(
    request: BaseHTTPRequestHandler,
    repo: Repo,
    revision: str,
    name: str,
    span: tuple[int, int | None] | None,
    with_body: bool,
    more: Mapping[str, str],
) -> None:
    content = repo.older.get(revision, repo.files).get(name)
    if content is None:
        return _refuse(request, 404, "EntryNotFound", commit=repo.commit)
    faults = repo.faults.get(f"{name} head" if _looks(span, len(content)) else name)
    fault = faults.pop(0) if faults and with_body else ""
    if fault[:3].isdigit():
        status, _, wait = fault.partition(" ")
        limit = {"RateLimit": f'"resolvers";r={0 if wait == "limit" else 2900};t=400'}
        asked = {"Retry-After": wait} if wait.isdigit() else {}
        return _send_json(request, int(status), {}, {**limit, **asked})
    if fault == "html":
        content, span = b"<html>Please log in to this network.</html>", None
    if fault == "whole":
        span = None
    if fault == "short":
        content = content[:-1000]
    if fault == "wrong":
        content = content[:-1] + bytes([content[-1] ^ 1])
    start, end = (span[0], min(span[1] or len(content), len(content))) if span else (0, len(content))
    request.send_response(206 if span else 200)
    request.send_header("X-Repo-Commit", repo.commit)
    request.send_header("ETag", f'"{sha256(content)}"')
    request.send_header("Content-Length", str(end - start))
    for header, value in more.items():
        request.send_header(header, value)
    if span:
        request.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
    request.end_headers()
    if not with_body:
        return None
    half = len(content) // 2
    began = time.monotonic()
    try:
        for offset in range(start, end, CHUNK):
            if fault in ("cut", "reset") and offset >= half:
                if fault == "reset":
                    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    os.close(request.connection.detach())  # at once: a shutdown before it would end the stream in order
                request.close_connection = True
                return None
            request.wfile.write(content[offset : min(offset + CHUNK, end)])
            keep_to(repo.rate, began, offset + CHUNK - start)
            if fault == "slow":
                repo.release.wait(0.02)
            if name == repo.stall and offset + CHUNK >= half and not repo.release.is_set():
                request.wfile.flush()
                repo.stalled.set()
                repo.release.wait(60)
    except OSError:
        request.close_connection = True  # the client went away, as a cancelled one does
        repo.hung_up.set()


def _refuse(
    request: BaseHTTPRequestHandler, status: int, code: str, message: str = "", commit: str | None = None
) -> None:
    headers = {"X-Error-Message": message or code, **({"X-Repo-Commit": commit} if commit else {})}
    _send_json(request, status, {"error": code}, headers | ({"X-Error-Code": code} if code else {}), code or None)


def _send_json(
    request: BaseHTTPRequestHandler,
    status: int,
    content: Any,
    headers: Mapping[str, str] | None = None,
    phrase: str | None = None,
) -> None:
    body = json.dumps(content).encode()
    request.send_response(status, phrase)
    for name, value in {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **(headers or {}),
    }.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)

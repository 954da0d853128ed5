"""Xet storage on loopback, by its published protocol (https://huggingface.co/docs/xet), with faults on demand."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from threading import Event

CHUNK = 64 << 10
PER_XORB = 16  # chunks
_HEADER = 8  # bytes before each chunk of a xorb: version, length, compression, length without it
_STORED = CHUNK + _HEADER


def key_of(content: bytes) -> str:
    """Return what names a content in this storage; its real name would be a Merkle hash, which no client checks."""
    return hashlib.sha256(b"xet" + hashlib.sha256(content).digest()).hexdigest()


@dataclass
class XetStorage:
    """The storage: contents by key.

    `faults` lists what befalls requests for parts of a content, one after the other: a status, "cut" ends half-way,
    "wrong" changes a byte, and "stall" sends nothing until `release` is set. `refusals` lists statuses for requests
    that ask where the parts are. `rate` is how many bytes a second each connection gets. Requests with `silent` in
    their path get no answer. `url` is where the storage is, if not at the Hub. `requests` lists (key, bytes) of the
    parts that were asked for, and `authorizations` what requests to the storage came with.
    """

    contents: dict[str, bytes] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    rate: float | None = None
    silent: str | None = None
    url: str | None = None
    refusals: list[int] = field(default_factory=list)
    requests: list[tuple[str, int]] = field(default_factory=list)
    authorizations: set[str | None] = field(default_factory=set)
    release: Event = field(default_factory=Event)
    stalled: Event = field(default_factory=Event)

    def add(self, content: bytes) -> str:
        key = key_of(content)
        self.contents[key] = content
        return key

    def answer(self, request: BaseHTTPRequestHandler, parts: list[str], url: str) -> None:
        """Answer a request for a path of the storage."""
        self.authorizations.add(request.headers.get("authorization"))
        if self.silent and self.silent in request.path:
            self.release.wait(60)
            return _reply(request, 503)
        if parts[0] == "xorb":
            return self._send(request, parts[1], int(parts[2]))
        content = self.contents.get(parts[-1])
        if parts[0] != "v1" or content is None:
            return _reply(request, 404)
        if self.refusals:
            return _reply(request, self.refusals.pop(0))
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range") or "")
        begin, end = (int(found[1]), min(int(found[2]) + 1, len(content))) if found else (0, len(content))
        if begin >= len(content):
            return _reply(request, 416)
        told = {"offset_into_first_range": begin % CHUNK, **_terms(parts[-1], len(content), begin, end, url)}
        return _reply(request, 200, json.dumps(told).encode())

    def _send(self, request: BaseHTTPRequestHandler, key: str, number: int) -> None:
        fault = self.faults.pop(0) if self.faults else ""
        if fault.isdigit():
            return _reply(request, int(fault))
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["range"])
        assert found is not None
        begin, end = int(found[1]), int(found[2]) + 1
        self.requests.append((key, end - begin))
        body = memoryview(b"".join(self._stored(key, number, begin // _STORED, -(-end // _STORED))))
        if fault == "wrong":
            body = memoryview(bytes(body[:-1]) + bytes([body[-1] ^ 1]))
        request.send_response(206)
        request.send_header("Content-Length", str(len(body)))
        request.send_header("Content-Range", f"bytes {begin}-{end - 1}/{PER_XORB * _STORED}")
        request.end_headers()
        if fault == "stall":
            self.stalled.set()
            self.release.wait(60)
        began = time.monotonic()
        try:
            for offset in range(0, len(body) // (2 if fault == "cut" else 1), CHUNK):
                request.wfile.write(body[offset : offset + CHUNK])
                keep_to(self.rate, began, offset + CHUNK)
        except OSError:
            request.close_connection = True
        if fault == "cut":
            request.close_connection = True
        return None

    def _stored(self, key: str, number: int, first: int, last: int) -> Iterator[bytes]:
        for chunk in range(number * PER_XORB + first, number * PER_XORB + last):
            content = self.contents[key][chunk * CHUNK : (chunk + 1) * CHUNK]
            length = len(content).to_bytes(3, "little")
            yield b"\0" + length + b"\0" + length + content


def access(url: str) -> tuple[dict[str, object], dict[str, str]]:
    """Return what the Hub tells a client of the storage at `url`: as JSON, and as headers."""
    until = int(time.time()) + 3600
    told = {"casUrl": url, "accessToken": "let-me-in", "exp": until}
    headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": "let-me-in", "X-Xet-Token-Expiration": str(until)}
    return told, headers


def keep_to(rate: float | None, began: float, sent: int) -> None:
    """Wait so long that what was sent since `began` was sent at `rate` bytes a second."""
    if rate is not None and (wait := began + sent / rate - time.monotonic()) > 0:
        time.sleep(wait)


def _terms(key: str, size: int, begin: int, end: int, url: str) -> dict[str, object]:
    first, last = begin // CHUNK, -(-end // CHUNK)
    terms: list[object] = []
    fetch: dict[str, object] = {}
    for xorb in range(first // PER_XORB, -(-last // PER_XORB)):
        base = xorb * PER_XORB
        low, high = max(first, base) - base, min(last, base + PER_XORB) - base
        length = min(size, (base + high) * CHUNK) - (base + low) * CHUNK
        name = hashlib.sha256(f"{key}/{xorb}".encode()).hexdigest()
        terms.append({"hash": name, "unpacked_length": length, "range": {"start": low, "end": high}})
        span = {"start": low * _STORED, "end": low * _STORED + length + (high - low) * _HEADER - 1}
        where = {"range": {"start": low, "end": high}, "url": f"{url}/xorb/{key}/{xorb}", "url_range": span}
        fetch[name] = [where]
    return {"terms": terms, "fetch_info": fetch}


def _reply(request: BaseHTTPRequestHandler, status: int, body: bytes = b"") -> None:
    request.send_response(status)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)

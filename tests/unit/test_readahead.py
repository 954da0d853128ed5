from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
from pathlib import Path

import pytest

from nbloader import LoadCancelled, _readahead
from nbloader._readahead import CHUNK, find_missing, make_resident, read_missing, resident_bytes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3 * CHUNK + 12_345))
    make_cold(path)
    return path


def make_cold(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def share(path: Path) -> float:
    with open(path, "rb") as file:
        return (resident_bytes(file.fileno(), 0, path.stat().st_size) or 0) / path.stat().st_size


def read(path: Path) -> tuple[int, list[int]]:
    """Read what is missing; returns the bytes that were resident, and the counts that were told."""
    counts: list[int] = []
    missing = find_missing(path)
    read_missing([path], [missing], lambda _, size: counts.append(size), lambda: None)
    return path.stat().st_size - sum(part.absent for part in missing), counts


def fincore(path: Path) -> int:
    done = subprocess.run(["fincore", "-b", "-n", "-o", "RES", str(path)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_cold_bytes_are_read_and_counted_once(file: Path) -> None:
    resident, counts = read(file)
    assert resident == 0
    assert counts[0] == 0
    assert sum(counts) == file.stat().st_size
    assert share(file) == 1.0


def test_resident_bytes_are_counted_and_not_read_again(file: Path) -> None:
    read(file)
    assert read(file) == (file.stat().st_size, [])


def test_what_is_resident_agrees_with_fincore(file: Path) -> None:
    with open(file, "rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no readahead: just what is asked for
        os.preadv(opened.fileno(), [bytearray(CHUNK)], CHUNK)
        told = resident_bytes(opened.fileno(), 0, file.stat().st_size)
        counted_by_mincore = _readahead._mincore(opened.fileno(), 0, file.stat().st_size)
    assert told == counted_by_mincore == fincore(file) == CHUNK


def test_only_missing_chunks_are_read(file: Path) -> None:
    with open(file, "rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.preadv(opened.fileno(), [bytearray(CHUNK)], CHUNK)
    resident, counts = read(file)
    assert resident == CHUNK
    assert resident + sum(counts) == file.stat().st_size


def test_nothing_is_missing_once_it_is_read(file: Path) -> None:
    assert sum(part.absent for part in find_missing(file)) == file.stat().st_size
    read(file)
    assert find_missing(file) == []


def test_reading_can_be_cancelled(file: Path) -> None:
    checks = []

    def check() -> None:
        checks.append(1)
        if len(checks) == 3:
            raise LoadCancelled("enough")

    counts: list[int] = []
    with pytest.raises(LoadCancelled):
        read_missing([file], [find_missing(file)], lambda _, size: counts.append(size), check)
    assert 0 < sum(counts) < file.stat().st_size


def test_a_file_that_shrinks_is_an_error(file: Path) -> None:
    def shrink(_: int, size: int) -> None:
        if size:
            os.truncate(file, CHUNK + 1)

    with pytest.raises(OSError, match="ended"):
        read_missing([file], [find_missing(file)], shrink, lambda: None)


def test_without_a_way_to_know_everything_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_readahead, "_libc", None)
    monkeypatch.delattr(os, "preadv")
    assert sum(read(file)[1]) == file.stat().st_size


@pytest.mark.parametrize("populate", [True, False])
def test_a_mapping_becomes_resident(file: Path, populate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not populate:
        monkeypatch.setattr(_readahead, "_populate", lambda *_: False)
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, flags=mmap.MAP_PRIVATE) as mapping:
        anchor = ctypes.c_char.from_buffer(mapping)
        make_resident(ctypes.addressof(anchor) + 100, len(mapping) - 100, lambda: None)
        assert share(file) == 1.0
        del anchor

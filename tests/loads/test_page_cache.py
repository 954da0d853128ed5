from __future__ import annotations

import ctypes
import errno
import mmap
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.page_cache import make_cold

from nbloader._system import page_cache
from nbloader._system.page_cache import (
    drops_cache,
    find_missing,
    make_resident,
    read_through,
    resident_bytes,
    seems_resident,
    untouched_bytes,
)

CHUNK = 8 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3 * CHUNK + 12_345))
    make_cold(path)
    return path


def share(path: Path) -> float:
    with open(path, "rb") as file:
        return (resident_bytes(file.fileno(), 0, path.stat().st_size) or 0) / path.stat().st_size


def fincore(path: Path) -> int:
    done = subprocess.run(["fincore", "-b", "-n", "-o", "RES", str(path)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def absent(path: Path) -> int:
    return sum(piece.absent for piece in find_missing(path))


def test_what_is_resident_agrees_with_fincore(file: Path) -> None:
    with open(file, "rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no readahead: just what is asked for
        os.preadv(opened.fileno(), [bytearray(CHUNK)], CHUNK)
        told = resident_bytes(opened.fileno(), 0, file.stat().st_size)
        counted_by_mincore = page_cache._mincore(opened.fileno(), 0, file.stat().st_size)
    assert told == counted_by_mincore == fincore(file) == CHUNK


def test_what_is_missing_is_what_is_not_resident(file: Path) -> None:
    assert absent(file) == file.stat().st_size
    with open(file, "rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.preadv(opened.fileno(), [bytearray(CHUNK)], CHUNK)
    assert absent(file) == file.stat().st_size - CHUNK
    assert [piece.offset for piece in find_missing(file)] == [0, 2 * CHUNK, 3 * CHUNK]
    file.read_bytes()
    assert find_missing(file) == []


@pytest.mark.parametrize("part", [(0, 1), (1, 1), (2, 1), (3, 1), (0, 4)])
def test_a_file_that_lacks_megabytes_does_not_seem_resident(tmp_path: Path, part: tuple[int, int]) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(page_cache._SAMPLED_EVERY) * 4 + b"end")
    os.sync()
    path.read_bytes()
    assert seems_resident(path)
    first, count = part
    with open(path, "rb") as opened:
        begin, length = first * page_cache._SAMPLED_EVERY, count * page_cache._SAMPLED_EVERY
        os.posix_fadvise(opened.fileno(), begin, length, os.POSIX_FADV_DONTNEED)
    assert not seems_resident(path)


def test_where_the_system_cannot_say_everything_is_missing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.read_bytes()
    monkeypatch.setattr(page_cache, "_libc", None)
    assert absent(file) == file.stat().st_size
    assert not drops_cache(file)


def test_ordinary_storage_keeps_its_cache(file: Path) -> None:
    assert not drops_cache(file)


@pytest.mark.parametrize("populate", [True, False])
def test_a_mapping_becomes_resident(file: Path, populate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not populate:
        monkeypatch.setattr(page_cache, "_populate", lambda *_: errno.ENOSYS)
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, flags=mmap.MAP_PRIVATE) as mapping:
        anchor = ctypes.c_char.from_buffer(mapping)
        make_resident(ctypes.addressof(anchor) + 100, len(mapping) - 100, lambda: None)
        assert share(file) == 1.0
        del anchor


def test_storage_that_drops_its_cache_at_open_is_found_out(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_dropping(*args: Any, **kwargs: Any) -> Any:
        opened = open(*args, **kwargs)  # noqa: SIM115 - the caller closes it
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return opened

    monkeypatch.setattr(page_cache, "open", open_dropping, raising=False)
    assert drops_cache(file)


def test_what_was_not_touched_is_told(tmp_path: Path) -> None:
    size = 4 << 20
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE) as mapped:
        whole = ctypes.c_char.from_buffer(mapped)
        address = ctypes.addressof(whole)
        assert untouched_bytes([(address, size)]) == size
        for place in range(0, size // 2, mmap.PAGESIZE):
            assert mapped[place] == 0
        assert untouched_bytes([(address, size)]) == pytest.approx(size / 2, rel=0.1)
        assert untouched_bytes([(address, size // 2), (address, 0)]) == 0
        del whole


def test_reading_through_brings_a_range_in_and_fails_in_words_where_it_cannot(file: Path) -> None:
    make_cold(file)
    size = file.stat().st_size
    read_through(file, size // 2, size)
    assert sum(piece.absent for piece in find_missing(file)) <= size // 2
    with pytest.raises(OSError, match="was truncated") as raised:
        read_through(file, size // 2, size + 1)
    assert raised.value.filename == str(file)

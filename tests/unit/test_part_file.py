"""A file while it is downloaded: what has arrived is known, also to the process that goes on."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest

from nbloader._hub.part_file import Expected, PartFile, StartedOverError, arrived_bytes

MB = 1 << 20
CONTENT = random.Random(1).randbytes(40 * MB)
EXPECTED = Expected(len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())


def fill(part: PartFile, begin: int, end: int) -> None:
    for at in range(begin, end, MB):
        part.write(part.generation, begin, at, CONTENT[at : min(at + MB, end)])


def never() -> None: ...


def test_ranges_in_any_order_make_the_file(tmp_path: Path) -> None:
    part = PartFile(tmp_path / "part", EXPECTED)
    ranges = [(begin, begin + 5 * MB) for begin in range(0, 40 * MB, 5 * MB)]
    random.Random(2).shuffle(ranges)
    for begin, end in ranges:
        fill(part, begin, end)
        part.leave(part.generation, begin, end)
    assert part.is_whole
    assert part.hash_arrived(never) == EXPECTED.sha256
    part.remove_note()
    part.close()
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["part"]


def test_what_arrived_is_not_asked_for_again(tmp_path: Path) -> None:
    part = PartFile(tmp_path / "part", EXPECTED)
    for begin, end in ((0, 3 * MB), (20 * MB, 22 * MB + 5)):
        fill(part, begin, end)
        part.leave(part.generation, begin, end)
    part.close()
    assert arrived_bytes(tmp_path / "part") == 5 * MB + 5
    again = PartFile(tmp_path / "part", EXPECTED)
    assert again.gaps() == [(3 * MB, 20 * MB), (22 * MB + 5, 40 * MB)]
    for begin, end in again.gaps():
        fill(again, begin, end)
    assert again.hash_arrived(never) == EXPECTED.sha256


def test_a_killed_process_loses_a_few_megabytes(tmp_path: Path) -> None:
    killed = PartFile(tmp_path / "part", EXPECTED)
    fill(killed, 0, 11 * MB)
    fill(killed, 20 * MB, 37 * MB)  # and nothing more is heard of it
    again = PartFile(tmp_path / "part", EXPECTED)
    assert again.gaps()[0][0] >= 8 * MB
    assert again.arrived >= 24 * MB
    for begin, end in again.gaps():
        fill(again, begin, end)
    assert again.hash_arrived(never) == EXPECTED.sha256


@pytest.mark.parametrize("note", ["0 1048576\n10485760 1153", "0 1048576\n\0\xff\n-1 5\n5 2\nx", "0 1048576"])
def test_a_note_that_was_cut_off_counts_as_far_as_it_goes(note: str, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(CONTENT)
    (tmp_path / "part.ranges").write_text(note)
    part = PartFile(tmp_path / "part", EXPECTED)
    assert part.arrived == MB
    fill(part, MB, 10 * MB)
    part.leave(part.generation, MB, 10 * MB)
    part.close()
    assert PartFile(tmp_path / "part", EXPECTED).gaps() == [(10 * MB, 40 * MB)]


def test_a_file_without_a_note_is_what_arrived(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(CONTENT[: 7 * MB])
    part = PartFile(tmp_path / "part", EXPECTED)
    assert part.gaps() == [(7 * MB, 40 * MB)]
    fill(part, 30 * MB, 31 * MB)
    part.leave(part.generation, 30 * MB, 31 * MB)
    part.close()
    assert PartFile(tmp_path / "part", EXPECTED).gaps() == [(7 * MB, 30 * MB), (31 * MB, 40 * MB)]


def test_a_file_that_is_too_long_starts_over(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(CONTENT + b"x")
    assert PartFile(tmp_path / "part", EXPECTED).arrived == 0


def test_nobody_writes_into_a_file_that_was_started_over_or_closed(tmp_path: Path) -> None:
    part = PartFile(tmp_path / "part", EXPECTED)
    before = part.generation
    fill(part, 0, 2 * MB)
    assert part.start_over() == 2 * MB
    with pytest.raises(StartedOverError):
        part.write(before, 0, 0, b"x")
    before = part.generation
    part.close()
    with pytest.raises(StartedOverError):
        part.write(before, 0, 0, b"x")
    assert os.listdir(tmp_path) == []

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.page_cache import are_resident, make_cold

from nbloader import LoadCancelled
from nbloader._options.values import MOST_READERS
from nbloader._reading import part_reader
from nbloader._reading import parts as _parts
from nbloader._reading import readahead as _readahead
from nbloader._reading.pace import Pace
from nbloader._reading.parts import Part, make_parts
from nbloader._reading.readahead import Readahead
from nbloader._system.memory_file import MemoryFile
from nbloader._system.page_cache import Missing, find_missing

MB = 1 << 20


@pytest.fixture(autouse=True)
def _parts_of_one_megabyte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_parts, "_LEAST_PART", MB)
    monkeypatch.setattr(_readahead, "_TELL_SECONDS", 0.001)


def never() -> None: ...


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = []
    for number, size in enumerate((9 * MB + 123, 1, 4 * MB)):
        path = tmp_path / str(number)
        path.write_bytes(os.urandom(size))
        make_cold(path)
        paths.append(path)
    return paths


def all_of(paths: Sequence[Path]) -> list[list[Missing]]:
    sizes = [path.stat().st_size for path in paths]
    return [[Missing(0, size, size)] for size in sizes]


def reading(paths: Sequence[Path], counts: list[tuple[int, int]], readers: int | None = 4, **more: Any) -> Readahead:
    parts = more.pop("parts", None) or make_parts(all_of(paths))
    on_read = more.pop("on_read", lambda file, size: counts.append((file, size)))
    return Readahead(paths, parts, Pace(MOST_READERS, readers), on_read, **more)


def test_parts_cover_what_is_missing_once() -> None:
    missing = [[Missing(0, 3 * MB + 5, 3 * MB + 5), Missing(8 * MB, 100, 40)], [], [Missing(0, 1, 1)]]
    parts = make_parts(missing)
    assert [part.length for part in parts] == [MB, MB, MB, 5, 100, 1]
    assert sum(part.absent for part in parts) == 3 * MB + 5 + 40 + 1


def test_parts_come_in_the_order_of_use_and_the_unused_last() -> None:
    missing = [[Missing(0, 4 * MB, 4 * MB)], [Missing(0, 2 * MB, 2 * MB)]]
    use = [(1, MB, MB + 10), (0, 3 * MB - 1, 3 * MB + 1), (0, 0, 10)]
    parts = make_parts(missing, use)
    assert [(part.file, part.offset // MB) for part in parts] == [(1, 1), (0, 2), (0, 3), (0, 0), (0, 1), (1, 0)]


def test_a_large_checkpoint_has_no_more_parts_than_a_small_one() -> None:
    assert len(make_parts([[Missing(0, 10**12, 10**12)]])) <= 4096


def test_the_first_parts_are_small_where_there_is_much_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    missing = [[Missing(0, 21 * MB, 21 * MB)], [Missing(0, MB, 10), Missing(MB, 20 * MB, 20 * MB)]]
    parts = make_parts(missing, [(1, 0, 1), (1, 9 * MB, 10 * MB)])
    assert parts[0] == Part(1, 0, MB, 10)  # scattered pages are read in one piece
    small = parts[1:61]
    assert [part.length for part in small] == [256 << 10] * 60
    assert small[0].offset == 9 * MB
    assert parts[61] == Part(0, 11 * MB, MB, MB)
    covered = sorted((part.file, part.offset, part.end) for part in parts)
    assert sum(end - begin for _, begin, end in covered) == 42 * MB
    assert all(after[1] == before[2] for before, after in pairwise(covered) if after[0] == before[0])


@pytest.mark.parametrize("readers", [1, 7, None])
def test_every_byte_is_read_and_counted_once(files: list[Path], readers: int | None) -> None:
    counts: list[tuple[int, int]] = []
    readahead = reading(files, counts, readers)
    readahead.start()
    readahead.wait(never)
    readahead.stop()
    for number, path in enumerate(files):
        sizes = [size for file, size in counts if file == number]
        assert sizes[0] == 0
        assert sum(sizes) == path.stat().st_size
    assert are_resident(files)


def test_without_preadv_every_byte_is_read(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "preadv")
    counts: list[tuple[int, int]] = []
    readahead = reading(files, counts)
    readahead.start()
    readahead.wait(never)
    assert sum(size for _, size in counts) == sum(path.stat().st_size for path in files)
    assert are_resident(files)


def test_storage_that_cannot_send_is_read_into_a_buffer(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(out: int, fd: int, offset: int, count: int) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "sendfile", refuse)
    readahead = reading(files, [])
    readahead.start()
    readahead.wait(never)
    assert are_resident(files)


def test_a_fault_of_the_storage_is_raised_by_who_waits() -> None:
    # The one file of every Linux whose first page cannot be read: what this process has at address 0.
    faulty = Path("/proc/self/mem")
    readahead = Readahead([faulty], [Part(0, 0, MB, MB)], Pace(MOST_READERS), lambda file, size: None)
    readahead.start()
    with pytest.raises(OSError, match="Input/output error") as raised:
        readahead.wait(never)
    assert raised.value.errno == errno.EIO
    assert raised.value.filename == "/proc/self/mem"
    readahead.stop()


def test_a_range_is_there_before_the_rest_is(files: list[Path]) -> None:
    passed, blocked = threading.Event(), threading.Event()

    def hold(file: int, size: int) -> None:
        if file == 2 and not size:
            blocked.set()
            passed.wait(30)

    readahead = reading(files, [], 1, on_read=hold)
    readahead.start()
    readahead.wait_for(0, 3 * MB, 3 * MB + 1, never)
    blocked.wait(30)
    assert find_missing(files[2]) != []
    assert not readahead.is_over
    passed.set()
    readahead.wait(never)
    assert find_missing(files[2]) == []
    readahead.stop()


def test_waiting_lasts_until_the_bytes_are_there(files: list[Path]) -> None:
    released = threading.Event()
    readahead = reading(files, [], 1, on_read=lambda file, size: released.wait(30) and None)
    readahead.start()
    waiting = threading.Thread(target=readahead.wait_for, args=(0, 0, 1, never))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    released.set()
    waiting.join(30)
    assert not waiting.is_alive()
    readahead.stop()


def test_what_has_arrived_of_a_read_that_is_under_way_is_told(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived, released, told = threading.Event(), threading.Event(), threading.Event()
    sendfile = os.sendfile

    def half(out: int, fd: int, offset: int, count: int) -> int:
        count = sendfile(out, fd, offset, MB // 2)
        arrived.set()
        released.wait(30)
        return count

    monkeypatch.setattr(os, "sendfile", half)
    counts: list[int] = []

    def count(file: int, size: int) -> None:
        counts.append(size)
        if sum(counts) >= MB // 2:
            told.set()

    readahead = reading(files, [], 1, on_read=count)
    readahead.start()
    arrived.wait(30)
    assert told.wait(30)
    released.set()
    readahead.wait(never)
    readahead.stop()


def test_little_is_read_by_who_asks(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * MB))
    readers: list[int] = []
    counts: list[tuple[int, int]] = []
    readahead = reading([path], counts, on_readers=readers.append)
    assert readahead.is_little
    readahead.run()
    assert readahead.is_over
    assert readers == []
    assert counts == [(0, 0), (0, 4 * MB)]


def test_where_a_part_takes_long_the_next_is_read_in_short_pieces(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sendfile, asked = os.sendfile, list[int]()

    def note(out: int, fd: int, offset: int, count: int) -> int:
        asked.append(count)
        return sendfile(out, fd, offset, count)

    monkeypatch.setattr(os, "sendfile", note)
    monkeypatch.setattr(part_reader, "_LONG", -1.0)
    monkeypatch.setattr(part_reader, "_SHORT_READ", MB // 4)
    readahead = reading(files[:1], [], 1)
    readahead.start()
    readahead.wait(never)
    readahead.stop()
    assert asked == [MB, *[MB // 4] * 32, 123]


def test_copies_hold_the_same_bytes_and_are_given_back(files: list[Path]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    copies = {number: MemoryFile(path.stat().st_size) for number, path in enumerate(files)}
    paths = {number: copy.path for number, copy in copies.items()}
    readahead = reading(files, [], copies=copies)
    readahead.start()
    readahead.wait(never)
    for number, path in enumerate(files):
        assert Path(paths[number]).read_bytes() == path.read_bytes()
    readahead.stop()
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_more_than_the_window_is_read_ahead_of_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(32 * MB))
    sendfile, read, farthest, used = os.sendfile, [0], [0], [0]

    def count(out: int, fd: int, offset: int, length: int) -> int:
        used_before = used[0]
        farthest[0] = max(farthest[0], offset + length - used_before)
        sent = sendfile(out, fd, offset, length)
        read[0] += sent
        return sent

    monkeypatch.setattr(os, "sendfile", count)
    readahead = reading([path], [], 4, window=4 * MB)
    readahead.start()
    for number in range(32):
        used[0] = (number + 1) * MB  # what is waited for counts as used
        readahead.wait_for(0, number * MB, (number + 1) * MB, never)
    readahead.wait(never)
    readahead.stop()
    assert read[0] == 32 * MB
    assert farthest[0] <= 4 * MB


def test_what_is_waited_for_is_read_beyond_the_window(files: list[Path]) -> None:
    readahead = reading(files, [], 2, window=MB)
    readahead.start()
    readahead.wait_for(2, 0, 4 * MB, never)
    readahead.stop()


def test_a_cancel_reaches_who_waits(files: list[Path]) -> None:
    released = threading.Event()

    def cancelled() -> None:
        raise LoadCancelled("enough")

    readahead = reading(files, [], 1, on_read=lambda file, size: released.wait(30) and None)
    readahead.start()
    with pytest.raises(LoadCancelled):
        readahead.wait(cancelled)
    released.set()
    readahead.stop()


def test_stopping_leaves_no_thread_and_no_file_open(files: list[Path]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    readahead = reading(files, [], 3)
    readahead.start()
    readahead.wait_for(0, 0, 1, never)
    readahead.stop(30)
    assert not [thread for thread in threading.enumerate() if thread.name == "nbloader-reader"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_shrinks_is_an_error_that_names_it(files: list[Path]) -> None:
    def shrink(file: int, size: int) -> None:
        if file == 0 and not size:
            os.truncate(files[0], MB)

    readahead = reading(files, [], 1, on_read=shrink)
    readahead.start()
    with pytest.raises(OSError, match="ended at byte") as info:
        readahead.wait(never)
    assert info.value.filename == str(files[0])
    readahead.stop()


def test_a_file_that_cannot_be_opened_is_an_error_that_names_it(files: list[Path]) -> None:
    parts = [Part(1, 0, 1, 1)]
    files[1].unlink()
    readahead = reading(files, [], 1, parts=parts)
    readahead.start()
    with pytest.raises(FileNotFoundError) as info:
        readahead.wait(never)
    assert info.value.filename == str(files[1])
    readahead.stop()


def test_the_number_of_readers_is_told(files: list[Path]) -> None:
    told: list[int] = []
    readahead = reading(files, [], 5, on_readers=told.append)
    readahead.start()
    readahead.wait(never)
    readahead.stop()
    assert told == [5]


def test_a_file_that_is_read_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / str(number) for number in range(100)]
    for path in paths:
        path.write_bytes(bytes(4096))
    sendfile, told = os.sendfile, threading.Event()

    def once_told(*args: int) -> int:
        told.wait(30)
        told.clear()
        return sendfile(*args)

    most = [0]

    def count(file: int, size: int) -> None:
        most[0] = max(most[0], len(os.listdir("/proc/self/fd")))
        told.set()

    monkeypatch.setattr(os, "sendfile", once_told)
    before = len(os.listdir("/proc/self/fd"))
    readahead = reading(paths, [], 1, on_read=count)
    readahead.start()
    readahead.wait(never)
    readahead.stop()
    assert most[0] - before < 10

"""The number of readers, found on imagined storage: a function from (reads under way, bytes) to seconds."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

import pytest

from nbloader._options.values import MOST_READERS
from nbloader._reading.pace import Pace

GB = 10**9
Storage = Callable[[int, int], float]


def network(reads: int, size: int) -> float:
    """Answer every request after 1 ms, at 200 MB/s, however many there are."""
    return 0.001 + size / 200e6


def narrow_network(reads: int, size: int) -> float:
    """Do so up to 1.2 GB/s together."""
    return max(network(reads, size), reads * size / 1.2e9)


def disk(reads: int, size: int) -> float:
    """Give 1.5 GB/s together, whoever asks."""
    return reads * size / 1.5e9


def seeking(reads: int, size: int) -> float:
    """Give 150 MB/s to one, and move its head 8 ms for each read of several."""
    return reads * (size / 150e6 + (0.008 if reads > 1 else 0))


def seeking_much(reads: int, size: int) -> float:
    """Give 150 MB/s to one, and move its head 10 ms for each 128 KiB that several read."""
    return reads * (size / 150e6 + (0.010 * size / (128 << 10) if reads > 1 else 0))


def far_network(reads: int, size: int) -> float:
    """Answer every request after 100 ms, at 50 MB/s."""
    return 0.1 + size / 50e6


def crowded(reads: int, size: int) -> float:
    """Get slower with every read beyond four at once."""
    return reads * size / 1.5e9 * (1 + 0.1 * max(0, reads - 4))


def read(
    storage: Storage,
    total: int = 20 * GB,
    readers: int | None = None,
    processors: int = 64,
    noticed: Callable[[float], float] = lambda ended: ended,
) -> tuple[float, Pace]:
    """Read `total` bytes; returns the seconds it takes, and the pace in the end. `noticed` is when an end is seen."""
    pace = Pace(MOST_READERS, readers, processors)
    now, left = 0.0, total
    running: list[tuple[float, int]] = []
    while left or running:
        while left and len(running) < pace.readers:
            size = min(256 << 10 if total - left < 16 << 20 else 4 << 20, left)
            left -= size
            heapq.heappush(running, (noticed(now + storage(len(running) + 1, size)), size))
        now, size = heapq.heappop(running)
        pace.finished(now, size)
    return now, pace


def test_storage_that_answers_many_at_once_gets_many_readers() -> None:
    seconds, pace = read(network)
    assert pace.readers == MOST_READERS
    assert seconds < 1.2 * 20 * GB / (MOST_READERS * 200e6)


@pytest.mark.parametrize(("storage", "limit"), [(narrow_network, 1.2e9), (disk, 1.5e9)])
def test_what_the_storage_gives_is_reached(storage: Storage, limit: float) -> None:
    seconds, _ = read(storage)
    assert seconds < 1.05 * 20 * GB / limit


def test_storage_that_suffers_from_many_gets_few() -> None:
    _, pace = read(crowded)
    assert pace.readers <= 8


@pytest.mark.parametrize(("storage", "most"), [(seeking, 1.4), (seeking_much, 1.6)])
@pytest.mark.parametrize("gigabytes", [0.3, 1, 5])
def test_a_disk_that_seeks_is_left_to_few_readers(gigabytes: float, storage: Storage, most: float) -> None:
    total = round(gigabytes * GB)
    seconds, pace = read(storage, total)
    assert pace.readers <= 2
    assert seconds < most * total / 150e6


def test_a_busy_process_is_not_taken_for_a_disk_that_seeks() -> None:
    """An import holds the GIL for some time now and then, so that threads see late that they have read."""
    for seed in range(100):
        chance = random.Random(seed)
        holds: list[tuple[float, float]] = []
        at = 0.0
        while at < 20:
            at += chance.expovariate(20)
            holds.append((at, at := at + chance.uniform(0.02, 0.1)))
        seconds, _ = read(
            network,
            3 * GB,
            noticed=lambda ended, holds=holds: next((end for begin, end in holds if begin <= ended < end), ended),
        )
        assert seconds < 2  # as long as one reader alone is left to itself


def test_one_reader_alone_is_left_at_once_where_every_answer_takes_long() -> None:
    seconds, pace = read(far_network)
    assert pace.readers == MOST_READERS
    assert seconds < 1.3 * 20 * GB / MOST_READERS * (1 / 50e6 + 0.1 / (4 << 20))


def test_a_fixed_number_stays() -> None:
    _, pace = read(network, readers=3)
    assert pace.readers == 3


def test_where_the_processors_limit_reading_no_more_readers_are_tried() -> None:
    _, pace = read(network, processors=2)
    assert pace.readers == 24
    _, pace = read(lambda reads, size: network(reads, size) * 20, processors=2)
    assert pace.readers == MOST_READERS

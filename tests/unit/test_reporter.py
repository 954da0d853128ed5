from __future__ import annotations

from nbloader._progress.reporter import PORTION_LEAST_SECONDS, PORTION_SECONDS, Tally


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def tally(most: int = 10**9) -> tuple[Tally, Clock, list[tuple[int, ...]]]:
    portions: list[tuple[int, ...]] = []
    clock = Clock()
    return Tally(lambda *details: portions.append(details), clock, most), clock, portions


def test_counts_are_joined_until_time_has_passed() -> None:
    counting, clock, portions = tally()
    counting.add(0, 1, 10)
    counting.add(0, 2, 20)
    assert portions == [(0, 0, 0)]
    clock.now += PORTION_SECONDS
    counting.add(0, 3, 30)
    assert portions == [(0, 0, 0), (0, 6, 60)]


def test_a_portion_is_passed_on_once_it_is_large() -> None:
    counting, clock, portions = tally(most=100)
    counting.add(0, 60)
    counting.add(0, 60)
    assert portions == [(0, 0)]
    clock.now += PORTION_LEAST_SECONDS
    counting.add(0, 60)
    counting.add(0, 60)
    assert portions == [(0, 0), (0, 180)]


def test_shards_are_told_apart_and_nothing_is_lost() -> None:
    counting, _, portions = tally()
    for shard in (0, 1, 0, 1, 0):
        counting.add(shard, 5)
    counting.flush()
    counting.flush()
    assert portions == [(0, 0), (1, 0), (0, 15), (1, 10)]

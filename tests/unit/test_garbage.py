"""Collections are rarer for a while, and as before afterwards."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from nbloader._system.garbage import rare_collections


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def collections_of(count: int) -> int:
    """Return how often Python collects while `count` objects are made and kept."""
    begun = []
    gc.callbacks.append(lambda phase, info: begun.append(phase))
    kept = [[number] for number in range(count)]
    gc.callbacks.pop()
    return begun.count("start") if kept else 0


def test_a_tenth_of_the_collections_run() -> None:
    gc.set_threshold(700, 10, 10)
    usual = collections_of(100_000)
    with rare_collections():
        assert collections_of(100_000) < usual / 10
    assert gc.get_threshold() == (700, 10, 10)


@pytest.mark.parametrize("threshold", [(0, 10, 10), (50_000, 20, 30)])
def test_who_collects_never_or_rarely_continues_to(threshold: tuple[int, int, int]) -> None:
    gc.set_threshold(*threshold)
    with rare_collections():
        assert gc.get_threshold() == threshold
    assert gc.get_threshold() == threshold


def test_what_others_set_meanwhile_stays() -> None:
    gc.set_threshold(700, 10, 10)
    with rare_collections():
        gc.set_threshold(123, 4, 5)
    assert gc.get_threshold() == (123, 4, 5)


def test_loads_that_overlap_leave_it_as_it_was() -> None:
    gc.set_threshold(700, 10, 10)
    first, second = rare_collections(), rare_collections()
    with first:
        with second:
            pass
        assert gc.get_threshold()[0] > 700
    assert gc.get_threshold() == (700, 10, 10)

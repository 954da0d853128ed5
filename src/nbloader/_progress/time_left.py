"""The time that a load still takes, from what earlier loads took and from the bytes that move now.

A load has two lanes. The loading thread prepares (imports, tokenizer), places the tensors and finishes. Beside it,
files are downloaded, or the weights are read. Placing begins once the load is prepared and all files are there; it ends
after the last byte is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from nbloader._progress.events import Expected

RATE_WINDOW = 5.0
"""Seconds over which the rate is measured."""
RATE_STEP = 0.1
DOWNLOADED, READ, PLACED = 1, 2, 3
"""Columns of the moves."""

_LEAST_SECONDS = 0.5  # of a measurement that nothing else confirms
_LEAST_SHARE = 0.1  # of the bytes to place; placing begins with work that moves none
_LONGER = 0.1  # share of its time so far that something still takes, once it takes longer than expected


class Lane(NamedTuple):
    """Bytes that move at one rate: `done` since the load began, and those that are `left`."""

    done: int
    left: int


class Progress(NamedTuple):
    """How far a load is; times in seconds since it began, None for what has not happened.

    `moves` are (seconds, bytes downloaded, read, placed) since the load began, the lanes in the same order.
    """

    now: float
    prepares: float | None
    places: float | None
    placed: float | None
    lanes: tuple[Lane, Lane, Lane]
    moves: Sequence[tuple[float, int, int, int]]


def seconds_left(progress: Progress, expected: Expected | None) -> float | None:
    """Return the estimated seconds until the load is ready; None while they cannot be told.

    Without an earlier load of the kind, they can be told while files are downloaded, as those of the download, and once
    a tenth of the weights is placed.
    """
    downloads, reads, places = progress.lanes
    download = _seconds(progress, DOWNLOADED, None)
    has_placed_little = progress.places is None or places.done < _LEAST_SHARE * (places.done + places.left)
    if expected is None and has_placed_little:
        return download if downloads.left else None
    usual_reading = usual_placing = None
    preparing = finishing = 0.0
    if expected is not None:
        usual_reading = None if expected.read_rate is None else reads.left / expected.read_rate
        preparing = _still(expected.preparing, progress.prepares, progress.now) if progress.places is None else 0.0
        # Placing begins with work that moves no bytes, and waits where bytes are missing: neither says all of it.
        usual_placing = _still(expected.placing, progress.places, progress.now)
        if places.left:
            usual_placing = min(usual_placing, expected.placing * places.left / (max(0, places.done) + places.left))
        finishing = _still(expected.finishing, progress.placed, progress.now)
    # What has just been downloaded is in memory.
    reading = 0.0 if downloads.left else _seconds(progress, READ, usual_reading)
    placing = 0.0 if progress.placed is not None else _seconds(progress, PLACED, usual_placing)
    if download is None or reading is None or placing is None:
        return None
    return max(max(preparing, download) + placing, reading) + finishing


def _still(expected: float, began: float | None, now: float) -> float:
    """Return how long something still takes that should take `expected` seconds; it may take longer."""
    worked = 0.0 if began is None else now - began
    return max(expected - worked, _LONGER * worked)


def _seconds(progress: Progress, column: int, usual: float | None) -> float | None:
    """Return the seconds that one lane still takes; None if that cannot be told.

    The rate of now counts more, the more is done; what is `usual` for the bytes left counts for the rest.
    """
    done, left = progress.lanes[column - 1]
    if left <= 0:
        return 0.0
    rate = rate_of(progress, column, RATE_STEP if usual is not None else _LEAST_SECONDS)
    if usual is None or not rate:
        return usual if not rate else left / rate
    share = max(0, done) / (max(0, done) + left)
    return share * left / rate + (1 - share) * usual


def rate_of(progress: Progress, column: int, least_seconds: float = RATE_STEP) -> float:
    """Return the bytes a second of a column of the moves, over the last seconds; 0 if that cannot be told yet."""
    recent = [move for move in progress.moves if move[0] >= progress.now - RATE_WINDOW]
    before = [move for move in recent if not move[column]]
    if not recent:
        return 0.0
    first = (before or recent[:1])[-1]
    began = max(first[0], progress.places or 0.0) if column == PLACED else first[0]
    seconds = progress.now - began
    return max(0, recent[-1][column] - first[column]) / seconds if seconds >= least_seconds else 0.0

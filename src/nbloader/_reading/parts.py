"""The parts of files to read, and their order."""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from nbloader._system.page_cache import Missing

_LEAST_PART = 4 << 20  # bytes; each read waits for the GIL once, so smaller ones are slower; larger ones gain nothing
_MOST_PARTS = 4000  # beside the first ones
_FIRST_PART = 256 << 10  # bytes of the parts that show how storage answers; they are few, and not all there is to read
_FIRST_BYTES = 16 << 20


class Part(NamedTuple):
    """A part of a file that is read in one piece; `absent` of its bytes are not in memory yet."""

    file: int
    offset: int
    length: int
    absent: int

    @property
    def end(self) -> int:
        """The offset in the file at which the part ends."""
        return self.offset + self.length


def make_parts(missing: Sequence[Sequence[Missing]], use: Iterable[tuple[int, int, int]] = ()) -> list[Part]:
    """Return the parts to read, in the order in which they will be needed.

    Parameters
    ----------
    missing
        For each file, the pieces that are not in memory, by offset.
    use
        (file, begin, end) of the bytes that will be used, in that order. Bytes that are never used come last.
    """
    total = sum(piece.length for pieces in missing for piece in pieces)
    pages = total // _MOST_PARTS // mmap.PAGESIZE + 1  # whole pages, for direct reads
    unit = max(_LEAST_PART, pages * mmap.PAGESIZE)
    files = [[part for piece in pieces for part in _split(file, piece, unit)] for file, pieces in enumerate(missing)]
    first_use: dict[Part, int] = {}
    for rank, (file, begin, end) in enumerate(use):
        for part in _overlapping(files[file], begin, end):
            first_use.setdefault(part, rank)
    parts = [part for parts in files for part in parts]
    parts.sort(key=lambda part: first_use.get(part, len(first_use) + len(parts) + part.file))
    return list(_with_small_first(parts)) if total > 2 * _FIRST_BYTES else parts


def _with_small_first(parts: Sequence[Part]) -> Iterator[Part]:
    left = _FIRST_BYTES
    for part in parts:
        if left > 0 and part.absent == part.length:
            size = min(part.length, left)
            yield from _split(part.file, Missing(part.offset, size, size), _FIRST_PART)
            if size < part.length:
                yield Part(part.file, part.offset + size, part.length - size, part.length - size)
        else:
            yield part
        left -= part.length


def _split(file: int, piece: Missing, unit: int) -> list[Part]:
    if piece.absent != piece.length:
        return [Part(file, *piece)]
    return [
        Part(file, piece.offset + begin, length, length)
        for begin in range(0, piece.length, unit)
        for length in (min(unit, piece.length - begin),)
    ]


def _overlapping(parts: Sequence[Part], begin: int, end: int) -> Sequence[Part]:
    first = bisect_left(parts, begin, key=lambda part: part.end - 1)
    last = bisect_left(parts, end, key=lambda part: part.offset)
    return parts[first:last]

"""Sets of numbers as spans [first, end): what of a run of deliveries is done with. Values, no I/O."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise

#: Spans kept of a set: of what is forgotten beyond that, the smallest first, nothing is known any more.
KEPT = 1024


class Spans:
    """Ascending, apart from each other."""

    __slots__ = ("all",)

    def __init__(self, spans: Iterable[tuple[int, int]] = ()) -> None:
        self.all: list[tuple[int, int]] = []
        for first, end in spans:
            self.add(first, end)

    def __len__(self) -> int:
        return sum(end - first for first, end in self.all)

    def add(self, first: int, end: int) -> bool:
        """Put [first, end) in; whether that is news."""
        if end <= first:
            return False
        begin = bisect_left(self.all, first, key=lambda span: span[1])
        stop = bisect_right(self.all, end, key=lambda span: span[0])
        if stop - begin == 1 and self.all[begin][0] <= first and end <= self.all[begin][1]:
            return False
        if begin < stop:
            first, end = min(first, self.all[begin][0]), max(end, self.all[stop - 1][1])
        self.all[begin:stop] = [(first, end)]
        if len(self.all) > KEPT:
            self.all.remove(min(self.all, key=lambda span: span[1] - span[0]))
        return True

    def lacks(self, end: int) -> Iterator[tuple[int, int]]:
        """What of [0, end) is not in it."""
        edges = [(0, 0), *self.all, (end, end)]
        for (_, last), (first, _) in pairwise(edges):
            if last < min(first, end):
                yield last, min(first, end)

    def count(self, first: int, end: int) -> int:
        """How many of [first, end) are in it."""
        return sum(max(0, min(end, last) - max(first, begin)) for begin, last in self.all)

"""Which numbers of one publisher have come, and which are lacking: those are asked for, each time later.

Sans-IO: numbers as they travel and ``now`` (monotonic seconds) come in. Inside they count without wrapping,
as the publisher does that says up to where it has numbered its events.
"""

from __future__ import annotations

from bisect import bisect_right

#: Numbers that come after a gap and show that it is none of order; seconds after which it is none anyway, and
#: after which what the publisher has told to have sent should have come.
SURE, REORDER, TAIL = 8, 0.0005, 0.002
#: Seconds until what was asked for is asked for again: at first, where it did not take longer, and at most.
AGAIN, AGAIN_MOST = 0.002, 0.25
#: Gaps that are remembered.
KEPT = 4096

_HALF = 0x80000000
_U32 = 0xFFFFFFFF


class Gap:
    """The numbers [first, end) lack.

    ``tries``: how often they were asked for, the first time at ``asked``.
    """

    __slots__ = ("asked", "due", "end", "first", "tries")

    def __init__(self, first: int, end: int, due: float) -> None:
        self.first, self.end, self.due = first, end, due
        self.tries, self.asked = 0, 0.0

    def part(self, first: int, end: int) -> Gap:
        """Some of it."""
        made = Gap(first, end, self.due)
        made.tries, made.asked = self.tries, self.asked
        return made


class Seen:
    """Of one publisher on one topic, from the number ``lowest`` on."""

    def __init__(self, lowest: int) -> None:
        #: Below this nobody wants to know anything.
        self.lowest = lowest
        #: Beyond all that came, or that is known to be lacking.
        self.next = lowest
        #: Apart from each other, ascending.
        self.gaps: list[Gap] = []
        #: Whether gaps were forgotten for want of room: then since when nothing is certain any more.
        self.forgot: float | None = None
        self._told = (lowest, 0.0)
        # What it took until something came that was asked for, seconds.
        self._way = 0.0

    def near(self, number: int) -> int:
        """A number that travels in 32 bits, in full."""
        ahead = (number - self.next) & _U32
        return self.next + (ahead if ahead < _HALF else ahead - _U32 - 1)

    def raise_to(self, lowest: int) -> None:
        """Below this number nothing is asked for any more."""
        if lowest <= self.lowest:
            return
        self.lowest = lowest
        self.next = max(self.next, lowest)
        self._cut(0, lowest)

    def told(self, numbered: int, now: float) -> None:
        """The publisher has sent numbers up to this one."""
        if numbered > self._told[0]:
            self._told = numbered, now

    def came(self, number: int, count: int, now: float) -> None:
        """So many numbers have come, from this one on."""
        first = self.near(number)
        end = first + count
        if end <= self.lowest or end < 0:
            return
        if first > self.next:
            self._lack(self.next, first, now + REORDER, now)
        elif first < self.next:
            self._answered(first, now)
            self._cut(first, min(end, self.next))
        self.next = max(self.next, end)

    def has(self, number: int) -> bool:
        """Whether a number has come, as far as that is known."""
        return number < self.next and self.gap(number) is None

    def gap(self, number: int) -> Gap | None:
        """The gap in which a number lies."""
        index = bisect_right(self.gaps, number, key=lambda gap: gap.first) - 1
        return self.gaps[index] if index >= 0 and number < self.gaps[index].end else None

    def due(self, now: float) -> list[Gap]:
        """What is to be asked for now."""
        numbered, at = self._told
        if numbered > self.next and now >= at + TAIL:
            self._lack(self.next, numbered, now, now)
            self.next = numbered
        return [gap for gap in self.gaps if gap.due <= now or (not gap.tries and self.next - gap.end >= SURE)]

    def asked(self, gap: Gap, count: int, now: float) -> None:
        """Of a gap so many numbers, the first ones, were asked for."""
        if count < gap.end - gap.first:
            rest = gap.part(gap.first + count, gap.end)
            gap.end = gap.first + count
            self.gaps.insert(self.gaps.index(gap) + 1, rest)
        if not gap.tries:
            gap.asked = now
        gap.due = now + min(max(AGAIN, 2 * self._way) * 2**gap.tries, AGAIN_MOST)
        gap.tries = min(gap.tries + 1, 16)

    def _answered(self, number: int, now: float) -> None:
        """A number has come that lacked: what that took, if it was asked for once."""
        gap = self.gap(number)
        if gap is not None and gap.tries == 1:
            self._way += (now - gap.asked - self._way) / 8

    def _lack(self, first: int, end: int, due: float, now: float) -> None:
        self.gaps.append(Gap(first, end, due))
        while len(self.gaps) > KEPT:
            # Whatever was in it, nobody says any more that it is lacking.
            del self.gaps[0]
            self.forgot = now

    def _cut(self, first: int, end: int) -> None:
        gaps = self.gaps
        at = max(0, bisect_right(gaps, first, key=lambda gap: gap.first) - 1)
        while at < len(gaps) and gaps[at].first < end:
            gap = gaps[at]
            if gap.end <= first:
                at += 1
                continue
            rest = [gap.part(low, high) for low, high in ((gap.first, first), (end, gap.end)) if low < high]
            gaps[at : at + 1] = rest
            at += len(rest)

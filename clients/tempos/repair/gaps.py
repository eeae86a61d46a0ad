"""What a member misses and has asked for: when it asks again, and when it gives up.

Sans-IO: spans of delivery sequences and ``now`` (seconds of any clock that never steps) come in, rows of a
request go out. Rules:

* where a network has lately put datagrams in another order, a gap is first left alone for a moment;
* what was asked for and has not come is asked for again, each time later, until its time is over, and once
  more then, for who asks may have been held up; or until the broker says that it is not to be had: then it is
  given up, which is told once;
* what comes all the same, however late, is given up no more;
* requests keep a distance, and a request has so many rows and asks for so many deliveries at most: the oldest
  gaps first;
* gaps that are remembered are bounded, and with them those that were given up.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from tempos.control import Missing

#: Seconds that a gap may be a matter of order; so many gaps are taken for that after one was.
REORDER, MIXED = 0.0005, 64
#: Seconds that two requests are apart at least: on average, and each as long as those of so many seconds were
#: fewer.
APART, APART_LEAST, SPARED = 0.003, 0.001, 0.1
#: Seconds until what was asked for is asked for again: at least, where nothing is known of the way, at most.
AGAIN_LEAST, AGAIN_FIRST, AGAIN_MOST = 0.002, 0.02, 0.2
#: Rows of one request, and deliveries that it asks for: as many as a broker answers it with.
ROWS, MOST = 48, 64
#: Seconds between two tries to tell the broker that a topic is repaired, at most.
TOLD_MOST = 2.0
#: Spans kept that are open, and of those that were given up.
KEPT = 1024

Key = tuple[int, int]


class Span(NamedTuple):
    """Delivery sequences [first, end) of a topic in an epoch, in full."""

    topic: int
    epoch: int
    first: int
    end: int


class _Gap:
    __slots__ = ("due", "end", "first", "is_last", "since", "tries")

    def __init__(self, first: int, end: int, since: float, due: float) -> None:
        self.first, self.end, self.since, self.due = first, end, since, due
        self.tries, self.is_last = 0, False

    def part(self, first: int, end: int) -> _Gap:
        """Some of it."""
        made = _Gap(first, end, self.since, self.due)
        made.tries, made.is_last = self.tries, self.is_last
        return made


class _Gaps:
    """Gaps of one epoch of a topic: apart from each other, ascending."""

    __slots__ = ("all",)

    def __init__(self) -> None:
        self.all: list[_Gap] = []

    def put(self, gap: _Gap) -> None:
        self.all.insert(bisect_right(self.all, gap.first, key=lambda each: each.first), gap)

    def cut(self, first: int, end: int) -> list[_Gap]:
        """Take out what lies in [first, end); the parts that were in gaps."""
        begin = max(0, bisect_right(self.all, first, key=lambda gap: gap.first) - 1)
        out: list[_Gap] = []
        rest: list[_Gap] = []
        stop = begin
        for gap in self.all[begin:]:
            if gap.first >= end:
                break
            stop += 1
            low, high = max(gap.first, first), min(gap.end, end)
            if low >= high:
                rest.append(gap)
                continue
            out.append(gap.part(low, high))
            for left, right in ((gap.first, low), (high, gap.end)):
                if left < right:
                    rest.append(gap.part(left, right))
        if out:
            self.all[begin:stop] = rest
        return out


class Count:
    """Of one topic, in datagrams: what was missed and came, and what is given up and has not come."""

    __slots__ = ("given_up", "repaired")

    def __init__(self) -> None:
        self.repaired = self.given_up = 0


class Repairs:
    """The gaps of one member. ``patience``: seconds for which each is asked for."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._open: dict[Key, _Gaps] = {}
        self._given: dict[Key, _Gaps] = {}
        self._spans = self._spans_given = 0
        self._ask_at = -APART
        #: When as many requests as were made would have been made, APART from each other.
        self._earned_at = -APART
        self._asked_at: float | None = None
        self._way: float | None = None
        #: Topics that are repaired: those of which the broker is to tell what it sent last.
        self._counts: dict[int, Count] = {}
        #: Until the broker has answered: when each is to be told, and how often it was. And those told last.
        self._new: dict[int, tuple[float, int]] = {}
        self._told: tuple[int, ...] = ()
        self._next: float | None = None
        # How many of the next gaps may be a matter of order.
        self._mixed = 0

    # What a member sees

    def follow(self, topic: int, now: float) -> None:
        """A topic is repaired; once, or when the broker may have forgotten that it is told of this."""
        self._counts.setdefault(topic, Count())
        self._new[topic] = now, 0
        self._wake(now)

    def unfollow(self, topic: int) -> None:
        """Nothing of a topic is asked for any more; what is missing of it is given up by nobody."""
        self._new.pop(topic, None)
        for key in [key for key in self._open if key[0] == topic]:
            self._spans -= len(self._open.pop(key).all)

    def follows(self, topic: int) -> bool:
        """Whether a topic is repaired."""
        return topic in self._counts

    @property
    def topics(self) -> tuple[int, ...]:
        """The topics that were repaired."""
        return tuple(self._counts)

    def first_gap(self, topic: int) -> tuple[int, int] | None:
        """Epoch and sequence of the first gap of a topic that may be filled still."""
        return min(
            ((epoch, some.all[0].first) for (of, epoch), some in self._open.items() if of == topic),
            default=None,
        )

    def count(self, topic: int) -> Count:
        """What became of a topic's gaps."""
        return self._counts.get(topic) or Count()

    def lacks(self, span: Span, now: float) -> list[Span]:
        """Deliveries are missing; what is given up for want of room."""
        gaps = self._open.setdefault((span.topic, span.epoch), _Gaps())
        due = now
        if self._mixed:
            self._mixed -= 1
            due += REORDER
        gaps.put(_Gap(span.first, span.end, now, due))
        self._spans += 1
        self._wake(due)
        if self._spans <= KEPT:
            return []
        key, oldest = min(
            ((key, gap) for key, some in self._open.items() for gap in some.all),
            key=lambda each: each[1].since,
        )
        return self._give_up(Span(*key, oldest.first, oldest.end))

    def came(self, topic: int, epoch: int, sequence: int, *, again: bool) -> None:
        """What was missing has come; ``again``: sent again by the broker."""
        key = topic, epoch
        found = self._take(key, sequence, sequence + 1)
        if found and not again:
            self._mixed = MIXED
        if not found and (given := self._given.get(key)) is not None:
            before = len(given.all)
            if given.cut(sequence, sequence + 1):
                self._counts[topic].given_up -= 1
            self._spans_given += len(given.all) - before
        if again and topic in self._counts:
            self._counts[topic].repaired += 1

    def gone(self, span: Span) -> list[Span]:
        """The broker has no more of these; what of it was missing, and is given up."""
        return self._give_up(span)

    def give_up_all(self) -> list[Span]:
        """It leaves: what is missing still is given up."""
        spans = [Span(*key, gap.first, gap.end) for key, some in self._open.items() for gap in some.all]
        return [given for span in spans for given in self._give_up(span)]

    def answered(self, now: float) -> None:
        """The request that was made last is answered."""
        if self._asked_at is not None:
            took, self._asked_at = now - self._asked_at, None
            self._way = took if self._way is None else self._way + (took - self._way) / 8
        if self._told:
            for topic in self._told:
                self._new.pop(topic, None)
            self._told = ()
            self._reckon(now)

    def refused(self) -> None:
        """The broker knows no such member, or asks for patience: what was asked for is asked for later."""
        self._asked_at = None
        self._told = ()

    # What is to be done

    @property
    def timer(self) -> float | None:
        """When there is something to be done, at the earliest; None: nothing."""
        return None if self._next is None else max(self._next, self._not_before)

    @property
    def _not_before(self) -> float:
        """When the next request may be made."""
        return max(self._ask_at + APART_LEAST, self._earned_at - SPARED)

    def expire(self, now: float) -> list[Span]:
        """What is given up, for its time is over."""
        over = [
            Span(*key, gap.first, gap.end)
            for key, some in self._open.items()
            for gap in some.all
            if gap.is_last and gap.due <= now
        ]
        return [given for span in over for given in self._give_up(span)]

    def ask(self, now: float) -> list[Missing]:
        """The rows of a request that is to be made now; none: it is not the time."""
        if now < self._not_before:
            return []
        due = sorted(
            ((gap.since, key, gap) for key, some in self._open.items() for gap in some.all if gap.due <= now),
            key=lambda each: each[0],
        )[:ROWS]
        new = [topic for topic, (at, _) in self._new.items() if at <= now][: ROWS - len(due)]
        rows = [Missing(topic, 0, 0, 0) for topic in new]
        for topic in new:
            _, tries = self._new[topic]
            self._new[topic] = now + min(AGAIN_FIRST * 2**tries, TOLD_MOST), min(tries + 1, 16)
        if new:
            self._told = tuple(new)
        left = MOST
        for _, (topic, epoch), gap in due:
            if not left:
                break
            if gap.end - gap.first > left:
                # The rest is due still: nobody was asked for it.
                self._open[topic, epoch].put(gap.part(gap.first + left, gap.end))
                self._spans += 1
                gap.end = gap.first + left
            left -= gap.end - gap.first
            rows.append(Missing(topic, epoch, gap.first, gap.end - gap.first))
            end = gap.since + self._patience
            gap.is_last = now >= end
            gap.due = now + self._again(gap.tries)
            if not gap.is_last:
                gap.due = min(gap.due, end)
            gap.tries += 1
        if rows:
            self._ask_at = now
            self._earned_at = max(self._earned_at, now) + APART
            self._asked_at = now if any(row.number for row in rows) else None
        self._reckon(now)
        return rows

    def _again(self, tries: int) -> float:
        first = AGAIN_FIRST if self._way is None else max(AGAIN_LEAST, 2 * self._way)
        return float(min(first * 2 ** min(tries, 16), AGAIN_MOST))

    def _reckon(self, now: float) -> None:
        """Find out when the next thing is to be done."""
        dues = [gap.due for some in self._open.values() for gap in some.all]
        dues += [at for at, _ in self._new.values()]
        self._next = min(dues, default=None)

    def _wake(self, at: float) -> None:
        if self._next is None or at < self._next:
            self._next = at

    def _take(self, key: Key, first: int, end: int) -> list[_Gap]:
        gaps = self._open.get(key)
        if gaps is None:
            return []
        before = len(gaps.all)
        found = gaps.cut(first, end)
        self._spans += len(gaps.all) - before
        if not gaps.all:
            del self._open[key]
        return found

    def _give_up(self, span: Span) -> list[Span]:
        key = span.topic, span.epoch
        given = [Span(*key, gap.first, gap.end) for gap in self._take(key, span.first, span.end)]
        for each in given:
            self._counts[span.topic].given_up += each.end - each.first
            self._given.setdefault(key, _Gaps()).put(_Gap(each.first, each.end, 0.0, 0.0))
            self._spans_given += 1
        for old in self._oldest_given():
            some = self._given[old]
            self._spans_given -= 1
            del some.all[0]
            if not some.all:
                del self._given[old]
        return given

    def _oldest_given(self) -> Iterator[Key]:
        while self._spans_given > KEPT:
            yield next(iter(self._given))

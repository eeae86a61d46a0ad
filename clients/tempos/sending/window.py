"""What a publisher keeps of what it has sent, its last bytes, until that is known to be at the broker.

Sans-IO. A datagram is kept under the number of its first event, which stands for all in it: it is at the
broker as a whole or not at all, and is sent again as it was. What is given up is counted under why, in
events, and told once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Sequence

from tempos import _abi, wire
from tempos.control import Confirm
from tempos.sending.asked import WORDS, Came, Cannot, Lacks, Unkept

#: Seconds by which what the broker is certain of, and what was sent since, are kept apart.
MARGIN = 0.02
#: Seconds between two sendings of one datagram; after which, and so many sendings, the broker does not take
#: it.
APART, PATIENCE, TRIES = 0.0015, 10.0, 20
#: Ranges of numbers that left the window before anything was known of them, of one topic.
RANGES = 1024

LEFT = "they had left the window before the broker was heard of them (window= more bytes)"
UNCERTAIN = (
    "the broker cannot tell whether it had them: it was started, or the topic's first member had come, only "
    "then; or its journal is too short"
)
UNTAKEN = "the broker does not take them: its `status` says what it refuses"
RAW = WORDS[Unkept.NO_JOURNAL]

_U32 = 0xFFFFFFFF
_HALF = 0x80000000


class _Entry:
    """Datagrams that left at one moment: one, whatever is in it, or some of an event each.

    ``open``: events of which it is not known that they came; ``again``: by number, when and how often one
    was sent again.
    """

    __slots__ = ("again", "at", "datagrams", "events", "open", "size")

    def __init__(self, datagrams: Sequence[bytes], events: int, size: int, at: float) -> None:
        self.datagrams, self.at, self.size = datagrams, at, size
        self.events = self.open = events
        self.again: dict[int, tuple[float, int]] = {}

    @property
    def tries(self) -> int:
        return max((tries for _, tries in self.again.values()), default=0)

    def sends(self, number: int, now: float) -> bool:
        """Whether one is sent again now; it is noted then."""
        sent_at, tries = self.again.get(number, (0.0, 0))
        if tries and now - sent_at < APART:
            return False
        self.again[number] = now, tries + 1
        return True


class Kept:
    """Of one topic, by its id. ``entries``: by the number of the first event, not wrapped."""

    def __init__(self, window: Window, topic: int) -> None:
        self._window = window
        self.topic = topic
        self.entries: dict[int, _Entry] = {}
        #: [first, end, events] of what left the window.
        self.left: list[list[int]] = []
        #: Beyond the last number that was put, and below which none is asked about any more.
        self.next = self.lowest = 0
        self.given_up: Counter[str] = Counter()
        self.all_given_up = 0
        #: Events of a raw topic that were told of.
        self.raw = 0

    def near(self, number: int) -> int:
        """A number that travels in 32 bits, in full."""
        ahead = (number - self.next) & _U32
        return self.next + (ahead if ahead < _HALF else ahead - _U32 - 1)

    def put(self, datagram: bytes, events: int) -> None:
        """A datagram has left; what is a request or a probe is not kept."""
        if not wire.flags_of(datagram) & _abi.FLAG_ENVELOPE:
            number = self.near(wire.named(datagram)[1])
            self.next = max(self.next, number + events)
            self._window.put(self, number, (datagram,), events)

    def put_all(self, datagrams: Sequence[bytes]) -> None:
        """Datagrams of an event each have left together, with numbers that follow each other; no requests."""
        number = self.near(wire.named(datagrams[0])[1])
        events = len(datagrams)
        self.next = max(self.next, number + events)
        self._window.put(self, number, datagrams, events)

    @property
    def open(self) -> int:
        """Events of which it is not known what became."""
        return sum(each.open for each in self.entries.values()) + sum(each[2] for each in self.left)

    def give_up(self, why: str, events: int) -> None:
        """So many events are asked for no more."""
        self.given_up[why] += events
        self.all_given_up += events

    def question(self, *, all_left: bool, since: int = 0) -> Confirm | None:
        """What to ask the broker; None: nothing.

        ``all_left``: no number is given that has not been put; ``since``: see :class:`Confirm`.
        """
        if not self.entries and not self.left:
            return None
        if all_left:
            lowest = min(next(iter(self.entries), self.next), self.left[0][0] if self.left else self.next)
            self.lowest = max(self.lowest, lowest)
        return Confirm(self.topic, self.lowest, self.next, self.all_given_up, since)


class Window:
    """``room``: bytes of datagrams. ``on_first`` is called when there is something to ask about again."""

    def __init__(self, room: int, clock: Callable[[], float]) -> None:
        self._room = room
        self._clock = clock
        self.on_first: Callable[[], None] = lambda: None
        #: Is called, once, when something has been put into it; None: nothing is.
        self.on_next: Callable[[], None] | None = None
        self.kept: dict[int, Kept] = {}
        self._order: deque[tuple[Kept, int]] = deque()
        self._bytes = 0
        self.is_asked_about = False
        #: How often anything was put into it.
        self.puts = 0
        #: Datagrams that were sent again.
        self.resent = 0

    def of(self, topic: int) -> Kept:
        """What is kept of a topic."""
        return self.kept.get(topic) or self.kept.setdefault(topic, Kept(self, topic))

    def put(self, kept: Kept, number: int, datagrams: Sequence[bytes], events: int) -> None:
        """Keep what has left, and let go of the oldest for it."""
        size = len(datagrams[0]) * len(datagrams)
        kept.entries[number] = _Entry(datagrams, events, size, self._clock())
        self._order.append((kept, number))
        self._bytes += size
        self.puts += 1
        if not self.is_asked_about:
            self.is_asked_about = True
            self.on_first()
        elif self.on_next is not None:
            call, self.on_next = self.on_next, None
            call()
        while self._bytes > self._room:
            of, oldest = self._order.popleft()
            if (entry := of.entries.pop(oldest, None)) is not None:
                self._bytes -= entry.size
                self._leave(of, oldest, entry.events)

    @property
    def is_filling(self) -> bool:
        """Whether a quarter of it is taken."""
        return 4 * self._bytes > self._room

    @property
    def is_open(self) -> bool:
        """Whether there are events of which it is not known what became."""
        return any(each.entries or each.left for each in self.kept.values())

    def came(self, told: Came | Cannot) -> None:
        """The broker says what has come of a topic."""
        kept = self.kept.get(told.topic)
        if kept is None:
            return
        if isinstance(told, Cannot):
            self._cannot(kept, told)
            return
        if not told.lacking:
            self._all_came(kept, told.upto)
            return
        now = self._clock()
        starts = [first for first, _ in told.lacking]
        done: list[tuple[int, str]] = []
        for number, entry in kept.entries.items():
            single = len(entry.datagrams) == 1
            end = number + (1 if single else entry.events)
            if end > told.upto:
                break
            lacks = _within(told.lacking, starts, number, end)
            entry.open = entry.events if single and lacks else lacks
            if not lacks:
                done.append((number, ""))
            elif entry.at < now - told.certain_ms / 1000 + MARGIN:
                done.append((number, UNCERTAIN))
            elif now - entry.at > PATIENCE and entry.tries >= TRIES:
                done.append((number, UNTAKEN))
        for number, why in done:
            self._drop(kept, number, why)
        for each in list(kept.left):
            if each[1] > told.upto:
                break
            kept.left.remove(each)
            lacks = _within(told.lacking, starts, each[0], each[1])
            if lacks:
                kept.give_up(LEFT, min(lacks, each[2]))
        self._tidy()

    def _all_came(self, kept: Kept, upto: int) -> None:
        """Nothing lacks below ``upto``. The publisher stands still for this, so it is short."""
        entries = kept.entries
        done: list[int] = []
        size = 0
        for number, entry in entries.items():
            if number + (1 if len(entry.datagrams) == 1 else entry.events) > upto:
                break
            done.append(number)
            size += entry.size
        for number in done:
            del entries[number]
        self._bytes -= size
        kept.left = [each for each in kept.left if each[1] > upto]
        self._tidy()

    def lacks(self, told: Lacks) -> list[bytes]:
        """The broker asks for numbers again: what is to be sent."""
        kept, again = self.kept.get(told.topic), []
        if kept is None:
            return []
        now = self._clock()
        since = now - told.certain_ms / 1000 + MARGIN
        numbers = sorted(kept.entries)
        for first, count in told.ranges:
            number = kept.near(first)
            for at in numbers[max(0, bisect_right(numbers, number) - 1) :]:
                if at >= number + count:
                    break
                entry = kept.entries[at]
                if entry.at < since:
                    continue
                wanted = range(max(at, number), min(at + len(entry.datagrams), number + count))
                again += [
                    wire.as_again(entry.datagrams[each - at]) for each in wanted if entry.sends(each, now)
                ]
        self.resent += len(again)
        return again

    def _cannot(self, kept: Kept, told: Cannot) -> None:
        why = WORDS[told.why] + (f": {told.text}" if told.text else "")
        for number in list(kept.entries):
            self._drop(kept, number, why)
        for each in kept.left:
            kept.give_up(why, each[2])
        kept.left.clear()
        self._tidy()

    def _drop(self, kept: Kept, number: int, why: str = "") -> None:
        entry = kept.entries.pop(number)
        self._bytes -= entry.size
        if why:
            kept.give_up(why, entry.open)

    def _leave(self, kept: Kept, number: int, events: int) -> None:
        last = kept.left[-1] if kept.left else None
        if last is not None and (last[1] == number or len(kept.left) >= RANGES):
            last[0], last[1] = min(last[0], number), max(last[1], number + events)
            last[2] += events
        else:
            kept.left.append([number, number + events, events])

    def _tidy(self) -> None:
        order = self._order
        while order:
            kept, number = order[0]
            if number in kept.entries:
                return
            order.popleft()


def _within(spans: Sequence[tuple[int, int]], starts: Sequence[int], first: int, end: int) -> int:
    """How many numbers of [first, end) are in these, which are ascending, apart, and begin at ``starts``."""
    count = 0
    for begin, last in spans[max(0, bisect_right(starts, first) - 1) :]:
        if begin >= end:
            break
        count += max(0, min(end, last) - max(first, begin))
    return count

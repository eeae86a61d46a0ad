"""What a new member is given of the time before it: events out of the topic's journal, up to its first epoch.

Where it became a member live events begin, with that epoch: what its journal has of those before is all that
can be had, none of it came live, and nothing lies between. Without I/O.

Rules: only a member is sent anything, at its own place; so many events a request, and a second; a request
names where the one before it has come to, so nothing is remembered of who reads. Nothing of it is a delivery.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from tempos import Framing, Topic
from tempos._abi import REPLAYED
from tempos.control import Code, Replay, Request, encode_ok, packb
from tempos.session import replayed
from tempos_broker.account.accounts import Holder
from tempos_broker.control.decisions import Copies, Decision, Done, Way, holder_of
from tempos_broker.control.rate import Allowance
from tempos_broker.journal.journals import Journals
from tempos_broker.membership import Refused, Registry

if TYPE_CHECKING:
    from tempos_broker.journal.memory import Entry

    #: The event of a position; None: it is not there.
    Read = Callable[[int], Entry | None]

#: Events that one request is answered with, and that are looked for.
MOST, LOOKED_AT = 64, 256
#: Events a second, and at once: of one member, and of all.
RATE, BURST = 20_000, 1_024
RATE_ALL, BURST_ALL = 40_000, 4_096
#: Bytes of the field ``replayed`` before its rows; of a row, and of each event in it.
_HEAD, _ROW, _EVENT = 12, 32, 5
#: Events that are passed over where one is looked for by its time.
_NEAR = 16
_ANY = 1 << 63

assert REPLAYED, "live events have a 0 there"


class Stretch(Sequence[int]):
    """The positions in epochs (``spans``: first, count), in their order; of the last ``most`` events."""

    def __init__(self, spans: Sequence[tuple[int, int]], most: int) -> None:
        kept: list[tuple[int, int]] = []
        for first, count in reversed(spans):
            taken = min(count, most)
            most -= taken
            if taken:
                kept.append((first + count - taken, taken))
        kept.reverse()
        self._firsts = [first for first, _ in kept]
        self._counts = [count for _, count in kept]
        self._before = [0, *accumulate(self._counts)]

    def __len__(self) -> int:
        return self._before[-1]

    def __getitem__(self, index: Any) -> Any:
        span = bisect_right(self._before, index) - 1
        return self._firsts[span] + index - self._before[span]

    def behind(self, position: int) -> int:
        """The index of the first one after a position."""
        span = bisect_right(self._firsts, position) - 1
        if span < 0:
            return 0
        return self._before[span] + min(position - self._firsts[span] + 1, self._counts[span])


class Replays:
    """``instance``: of the broker, which those that read on must mean."""

    def __init__(self, registry: Registry, journals: Journals, instance: int) -> None:
        self._registry = registry
        self._journals = journals
        self._instance = instance
        self._allowance = Allowance(RATE, BURST, RATE_ALL, BURST_ALL)
        #: Events that were sent.
        self.sent = 0

    def request(self, request: Request, way: Way, now: float) -> Decision:
        """What a member is sent, and told of it; raises :class:`Refused`."""
        way.caller.require_any("subscribe")
        holder = holder_of(request, way)
        lease = self._registry.lease_of(holder)
        if lease is None or request.fields["instance"] != self._instance:
            raise Refused(Code.UNKNOWN_MEMBER, f"{holder.ip}:{holder.port} is no member of anything", "")
        room = min(MOST, self._allowance.left(holder, now))
        size = way.room - len(encode_ok(way.request_id)) - _HEAD
        copies: list[bytes] = []
        rows: list[tuple[Any, ...]] = []
        for wanted in request.fields["replays"]:
            topic = self._registry.numbered(wanted.topic)
            fits = min(room - len(copies), (size - _ROW) // _EVENT)
            if fits <= 0:
                break
            if topic is None or wanted.topic not in lease.topics:
                rows.append((wanted.topic, wanted.after, False, 0, []))
            else:
                way.caller.require(topic.name, "subscribe")
                rows.append(self._row(topic, holder, wanted, fits, copies))
            size -= len(packb(rows[-1]))
        self._allowance.take(holder, len(copies))
        self.sent += len(copies)
        via = self._registry.leaves_from(holder.ip, way.asked)
        sent = Copies(tuple(copies), (holder.ip, holder.port), via) if copies else None
        return Decision(way, Done({"replayed": rows}), copies=sent)

    def _row(
        self, topic: Topic, holder: Holder, wanted: Replay, fits: int, copies: list[bytes]
    ) -> tuple[Any, ...]:
        """How far it has come, whether there is more, what was not to be had, and the events in it."""
        slots, spans = self._journals.slots(topic.id), self._journals.before(topic.id, holder)
        if not slots:
            return wanted.topic, wanted.after, False, 0, []
        if spans is None:
            # A life ago, while somebody was reading: where live events began for it only that one knew.
            text = f"nobody knows since when {holder.ip}:{holder.port} is a member of {topic.name!r}"
            raise Refused(Code.UNKNOWN_MEMBER, text, "")
        read = partial(self._journals.read, topic.id)
        stretch = Stretch(spans, slots)
        index = stretch.behind(wanted.after) if wanted.after else _begin(read, stretch, wanted)
        numbers: list[int] = []
        gone, last = 0, min(len(stretch), index + LOOKED_AT)
        while index < last and len(numbers) < fits:
            copy = _copy(read, topic, stretch[index])
            if copy is None:
                gone += 1
            else:
                numbers.append(stretch[index] & 0xFFFFFFFF)
                copies.append(copy)
            index += 1
        self._journals.replays[topic.id] += not wanted.after
        self._journals.replayed[topic.id] += len(numbers)
        after = stretch[index - 1] if index else wanted.after
        return wanted.topic, after, index < len(stretch), gone, numbers


def _begin(read: Read, stretch: Stretch, wanted: Replay) -> int:
    """The index of the first event that is wanted."""
    from tempos_broker.journal.memory import now

    index = max(0, len(stretch) - wanted.last)
    if wanted.age_ms >= _ANY:
        return index
    since = now() - wanted.age_ms * 1_000_000
    low, high = index, len(stretch)
    while low < high:
        middle = (low + high) // 2
        at = next(_times(read, stretch, middle, high), None)
        # What is gone was there before what is not.
        if at is None or at < since:
            low = middle + 1
        else:
            high = middle
    return low


def _times(read: Read, stretch: Stretch, begin: int, end: int) -> Iterator[int]:
    for index in range(begin, min(end, begin + _NEAR)):
        if (entry := read(stretch[index])) is not None:
            yield entry.at_ns


def _copy(read: Read, topic: Topic, position: int) -> bytes | None:
    """An event as it is sent out of the journal; None: it is not to be had."""
    entry = read(position)
    if entry is None or entry.payload is None:
        return None
    if topic.framing is not Framing.EVENT:
        return replayed.encode_raw(topic.id, position, entry.payload)
    return replayed.encode_event(entry.payload, entry.epoch, position)

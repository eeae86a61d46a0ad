"""How lots are handed out: a member says what it has processed, asks for more, and is sent copies. No I/O.

Rules: only a member is sent anything, of a lot that it alone has, in its order; so many at a time, and so
many a second, of one member and of all; what is not to be had any more is said, and counted. What a member
says of another instance's account is passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from tempos import _abi
from tempos.control import Code, Consumed, Request, Taking, encode_ok, packb
from tempos.redelivery.asking import EACH_BYTES, HEAD_BYTES, MOST_BYTES, encode_again, encode_several
from tempos.wire import IP_UDP_OVERHEAD
from tempos_broker.control.decisions import Copies, Decision, Done, Way, holder_of
from tempos_broker.control.rate import Allowance
from tempos_broker.journal.journals import Journals
from tempos_broker.membership import Refused, Registry
from tempos_broker.redelivery import aside
from tempos_broker.redelivery.lots import Event, Lot
from tempos_broker.redelivery.topic import TopicOwed

assert _abi.REDELIVERED not in (0, _abi.REPLAYED), "live events have a 0 there"

#: Events that one request is answered with at most, of which each is a datagram or some are; and events of a
#: lot that are looked for.
MOST, MOST_TOGETHER, LOOKED_AT = 128, 512, 1024
#: Events of a lot that are looked for at a time while nobody has it.
SWEPT = 64
#: Events a second, and at once: of one member, and of all.
RATE, BURST = 40_000, 2_048
RATE_ALL, BURST_ALL = 80_000, 8_192
#: Bytes of the field ``handed`` before its rows; of a row, and of each span of what is gone in it.
_HEAD, _ROW, _GONE = 12, 40, 11


class Handing:
    """``topics``: what is owed, by topic id. ``life``: of the broker, for who is to say all again."""

    def __init__(
        self,
        registry: Registry,
        journals: Journals,
        topics: Mapping[int, TopicOwed],
        *,
        instance: int,
        life: int,
    ) -> None:
        self._registry = registry
        self._journals = journals
        self._topics = topics
        self._instance = instance
        self._life = life
        self._allowance = Allowance(RATE, BURST, RATE_ALL, BURST_ALL)

    def request(self, request: Request, way: Way, now: float) -> Decision:
        """What a member is sent, and told of it; raises :class:`Refused`."""
        way.caller.require_any("subscribe")
        holder = holder_of(request, way)
        ours = request.fields["instance"] == self._instance
        consumed: list[Consumed] = request.fields["consumed"] if ours else []
        for row in consumed:
            if (owed := self._topics.get(row.topic)) is not None:
                owed.processed(request.client, row.epoch, row.first, row.number)
        takings: list[Taking] = request.fields["taking"] if ours else []
        lease = self._registry.lease_of(holder)
        together = bool(request.fields["together"])
        room = min(MOST_TOGETHER if together else MOST, self._allowance.left(holder, now))
        via = self._registry.leaves_from(holder.ip, way.asked)
        size = way.room - len(encode_ok(way.request_id, life=self._life)) - _HEAD
        found: list[_Found] = []
        rows: list[tuple[Any, ...]] = []
        for taking in takings:
            owed, topic = self._topics.get(taking.topic), self._registry.numbered(taking.topic)
            if owed is None or topic is None:
                continue
            way.caller.require(topic.name, "subscribe")
            owed.speaks(request.client)
            group = lease.topics.get(taking.topic) if lease is not None else None
            if request.fields["final"]:
                self._done(owed, request.client, taking)
                owed.said_last(request.client)
            elif group is None:
                # Out of the topic, and not gone: what it does with its lot it still says.
                self._done(owed, request.client, taking)
            elif size >= _ROW:
                owed.listens(request.client, holder, via)
                row_, sent = self._row(owed, request.client, group.name, taking, room - len(found), size)
                rows.append(row_)
                found += sent
                size -= len(packb(row_))
        if not takings and not consumed and lease is None and holder not in self._registry.leaving():
            raise Refused(Code.UNKNOWN_MEMBER, f"{holder.ip}:{holder.port} is no member of anything", "")
        self._allowance.take(holder, len(found))
        copies = tuple(_datagrams(found, together=together))
        sent_ = Copies(copies, (holder.ip, holder.port), via) if copies else None
        return Decision(way, Done({"life": self._life, "handed": rows}), copies=sent_)

    def _done(self, owed: TopicOwed, client: int, taking: Taking) -> Lot | None:
        """What a member has a lot for, once it has said what of it is done with; None: it has none."""
        lot = owed.held_by(client)
        if lot is not None and lot.base == taking.lot:
            owed.finish(lot, taking.done)
        return lot if lot is not None and lot.left else None

    def _row(
        self, owed: TopicOwed, client: int, group: str, taking: Taking, room: int, size: int
    ) -> tuple[tuple[Any, ...], list[_Found]]:
        """What a member is told of its lot, and the events that it is sent."""
        lot = self._done(owed, client, taking) or owed.lot_of(client, group)
        if lot is None:
            return (taking.topic, owed.oldest, 0, 0, 0, 0, []), []
        first = min(lot.size, max(lot.done, taking.have if lot.base == taking.lot else 0))
        found: list[_Found] = []
        gone: list[list[int]] = []
        index, most = first, min(room, taking.room)
        for event in lot.events(first, min(lot.size, first + LOOKED_AT)):
            if len(found) >= most:
                break
            payload = self._payload(taking.topic, lot, index, event)
            if payload is not None:
                found.append(_Found(taking.topic, lot.base + index, event.epoch, payload))
            elif gone and sum(gone[-1]) == index:
                gone[-1][1] += 1
            elif _ROW + _GONE * (len(gone) + 1) > size:
                break
            else:
                gone.append([index, 1])
            index += 1
        for begin, number in gone:
            lot.gone.add(begin, begin + number)
        return (taking.topic, owed.oldest, lot.base, lot.size, first, index, gone), found

    def _payload(self, topic: int, lot: Lot, index: int, event: Event) -> bytes | None:
        """An event of a lot as it came; None: it is not to be had."""
        return lot.aside.get(index) or self._in_journal(topic, event)

    def sweep(self, topic: int, owed: TopicOwed) -> None:
        """Count what leaves the journal while nobody takes it."""
        for lot in owed.untaken_lots():
            begin = end = lot.done
            for event in lot.events(begin, min(lot.size, begin + SWEPT)):
                if self._payload(topic, lot, end, event) is not None:
                    break
                end += 1
            if end > begin:
                lot.gone.add(begin, end)
                owed.finish(lot, end)

    def keep_aside(
        self, topic: int, owed: TopicOwed, written: int, unprocessed: Iterable[Iterable[aside.Run]] = ()
    ) -> bool:
        """Copy what is about to be overwritten, as :func:`.aside.keep` says."""
        memory = self._journals.of.get(topic)
        if memory is None:
            return False
        ring = aside.Ring(written, memory.layout.slots)
        room = memory.layout.size - owed.bytes_aside
        return aside.keep(owed.lots, unprocessed, ring, room, partial(self._in_journal, topic))

    def _in_journal(self, topic: int, event: Event) -> bytes | None:
        entry = self._journals.find(topic, event.first, event.epoch, event.group, event.ticket)
        return None if entry is None else entry.payload


class _Found(NamedTuple):
    """An event of a topic that is handed out, by this number."""

    topic: int
    number: int
    epoch: int
    payload: bytes


def _datagrams(found: Sequence[_Found], *, together: bool) -> Iterator[bytes]:
    """What is sent of these; ``together``: several of them in one datagram, where they fit."""
    at = 0
    while at < len(found):
        first, end, size = found[at], at, IP_UDP_OVERHEAD + HEAD_BYTES
        while together and end < len(found):
            topic, number, epoch, payload = found[end]
            size += EACH_BYTES + len(payload)
            if size > MOST_BYTES or (topic, number - end, epoch) != (
                first.topic, first.number - at, first.epoch
            ):  # fmt: skip
                break
            end += 1
        if end - at > 1:
            payloads = [each.payload for each in found[at:end]]
            yield encode_several(first.topic, first.number, first.epoch, payloads)
        else:
            end = at + 1
            yield encode_again(first.payload, first.epoch, first.number)
        at = end

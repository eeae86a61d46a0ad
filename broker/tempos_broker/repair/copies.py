"""What members ask for that they have missed: decided here, without I/O.

Rules: only who is a member, or about to leave, is sent anything, and only what its own place in an epoch was
ticketed; so many copies at a time, and so many a second, of one member and of all; what is left out for that
is asked for again. What is not to be had any more is said: what has left the journal, what did not fit it,
and what an epoch is not remembered of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tempos import _abi
from tempos.control import Code, Missing, Request, encode_ok, packb
from tempos.wire import stamp
from tempos_broker.account.accounts import Holder
from tempos_broker.control.decisions import Copies, Decision, Done, Way, holder_of
from tempos_broker.control.rate import Allowance
from tempos_broker.journal.journals import DRAWERS
from tempos_broker.membership import Refused, Registry
from tempos_broker.repair.seats import Seats

if TYPE_CHECKING:
    from tempos_broker.journal.memory import Entry, Memory

#: Copies that one request is answered with at most.
MOST = 64
#: Deliveries of one row that are looked for at a time.
LOOKED_AT = 2 * MOST
#: Copies a second, and at once: of one member, and of all together.
RATE, BURST = 10_000, 512
RATE_ALL, BURST_ALL = 30_000, 4_096
#: Bytes of the field ``gone`` before its rows.
_GONE_HEAD = 9


class Repair:
    """``journals``: what is kept, by topic id; ``find``: an event in it, as :meth:`Journals.find`.

    ``drawn``: the tickets of a group in an epoch in force.
    """

    def __init__(
        self,
        registry: Registry,
        seats: Seats,
        journals: Mapping[int, Memory],
        find: Callable[[int, int, int, int, int], Entry | None],
        drawn: Callable[[int, int, int], int],
        listen: Callable[[int, Holder, str | None], None] = lambda topic, holder, via: None,
    ) -> None:
        self._registry = registry
        self._seats = seats
        self._journals = journals
        self._find = find
        self._drawn = drawn
        self._listen = listen
        self._allowance = Allowance(RATE, BURST, RATE_ALL, BURST_ALL)
        #: Copies that were sent, by topic id; and deliveries asked for that were not to be had.
        self.sent: dict[int, int] = {}
        self.gone: dict[int, int] = {}

    def is_here(self, holder: Holder) -> bool:
        """Whether somebody is a member of anything, or about to leave."""
        return self._registry.lease_of(holder) is not None or holder in self._registry.leaving()

    def request(self, request: Request, way: Way, now: float) -> Decision:
        """What a member is sent again, and what it is told; raises :class:`Refused`."""
        way.caller.require_any("subscribe")
        holder = holder_of(request, way)
        if not self.is_here(holder):
            raise Refused(Code.UNKNOWN_MEMBER, f"{holder.ip}:{holder.port} is no member of anything", "")
        via = self._registry.leaves_from(holder.ip, way.asked)
        room = min(MOST, self._allowance.left(holder, now))
        copies: list[bytes] = []
        gone: list[Missing] = []
        for row in request.fields["missing"]:
            topic = self._registry.numbered(row.topic)
            if topic is not None:
                way.caller.require(topic.name, "subscribe")
            if not row.number:
                if topic is not None and topic.is_repaired:
                    self._listen(row.topic, holder, via)
                continue
            if len(copies) < room:
                self._row(row, holder, room, copies, gone)
        self._allowance.take(holder, len(copies))
        fields: dict[str, Any] = {"sent": len(copies)}
        left = way.room - len(encode_ok(way.request_id, **fields)) - _GONE_HEAD
        told: list[Missing] = []
        for each in gone:
            left -= len(packb(each))
            if left < 0:
                break
            told.append(each)
            self.gone[each.topic] = self.gone.get(each.topic, 0) + each.number
        if told:
            fields["gone"] = told
        sent = Copies(tuple(copies), (holder.ip, holder.port), via) if copies else None
        return Decision(way, Done(fields), copies=sent)

    def _row(self, row: Missing, holder: Holder, room: int, copies: list[bytes], gone: list[Missing]) -> None:
        """Add what is to be had of a row, as far as there is room, and what is not."""
        memory, seat = self._journals.get(row.topic), self._seats.of(row.topic, row.epoch, holder)
        known = self._seats.epoch(row.topic, row.epoch)
        if memory is None or seat is None or known is None or not seat.first:
            gone.append(row)
            return
        over = known.tickets is not None
        drawn = (
            self._drawn(row.topic, row.epoch, seat.group)
            if known.tickets is None
            else known.tickets[seat.group]
        )
        last = min(row.first + row.number, seat.deliveries(drawn))
        # What is older than all slots needs no looking for.
        oldest = seat.deliveries(max(0, drawn - memory.layout.slots - DRAWERS))
        first = min(last, max(row.first, oldest))
        if first > row.first:
            gone.append(Missing(row.topic, row.epoch, row.first, first - row.first))
        before = len(copies)
        for sequence in range(first, min(last, first + LOOKED_AT)):
            if len(copies) >= room:
                break
            entry = self._find(row.topic, seat.first, row.epoch, seat.group, seat.ticket(sequence))
            copy = _copy(entry, row.epoch, sequence)
            if copy:
                copies.append(copy)
            elif copy is None or over or drawn - seat.ticket(sequence) > memory.layout.slots:
                _add(gone, row, sequence)
        self.sent[row.topic] = self.sent.get(row.topic, 0) + len(copies) - before


def _copy(entry: Entry | None, epoch: int, sequence: int) -> bytes | None:
    """A delivery as it is sent again; None: it did not fit the journal; empty: it is not there."""
    if entry is None:
        return b""
    if entry.payload is None:
        return None
    copy = bytearray(entry.payload)
    copy[_abi.WIDE_FLAGS_AT if copy[0] == _abi.WIDE else _abi.OFFSET_VERSION_FLAGS] |= _abi.FLAG_DUP
    stamp(copy, epoch, sequence)
    return bytes(copy)


def _add(gone: list[Missing], row: Missing, sequence: int) -> None:
    last = gone[-1] if gone else None
    if last is not None and (last.topic, last.epoch, last.first + last.number) == (
        row.topic,
        row.epoch,
        sequence,
    ):
        gone[-1] = last._replace(number=last.number + 1)
    else:
        gone.append(Missing(row.topic, row.epoch, sequence, 1))

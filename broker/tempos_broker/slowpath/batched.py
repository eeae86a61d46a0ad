"""The façade over the compiled batch helper; nothing else in Python sees one of its pointers.

The pool is sized so that a free slot stands ready for every datagram of the next receive, whatever
else is under way: both queues full, and up to two batches of each class staged behind a socket that takes
no more.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from tempos import Framing, GroupOptions, Member, Pick, Quality, Reason, Route, Topic
from tempos._senders import options_of, ranges_of, takings
from tempos._slots import MOST_GROUPS, NUMBERS, TICKETS
from tempos._spread import slots_of
from tempos.requests import probe
from tempos_broker._batch import ffi, lib
from tempos_broker.account.accounts import SHARED
from tempos_broker.addresses import ANY, Towards
from tempos_broker.config.model import Limits
from tempos_broker.slowpath.core import Delivery, SlowPath
from tempos_broker.slowpath.measures import Measures
from tempos_broker.slowpath.mover import Flushed, SendFailure
from tempos_broker.slowpath.relay import Relay
from tempos_broker.slowpath.sockets import DataSocket
from tempos_broker.slowpath.sources import words

if TYPE_CHECKING:
    from tempos_broker._batch import CBatch, CMembers, CReceipts
    from tempos_broker.journal.memory import Memory

_FRAMINGS = {
    Framing.RAW: lib.TEMPOS_FRAMING_RAW,
    Framing.EVENT: lib.TEMPOS_FRAMING_EVENT,
    Framing.FOREIGN: lib.TEMPOS_FRAMING_FOREIGN,
}
_PICKS = {
    Pick.TURN: lib.TEMPOS_PICK_TURN,
    Pick.SOURCE: lib.TEMPOS_PICK_SOURCE,
    Pick.SOURCE_PORT: lib.TEMPOS_PICK_SOURCE_PORT,
}
_QUALITIES = {Quality.BQ: lib.TEMPOS_BQ, Quality.SQ: lib.TEMPOS_SQ}
#: The kernel's default: nothing is written into single datagrams.
_NO_TOS = -1
#: As a limit, no limit; as what is in the way, nothing.
_ALL = 0xFFFFFFFF
#: Of a run that was received: topic, reason, how many, first slot.
_TOPIC, _REASON_BITS, _COUNT = 0xFFFF, 0xFF << 16, 0xFFFF
_REASON_AT, _COUNT_AT, _SLOT_AT = 16, 24, 40
_FORWARDED = int(Reason.FORWARDED) << _REASON_AT
_REPLY = int(Reason.REPLY) << _REASON_AT
_FOREIGN_SOURCE = int(Reason.FOREIGN_SOURCE) << _REASON_AT


class SlotChain:
    """The load of a run: ``count`` chained slots of a pool."""

    __slots__ = ("_batch", "count", "head")

    def __init__(self, batch: CBatch, head: int, count: int) -> None:
        self._batch = batch
        self.head = head
        self.count = count

    def split(self, count: int) -> tuple[SlotChain, SlotChain]:
        rest = lib.tempos_batch_after(self._batch, self.head, count)
        return SlotChain(self._batch, self.head, count), SlotChain(self._batch, rest, self.count - count)

    def release(self) -> None:
        lib.tempos_batch_release(self._batch, self.head, self.count)


class Batch:
    """A pool of datagrams, and the system calls that fill and empty it: a :class:`Mover`."""

    name = "recvmmsg"

    def __init__(
        self,
        core: SlowPath[SlotChain],
        topics: Iterable[Topic],
        limits: Limits,
        on_foreign: Callable[[int, int, str], None] = lambda topic, count, ip: None,
        receipts: CReceipts | None = None,
        relay: Relay | None = None,
        journals: Mapping[int, Memory] | None = None,
        measures: Measures | None = None,
    ) -> None:
        """Raises :class:`MemoryError` if the pool cannot be had.

        ``on_foreign`` learns of what is refused for its source: topic, how many, the latest address.
        ``receipts``: where to tell, for a time after a kill, what was taken out of sockets. ``relay``: what
        sends replies on; None: nothing does. ``journals``: by topic id. ``measures``: where to write what is
        measured.
        """
        topics = tuple(topics)
        self._core = core
        self._relay = relay or Relay(core, topics, None)
        self._journals = {} if journals is None else journals
        core.on_nobody = self._nobody
        self._on_foreign = on_foreign
        self._limit = limits.batch
        # Of a class, less than a batch is staged before a delivery of at most a batch to every group; where
        # there are very many, of fewer.
        copies = max(limits.batch * (NUMBERS + 1), limits.batch + MOST_GROUPS)
        slots = limits.queue_sq + limits.queue_bq + 5 * limits.batch
        batch = lib.tempos_batch_new(slots, limits.datagram, limits.batch, copies)
        if batch == ffi.NULL:
            raise MemoryError(f"no memory for {slots} datagrams of {limits.datagram} bytes")
        self._batch: CBatch = ffi.gc(batch, lib.tempos_batch_free, slots * limits.datagram)
        lib.tempos_batch_clock(batch, probe.clock())
        self._measures = measures
        if measures is not None:
            self._measured: Any = measures.pointer
            if measures.memory is not None:
                self._measured = ffi.from_buffer("uint64_t[]", measures.memory, require_writable=True)
            lib.tempos_batch_timed(batch, measures.timed)
        if receipts is not None:
            lib.tempos_batch_receipts(batch, receipts)
        self._runs = ffi.new("uint64_t[]", limits.batch)
        self._requests, self._length = ffi.new("uint32_t[]", limits.batch), ffi.new("uint32_t *")
        self._errors = ffi.new("struct tempos_send_error[]", copies)
        #: Topics whose datagrams have a header.
        self._events: set[int] = set()
        self._members: dict[int, _Groups] = {}
        self._routes: dict[int, Route] = {}
        #: By topic and group: where what the group takes of some senders is counted.
        self._taken: dict[int, dict[int, int]] = {}
        self._left_out: frozenset[Towards] = frozenset()
        self._staged = {Quality.SQ: 0, Quality.BQ: 0}
        for topic in topics:
            self._frame(topic)
            self._measure(topic.id)
            self._set_sources(topic)

    @property
    def reason(self) -> str:
        segmenting = "sends with" if self.segmenting() else "the kernel offers no"
        return f"up to {self._limit} datagrams per system call; {segmenting} UDP segmentation"

    def put(self, topic: Topic) -> None:
        self._frame(topic)
        self._measure(topic.id)
        self._relay.put(topic)

    def drop(self, topic: int) -> None:
        lib.tempos_batch_measure(self._batch, topic, ffi.NULL)
        self._members.pop(topic, None)
        self._routes.pop(topic, None)
        self._taken.pop(topic, None)
        self._events.discard(topic)
        self._relay.drop(topic)

    def channels(self, quality: Quality, sockets: Sequence[DataSocket], tos: int | None) -> None:
        self._relay.channels(quality, sockets, tos)
        lib.tempos_batch_channels(
            self._batch,
            _QUALITIES[quality],
            [each.fd for each in sockets],
            [_number(each.address) for each in sockets],
            len(sockets),
            _NO_TOS if tos is None else tos,
        )

    def raw(self, sock: socket.socket | None) -> None:
        lib.tempos_batch_raw(self._batch, -1 if sock is None else sock.fileno())

    def raw_tos(self, quality: Quality, tos: int) -> None:
        lib.tempos_batch_raw_tos(self._batch, _QUALITIES[quality], tos)

    def free_slots(self) -> int:
        """Slots that hold no datagram and wait for none."""
        return lib.tempos_batch_free_slots(self._batch)

    def segmenting(self) -> bool:
        """Whether equal datagrams for one member go to the kernel as one, which then segments them."""
        return bool(lib.tempos_batch_segmenting(self._batch))

    def swap(self, route: Route) -> None:
        """Address what is staged from now on for this topic to the members of ``route``.

        Its topic also says whose events are taken from now on.
        """
        self._set_sources(route.topic)
        self._address(route)

    def _address(self, route: Route) -> None:
        self._routes[route.topic.id] = route
        groups, out = route.groups, self._left_out
        if len(groups) == 1 and len(groups[0].members) == 1 and not route.topic.groups:
            self._taken.pop(route.topic.id, None)
            (member,) = groups[0].members
            self._members[route.topic.id] = _only(member, (member.ip, member.source) in out)
        else:
            options = options_of(route)
            self._taken[route.topic.id] = {each.group: each.meant for each in takings(options) if each.meant}
            pick = route.topic.pick
            self._members[route.topic.id] = _Groups(
                [_compiled(group.members, out, pick, of) for group, of in zip(groups, options, strict=True)]
            )

    def leave_out(self, towards: frozenset[Towards]) -> None:
        changed, self._left_out = self._left_out ^ towards, towards
        for route in list(self._routes.values()):
            if any(
                (member.ip, member.source) in changed for group in route.groups for member in group.members
            ):
                self._address(route)

    def receive(self, source: DataSocket, limit: int) -> int:
        count = lib.tempos_batch_receive(self._batch, source.fd, source.topic, limit, self._runs)
        if count < 0:
            raise OSError(-count, os.strerror(-count))
        core, total = self._core, 0
        for packed in ffi.unpack(self._runs, count):
            datagrams = packed >> _COUNT_AT & _COUNT
            total += datagrams
            if packed & _REASON_BITS == _FORWARDED:
                load = SlotChain(self._batch, packed >> _SLOT_AT, datagrams)
                journal = self._journals.get(packed & _TOPIC)
                if journal is not None and journal.has_guards:
                    self._sift(packed & _TOPIC, journal, load)
                else:
                    core.arrived(packed & _TOPIC, datagrams, load)
            elif packed & _REASON_BITS == _REPLY:
                load = SlotChain(self._batch, packed >> _SLOT_AT, datagrams)
                self._send_on(packed & _TOPIC, load)
            else:
                core.refused(packed & _TOPIC, packed >> _REASON_AT & 0xFF, datagrams)
                if packed & _REASON_BITS == _FOREIGN_SOURCE:
                    self._tell_foreign(packed & _TOPIC, datagrams)
        return total

    def stage(self, quality: Quality, delivery: Delivery[SlotChain]) -> bool:
        epoch, load, class_ = delivery.route.epoch & 0xFF, delivery.load, _QUALITIES[quality]
        topic, first = delivery.route.topic.id, delivery.first_tickets
        groups = self._members[topic]
        assert len(first) == len(groups.each), "what is drawn and what is staged go by one route"
        taken = self._taken.get(topic)
        journal = self._journals.get(topic)
        if journal is not None:
            kept = first[:TICKETS]
            lib.tempos_batch_journal(
                self._batch, journal.view, load.head, delivery.count, delivery.route.epoch & _ALL, kept,
                len(kept),
            )  # fmt: skip
        for group, number in taken.items() if taken else ():
            meant = lib.tempos_batch_meant(self._batch, load.head, delivery.count, groups.each[group])
            first[group] = self._core.meant(topic, delivery.route.epoch, number, meant)
        staged = lib.tempos_batch_stage(
            self._batch, class_, topic, load.head, delivery.count, groups.all, first, len(first), epoch
        )
        assert staged >= 0, "flushed whenever a batch is gathered, so there is room"
        if delivery.route.topic.pick is not Pick.TURN:
            self._tell_picked(delivery.route, groups.each)
        self._staged[quality] = staged
        return staged >= self._limit

    def _tell_picked(self, route: Route, compiled: Sequence[CMembers]) -> None:
        """Count what each member was given that was picked by the source."""
        first = 0
        for group, members in zip(route.groups, compiled, strict=True):
            size = len(group.members)
            for place in range(size) if size > 1 else ():
                if drawn := lib.tempos_members_drawn(members, place):
                    self._core.picked(route.topic.id, route.epoch, first + place, drawn)
            first += size

    def flush(self, quality: Quality, most: int | None = None) -> Flushed | None:
        if not self._staged[quality]:
            return None
        class_ = _QUALITIES[quality]
        outcome = lib.tempos_batch_flush(self._batch, class_, _ALL if most is None else most, self._errors)
        if not outcome:
            self._staged[quality] = 0
            return None
        rest = outcome & _ALL
        self._staged[quality] = left = lib.tempos_batch_staged(self._batch, class_) if rest else 0
        blocked_by = rest - 1 if rest not in (0, _ALL) else None
        return Flushed(left, blocked_by, self._failures(outcome >> 32))

    def abandon(self, quality: Quality, error: int) -> Sequence[SendFailure]:
        self._staged[quality] = 0
        return self._failures(lib.tempos_batch_abandon(self._batch, _QUALITIES[quality], error, self._errors))

    def _sift(self, topic: int, journal: Memory, load: SlotChain) -> None:
        """Let those go on that have not been sent again meanwhile."""
        count = 0
        if topic in self._events:
            count = lib.tempos_batch_guarded(self._batch, journal.view, load.head, load.count, self._requests)
        done = 0
        for place in ffi.unpack(self._requests, count) if count else ():
            if place > done:
                some, load = load.split(place - done)
                self._core.arrived(topic, some.count, some)
            if load.count > 1:
                some, load = load.split(1)
            else:
                some, load = load, SlotChain(self._batch, 0, 0)
            some.release()
            self._core.refused(topic, Reason.REPEATED, 1)
            done = place + 1
        if load.count:
            self._core.arrived(topic, load.count, load)

    def _send_on(self, topic: int, load: SlotChain) -> None:
        if load.count == 1:
            self._relay.reply(topic, self._bytes(load.head))
            load.release()
            return
        slots = [load.head]
        while len(slots) < load.count:
            slots.append(lib.tempos_batch_after(self._batch, slots[-1], 1))
        self._relay.replies(topic, map(self._bytes, slots))
        load.release()

    def _nobody(self, topic: int, count: int, load: SlotChain) -> None:
        found = lib.tempos_batch_requests(self._batch, topic, load.head, count, self._requests)
        if found:
            self._relay.nobody(topic, map(self._bytes, ffi.unpack(self._requests, found)))
        load.release()

    def _bytes(self, slot: int) -> bytes:
        at = lib.tempos_batch_bytes(self._batch, slot, self._length)
        return bytes(ffi.buffer(at, self._length[0]))

    def _measure(self, topic: int) -> None:
        if self._measures is not None and (at := self._measures.at(topic)) is not None:
            lib.tempos_batch_measure(self._batch, topic, self._measured + at)

    def _frame(self, topic: Topic) -> None:
        """Demand of a topic's datagrams what its framing says."""
        (self._events.add if topic.framing is Framing.EVENT else self._events.discard)(topic.id)
        lib.tempos_batch_framing(self._batch, topic.id, _FRAMINGS[topic.framing])

    def _set_sources(self, topic: Topic) -> None:
        networks, masks = [], []
        for network in topic.sources:
            address, mask = words(network)
            networks.append(socket.htonl(address))
            masks.append(socket.htonl(mask))
        lib.tempos_batch_sources(self._batch, topic.id, networks, masks, len(networks))

    def _tell_foreign(self, topic: int, count: int) -> None:
        address = lib.tempos_batch_refused_source(self._batch, topic)
        self._on_foreign(topic, count, socket.inet_ntoa(address.to_bytes(4, sys.byteorder)))

    def _failures(self, count: int) -> Sequence[SendFailure]:
        return [
            SendFailure(
                each.topic,
                each.epoch,
                each.group,
                each.count,
                each.error,
                socket.inet_ntoa(each.address.to_bytes(4, sys.byteorder)),
                socket.ntohs(each.port),
                each.size,
            )
            for each in (self._errors[i] for i in range(count))
        ]


class _Groups:
    """Those of a route as they are staged: ``each``, and ``all`` in a row."""

    __slots__ = ("all", "each")

    def __init__(self, each: Sequence[CMembers]) -> None:
        self.each = each
        self.all = ffi.new("struct tempos_members *[]", each)


def _compiled(
    members: Sequence[Member], left_out: frozenset[Towards], pick: Pick, options: GroupOptions
) -> CMembers:
    """A group; whoever is alone in one that gets all is one object wherever it is the same one."""
    if len(members) == 1 and not options.is_of_path:
        return _alone(members[0], (members[0].ip, members[0].source) in left_out)
    return _compile(members, left_out, pick, options)


def _compile(
    members: Sequence[Member],
    left_out: frozenset[Towards],
    pick: Pick = Pick.TURN,
    options: GroupOptions | None = None,
) -> CMembers:
    compiled = lib.tempos_members_new(
        [_number(member.ip) for member in members],
        [socket.htons(member.port) for member in members],
        [_number(member.source or ANY) for member in members],
        [member.is_nobody or (member.ip, member.source) in left_out for member in members],
        len(members),
    )
    if compiled == ffi.NULL:
        raise MemoryError(f"no memory for {len(members)} members")
    kept = cast("CMembers", ffi.gc(compiled, lib.tempos_members_free))
    by_source = pick is not Pick.TURN and len(members) > 1
    if by_source and lib.tempos_members_spread(kept, _PICKS[pick], slots_of(members)):
        raise MemoryError(f"no memory for {len(members)} members")
    if options is not None and _takes(kept, options):
        raise MemoryError(f"no memory for the senders of group {options.name}")
    return kept


def _takes(members: CMembers, options: GroupOptions) -> int:
    starts, groups = ranges_of((options.sources,)) if options.sources else (ffi.NULL, ffi.NULL)
    return lib.tempos_members_takes(members, starts, groups, options.every, options.keep)


@lru_cache(MOST_GROUPS)
def _alone(member: Member, left_out: bool) -> CMembers:
    return _compile([member], frozenset({(member.ip, member.source)} if left_out else ()))


@lru_cache(SHARED)
def _only(member: Member, left_out: bool) -> _Groups:
    """The groups of a topic that has one member: one object wherever it is the same one."""
    return _Groups([_alone(member, left_out)])


@lru_cache(SHARED)
def _number(address: str) -> int:
    # Network byte order in memory is what inet_aton and htons give, read in the host's order.
    return int.from_bytes(socket.inet_aton(address), sys.byteorder)

"""Moves datagrams with what every system has: a call for each, only bytes.

Same core, same account. One thing it can do on Linux only: send from the address that a member knows where it
listens on 0.0.0.0; elsewhere the kernel chooses one.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tempos import Framing, Member, Pick, Quality, Reason, Route, Topic
from tempos._abi import EVENT_HEADER
from tempos._senders import options_of, takes, takings
from tempos._spread import slot_of, slots_of
from tempos.model import NOBODY
from tempos.requests import envelope, probe
from tempos.wire import body_at, check_payload, flags_of, is_request, named, stamp, topic_in
from tempos_broker.addresses import ANY, SPACE, Towards, is_for_all, leaving_from
from tempos_broker.config.model import Limits
from tempos_broker.slowpath import ttl
from tempos_broker.slowpath.core import Delivery, SlowPath
from tempos_broker.slowpath.marking import tos_message
from tempos_broker.slowpath.measures import Measures
from tempos_broker.slowpath.mover import Flushed, SendFailure
from tempos_broker.slowpath.raw import send_raw
from tempos_broker.slowpath.relay import Relay
from tempos_broker.slowpath.sockets import DataSocket, in_fragments
from tempos_broker.slowpath.sources import Sources

if TYPE_CHECKING:
    from tempos_broker.journal.memory import Memory

#: Bytes for what the kernel tells of a datagram.
_TOLD = SPACE + ttl.SPACE
#: What sending a datagram by itself takes, in what one copy more in a large message takes.
_COST = 9


class _Item(NamedTuple):
    """A datagram: payload, what is left of its TTL, if that is known, who sent it, and when it was received.

    ``taken``: ns of CLOCK_MONOTONIC; 0 where nobody measures.
    """

    payload: bytes
    left: int | None
    sender: tuple[str, int]
    taken: int = 0


class Datagrams:
    """The load of a run."""

    __slots__ = ("items",)

    def __init__(self, items: list[_Item]) -> None:
        self.items = items

    def split(self, count: int) -> tuple[Datagrams, Datagrams]:
        return Datagrams(self.items[:count]), Datagrams(self.items[count:])

    def release(self) -> None:
        self.items = []


class _Way(NamedTuple):
    """How a datagram goes to a member: by which socket, with which control messages, and where to."""

    sock: socket.socket
    control: list[tuple[int, int, bytes]]
    to: tuple[str, int]
    left_out: bool


class _Copy(NamedTuple):
    """One datagram on its way to one member, with control messages of its own, and whose loss it would be.

    ``sender``: whose address and port it keeps, with ``left`` of its TTL; None: it comes from ours.
    ``taken``: when the event was, of its last copy; else 0.
    """

    way: _Way
    own: list[tuple[int, int, bytes]]
    data: bytes | bytearray
    topic: int
    epoch: int
    group: int
    left: int | None = None
    sender: tuple[str, int] | None = None
    taken: int = 0


class Singly:
    """A :class:`~tempos_broker.slowpath.mover.Mover`. ``reason``: why this one."""

    name = "portable"

    def __init__(
        self,
        core: SlowPath[Datagrams],
        topics: Iterable[Topic],
        limits: Limits,
        on_foreign: Callable[[int, int, str], None],
        reason: str,
        relay: Relay | None = None,
        journals: Mapping[int, Memory] | None = None,
        measures: Measures | None = None,
    ) -> None:
        self.reason = reason
        self._measures = measures
        self._timed = measures is not None and measures.timed
        self._core = core
        self._relay = relay or Relay(core, topics, None)
        self._journals = {} if journals is None else journals
        core.on_nobody = self._nobody
        self._limit = limits.batch
        self._largest = limits.datagram
        self._on_foreign = on_foreign
        self._sources = Sources(topics := tuple(topics))
        self._framings = {topic.id: topic.framing for topic in topics}
        self._measured = set(self._framings)
        #: Sockets, each with the address that it is bound to.
        self._channels: dict[Quality, list[tuple[str, socket.socket]]] = {}
        self._raw: socket.socket | None = None
        self._raw_tos: dict[Quality, int] = {}
        self._left_out: frozenset[Towards] = frozenset()
        self._marks: dict[Quality, list[tuple[int, int, bytes]]] = {}
        self._staged: dict[Quality, deque[_Copy]] = {quality: deque() for quality in Quality}

    def put(self, topic: Topic) -> None:
        self._framings[topic.id] = topic.framing
        self._measured.add(topic.id)
        self._relay.put(topic)

    def drop(self, topic: int) -> None:
        self._measured.discard(topic)
        self._relay.drop(topic)

    def swap(self, route: Route) -> None:
        # A delivery brings its route; what is prepared is whom the next events may come from.
        self._sources.set(route.topic)

    def leave_out(self, towards: frozenset[Towards]) -> None:
        self._left_out = towards

    def channels(self, quality: Quality, sockets: Sequence[DataSocket], tos: int | None) -> None:
        self._channels[quality] = [(each.address, each.sock) for each in sockets]
        self._marks[quality] = [] if tos is None else [tos_message(tos)]
        self._relay.channels(quality, sockets, tos)

    def raw(self, sock: socket.socket | None) -> None:
        self._raw = sock

    def raw_tos(self, quality: Quality, tos: int) -> None:
        self._raw_tos[quality] = tos

    def receive(self, source: DataSocket, limit: int) -> int:
        # A run for each topic of the batch, so that the core decides once for all of it.
        runs: dict[int, list[_Item]] = {}
        received = 0
        try:
            while received < limit:
                data, ancillary, _, sender = source.sock.recvmsg(self._largest + 1, _TOLD)
                received += 1
                if is_for_all(ancillary):
                    # The other socket of the port has it as well: that one counts.
                    continue
                taken = time.monotonic_ns() if self._timed else 0
                self._sort(_Item(data, ttl.told(ancillary), sender, taken), runs, source.topic)
        except BlockingIOError:
            pass
        finally:
            for topic, items in runs.items():
                self._core.arrived(topic, len(items), Datagrams(items))
        return received

    def stage(self, quality: Quality, delivery: Delivery[Datagrams]) -> bool:
        self._keep(delivery)
        if self._measures is not None and delivery.route.groups:
            forwarded = sum(len(each.payload) for each in delivery.load.items)
            self._measures.add(delivery.route.topic.id, forwarded=forwarded)
        staged = self._staged[quality]
        staged.extend(self._copies(quality, delivery))
        return len(staged) >= self._limit

    def flush(self, quality: Quality, most: int | None = None) -> Flushed | None:
        staged = self._staged[quality]
        failures: list[SendFailure] = []
        keep = 0 if most is None else max(0, len(staged) - max(1, most // _COST))
        while len(staged) > keep:
            copy = staged[0]
            sock, control, to, left_out = copy.way
            if left_out:
                if not to[0].startswith(NOBODY):
                    failures.append(_failure(copy, errno.EHOSTUNREACH))
                staged.popleft()
                continue
            try:
                if copy.sender is not None:
                    self._send_kept(quality, copy, copy.sender)
                    self._gone(copy)
                    staged.popleft()
                    continue
                _send(sock, copy.data, [*control, *copy.own], to, self._framings.get(copy.topic))
            except BlockingIOError:
                blocked = sock if copy.sender is None or self._raw is None else self._raw
                return Flushed(len(staged), blocked.fileno(), failures)
            except OSError as error:
                failures.append(_failure(copy, error.errno or 0))
            self._gone(copy)
            staged.popleft()
        return Flushed(len(staged), None, failures) if failures or staged else None

    def _gone(self, copy: _Copy) -> None:
        """The kernel has a copy, or refused it."""
        if copy.taken and self._measures is not None:
            is_event = self._framings.get(copy.topic) is Framing.EVENT
            since = time.time_ns() - EVENT_HEADER.unpack_from(copy.data)[-1] if is_event else None
            self._measures.gone(copy.topic, time.monotonic_ns() - copy.taken, since)

    def _send_kept(self, quality: Quality, copy: _Copy, sender: tuple[str, int]) -> None:
        if self._raw is None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        send_raw(self._raw, copy.data, sender, copy.way.to, copy.left, self._raw_tos.get(quality, 0))

    def abandon(self, quality: Quality, error: int) -> Sequence[SendFailure]:
        staged = self._staged[quality]
        failures = [_failure(copy, error) for copy in staged]
        staged.clear()
        return failures

    def _sort(self, item: _Item, runs: dict[int, list[_Item]], foreign: int) -> None:
        data, left, (ip, _), _ = item
        topic = foreign or topic_in(data)
        cut = len(data) > self._largest
        # A topic that is not known has none; the core says what is wrong with it.
        framing = self._framings.get(topic, Framing.RAW)
        reason = Reason.CUT_SHORT if cut else _check(data, framing, foreign)
        if reason is Reason.REPLY:
            # Whose events a topic takes says nothing of who may answer them: the return address does.
            self._relay.reply(topic, data)
            return
        if topic in self._measured and self._measures is not None:
            self._measures.add(topic, arrived=min(len(data), self._largest))
        if self._sources.refuse(topic, ip):
            reason = Reason.FOREIGN_SOURCE
        if reason is Reason.FORWARDED and left is not None and left <= 1:
            reason = Reason.TTL
        if reason is Reason.FORWARDED and framing is Framing.EVENT and self._is_repeated(topic, data):
            reason = Reason.REPEATED
        if reason is Reason.FORWARDED:
            if framing is Framing.EVENT and flags_of(data) & probe.FLAGS == probe.FLAGS:
                data = probe.mark(data, body_at(data) + envelope.LENGTH, time.time_ns())
            runs.setdefault(topic, []).append(item._replace(payload=data))
            return
        self._core.refused(topic, reason, 1)
        if reason is Reason.FOREIGN_SOURCE:
            self._on_foreign(topic, 1, ip)

    def _is_repeated(self, topic: int, data: bytes) -> bool:
        """Whether the publisher has sent an event again meanwhile, which came first."""
        journal = self._journals.get(topic)
        return journal is not None and journal.has_guards and journal.is_guarded(*named(data))

    def _keep(self, delivery: Delivery[Datagrams]) -> None:
        """Write what goes out into the topic's journal, if it has one."""
        journal = self._journals.get(delivery.route.topic.id)
        if journal is not None:
            for index, (payload, *_) in enumerate(delivery.load.items):
                tickets = [first + index for first in delivery.first_tickets]
                journal.put(delivery.route.epoch & 0xFFFFFFFF, tickets, payload)

    def _nobody(self, topic: int, count: int, load: Datagrams) -> None:
        if self._framings[topic] is Framing.EVENT:
            self._relay.nobody(topic, [data for data, *_ in load.items if is_request(data)])
        load.release()

    def _copies(self, quality: Quality, delivery: Delivery[Datagrams]) -> Iterator[_Copy]:
        """Group by group, as the batches are sent."""
        route = delivery.route
        is_event = route.topic.framing is Framing.EVENT
        options = options_of(route)
        before = 0
        for index, group in enumerate(route.groups):
            ways = [self._way(member, quality) for member in group.members]
            slots = _slots(route, index)
            for ticket, (payload, left, sender, taken) in self._for(delivery, index):
                sequence, member = divmod(ticket, len(ways))
                if slots:
                    member = slots[slot_of(*sender, route.topic.pick)]
                    self._core.picked(route.topic.id, route.epoch, before + member, 1)
                data: bytes | bytearray = payload
                if is_event:
                    data = bytearray(payload)
                    stamp(data, route.epoch, sequence)
                spent = [] if left is None else [ttl.leaving_with(left - 1)]
                copy = _Copy(ways[member], spent, data, route.topic.id, route.epoch, index)
                if options[index].keep:
                    copy = copy._replace(sender=sender, left=None if left is None else left - 1)
                if taken and index == len(route.groups) - 1:
                    copy = copy._replace(taken=taken)
                yield copy
            before += len(ways)

    def _for(self, delivery: Delivery[Datagrams], index: int) -> Iterator[tuple[int, _Item]]:
        """What goes to members of a group, each with the number that its turn follows from."""
        route, items, first = delivery.route, delivery.load.items, delivery.first_tickets[index]
        options = options_of(route)
        every = options[index].every
        for taken in takings(options):
            if taken.group == index and taken.meant:
                items = [each for each in items if takes(options[index].sources, each.sender[0])]
                first = self._core.meant(route.topic.id, route.epoch, taken.meant, len(items))
        for number, item in enumerate(items, first):
            if number % every == 0:
                yield number // every, item

    def _way(self, member: Member, quality: Quality) -> _Way:
        channels, control = self._channels[quality], self._marks[quality]
        # One that has every address stands alone.
        address, sock = next((each for each in channels if each[0] == member.source), channels[0])
        if address == ANY:
            control = [*control, *leaving_from(member.source)]
        left_out = member.is_nobody or (member.ip, member.source) in self._left_out
        return _Way(sock, control, (member.ip, member.port), left_out)


def _slots(route: Route, index: int) -> tuple[int, ...]:
    """The table of a group that picks by the source; none: it has its turns."""
    members = route.groups[index].members
    return slots_of(members) if route.topic.pick is not Pick.TURN and len(members) > 1 else ()


def _send(
    sock: socket.socket,
    data: bytes | bytearray,
    control: list[tuple[int, int, bytes]],
    to: tuple[str, int],
    framing: Framing | None,
) -> None:
    """Send a datagram; one of a foreign topic that is too large for the way goes in fragments."""
    try:
        if control:
            sock.sendmsg((data,), control, 0, to)
        else:
            sock.sendto(data, to)
    except OSError as error:
        if error.errno != errno.EMSGSIZE or framing is not Framing.FOREIGN:
            raise
        with in_fragments(sock):
            sock.sendmsg((data,), control, 0, to)


def _check(data: bytes, framing: Framing, foreign: int) -> Reason:
    if foreign:
        return Reason.FORWARDED if data else Reason.EMPTY
    return check_payload(data, framing)


def _failure(copy: _Copy, error: int) -> SendFailure:
    ip, port = copy.way.to
    return SendFailure(copy.topic, copy.epoch, copy.group, 1, error, ip, port, len(copy.data))

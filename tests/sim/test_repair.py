"""Repair over a network that loses, doubles and mixes up, by a clock that is moved by hand.

Member and broker are what they are in life, but for sockets, other requests and the journal's memory.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tempos import Framing, Quality, Topic, wire
from tempos._abi import FLAG_DUP
from tempos.control import decode_request
from tempos.delivery import AGAIN, GapTracker
from tempos.receiving.inbox import Event
from tempos.repair.asking import Asking, Told, decode_told, encode_told
from tempos.repair.gaps import Repairs, Span
from tempos.repair.order import OrderedInbox
from tempos_broker.account.accounts import Holder
from tempos_broker.control.auth import Admitted, Caller
from tempos_broker.control.decisions import Done, Way
from tempos_broker.control.server import ControlServer
from tempos_broker.journal.journals import DRAWERS
from tempos_broker.repair.copies import Repair
from tempos_broker.repair.seats import Seats
from tempos_broker.repair.tails import Tails

TOPIC = Topic(7, "t", Quality.SQ, journal=4096)
#: Seconds of a way, and between two events.
WAY, APART = 0.0003, 0.0002


class Journal:
    """The last events of an epoch, by ticket; the groups' are the same."""

    def __init__(self, slots: int) -> None:
        self.layout = SimpleNamespace(slots=slots)
        self.events: dict[tuple[int, int], bytes] = {}

    def put(self, epoch: int, ticket: int, payload: bytes) -> None:
        self.events[epoch, ticket] = payload
        while len(self.events) > self.layout.slots:
            del self.events[next(iter(self.events))]

    def find(self, first: int, epoch: int, group: int, ticket: int, reach: int) -> Any:
        payload = self.events.get((epoch, ticket))
        return None if payload is None else SimpleNamespace(payload=payload)


class World:
    def __init__(self, seed: int, loss: float, *, mixes: bool = False, slots: int = 4096) -> None:
        self.now = 0.0
        self._chance = random.Random(seed)
        self._loss, self._mixes = loss, mixes
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._turn = itertools.count()
        self.members: list[Member] = []
        self.seats = Seats()
        self.journal = Journal(slots)
        self.epoch = 0
        self.drawn: dict[int, int] = {}
        self.tails = Tails(self.seats, lambda topic, epoch, group: self.drawn[epoch])
        self.holders: tuple[Holder, ...] = ()
        registry: Any = SimpleNamespace(
            lease_of=lambda holder: holder,
            leaving=dict,
            numbered=lambda topic: TOPIC if topic == TOPIC.id else None,
            leaves_from=lambda ip, asked: None,
        )
        journals: Any = {TOPIC.id: self.journal}
        self.repair = Repair(
            registry,
            self.seats,
            journals,
            lambda topic, *event: self.journal.find(*event, DRAWERS),
            lambda topic, epoch, group: self.drawn[epoch],
            self.tails.listen,
        )
        self.copies = 0

    def at(self, when: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._turn), call))

    def run(self, until: float) -> None:
        while self._due and self._due[0][0] <= until:
            self.now, _, call = heapq.heappop(self._due)
            call()
        self.now = until

    def carry(self, deliver: Callable[[bytes], None], datagram: bytes) -> None:
        """One way over the network."""
        copies = 1 + (self._mixes and self._chance.random() < 0.05)
        for _ in range(copies):
            if self._chance.random() >= self._loss:
                late = self._chance.random() * 10 * WAY if self._mixes else 0.0
                self.at(self.now + WAY + late, lambda: deliver(datagram))

    # The broker

    def route(self, *members: Member) -> None:
        """The next epoch's members; the tickets of the one before are final."""
        if self.epoch:
            self.seats.closed(TOPIC.id, self.epoch, [self.drawn[self.epoch]])
            self.tails.closed(TOPIC.id, self.epoch, self.now)
        self.epoch += 1
        self.drawn[self.epoch] = 0
        self.members = list(members)
        self.holders = tuple(each.holder for each in members)
        self.seats.opened(TOPIC.id, self.epoch, 1, [("g", self.holders)])
        for each in members:
            each.tracker.in_force(self.epoch)

    def publish(self, number: int) -> None:
        ticket = self.drawn[self.epoch]
        self.drawn[self.epoch] += 1
        payload = wire.encode_event(TOPIC.id, 1, number, 0, b"%d" % number)
        self.journal.put(self.epoch, ticket, payload)
        sequence, place = divmod(ticket, len(self.members))
        datagram = bytearray(payload)
        wire.stamp(datagram, self.epoch, sequence)
        self.carry(self.members[place].receive, bytes(datagram))

    def asked(self, member: Member, datagram: bytes) -> None:
        way = Way(Admitted(Caller(member.holder.ip), datagram), 0, len(datagram))
        request = decode_request(datagram)
        way = Way(way.admitted, request.id, way.room)
        decision = self.repair.request(request, way, self.now)
        for each in decision.copies.datagrams if decision.copies else ():
            self.copies += 1
            self.carry(member.receive, each)
        assert isinstance(decision.answer, Done)
        answer = ControlServer.render(SimpleNamespace(wall=lambda: 0.0), decision)  # type: ignore[arg-type]
        assert answer is not None
        assert len(answer) <= len(datagram)
        self.carry(member.answered, answer)

    def look(self) -> None:
        for holder, _, told in self.tails.look(self.now, lambda holder: True):
            member = next(each for each in Member.all if each.holder == holder)
            self.carry(member.receive, encode_told(told))
        self.at(self.now + self.tails.pause, self.look)


class Member:
    all: list[Member] = []  # noqa: RUF012

    def __init__(self, world: World, port: int) -> None:
        self.world = world
        self.holder = Holder("10.0.0.1", port, port)
        self.tracker = GapTracker()
        self.repairs = Repairs(2.0)
        self.asking = Asking(port, None)
        self.inbox = OrderedInbox(
            1 << 20, self.repairs.first_gap, lambda topic, byte: self.tracker.number(byte)
        )
        self.repairs.follow(TOPIC.id, world.now)
        self.missed = 0
        self.all.append(self)
        self.tick()

    def receive(self, datagram: bytes) -> None:
        now = self.world.now
        told = decode_told(datagram)
        if told is not None:
            self.told(told)
            return
        event = wire.decode_event(datagram)
        epoch, delivery = event.epoch, event.delivery_sequence
        gap = self.tracker.see(epoch, delivery)
        if gap == AGAIN:
            return
        number = self.tracker.number(epoch)
        self.missed += gap
        if gap > 0:
            self.repairs.lacks(Span(TOPIC.id, number, delivery - gap, delivery), now)
        elif gap:
            again = bool(event.flags & FLAG_DUP)
            self.repairs.came(TOPIC.id, number, delivery, again=again)
        missed, self.missed = self.missed, 0
        assert self.inbox.put(
            Event("t", TOPIC.id, bytes(event.bodies[0]), 1, event.sequence, delivery, epoch, 0, 0, missed)
        )

    def told(self, told: Told) -> None:
        assert (told.client, told.topic) == (self.holder.client, TOPIC.id)
        lacking = self.tracker.sent(told.epoch, told.sent)
        if lacking is not None:
            first, count = lacking
            self.missed += count
            self.repairs.lacks(Span(TOPIC.id, told.epoch, first, first + count), self.world.now)

    def answered(self, datagram: bytes) -> None:
        answer = self.asking.receive(datagram)
        if answer is not None:
            self.repairs.answered(self.world.now)
            for span in answer.gone:
                self.repairs.gone(span)
            self.inbox.release(TOPIC.id)

    def tick(self) -> None:
        now = self.world.now
        if self.repairs.timer is not None and self.repairs.timer <= now:
            if self.repairs.expire(now):
                self.inbox.release(TOPIC.id)
            if rows := self.repairs.ask(now):
                datagram = self.asking.request(self.holder.port, rows)
                self.world.carry(lambda data: self.world.asked(self, data), datagram)
        self.world.at(now + 0.0005, self.tick)

    def taken(self) -> list[Event]:
        self.inbox.release(TOPIC.id)
        events = []
        while (each := self.inbox.take()) is not None:
            events.append(each)
        return events


@pytest.fixture(autouse=True)
def _nobody_yet() -> None:
    Member.all.clear()


@pytest.mark.parametrize("loss", [0.0, 0.01, 0.05, 0.2])
@pytest.mark.parametrize("mixes", [False, True])
def test_every_event_is_handed_out_once_and_in_order(loss: float, mixes: bool) -> None:
    world = World(round(loss * 100), loss, mixes=mixes)
    members = [Member(world, port) for port in range(1, 4)]
    world.look()
    published = 0
    # They come and go: what is missing of an epoch when it ends is repaired like anything else.
    for present in (members[:1], members, members[1:], members[:2]):
        world.route(*present)
        for _ in range(500):
            world.at(world.now + APART, lambda: None)
            world.publish(published)
            published += 1
            world.run(world.now + APART)
    world.run(world.now + 5.0)
    events = [each.taken() for each in members]
    assert sorted(int(event.body) for some in events for event in some) == list(range(published))
    for member, some in zip(members, events, strict=True):
        for epoch in range(1, world.epoch + 1):
            stamps = [event.delivery_sequence for event in some if event.epoch == epoch]
            assert stamps == list(range(len(stamps)))
        assert sum(event.missed for event in some) == member.missed == 0
        assert (member.tracker.missed, member.repairs.count(TOPIC.id).given_up) == (0, 0)
    if not loss and not mixes:
        # Who misses nothing asks for nothing.
        assert world.copies == 0
    elif not mixes:
        repaired = sum(each.repairs.count(TOPIC.id).repaired for each in members)
        assert repaired <= world.copies <= 3 * repaired
    assert TOPIC.framing is Framing.EVENT


def test_what_the_journal_has_no_more_is_given_up_and_counted() -> None:
    world = World(1, 0.0, slots=64)
    member = Member(world, 1)
    world.look()
    world.route(member)
    world.run(0.01)
    world._loss = 1.0
    for number in range(2000):
        world.publish(number)
    world.run(0.02)
    world._loss = 0.0
    world.publish(2000)
    world.run(4.0)
    some = member.taken()
    assert [int(event.body) for event in some] == list(range(int(some[0].body), 2001))
    assert len(some) == 64
    count = member.repairs.count(TOPIC.id)
    assert (count.repaired, count.given_up) == (63, 2001 - 64)
    assert member.tracker.missed == count.given_up
    assert sum(event.missed for event in some) == count.given_up

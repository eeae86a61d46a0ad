"""The leg before the broker over a network that loses and mixes up, by a clock that is moved by hand.

Publisher and broker are what they are in life, but for sockets, session and slow path; the journal is real.
"""

from __future__ import annotations

import heapq
import itertools
import os
import random
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tempos import Quality, Topic, wire
from tempos._slots import JournalLayout
from tempos.control import MAX_DATAGRAM, decode_request
from tempos.sending.asked import Asked, decode_lacking
from tempos.sending.window import LEFT, UNCERTAIN, Window
from tempos_broker.control.auth import Admitted, Caller
from tempos_broker.control.decisions import Done, Way

memory = pytest.importorskip("tempos_broker.journal.memory", reason="the compiled helper is not built")
core = pytest.importorskip("tempos_broker.resend.core")

TOPIC = Topic(7, "t", Quality.SQ, journal=1024)
#: Seconds of a way, and between two events; between two requests, and two looks.
WAY, APART, ASKS, LOOKS = 0.0003, 0.0001, 0.02, 0.001
CLIENT, PUBLISHER = 99, 4711


class World:
    def __init__(
        self, seed: int, loss: float, *, mixes: bool = False, room: int = 1 << 20, slots: int = 1024
    ) -> None:
        self.now = 10.0
        self._chance = random.Random(seed)
        self.loss, self._mixes = loss, mixes
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._turn = itertools.count()
        self.came: Counter[int] = Counter()
        self.repeated = 0
        self.asked_bytes = self.sent_bytes = 0
        self.window = Window(room, lambda: self.now)
        self.kept = self.window.of(TOPIC.id)
        self.asked = Asked(CLIENT, None)
        layout = JournalLayout.of(slots, 64)
        descriptor = memory.make(layout)
        self.journal = memory.Memory(descriptor, layout)
        os.close(descriptor)
        self.numbers = 0
        self.start()
        self.now += 1.0

    def start(self) -> None:
        """The broker, or another one beside the same journal."""
        self.drawn = {1: getattr(self, "drawn", {}).get(1, 0)}
        registry: Any = SimpleNamespace(numbered=lambda topic: TOPIC if topic == TOPIC.id else None)
        self.core = core.Resends(
            registry,
            {TOPIC.id: self.journal},
            lambda topic, epoch: self.drawn[epoch],
            has_members=lambda topic: True,
            forward=lambda topic, payload: self.take(payload),
            is_waiting=lambda topic: False,
            refuses=lambda topic, ip: False,
            clock_ns=lambda: round(self.now * 1e9),
        )
        if not self.journal.has(1):
            self.journal.begin(1, 0)
        self.core.opened(TOPIC.id, 1, self.journal.first(1))

    def at(self, when: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._turn), call))

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self._due and self._due[0][0] <= until:
            self.now, _, call = heapq.heappop(self._due)
            call()
        self.now = until

    def carry(self, deliver: Callable[[bytes], None], datagram: bytes) -> None:
        # What the network doubles of events no broker can tell from others: all else is.
        doubles = self._mixes and deliver != self.data
        for _ in range(1 + (doubles and self._chance.random() < 0.2)):
            if self._chance.random() >= self.loss:
                late = self._chance.random() * 20 * WAY if self._mixes else 0.0
                self.at(self.now + WAY + late, lambda: deliver(datagram))

    # The broker

    def take(self, datagram: bytes) -> bool:
        ticket = self.drawn[1]
        self.drawn[1] += 1
        self.journal.put(1, [ticket], datagram)
        event = wire.decode_event(datagram)
        self.came.update(range(event.sequence, event.sequence + len(event.bodies)))
        return True

    def data(self, datagram: bytes) -> None:
        if self.journal.has_guards and self.journal.is_guarded(*wire.named(datagram)):
            self.repeated += 1
        else:
            self.take(datagram)

    def control(self, datagram: bytes) -> None:
        if datagram.startswith(wire.AGAIN):
            self.core.again(datagram, "10.0.0.1", self.now)
            return
        self.asked_bytes += len(datagram)
        way = Way(Admitted(Caller("10.0.0.1"), datagram), 1, len(datagram))
        decision = self.core.request(decode_request(datagram), way, self.now)
        assert isinstance(decision.answer, Done)
        answer = wire_answer(decode_request(datagram).id, decision.answer)
        assert len(answer) <= len(datagram) <= MAX_DATAGRAM
        self.sent_bytes += len(answer)
        self.carry(self.told, answer)

    def look(self) -> None:
        for each in self.core.look(self.now):
            assert each.publisher == PUBLISHER
            self.sent_bytes += len(each.datagram)
            self.carry(self.told, each.datagram)
        self.at(self.now + LOOKS, self.look)

    # The publisher

    def publish(self, events: int = 1) -> None:
        bodies = [b"x%d" % number for number in range(self.numbers, self.numbers + events)]
        if events == 1:
            datagram = wire.encode_event(TOPIC.id, PUBLISHER, self.numbers, 0, bodies[0])
        else:
            datagram = wire.encode_batch(TOPIC.id, PUBLISHER, self.numbers, 0, bodies)
        self.numbers += events
        self.kept.put(datagram, events)
        self.carry(self.data, datagram)

    def ask(self) -> None:
        question = self.kept.question(all_left=True)
        if question is not None:
            self.carry(self.control, self.asked.request(PUBLISHER, [question]))
        self.at(self.now + ASKS, self.ask)

    def told(self, datagram: bytes) -> None:
        if (lacks := decode_lacking(datagram, CLIENT)) is not None:
            for again in self.window.lacks(lacks):
                self.carry(self.control, again)
        else:
            for each in self.asked.receive(datagram) or ():
                self.window.came(each)


def wire_answer(request: int, answer: Done) -> bytes:
    from tempos.control import encode_ok

    return encode_ok(request, **answer.fields)


@pytest.mark.parametrize("mixes", [False, True])
@pytest.mark.parametrize("loss", [0.0, 0.01, 0.2])
def test_all_comes_once_whatever_the_network_does(loss: float, mixes: bool) -> None:
    world = World(1, loss, mixes=mixes)
    world.ask()
    world.look()
    chance = random.Random(2)
    for _ in range(3000):
        world.publish(chance.choice([1, 1, 1, 5]))
        world.run(APART)
    world.run(2.0)
    assert not world.window.is_open
    assert not world.kept.given_up
    assert sorted(world.came) == list(range(world.numbers))
    assert set(world.came.values()) == {1}
    if not mixes:
        assert (world.window.resent > 0) is (loss > 0)
    assert world.sent_bytes <= world.asked_bytes


def test_a_late_first_copy_is_dropped() -> None:
    world = World(1, 0.0)
    world.ask()
    world.look()
    world.publish()
    world.run(0.05)
    late: list[bytes] = []
    world.carry = lambda deliver, datagram: late.append(datagram)  # type: ignore[method-assign]
    world.publish()
    del world.carry  # type: ignore[method-assign]
    for _ in range(20):
        world.publish()
        world.run(APART)
    world.run(0.1)
    assert not world.window.is_open
    world.data(late[0])
    assert (world.repeated, set(world.came.values())) == (1, {1})
    assert world.core.outcomes["taken"] == 1


def test_what_nobody_asked_for_is_not_taken() -> None:
    world = World(1, 0.0)
    world.ask()
    world.look()
    world.publish()
    world.run(0.05)
    for number in (0, 1, 5000):
        world.core.again(
            wire.as_again(wire.encode_event(TOPIC.id, PUBLISHER, number, 0, b"")), "10.0.0.1", world.now
        )
    world.core.again(wire.as_again(wire.encode_event(TOPIC.id, 1, 0, 0, b"")), "10.0.0.1", world.now)
    world.core.again(wire.AGAIN, "10.0.0.1", world.now)
    world.core.again(wire.as_again(wire.encode_event(9, 1, 0, 0, b"")), "10.0.0.1", world.now)
    assert world.came == {0: 1}
    assert world.core.outcomes == {"came before": 1, "not asked for": 3, "of no such topic": 2}


def test_what_has_left_the_window_is_told_exactly() -> None:
    world = World(1, 0.0, room=1000)
    world.look()
    # Nobody is asked meanwhile; every tenth is lost.
    for number in range(100):
        world.loss = 1.0 if number % 10 == 3 else 0.0
        world.publish()
        world.run(APART)
    inside = len(world.kept.entries)
    assert 0 < inside < 100
    world.loss = 0.0
    world.ask()
    world.run(1.0)
    assert not world.window.is_open
    assert world.kept.given_up == {LEFT: len(range(3, 100 - inside, 10))}
    assert sorted(set(range(100)) - set(world.came)) == list(range(3, 100 - inside, 10))


def test_another_broker_finds_what_the_journal_has_and_nothing_comes_twice() -> None:
    world = World(3, 0.0)
    world.look()
    for number in range(200):
        world.loss = 1.0 if number % 50 == 7 else 0.0
        world.publish()
        world.run(APART)
    world.loss = 0.0
    # The epoch goes on; of what came before it nothing is known but what is there.
    world.start()
    world.ask()
    world.run(1.0)
    lost = [7, 57, 107, 157]
    assert not world.window.is_open
    assert world.kept.given_up + Counter() == {UNCERTAIN: len(lost)} or not world.kept.given_up
    assert set(world.came.values()) == {1}
    assert len(world.came) + sum(world.kept.given_up.values()) == 200


def test_a_journal_that_is_lapped_unread_makes_nothing_certain() -> None:
    world = World(4, 0.0, slots=64)
    world.look()
    world.ask()
    world.publish()
    world.run(0.05)
    # The broker is held up: it reads nothing for more than a lap.
    world.core.look = lambda now: []
    world.loss = 1.0
    world.publish()
    world.loss = 0.0
    for _ in range(500):
        datagram = wire.encode_event(TOPIC.id, 5, world.drawn[1], 0, b"")
        world.data(datagram)
    del world.core.look
    world.run(1.0)
    assert world.kept.given_up == {UNCERTAIN: 1}
    assert world.came[1] == 1 or 1 not in world.came

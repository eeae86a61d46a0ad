"""A work queue's journal is not outrun: by swaps, by leases longer than it holds, by slow members.

The broker's side as it is, over a journal in memory; members, time and both paths are simulated.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from tempos import Route, Topic
from tempos.control import decode_reply, encode_request
from tempos.redelivery.asking import decode_again, decode_several, handed_in
from tempos.redelivery.processed import Processed
from tempos.redelivery.taking import Copy, Lot
from tempos.wire import decode_event, encode_event
from tempos_broker.account.changes import Changes
from tempos_broker.account.ledger import Ledger
from tempos_broker.config.model import BrokerConfig, ControlConfig, TopicConfig
from tempos_broker.control.server import ControlServer
from tempos_broker.journal.journals import Journals
from tempos_broker.membership import Registry
from tempos_broker.redelivery.desk import LOOK, Redelivery

pytest.importorskip("tempos_broker.shared", reason="the compiled helper is not built")

IP, GROUP, INSTANCE = "10.0.0.2", "work", 7
#: Seconds between two steps of all, and between two heartbeats of a member.
STEP, BEAT = 0.05, 0.5


class Worker:
    """A member; ``is_up``: it lives, and gets to run."""

    def __init__(self, client: int) -> None:
        self.client = client
        self.is_up = True
        self.processed = Processed(1)
        self.plain: list[int] = []
        self.again: list[int] = []
        self.lot = Lot(1, self._hand_out)
        self.beats_at = 0.0

    def _hand_out(self, topic: int, copies: Sequence[Copy], first: int) -> Sequence[bool]:
        for number, copy in enumerate(copies, first):
            self.again.append(decode_event(copy.datagram).sequence)
            self._out.append(number)
        return [True] * len(copies)

    _out: list[int]

    def work(self) -> None:
        """Process what was handed out."""
        for number in self._out:
            self.lot.processed(number & 0xFFFFFFFF)
        self._out = []


class Queue:
    """A broker with one queue; ``rate``: events a second; its route takes ``swap`` seconds to change."""

    def __init__(self, slots: int, lease: float, rate: float, swap: float = 0.1) -> None:
        self.now = 1000.0
        self.rate, self.swap_takes = rate, swap
        self.topic = Topic(1, "orders", journal=slots, journal_bytes=64, redeliver=True)
        config = BrokerConfig((TopicConfig(self.topic),), control=ControlConfig(lease=lease, heartbeat=BEAT))
        self.registry, self.ledger = Registry(config, lambda ip: False), Ledger()
        self.journals = Journals(clock=lambda: self.now)
        self.journals.change((), [self.topic])
        self.drawn: Counter[int] = Counter()
        self.desk = Redelivery(
            self.registry, self.ledger, self.journals, lambda topic, epoch, group: self.drawn[epoch],
            self._say, self._put, instance=INSTANCE, life=1, changes=Changes(), clock=lambda: self.now,
        )  # fmt: skip
        self.server = ControlServer(
            self.registry, self.ledger, config.control, name="sim", instance=INSTANCE,
            epoch=lambda topic: self.epoch, more={"redeliver": self.desk.request},
        )  # fmt: skip
        self.workers: dict[int, Worker] = {}
        self.gone: list[Worker] = []
        self.epoch = self.sent = 0
        self.seats: list[int] = []
        self.due = self.looks_at = 0.0
        self._swap()

    async def _put(self, kind: str, things: object) -> bool:
        return True

    def _say(self, datagram: bytes, to: tuple[str, int], via: str | None) -> int:
        if (worker := self.workers.get(to[1])) is not None:
            worker.lot.is_announced = True
        return 0

    # What happens

    def join(self) -> Worker:
        client = len(self.workers) + len(self.gone) + 1
        worker = self.workers[client] = Worker(client)
        worker._out = []
        self._subscribe(worker)
        self._swap()
        return worker

    def _subscribe(self, worker: Worker) -> None:
        self.registry.subscribe("orders", GROUP, (IP, worker.client), worker.client, self.now)
        worker.beats_at = self.now + BEAT

    def kill(self, worker: Worker) -> None:
        self.gone.append(self.workers.pop(worker.client))

    def run(self, seconds: float, *, events: bool = True) -> None:
        end = self.now + seconds
        while self.now < end:
            self._step(events=events)

    def _step(self, *, events: bool = True) -> None:
        self.now += STEP
        if events:
            self._come(STEP)
        if self.registry.expire(self.now):
            self._swap()
        for worker in [each for each in self.workers.values() if each.is_up]:
            worker.work()
            if self.now >= worker.beats_at:
                worker.beats_at = self.now + BEAT
                if self.registry.heartbeat((IP, worker.client), worker.client, self.now) is None:
                    self._subscribe(worker)
                    self._swap()
            self._ask(worker)
        if self.now >= self.looks_at:
            self.looks_at = self.now + LOOK
            self.desk.look()
            while self.desk.is_copying:
                self.desk.look()

    def _come(self, seconds: float) -> None:
        self.due += self.rate * seconds
        while self.due >= 1:
            self.due -= 1
            ticket = self.drawn[self.epoch]
            self.drawn[self.epoch] += 1
            self.journals.of[1].put(self.epoch, [ticket], encode_event(1, 5, self.sent, 0, b"body"))
            member, delivery = self.seats[ticket % len(self.seats)], ticket // len(self.seats)
            if (worker := self.workers.get(member)) is not None and worker.is_up:
                worker.plain.append(self.sent)
                worker.processed.add(self.epoch, delivery)
            self.sent += 1

    def _swap(self) -> None:
        before, groups = self.epoch, len(self.seats[:1])
        holders = self.registry.holders(1)
        self.journals.begin(1, before + 1, self.drawn[before])
        route = Route(self.topic, before + 1, self.registry.groups(1))
        self.desk.opened(route, holders)
        if self.seats:
            # What is drawn until both paths have it.
            self._come(self.swap_takes)
        self.now += self.swap_takes
        self.journals.ended(1, before, self.drawn[before])
        self.desk.closed(1, before, groups)
        self.epoch += 1
        self.seats = [holder.client or 0 for _, members in holders for holder in members]

    def _ask(self, worker: Worker) -> None:
        request = encode_request(
            "redeliver", 1, worker.client, roomy=True, port=worker.client, instance=INSTANCE,
            consumed=worker.processed.take(32), taking=[worker.lot.taking()], together=True,
        )  # fmt: skip
        decision = self.server.receive_datagram(request, IP, self.now)
        assert decision is not None
        answer = self.server.render(decision)
        assert answer is not None
        reply = decode_reply(answer)
        for datagram in decision.copies.datagrams if decision.copies is not None else ():
            if (several := decode_several(datagram)) is not None:
                copies = [Copy(several.epoch, each) for each in several.datagrams]
                worker.lot.take(several.number, copies, self.now)
            elif (again := decode_again(datagram)) is not None:
                worker.lot.take(again.number, [Copy(0, again.datagram)], self.now)
        if reply.ok is not None:
            for row in handed_in(reply.ok):
                worker.lot.handed(row, self.now)
                worker.processed.forget(row.oldest)

    def assert_all_processed(self) -> None:
        """Once it is worked off: each at least once, and what is twice is flagged."""
        for _ in range(2000):
            self._step(events=False)
            group = self.desk.accounts(1).get(GROUP)
            if group is None or not group.pending:
                break
        workers = [*self.workers.values(), *self.gone]
        plain = Counter(number for worker in workers for number in worker.plain)
        again = Counter(number for worker in workers for number in worker.again)
        assert max(plain.values()) == 1
        missing = self.sent - len(plain | again)
        assert (missing, group and group.lapsed) == (0, 0)


async def test_swaps_do_not_outrun_a_journal() -> None:
    """Many come and go in the time that a lease has: the journal holds 20 s of what comes."""
    queue = Queue(slots=8192, lease=2.0, rate=400)
    workers = [queue.join() for _ in range(4)]
    queue.run(3)
    chance = random.Random(5)
    for _ in range(6):
        queue.kill(workers.pop(chance.randrange(4)))
        workers.append(queue.join())
        for _ in range(9):
            queue.kill(queue.join())
        queue.run(2)
    queue.run(3)
    queue.assert_all_processed()


async def test_what_the_dead_had_is_kept_until_their_lease_is_over() -> None:
    """The journal holds half of what comes until it is known that somebody is dead."""
    queue = Queue(slots=1024, lease=5.0, rate=400)
    workers = [queue.join() for _ in range(4)]
    queue.run(3)
    for _ in range(4):
        queue.kill(workers.pop(0))
        workers.append(queue.join())
        queue.run(6)
    queue.run(6)
    queue.assert_all_processed()
    assert queue.desk.aside(1) == 0, "nothing is kept for ever"


async def test_who_stands_still_is_late_and_loses_nothing() -> None:
    """A worker that gets no processor is out, comes back, and others have worked off what it had."""
    queue = Queue(slots=1024, lease=3.0, rate=300)
    workers = [queue.join() for _ in range(3)]
    for _ in range(3):
        queue.run(2)
        workers[0].is_up = False
        queue.run(7)
        workers[0].is_up = True
    queue.run(4)
    queue.assert_all_processed()


async def test_while_all_are_out_what_comes_waits() -> None:
    """On a busy machine nobody gets to run for longer than leases last; more comes than the journal holds."""
    queue = Queue(slots=1024, lease=2.0, rate=300)
    workers = [queue.join() for _ in range(3)]
    for _ in range(2):
        queue.run(2)
        for worker in workers:
            worker.is_up = False
        queue.run(6)
        for worker in workers:
            worker.is_up = True
        queue.run(4)
    queue.assert_all_processed()

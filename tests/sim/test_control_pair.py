"""The client's and the broker's ends of the control protocol, joined by a lossy network and a moved clock."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tempos import Member, Topic
from tempos.control import Received
from tempos.session import ControlSession
from tempos.session.events import Answered, BrokerChanged, Failed, Joined, Subscribed
from tempos_broker.account.accounts import Holder
from tempos_broker.account.ledger import Ledger
from tempos_broker.config.model import BrokerConfig, ControlConfig, TopicConfig
from tempos_broker.control.server import ControlServer
from tempos_broker.membership import Registry

IP = "10.0.2.2"


class World:
    """A broker and clients; datagrams are lost, doubled and delayed by a seeded coin."""

    def __init__(self, seed: int, loss: float, topics: Sequence[str] = ("alpha",)) -> None:
        self.now = 1000.0
        self._rng = random.Random(seed)
        self._loss = loss
        self._wire: list[tuple[float, int, ControlSession | None, bytes, ControlSession, str]] = []
        self._order = 0
        self.config = BrokerConfig(tuple(TopicConfig(Topic(i + 1, name)) for i, name in enumerate(topics)))
        self.clients: list[ControlSession] = []
        #: Where a client is, if not at IP.
        self.at: dict[int, str] = {}
        self.events: dict[int, list[object]] = {}
        self.start_broker(1)

    def start_broker(self, instance: int) -> None:
        self.registry = Registry(self.config, lambda ip: False)
        self.ledger = Ledger()
        self.epochs: dict[int, int] = {}
        self.server = ControlServer(
            self.registry,
            self.ledger,
            ControlConfig(),
            name="sim",
            instance=instance,
            epoch=lambda topic: self.epochs.get(topic, 0),
        )

    def _swap(self) -> None:
        """What the shell does: a new epoch for every topic whose members changed."""
        for entry in self.config.topics:
            topic, version = entry.topic.id, self.registry.version(entry.topic.id)
            if version != self.epochs.get(topic):
                self.ledger.opened(topic, version, self.registry.holders(topic), self.now)
                if topic in self.epochs:
                    tickets = [100 for _ in self.ledger.route(topic, self.epochs[topic])]
                    self.ledger.closed(topic, self.epochs[topic], tickets)
                self.epochs[topic] = version
                self.registry.holdings.in_force(topic, self.registry.holders(topic))

    def add(self, port: int, counts: object = None) -> ControlSession:
        session = ControlSession(client=port, broker="sim:9997", port=port, counts=counts)  # type: ignore[arg-type]
        self.clients.append(session)
        self.events[id(session)] = []
        return session

    def seen(self, session: ControlSession, kind: type) -> list[object]:
        return [event for event in self.events[id(session)] if isinstance(event, kind)]

    def _send(self, to: ControlSession | None, data: bytes, client: ControlSession) -> None:
        for _ in range(1 + (self._rng.random() < 0.1)):
            if self._rng.random() >= self._loss:
                self._order += 1
                delay = self._rng.uniform(0.0001, 0.3)
                place = self.at.get(id(client), IP)
                heapq.heappush(self._wire, (self.now + delay, self._order, to, data, client, place))

    def run(self, seconds: float, skip: Sequence[ControlSession] = ()) -> None:
        """Let ``seconds`` pass; the clients in ``skip`` are dead."""
        end = self.now + seconds
        while True:
            for client in self.clients:
                if client not in skip:
                    for datagram in client.datagrams_to_send(self.now):
                        self._send(None, datagram, client)
                    while (event := client.next_event()) is not None:
                        self.events[id(client)].append(event)
            times = [at for c in self.clients if c not in skip and (at := c.get_timer()) is not None]
            times += [self._wire[0][0]] if self._wire else []
            expiry = self.registry.next_expiry()
            times += [expiry] if expiry is not None else []
            if not times or min(times) > end:
                self.now = end
                return
            self.now = max(self.now, min(times))
            self.registry.expire(self.now)
            while self._wire and self._wire[0][0] <= self.now:
                _, _, to, data, client, place = heapq.heappop(self._wire)
                if to is None:
                    decision = self.server.receive_datagram(data, place, self.now)
                    if decision is not None:
                        for _ in self.server.joins(decision):
                            self._swap()
                        self._swap()
                        if (answer := self.server.render(decision)) is not None:
                            self._send(client, answer, client)
                elif place == self.at.get(id(client), IP):
                    to.receive_datagram(data, self.now)
            for client in self.clients:
                client.handle_timer(self.now)


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.floats(0, 0.3))
def test_members_stay_members_as_long_as_they_live_whatever_is_lost(seed: int, loss: float) -> None:
    world = World(seed, loss)
    clients = [world.add(port) for port in (5001, 5002, 5003)]
    for client in clients:
        client.subscribe("alpha", "workers", world.now)
    world.run(20)
    answered = [client for client in clients if world.seen(client, Subscribed)]
    failed = [client for client in clients if world.seen(client, Failed)]
    assert len(answered) + len(failed) == 3, "every request ends, one way or the other"
    world.run(120)
    members = {m.port for group in world.registry.groups(1) for m in group.members}
    # A client whose every answer was lost gave up; its membership ended with its lease.
    assert members == {5001 + clients.index(client) for client in answered}


@given(st.integers(0, 2**32))
def test_a_dead_member_is_out_after_its_lease_and_the_living_stay(seed: int) -> None:
    world = World(seed, 0.1)
    dead, alive = world.add(5001), world.add(5002)
    for client in (dead, alive):
        client.subscribe("alpha", "workers", world.now)
    world.run(7)
    if len(world.seen(dead, Subscribed)) + len(world.seen(alive, Subscribed)) < 2:
        return
    world.run(10 + 2.5, skip=[dead])
    assert [group.members for group in world.registry.groups(1)] == [(Member(IP, 5002),)]


@given(st.integers(0, 2**32))
def test_a_restarted_broker_gets_its_members_back_by_itself(seed: int) -> None:
    world = World(seed, 0.05, topics=("alpha", "beta"))
    client = world.add(5001)
    client.subscribe("alpha", "workers", world.now)
    client.subscribe("beta", None, world.now)
    world.run(8)
    if len(world.seen(client, Subscribed)) < 2:
        return
    world.start_broker(2)
    world.run(30)
    assert world.registry.member_count(1) == world.registry.member_count(2) == 1
    assert any(event.renewed for event in world.seen(client, Subscribed))  # type: ignore[attr-defined]


class Counting:
    """What a member says it got, of the epoch it joined in: one more at every look."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.total = 0

    def report(self) -> list[dict[str, Any]]:
        self.total += 1
        return [{"received": [Received(1, "workers", self.epoch, self.total)]}]

    def acknowledge(self, told: object, answer: object) -> None:
        return

    def tell_again(self) -> None:
        return


@given(st.integers(0, 2**32), st.floats(0, 0.2))
def test_counts_are_never_more_than_was_said_and_final_after_goodbye(seed: int, loss: float) -> None:
    world = World(seed, loss)
    counts = Counting(epoch=2)
    client = world.add(5001, counts)
    client.subscribe("alpha", "workers", world.now)
    world.run(20)
    accounts = world.ledger.accounts(Holder(IP, 5001, 5001))
    if not accounts:
        return
    (account,) = accounts
    assert account.delivered <= counts.total
    client.goodbye(world.now)
    final = counts.total
    world.run(20)
    if not world.seen(client, Failed):
        assert account.delivered == final
        assert account.outstanding == 100 - final


@given(st.integers(0, 2**32), st.floats(0, 0.2), st.booleans(), st.integers(1, 3))
def test_a_client_that_moves_is_one_member_and_what_it_got_before_is_booked(
    seed: int, loss: float, own: bool, moves: int
) -> None:
    world = World(seed, loss)
    client = world.add(5001)
    group = None if own else "workers"
    client.subscribe("alpha", group, world.now)
    world.run(8)
    if not world.seen(client, Subscribed):
        return
    epoch = world.epochs[1]
    place = (IP, 5001)
    for number in range(moves):
        # Whatever is on its way is lost with the address, or comes from it late.
        former, place = place, (f"10.0.3.{number}", 5001 + number)
        world.at[id(client)] = place[0]
        here = f"~{place[0]}:{place[1]}" if own else "workers"
        client._counts = Told(Received(1, here, epoch, 60))
        client.moved(place[1], former, "it moved", world.now)
        world.run(0.3)
    # At most two heartbeats, each with its repetitions; with losses some more.
    world.run(5 if not loss else 30)
    (only,) = world.registry.groups(1)
    assert only.members == (Member(*place),)
    assert len(world.registry.holdings.wanted()) == 1, "no lease of a former place is left"
    (account,) = world.ledger.accounts(Holder(IP, 5001, 5001))
    assert (account.delivered, account.outstanding) == (60, 40)


@given(st.integers(0, 2**32), st.sampled_from(["goodbye", "drain", "unsubscribe"]))
def test_no_late_copy_makes_a_member_of_one_that_has_left(seed: int, how: str) -> None:
    world = World(seed, 0, topics=("alpha", "beta"))
    client = world.add(5001)
    client.subscribe("alpha", "workers", world.now)
    while not world.seen(client, Subscribed):
        world.run(0.01)
    if how == "goodbye":
        client.goodbye(world.now)
    elif how == "drain":
        client.drain(world.now, 0.1)
    else:
        client.unsubscribe("alpha", world.now)
    world.run(2)
    assert world.registry.groups(1) == ()
    if how == "unsubscribe":
        # It may wish so again.
        client.subscribe("alpha", "workers", world.now)
        world.run(2)
        assert world.registry.member_count(1) == 1


@given(st.integers(0, 2**32), st.floats(0, 0.5))
def test_no_late_copy_takes_one_out_that_has_come_back(seed: int, pause: float) -> None:
    world = World(seed, 0, topics=("alpha", "beta"))
    client = world.add(5001)
    client.subscribe("alpha", "workers", world.now)
    world.run(2)
    client.unsubscribe("alpha", world.now)
    world.run(pause)
    client.subscribe("alpha", "workers", world.now)
    # Before any heartbeat could mend it.
    world.run(0.7)
    for _ in range(30):
        assert world.registry.member_count(1) == 1
        world.run(0.1)


class Told:
    """What a member says it got, at any time the same."""

    def __init__(self, *rows: Received) -> None:
        self._rows = rows

    def report(self) -> list[dict[str, Any]]:
        return [{"received": list(self._rows), "full": True}]

    def acknowledge(self, told: object, answer: object) -> None:
        return

    def tell_again(self) -> None:
        return


@given(st.integers(0, 2**32), st.floats(0, 0.3))
def test_a_drain_is_asked_with_newer_counts_until_everything_is_confirmed(seed: int, loss: float) -> None:
    world = World(seed, loss)
    counts = Counting(epoch=2)
    client = world.add(5001, counts)
    client.subscribe("alpha", "workers", world.now)
    world.run(20)
    if not world.seen(client, Subscribed):
        return
    client.drain(world.now, 30)
    world.run(40)
    (answer,) = world.seen(client, Answered)
    assert isinstance(answer, Answered)
    # 100 tickets in the member's one epoch; every look finds one datagram more.
    assert answer.fields == {"ticketed": 100, "delivered": 100, "lost": 0}
    assert counts.total >= 100
    assert world.registry.groups(1) == ()
    assert client.get_timer() is None


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.floats(0, 0.3))
def test_what_a_filter_matches_is_known_to_both_ends_whatever_is_lost_made_or_begun_anew(
    seed: int, loss: float
) -> None:
    world = World(seed, loss, ["plant/1", "plant/2", "other"])
    client = world.add(5001)
    while not world.seen(client, Joined):
        client.subscribe(["plant/#", "plant/1"], "g", world.now)
        world.run(20)

    def both() -> None:
        world.run(60)
        held = {
            entry.topic.name for entry in world.config.topics if world.registry.member_count(entry.topic.id)
        }
        assert set(client.topics) == held == {each.topic.name for each in world.config.topics} - {"other"}

    both()
    first, second, other = world.config.topics
    more = [TopicConfig(Topic(9 + n, f"plant/{9 + n}/{'x' * n}")) for n in range(60)]
    world.config = BrokerConfig((first, second, other, *more))
    world.registry.configure(world.config, [], more, world.now)
    world._swap()
    both()
    # One goes, and its id is another's.
    world.config = BrokerConfig((first, other, TopicConfig(Topic(2, "plant/two")), *more[:-1]))
    world.registry.configure(world.config, [2, more[-1].topic.id], [world.config.topics[2]], world.now)
    world._swap()
    both()
    world.epochs.pop(more[-1].topic.id)
    world.start_broker(2)
    both()
    assert {event.instance for event in world.seen(client, BrokerChanged)} == {2}  # type: ignore[attr-defined]

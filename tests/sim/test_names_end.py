"""Whatever a client may name, group, client number, port or publisher, has an end in the broker's memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from support.growing import entries
from support.ports import free_ports

from tempos import Framing, Route, Subscriber, Topic
from tempos.control import Dropped, Heard, Lacking, Received, Sent, decode_reply, encode_request
from tempos_broker.account.accounts import Holder
from tempos_broker.account.ledger import Ledger
from tempos_broker.account.topics import ASKS_AGAIN, FORMER, LEFT_KEPT
from tempos_broker.broker import Broker
from tempos_broker.config.model import BrokerConfig, ControlConfig, Limits, TopicConfig
from tempos_broker.control.server import ControlServer
from tempos_broker.membership import Registry

from .test_broker import FakeFastPath, until

IP, LEASE = "10.0.2.2", 10.0
#: Clients that come one after the other: until all is full that has room for some, and all; seconds between.
FULL, ALL, STEP = 1024, 1500, 0.2
#: Tickets that each group draws in each epoch.
DRAWN = 7
TOPICS = (Topic(1, "named"), Topic(2, "shared"), Topic(3, "plain", framing=Framing.RAW))


class Shop:
    """A broker's control server with its account; the clock is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        config = BrokerConfig(tuple(map(TopicConfig, TOPICS)), limits=Limits(groups_per_client=64))
        self.registry = Registry(config, lambda ip: False)
        self.ledger = Ledger({3})
        self.ledger.tickets = lambda topic, epoch, group: self.live(topic)[epoch][group]
        self.epochs: dict[int, int] = {}
        self.server = ControlServer(
            self.registry, self.ledger, ControlConfig(rate=1_000_000), name="shop", instance=1,
            epoch=lambda topic: self.epochs.get(topic, 0), wall=lambda: 1e9 + self.now,
            monotonic=lambda: self.now,
        )  # fmt: skip

    def live(self, topic: int) -> dict[int, list[int]]:
        open_ = self.ledger.open_epochs(topic)
        return {epoch: [DRAWN if epoch == self.epochs[topic] else 0] * n for epoch, n in open_.items()}

    def swap(self) -> None:
        """As the routes do it; every epoch carries so many events."""
        for topic in (1, 2, 3):
            version = self.registry.version(topic)
            if version == self.epochs.get(topic):
                continue
            self.ledger.opened(topic, version, self.registry.holders(topic), self.now)
            if topic in self.epochs:
                old = self.epochs[topic]
                self.ledger.closed(topic, old, [DRAWN] * self.ledger.open_epochs(topic)[old])
            self.epochs[topic] = version
            self.ledger.settle(self.now - LEASE, self.now - ASKS_AGAIN)
            self.ledger.in_force(topic, self.now)

    def ask(self, op: str, client: int, port: int, **fields: Any) -> bytes | None:
        request = encode_request(op, client & 0xFFFF, client, port=port, **fields)
        decision = self.server.receive_datagram(request, IP, self.now)
        assert decision is not None
        self.swap()
        return self.server.render(decision)

    def told(self, client: int) -> Mapping[str, Any]:
        """What a member that got everything of its epochs tells, and of whom."""
        group = f"deploy-{client}"
        return {
            "received": [
                Received(1, group, self.epochs[1], DRAWN),
                Received(3, group, 0, DRAWN),
            ],
            "full": True,
            "dropped": [Dropped(1, group, 1)],
            "publishers": [Heard(2, "workers", 1 + client // 4, 3, 3, 3 * client, 3, 0)],
            "lacking": [Lacking(2, "workers", 0, client % 2)],
            "untold": 0,
            **dict.fromkeys(("waiting", "queue", "overruns"), 5),
        }

    def visit(self, client: int, step: float = STEP) -> None:
        """A client comes, gets events and goes, by one of three ways."""
        self.now += step
        port = 1024 + client % 60_000
        own = f"deploy-{client}"
        for topic, group in (("named", own), ("shared", "workers"), ("plain", own)):
            self.ask("subscribe", client, port, topic=topic, group=group)
        said = Sent(2, 10 * client, 0, 10 * client, 0)
        self.server.receive_datagram(
            encode_request("sent", client, client, publisher=1 + client // 4, sent=[said]), IP, self.now
        )
        self.ask("heartbeat", client, port, **self.told(client))
        if client % 3 != 2:
            self.ask(("drain", "goodbye")[client % 3], client, port, **self.told(client))
        self.registry.expire(self.now)
        self.swap()

    def entries(self) -> int:
        """All that is in the lists, sets and maps behind it."""
        return entries(self.server, self.ledger, self.registry, apart=[Shop])


def test_clients_that_come_and_go_under_ever_new_names_leave_sums_and_nothing_else() -> None:
    shop = Shop()
    shop.registry.subscribe("shared", "workers", (IP, 1000), 10**9, 1e9)
    sizes, exports = [], []
    for client in range(1, ALL + 1):
        shop.visit(client)
        if client in (FULL, ALL):
            sizes.append(shop.entries())
            exports.append([len(json.dumps(shop.ledger.export(topic, shop.now))) for topic in (1, 2, 3)])
    shop.now += LEASE + 1
    shop.registry.expire(shop.now)
    shop.swap()
    shop.now += LEASE + 1
    shop.ledger.settle(shop.now - LEASE)
    assert sizes[1] <= sizes[0] * 1.02, "nothing grows with who ever was there"
    assert all(after <= before * 1.05 for before, after in zip(*exports, strict=True)), exports
    for topic in (1, 2, 3):
        live = shop.live(topic)
        total = shop.ledger.drawn(topic) + sum(counts[0] for counts in live.values() if counts)
        account = shop.ledger.topic(topic, live=live, received=total, fast=0, slow=total, refused={})
        assert account.balanced, account.problems[:3]
        for row in account.groups:
            told = row.delivered + row.dropped + row.unconfirmed + row.lost + row.unknown
            assert row.tickets == told, row
    named = shop.ledger.topic(1, live=shop.live(1), received=0, fast=0, slow=0, refused={}).groups
    former = {row.name: row for row in named}[FORMER]
    # All of them told what they got, and dropped one of it.
    assert former.tickets >= DRAWN * (ALL - 64)
    assert former.dropped >= ALL - 64
    # Who asks the next life finds the same.
    heir = Ledger({3})
    heir.restore(1, json.loads(json.dumps(shop.ledger.export(1, shop.now))), 0.0)
    again = heir.topic(1, live=shop.live(1), received=0, fast=0, slow=0, refused={}).groups
    assert {row.name: row.tickets for row in again} == {row.name: row.tickets for row in named}


def test_of_those_that_come_and_go_quickly_and_have_confirmed_everything_few_are_waited_for() -> None:
    shop = Shop()
    for client in range(1, 1000, 3):
        # All of them drain; in a lease two thousand would have left.
        shop.visit(client // 3 * 3, 0.005)
        assert len(shop.ledger._topics[1].left) <= LEFT_KEPT + ASKS_AGAIN / 0.005 + 1
    assert len(shop.ledger._topics[1].groups) < 333


def test_who_asks_again_what_became_of_its_drain_hears_the_same_although_its_account_is_settled() -> None:
    shop = Shop()
    for client in range(1, LEFT_KEPT + 10):
        shop.visit(client)
    shop.ask("subscribe", 7, 900, topic="named", group="last")
    told = {"received": [Received(1, "last", shop.epochs[1], DRAWN)], "full": True, "untold": 0}
    first = shop.ask("drain", 7, 900, **told)
    assert first is not None
    assert decode_reply(first).ok == {"ticketed": DRAWN, "delivered": DRAWN, "lost": 0}
    shop.now += LEASE + 1
    shop.ledger.settle(shop.now - LEASE)
    assert not shop.ledger.accounts(Holder(IP, 900, 7))
    assert shop.ask("drain", 7, 900, **told) == first


async def test_a_broker_without_a_state_file_keeps_nothing_to_be_written() -> None:
    data, control = free_ports(2)
    told = BrokerConfig(
        tuple(map(TopicConfig, TOPICS)), listen=("127.0.0.1",), data_port=data, control_port=control
    )
    async with Broker(told, FakeFastPath()) as broker:
        for _ in range(5):
            async with Subscriber("127.0.0.1", "named", "shared", control_port=control):
                pass
        await until(lambda: not broker._registry.member_count(1))
        assert not broker._registry.holdings.wants.changed
        assert await broker._past.keeper.put("kind", {"key": 1})
        await broker._past.keeper.save_ended([Route(TOPICS[0], 9, ())])
        kept = broker._past.keeper._unsaved_things, broker._past.keeper._unsaved_ends
        assert kept == ({}, {})

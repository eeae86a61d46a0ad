"""Members of a raw topic, more than are remembered, come back after leases on end: their totals add up."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.proving import granted

from tempos import Framing, Topic
from tempos.control import Received, decode_reply, encode_request
from tempos_broker.account.accounts import SETTLED_KEPT
from tempos_broker.broker import Broker
from tempos_broker.config.model import BrokerConfig, ControlConfig, Limits, TopicConfig
from tempos_broker.lives.store import Store

from .test_broker import FakeFastPath, free_ports, until

MEMBERS = SETTLED_KEPT + 16
LEASE = 0.4


async def ask(broker: Broker, op: str, client: int, port: int, **fields: Any) -> Mapping[str, Any]:
    answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    if op == "subscribe":
        fields["proof"] = granted(broker, "127.0.0.1", port, client, None)
    request = encode_request(op, client, client, port=port, **fields)
    broker._port._receive(request, "127.0.0.1", None, lambda data, **about: answer.set_result(data))
    reply = decode_reply(await asyncio.wait_for(answer, 20))
    assert reply.ok is not None, reply.error
    return reply.ok


async def test_more_members_than_are_remembered_come_back_after_leases_on_end(tmp_path: Path) -> None:
    data, control = free_ports(2)
    config = BrokerConfig(
        (TopicConfig(Topic(1, "plain", framing=Framing.RAW)),), listen=("127.0.0.1",), data_port=data,
        control_port=control, api_port=0, control=ControlConfig(lease=60.0, heartbeat=10.0, rate=1_000_000),
        limits=Limits(members_per_group=MEMBERS),
    )  # fmt: skip
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(MEMBERS)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
        each.setblocking(False)
    totals = [0] * MEMBERS
    ports = [each.getsockname()[1] for each in sockets]

    def read() -> int:
        for index, each in enumerate(sockets):
            while True:
                try:
                    each.recv(64)
                except BlockingIOError:
                    break
                totals[index] += 1
        return sum(totals)

    async def tell(broker: Broker) -> None:
        for index, port in enumerate(ports):
            await ask(broker, "heartbeat", index + 1, port, received=[Received(1, "g", 0, totals[index])])

    async def life(broker: Broker, rounds: int) -> None:
        # So long what may still be said of ended leases is waited for.
        broker._routes.lease = LEASE
        for _ in range(rounds):
            for index, port in enumerate(ports):
                await ask(broker, "subscribe", index + 1, port, topic="plain", group="g")
            sent = read() + 3 * MEMBERS
            for number in range(3 * MEMBERS):
                publisher.sendto(b"\x01x", ("127.0.0.1", data))
                if number == MEMBERS:
                    # While events are on their way.
                    await tell(broker)
            await until(lambda sent=sent: read() == sent)  # type: ignore[misc]
            await tell(broker)
            (topic,) = broker.ledger()["topics"]
            assert topic["balanced"], topic["problems"]
            # Away: the leases end, and so does the wait for what they may still say.
            for state in broker._registry.states(1):
                for membership in state.members.values():
                    assert membership.lease is not None
                    membership.lease.expires = 0.0
                    broker._registry.holdings._ends.begun(membership.holder, 0.0)
            broker._expiry.expire()
            await until(lambda: not broker._registry.member_count(1))
            await until(
                lambda: not any(group.accounts for group in broker._ledger._topics[1].groups.values())
            )
        (topic,) = broker.ledger()["topics"]
        assert topic["balanced"], topic["problems"]
        sums = {
            name: sum(group[name] for group in topic["groups"]) for name in ("tickets", "delivered", "lost")
        }
        assert sums == {"tickets": read(), "delivered": read(), "lost": 0}

    with contextlib.ExitStack() as stack:
        for each in sockets:
            stack.enter_context(each)
        publisher = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        async with Broker(config, FakeFastPath(), store=Store.open(tmp_path / "state")) as broker:
            await life(broker, 3)

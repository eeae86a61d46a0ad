"""Whatever is done to a broker again and again leaves nothing behind: counted in objects, over every kind."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import count

import pytest
from support.growing import entries
from support.ports import free_ports

from tempos import Framing, PathPolicy, Quality, Topic
from tempos.control import Confirm, encode_request
from tempos_broker.broker import Broker
from tempos_broker.config.model import BrokerConfig, ControlConfig, TopicConfig
from tempos_broker.control import late
from tempos_broker.journal import epochs
from tempos_broker.orders import KeepOut
from tempos_broker.resend import core, desk

from .test_broker import FakeFastPath
from .test_many_come_back import ask

#: How often each is done until what is bounded is full, and again; members that take turns.
TIMES, MEMBERS = 120, 16
#: Entries that may be more by chance, whatever was done: a change that is just being told, a timer.
BY_CHANCE = 12
TOPICS = (Topic(1, "plain", framing=Framing.RAW), Topic(2, "events", Quality.SQ, journal=64))
EXTRA = Topic(3, "extra")

Act = Callable[[int], Awaitable[object]]


class Worn:
    """A broker, and whoever does something to it; ``n`` is another number each time."""

    def __init__(self, broker: Broker, sockets: list[socket.socket]) -> None:
        self._broker = broker
        self._ports = [each.getsockname()[1] for each in sockets]
        self._source = sockets[0]

    def _member(self, n: int) -> tuple[int, int]:
        return n % MEMBERS + 1, self._ports[n % MEMBERS]

    async def visit(self, n: int) -> None:
        """A member comes, is sent something, and goes by one of two ways."""
        client, port = self._member(n)
        for topic in TOPICS:
            await ask(self._broker, "subscribe", client, port, topic=topic.name, group=f"g{n % 3}")
        self._source.sendto(b"\x01x", ("127.0.0.1", self._broker.config.data_port))
        await ask(self._broker, "heartbeat", client, port, received=[])
        # Late is whoever confirms nothing.
        await ask(self._broker, *(("drain", "goodbye")[n % 2], client, port), received=[], patience_ms=0)

    async def order(self, n: int) -> None:
        """An operator takes a member out, keeps it out, and lets it in."""
        client, port = self._member(n)
        await ask(self._broker, "subscribe", client, port, topic="plain", group="g")
        await self._broker.remove("plain", "g", ("127.0.0.1", port), KeepOut(None))
        await self._broker.let_in("plain", "g", ("127.0.0.1", port))

    async def move(self, n: int) -> None:
        await self._broker.move("plain", (PathPolicy.SLOW, PathPolicy.AUTO)[n % 2])

    async def reload(self, n: int) -> None:
        config = self._broker.config
        topics = [entry for entry in config.topics if entry.topic.id != EXTRA.id]
        more = [TopicConfig(replace(EXTRA, priority=n % 8))] if n % 2 else []
        await self._broker.reload(replace(config, topics=(*topics, *more)))

    async def make(self, n: int) -> None:
        """A topic of a new name is made, has a member, and is removed; its id comes back in a while."""
        name = f"made/{n}"
        await self._broker.add_topic({"name": name, "id": 100 + n % MEMBERS})
        client, port = self._member(n)
        await ask(self._broker, "subscribe", client, port, topic=name, group="g")
        await self._broker.remove_topic(name, drain=True, patience=0.0)

    async def confirm(self, n: int) -> None:
        """A publisher of a new number wants to know what came, also of a topic without a journal."""
        rows = [Confirm(topic.id, 0, 0, 0, 0) for topic in TOPICS]
        request = encode_request("confirm", n, n, publisher=n, confirm=rows)
        self._broker._port._receive(request.ljust(400, b"\0"), "127.0.0.1", None, lambda data, **about: None)

    async def look(self, n: int) -> None:
        for document in (self._broker.status, self._broker.ledger):
            document()
        with contextlib.suppress(Exception):
            self._broker.topic(f"none/{n}")


KINDS = ("visit", "order", "move", "reload", "make", "confirm", "look")


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_is_left_behind(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "CREDITED", MEMBERS)
    monkeypatch.setattr(core, "PUBLISHERS", MEMBERS)
    monkeypatch.setattr(desk, "WAYS", MEMBERS)
    monkeypatch.setattr(epochs, "_MOST", MEMBERS)
    monkeypatch.setattr(late, "MOST", MEMBERS)
    data, control = free_ports(2)
    config = BrokerConfig(
        tuple(map(TopicConfig, TOPICS)), listen=("127.0.0.1",), data_port=data, control_port=control,
        control=ControlConfig(rate=1_000_000),
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                   for _ in range(MEMBERS)]  # fmt: skip
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        async with Broker(config, FakeFastPath()) as broker:
            act: Act = getattr(Worn(broker, sockets), kind)
            sizes, number = [], count(1)
            for _ in range(3):
                for _ in range(TIMES):
                    await act(next(number))
                await asyncio.sleep(0)
                sizes.append(entries(broker, apart=[FakeFastPath]))
            assert sizes[2] <= sizes[1] + BY_CHANCE, f"{kind}: {sizes}, by {TIMES} each"

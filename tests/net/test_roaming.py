"""Clients whose own address changes: members again at the new one, nothing doubled, all accounted for."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from support.privileges import require_netns
from support.waiting import LIMIT

from tempos import NoWay, Publisher, Subscriber, Topic, _sockets
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import Topology, build

pytestmark = [pytest.mark.netns]

TOPIC = Topic(id=7, name="news")
HEARTBEAT = 2.5
NAME = "broker.test"


def runners() -> list[Callable[[Coroutine[Any, Any, None]], None]]:
    import uvloop

    return [asyncio.run, uvloop.run]


def ip(*orders: str) -> None:
    """Change the network of this thread's node."""
    for words in orders:
        subprocess.run(["ip", *words.split()], check=True)


def lose_address(old: str) -> str:
    """As when a lease of DHCP is over; the interface that had it."""
    told = subprocess.run(["ip", "-j", "addr"], check=True, capture_output=True).stdout
    (name,) = {
        link["ifname"] for link in json.loads(told) for each in link["addr_info"] if each["local"] == old
    }
    ip(f"addr del {old}/24 dev {name}")
    return name


class Names:
    """Stands for what answers for names, which may be out of reach, too."""

    def __init__(self, address: str) -> None:
        self._look_up, self._address = _sockets.addresses_of, address
        self.answers = True

    async def addresses_of(self, host: str) -> tuple[str, ...]:
        if host != NAME:
            return await self._look_up(host)
        if not self.answers:
            await asyncio.Event().wait()
        return (self._address,)


async def roam(topology: Topology, new: str, names: Names | None) -> None:
    old, broker = topology.subscriber.address, topology.facing_subscriber
    group, host = "workers", broker if names is None else NAME
    async with Publisher(host) as pub, Subscriber(host, TOPIC.name, group=group) as sub:
        sent, refused, got = 0, 0, []
        former = sub.member

        async def publish() -> None:
            nonlocal sent, refused
            while True:
                try:
                    await pub.publish(TOPIC.name, b"%d" % sent)
                    sent += 1
                except NoWay:
                    refused += 1
                await asyncio.sleep(0.005)

        async def take() -> None:
            async for event in sub:
                number = int(event.body)
                got.append(number)

        async def more_than(number: int) -> None:
            while not got or got[-1] <= number:
                await asyncio.sleep(0.005)

        tasks = [asyncio.create_task(publish()), asyncio.create_task(take())]

        async def silent() -> None:
            link = sub._link
            while link is not None and not link.is_silent:
                await asyncio.sleep(0.005)

        await asyncio.wait_for(more_than(100), LIMIT)
        interface = lose_address(old)
        if names is not None:
            # It is without a network for long, and then without names.
            names.answers = False
            await asyncio.wait_for(silent(), LIMIT)
        ip(f"addr add {new}/24 dev {interface}", f"route add default via {broker}")
        before, changed = sent, time.monotonic()
        await asyncio.wait_for(more_than(before), LIMIT)
        took = time.monotonic() - changed
        await asyncio.wait_for(more_than(before + 200), LIMIT)
        tasks[0].cancel()
        await asyncio.wait([tasks[0]])
        drained = await sub.drain()
        await tasks[1]
    assert (sub.member.ip, sub.member.port) == (new, former.port)
    assert took < 2 * HEARTBEAT, took
    assert len(got) == len(set(got)), "something came twice"
    assert drained is not None
    assert drained.lost == 0, "all that was sent to the new address has come"
    assert names is not None or refused <= 2, "the publisher goes on by itself"


@pytest.mark.parametrize("named", [False, True], ids=["by address", "by a name that is not known any more"])
@pytest.mark.parametrize("loop", [0, 1], ids=["asyncio", "uvloop"])
def test_a_client_goes_on_at_its_new_address(monkeypatch: pytest.MonkeyPatch, loop: int, named: bool) -> None:
    require_netns()
    with build("straight") as topology, Broker(topology.broker, {TOPIC: ()}, mode="off") as broker:
        new = topology.subscriber.address.rpartition(".")[0] + ".77"
        names = Names(topology.facing_subscriber) if named else None
        if names is not None:
            monkeypatch.setattr(_sockets, "addresses_of", names.addresses_of)
        topology.subscriber.call(lambda: runners()[loop](roam(topology, new, names)))
        status = broker.topic(TOPIC.name)
    (group,) = [each for each in status.groups if each.name == "workers"]
    # What went to the old address before the new one was known, and nothing else.
    assert group.delivered + group.lost == group.tickets
    assert group.lost < 2 * HEARTBEAT * 200
    assert status.closed, status

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

from tempos import NoWay, Publisher, Subscriber, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import Topology, build

pytestmark = [pytest.mark.netns]

TOPIC = Topic(id=7, name="news")
HEARTBEAT = 2.5


def runners() -> list[Callable[[Coroutine[Any, Any, None]], None]]:
    import uvloop

    return [asyncio.run, uvloop.run]


def change_address(old: str, new: str, broker: str) -> None:
    """What another lease of DHCP does to an interface of this thread's node; for a moment there is no way."""
    told = subprocess.run(["ip", "-j", "addr"], check=True, capture_output=True).stdout
    (name,) = {
        link["ifname"] for link in json.loads(told) for each in link["addr_info"] if each["local"] == old
    }
    for words in (
        f"addr del {old}/24 dev {name}",
        f"addr add {new}/24 dev {name}",
        f"route add default via {broker}",
    ):
        subprocess.run(["ip", *words.split()], check=True)


async def roam(topology: Topology, new: str) -> None:
    old, broker = topology.subscriber.address, topology.facing_subscriber
    group = "workers"
    async with Publisher(broker) as pub, Subscriber(broker, TOPIC.name, group=group) as sub:
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
        await asyncio.wait_for(more_than(100), LIMIT)
        change_address(old, new, broker)
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
    assert refused <= 2, "the publisher goes on by itself"


@pytest.mark.parametrize("loop", [0, 1], ids=["asyncio", "uvloop"])
def test_a_client_goes_on_at_its_new_address(loop: int) -> None:
    require_netns()
    with build("straight") as topology, Broker(topology.broker, {TOPIC: ()}, mode="off") as broker:
        new = topology.subscriber.address.rpartition(".")[0] + ".77"
        topology.subscriber.call(lambda: runners()[loop](roam(topology, new)))
        status = broker.topic(TOPIC.name)
    (group,) = [each for each in status.groups if each.name == "workers"]
    # What went to the old address before the new one was known, and nothing else.
    assert group.delivered + group.lost == group.tickets
    assert group.lost < 2 * HEARTBEAT * 200
    assert status.closed, status

"""What a member of a fleet misses it asks of the broker that sent it, wherever its home is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.bpf import require_compiler
from support.fleet_net import BROKERS, aside, field, publisher, seen, subscriber
from support.fleets import TOPICS
from support.lossy import loses_deliveries
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT

pytestmark = pytest.mark.netns

EVENTS = 400


@pytest.mark.parametrize("mode", ["off", "native"])
def test_every_broker_sends_again_what_was_lost_of_its_own(mode: str, tmp_path: Path) -> None:
    require_netns()
    require_compiler()
    if mode != "off":
        require_kernel()
    topics = TOPICS.replace('name = "a"', 'name = "a"\njournal = 4096')
    with field(tmp_path, mode=mode, more=topics) as fleet:
        loses_deliveries(fleet.client_node, "eth0")

        async def clients() -> None:
            async with subscriber("one", group="g") as member:
                await seen(lambda: all(fleet.members(name) == 1 for name in BROKERS))
                for name in BROKERS:
                    async with publisher(name) as pub:
                        for number in range(EVENTS):
                            await pub.publish("a", [name, number])
                            await asyncio.sleep(0.001)
                got = [(await member.next(LIMIT)).unpack() for _ in range(EVENTS * len(BROKERS))]
                assert sorted(got) == sorted([name, number] for name in BROKERS for number in range(EVENTS))  # type: ignore[type-var]
                assert member.stats.repaired > 0
                assert member.stats.given_up == 0
                await member.drain()
            for name in BROKERS:
                ledger = await aside(fleet.get, name, "/v1/ledger/a")
                (group,) = (each for each in ledger["groups"] if each["tickets"])
                # One in twenty of what each sent was lost on its way, and had of that one again.
                assert (group["tickets"], group["delivered"], group["lost"]) == (EVENTS, EVENTS, 0), ledger
                assert group["repaired"] > 0, ledger
                assert group["given_up"] == 0, ledger
            assert fleet.account() == (EVENTS * len(BROKERS), EVENTS * len(BROKERS), 0)

        fleet.play(clients)

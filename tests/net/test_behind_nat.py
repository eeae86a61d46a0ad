"""Members behind a NAT or a firewall: they open the way; where there is none they are told, or have to go."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.nodes import ip
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT, until

from tempos import Path, Topic, Unheard
from tempos.blocking import Publisher, Subscriber
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import Topology, build

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(
        not shutil.which("nft"), reason="nft makes the NAT and the firewall (package nftables)"
    ),
]

TOPIC = Topic(id=7, name="news", unheard=Unheard.EVICT)
#: Only the member's network, behind the address of the node.
INNER = "192.168.9.2"
MASQUERADE = f"""
table ip tempos {{
    chain source {{
        type nat hook postrouting priority 100
        ip saddr {INNER} masquerade
    }}
}}
"""
STATEFUL = """
table ip tempos {
    chain entry {
        type filter hook input priority 0; policy drop
        ct state established,related accept
        iif lo accept
    }
}
"""
SHUT = """
table ip tempos {
    chain entry {
        type filter hook input priority 0
        udp sport 9998 drop
    }
}
"""


def rules(topology: Topology, text: str) -> None:
    def load() -> None:
        subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True, capture_output=True)

    topology.subscriber.call(load)


def publish(topology: Topology, count: int) -> None:
    def work() -> None:
        with Publisher(topology.broker.address, topics=[TOPIC]) as pub:
            for number in range(count):
                pub.publish(TOPIC, number)

    topology.publisher.call(work)


@contextmanager
def member(topology: Topology) -> Iterator[Subscriber]:
    sub = Subscriber(topology.facing_subscriber, TOPIC.name, group="workers", wait=LIMIT)
    topology.subscriber.call(sub.__enter__)
    try:
        yield sub
    finally:
        topology.subscriber.call(sub.close)


@pytest.mark.parametrize("mode", ["off", "native"])
@pytest.mark.parametrize("between", ["masquerade", "stateful firewall"])
def test_a_member_behind_it_gets_every_event(between: str, mode: str) -> None:
    require_netns()
    if mode != "off":
        require_kernel()
    with build("straight") as topology, Broker(topology.broker, {TOPIC: []}, mode=mode) as broker:
        if between == "masquerade":
            rules(topology, MASQUERADE)
            ip(topology.subscriber, f"addr add {INNER}/32 dev lo")
            network = topology.subscriber.address.rpartition(".")[0] + ".0/24"
            device = topology.subscriber.interfaces[0]
            ip(topology.subscriber, f"route replace {network} dev {device} src {INNER}")
        else:
            rules(topology, STATEFUL)
        with member(topology) as sub:
            if mode != "off":
                broker.wait_path(TOPIC.name, Path.FAST, LIMIT)
            publish(topology, 100)
            until(lambda: sub.stats.datagrams == 100, "it gets its events", LIMIT)
            (row,) = broker.entry(TOPIC.name)["groups"][0]["members"]
            assert row["ip"] == topology.subscriber.address
            until(lambda: kept_alive(broker) > 1, "at each heartbeat", LIMIT)
        assert broker.entry(TOPIC.name)["balanced"]
        assert set(unattributed(broker)) == {"keep_alive"}


def unattributed(broker: Broker) -> dict[str, int]:
    return dict(broker.status()["unattributed"])


def kept_alive(broker: Broker) -> int:
    return unattributed(broker).get("keep_alive", 0)


def test_who_cannot_be_reached_has_to_go_and_is_back_when_it_can(caplog: pytest.LogCaptureFixture) -> None:
    require_netns()
    with (
        build("straight") as topology,
        Broker(topology.broker, {TOPIC: []}, mode="off", control={"lease": 1.0, "heartbeat": 0.2}) as broker,
        member(topology) as sub,
    ):
        publish(topology, 4)
        until(lambda: sub.stats.datagrams == 4, "it is a member", LIMIT)
        rules(topology, SHUT)

        def out() -> bool:
            publish(topology, 4)
            return bool(sub.away)

        until(out, "it is taken out", LIMIT)
        assert "none of the events that it was sent reached it" in sub.away[TOPIC.name]
        assert "until " in sub.away[TOPIC.name]
        assert "firewall or a NAT" in caplog.text
        (kept,) = broker.status()["kept_out"]
        assert (kept["why"], kept["group"]) == ("unheard", "workers")
        until(
            lambda: broker.entry(TOPIC.name)["groups"][0]["lost"] >= 4,
            "what was lost is in the ledger",
            LIMIT,
        )
        topology.subscriber.call(lambda: subprocess.run(["nft", "flush", "ruleset"], check=True))
        until(lambda: not sub.away, "it may come back", LIMIT)
        got = sub.stats.datagrams
        publish(topology, 10)
        until(lambda: sub.stats.datagrams == got + 10, "it gets its events again", LIMIT)
        told = broker.entry(TOPIC.name)
        assert told["balanced"], json.dumps(told)

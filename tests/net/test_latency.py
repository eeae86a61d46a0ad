"""Latency as the kernel sees it: of each real event that the ledger says it forwarded."""

from __future__ import annotations

import json

import pytest
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT

from tempos import DATA_PORT, Group, Member, Path, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.node import PYTHON
from tempos_bench.nodes.topology import build

pytestmark = [pytest.mark.netns, pytest.mark.kernel]

EVENTS = 5_000
#: Bytes of each: what the command blast sends if nothing else is said.
SIZE = 32
#: By how many groups it has: each of the three ways through the kernel.
TOPICS = {1: Topic(id=7, name="single"), 3: Topic(id=8, name="triple")}


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_as_many_times_as_events_and_the_status_shows_them(mode: str) -> None:
    require_netns()
    require_kernel()
    with build("straight") as topology:
        c, ports = topology.subscriber, iter(range(9001, 9100))
        topics = {
            topic: tuple(Group(f"g{number}", (Member(c.address, next(ports)),)) for number in range(groups))
            for groups, topic in TOPICS.items()
        }
        with Broker(topology.broker, topics, mode=mode, latency=True) as broker:
            for groups, topic in TOPICS.items():
                broker.wait_path(topic.name, Path.FAST)
                assert broker.entry(topic.name)["latency"] is None
                members = [member for group in topics[topic] for member in group.members]
                binds = [text for member in members for text in ("--bind", str(member))]
                sink = c.role("sink", *binds, "--expect", EVENTS * groups, ready=True)
                topology.publisher.role(
                    "blast", "--to", f"{topology.broker.address}:{DATA_PORT}", "--topic", topic.id,
                    "--count", EVENTS, "--rate", 10_000,
                ).result(LIMIT)  # fmt: skip
                sink.result(LIMIT)
                status = broker.wait_received(topic.name, EVENTS)
                assert status.received == EVENTS
                # 1 datagram in 65,536 has a checksum that generic mode leaves to the slow path.
                assert status.fast >= EVENTS - 12
                check(broker.entry(topic.name)["latency"], status.fast)
                told = broker.ask("GET", f"/v1/topics/{topic.name}")["latency"]
                assert told == broker.entry(topic.name)["latency"], "every bucket of it"
                for path, events in (("fast", status.fast), ("slow", EVENTS - status.fast)):
                    volume = broker.entry(topic.name)["bytes"][path]
                    assert volume == {"received": events * SIZE, "forwarded": events * SIZE}, path
            shown = topology.broker.start([PYTHON, "-m", "tempos", "status"])
            assert shown.wait(LIMIT) == 0
            assert shown.output.count("in the kernel's program: ") == len(TOPICS)
            broker.stop()


def check(latency: dict, events: int) -> None:
    for times in (latency["program"], latency["since_sent"]):
        assert (times["count"], times["ahead"], times["beyond"]) == (events, 0, 0), json.dumps(times)
        assert sum(count for *_, count in times["buckets"]) == events
        assert 0 < times["p50_ns"] <= times["p99_ns"] <= times["p999_ns"] <= times["max_ns"]
    # One clock for all nodes of a machine, so the one is a part of the other.
    assert latency["program"]["p50_ns"] < latency["since_sent"]["p50_ns"] < 10**9

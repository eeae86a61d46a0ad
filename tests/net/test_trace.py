"""Probes across three nodes: which path, which member, which ticket, on every way of the data path."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import pytest
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT

from tempos import Fanout, Path, Quality, Topic
from tempos.blocking import Publisher, Subscriber
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import build

pytestmark = pytest.mark.netns

TOPIC = Topic(id=7, name="traced", quality=Quality.SQ)
WIDE = replace(TOPIC, id=40_000)
PROBES = 6
#: Options of the broker, the topic, and how many groups it has.
WAYS = {
    "slow": ({"mode": "off"}, TOPIC, 1),
    "slow, portable, wide, three groups": ({"mode": "off", "portable": True}, WIDE, 3),
    "slow, worker": ({"mode": "off", "quality": {"worker_sq": True, "priority_sq": 0}}, TOPIC, 2),
    "generic": ({"mode": "generic"}, TOPIC, 1),
    "native": ({"mode": "native"}, TOPIC, 1),
    "native, wide": ({"mode": "native"}, WIDE, 1),
    "broadcast": ({"mode": "native"}, replace(TOPIC, fanout=Fanout.XDP), 3),
    "tc": ({"mode": "native"}, replace(TOPIC, fanout=Fanout.TC), 3),
}


@pytest.mark.parametrize("way", WAYS)
def test_members_report_each_probe_and_the_account_is_exact(way: str) -> None:
    require_netns()
    options, topic, groups = WAYS[way]
    if options["mode"] != "off":
        require_kernel()
    with build("straight") as topology, ExitStack() as stack:
        broker = stack.enter_context(Broker(topology.broker, {topic: ()}, **options))  # type: ignore[arg-type]
        subs = [
            topology.subscriber.call(
                lambda group=f"g{number // 2}": Subscriber(  # type: ignore[misc]
                    topology.facing_subscriber, topic.name, group=group
                ).__enter__()
            )
            for number in range(2 * groups)
        ]
        for sub in subs:
            stack.callback(sub.close)
        path = Path.SLOW if options["mode"] == "off" else Path.FAST
        if path is Path.FAST:
            broker.wait_path(topic.name, Path.FAST)
        address = topology.broker.address
        pub = topology.publisher.call(lambda: Publisher(address).__enter__())
        stack.callback(pub.close)
        for number in range(PROBES):
            trace = pub.trace(topic.name, LIMIT, lambda reports: len(reports) == groups)
            assert sorted(each.group for each in trace.reports) == [f"g{each}" for each in range(groups)]
            assert {each.path for each in trace.reports} == {path}
            assert {each.delivery_sequence for each in trace.reports} == {number // 2}
            # Nodes of one machine have one clock.
            assert all(each.one_way is not None and each.one_way > 0 for each in trace.reports)
            assert all((each.in_broker is None) == (path is Path.FAST) for each in trace.reports)
        entry = broker.wait_delivered(topic.name, PROBES)
        assert entry.closed
        status = broker.entry(topic.name)
        assert (status["received"], status[path.value], status["replies"]) == (
            PROBES,
            PROBES,
            PROBES * groups,
        )
        assert [sub.stats.traced for sub in subs] == [PROBES // 2] * len(subs)
        assert {(sub.stats.events, sub.stats.missed) for sub in subs} == {(0, 0)}

"""Copies that find no room are told in the ledger, of the right group, to the copy."""

from __future__ import annotations

import pytest
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT

from tempos import DATA_PORT, Fanout, Framing, Group, Member, Path, Topic, wire
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.frame import udp_frame
from tempos_bench.measure.probe import Probe
from tempos_bench.nodes.topology import build, mac_of

pytestmark = [pytest.mark.netns, pytest.mark.kernel]

GROUPS = 16
#: Frames at once, each of which becomes GROUPS copies; the subscriber's ring holds 256.
BATCH, BATCHES = 64, 40
WAYS = {"XDP": ("native", Fanout.XDP), "tc": ("native", Fanout.TC), "generic": ("generic", Fanout.AUTO)}


@pytest.mark.parametrize(
    ("way", "shape"), [("XDP", "straight"), ("XDP", "forked"), ("tc", "forked"), ("generic", "straight")]
)
def test_what_a_full_ring_refuses_is_lost_to_its_group(way: str, shape: str) -> None:
    require_netns()
    require_kernel()
    mode, fanout = WAYS[way]
    events = BATCH * BATCHES
    with build(shape) as topology:
        a, b, c = topology.publisher, topology.broker, topology.subscriber
        members = [Member(c.addresses[n % len(c.addresses)], 9001 + n) for n in range(GROUPS)]
        topic = Topic(7, "flood", framing=Framing.EVENT, fanout=fanout)
        groups = tuple(Group(f"g{n:02}", (member,)) for n, member in enumerate(members))
        with Broker(b, {topic: groups}, mode=mode) as broker:
            broker.wait_path(topic.name, Path.FAST)
            binds = [text for member in members for text in ("--bind", str(member))]
            sink = c.role("sink", *binds, "--size", wire.HEADER_LEN + 8, ready=True)
            source = Probe(a)
            payload = wire.encode_event(topic.id, publisher=1, sequence=1, sent_ns=1, body=bytes(8))
            source.prepare(
                udp_frame(
                    (mac_of(a.address), a.address, 40000), (mac_of(b.address), b.address, DATA_PORT), payload
                ),
                a.interfaces[0],
            )
            source.generate(events, BATCH)
            got = sink.result(LIMIT)
            entry = broker.entry(topic.name)

    received = {group["name"]: 0 for group in entry["groups"]}
    for port, count in got["by_port"].items():
        received[f"g{int(port) - 9001:02}"] += count
    came = entry["fast"]
    # Copies by tc wait in the same queue of the processor as what comes: what finds no room there never came.
    assert came == events or (fanout is Fanout.TC and 0 < came < events)
    assert (entry["slow"], got["overrun"], got["bad_checksums"]) == (0, 0, 0)
    assert [group["tickets"] for group in entry["groups"]] == [came] * GROUPS
    assert {group["name"]: came - group["unsent"] for group in entry["groups"]} == received
    assert sum(group["unsent"] for group in entry["groups"]), "nothing was lost: the test has shown nothing"
    assert entry["problems"] == []

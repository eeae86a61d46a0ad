"""Groups that get datagrams from the address and port of who sent them: every path, fragments, too."""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack
from pathlib import Path as FilePath

import pytest
from support.brokers import Node
from support.features import NO_TCX, no_tcx
from support.nodes import udp
from support.ports import free_ports
from support.privileges import require_kernel, require_netns

from tempos import Admin, ApiRefused, Fanout, Framing, Group, GroupOptions, Member, Path, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import build

PORT = 2055
#: Mode, portable, groups beside the one that keeps the source, who makes the copies.
CASES = {
    "recvmmsg": ("off", False, 1, Fanout.AUTO),
    "portable": ("off", True, 1, Fanout.AUTO),
    "alone": ("native", False, 0, Fanout.AUTO),
    "alone, generic": ("generic", False, 0, Fanout.AUTO),
    "broadcast": ("native", False, 1, Fanout.XDP),
    "clone": ("native", False, 1, Fanout.TC),
}
#: As much as a frame carries.
MOST = 1472
BODIES = [
    b"a",
    b"even",
    bytes(1400),
    bytes(MOST),
    *(bytes((size & 0xFF,)) * size for size in (1473, 4000, 9000)),
]


@pytest.mark.netns
@pytest.mark.parametrize("case", CASES)
def test_a_collector_sees_the_senders(case: str) -> None:
    mode, portable, others, fanout = CASES[case]
    require_netns()
    if mode != "off":
        require_kernel()
    if case == "clone" and no_tcx():
        pytest.skip(NO_TCX)
    flows = Topic(
        300, "flows", framing=Framing.FOREIGN, ports=(PORT,), fanout=fanout,
        groups=(GroupOptions("kept", keep=True),),
    )  # fmt: skip
    with build("straight") as topology, ExitStack() as stack:
        a, b, c = topology.publisher, topology.broker, topology.subscriber
        ends = [(c.address, 7000 + n) for n in range(1 + others)]
        sinks = [stack.enter_context(udp(c, end)) for end in ends]
        groups = [Group(name, (Member(*end),)) for name, end in zip(("kept", "other"), ends, strict=False)]
        broker = stack.enter_context(
            Broker(b, {flows: groups}, mode=mode, portable=portable, limits={"datagram": 9100})
        )
        if mode != "off":
            broker.wait_path("flows", Path.FAST)
        wanted = []
        for _ in range(3):
            with udp(a, (a.address, 0)) as sock:
                for body in BODIES:
                    sock.sendto(body, (b.address, PORT))
                    wanted.append((body, sock.getsockname()))
        kept = [sinks[0].recvfrom(10_000) for _ in wanted]
        assert sorted(kept) == sorted(wanted)
        for sink in sinks[1:]:
            got = [sink.recvfrom(10_000) for _ in wanted]
            assert sorted(body for body, _ in got) == sorted(body for body, _ in wanted)
            assert {sender for _, sender in got} == {(topology.facing_subscriber, 9998)}
        told = broker.wait_received("flows", len(wanted))
        assert (told.problems, told.refused) == ((), {})
        # What comes in fragments is for the slow path alone; what fits is for the fast one.
        whole = sum(len(body) <= MOST for body, _ in wanted) if mode != "off" else 0
        assert (told.fast, told.slow) == (whole, len(wanted) - whole)
        (options,) = broker.entry("flows")["group_options"]
        assert (options["name"], options["source"]) == ("kept", "keep")


@pytest.mark.skipif(sys.platform != "linux", reason="raw sockets of Linux")
def test_without_the_privilege_it_is_refused_in_words(tmp_path: FilePath) -> None:
    node = Node(tmp_path, "")
    (port,) = free_ports(1)
    admin = Admin(f"http://127.0.0.1:{node.api}")
    member = [{"ip": "127.0.0.1", "port": port, "group": "g"}]

    async def order() -> None:
        (taken,) = free_ports(1)
        group = [{"name": "g", "source": "keep"}]
        with pytest.raises(ApiRefused, match="CAP_NET_RAW, which a broker has while it starts"):
            await admin.add_topic("logs", ports=[taken], member=member, group=group)

    with node.broker():
        asyncio.run(order())

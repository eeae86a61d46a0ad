"""Several groups without their broker: what makes the copies outlives it, is taken over, is cleaned up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

import pytest
from support.features import NO_TCX, no_tcx
from support.nodes import udp
from support.offloader import launch
from support.survival import BROKER, EPOCH, LIMIT, TOPIC, Traffic, set_of

from tempos.wire import encode_event
from tempos_bench.nodes.node import Program
from tempos_bench.nodes.topology import Topology
from tempos_bpf.maps import pinned_map
from tempos_fastpath.survival.orphans import orphans, remove

pytestmark = [pytest.mark.kernel, pytest.mark.netns]

#: Who makes the copies -> the mode, what the topic asks for.
WAYS = {
    "XDP": ("native", "xdp"),
    "tc": ("native", "tc"),
    "generic": ("generic", "auto"),
}
GROUPS, MEMBERS = 3, 2


@pytest.fixture(params=["straight", "forked"])
def shape(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Members:
    """Three groups of two; their addresses in turn, so that copies leave by every interface there is."""

    def __init__(self, stack: ExitStack, topology: Topology) -> None:
        c = topology.subscriber
        addresses = [c.addresses[number % len(c.addresses)] for number in range(GROUPS * MEMBERS)]
        self.socks = [stack.enter_context(udp(c, (address, 0))) for address in addresses]

    @property
    def groups(self) -> list[list[tuple[str, int]]]:
        names = [sock.getsockname() for sock in self.socks]
        return [names[at : at + MEMBERS] for at in range(0, len(names), MEMBERS)]

    def share(self, number: int, events: int) -> int:
        """How many of so many events the member with this number gets."""
        return (events - number % MEMBERS + MEMBERS - 1) // MEMBERS

    def take(self, events: int) -> list[list[bytes]]:
        """What each member got of so many events, once all have come."""
        return [
            [sock.recv(2000) for _ in range(self.share(number, events))]
            for number, sock in enumerate(self.socks)
        ]

    def assert_all_came(self, events: int, taken: Sequence[list[bytes]]) -> None:
        """Every member got its share, once, in its own numbering."""
        for number, (sock, got) in enumerate(zip(self.socks, taken, strict=True)):
            share = self.share(number, events)
            assert sorted(int.from_bytes(each[12:16], "big") for each in got) == list(range(share))
            assert {each[3] for each in got} == {EPOCH}
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(2000)


def installs(program: Program, groups: Sequence[object], way: str) -> str:
    command = {"do": "install", "topic": TOPIC, "epoch": EPOCH, "groups": groups, "fanout": WAYS[way][1]}
    return str(program.ask(command))


@pytest.mark.parametrize("way", WAYS)
def test_sigkill_under_traffic_loses_nothing_of_any_group(topology: Topology, way: str) -> None:
    if way != "XDP" and no_tcx():
        assert_left_to_the_slow_path(topology, way)
        return
    with ExitStack() as stack:
        members = Members(stack, topology)
        source = stack.enter_context(udp(topology.publisher))
        first = launch(topology.broker, mode=WAYS[way][0])
        first.wait_line("ready")
        reason = installs(first, members.groups, way)
        assert ("tc clone" in reason) == (way != "XDP"), reason
        with Traffic(source, 50, members.socks, copies=GROUPS) as traffic:
            for _ in range(2):
                traffic.wait(1000)
                first.kill()
                traffic.wait(1000)
                second = launch(topology.broker, mode=WAYS[way][0])
                second.wait_line("ready")
                assert second.ask({"do": "adopted"}) == {str(TOPIC): EPOCH}
                traffic.wait(500)
                assert installs(second, members.groups, way) == reason
                first = second
            traffic.wait(500)
        members.assert_all_came(traffic.sent, traffic.taken)
        state = first.ask({"do": "state", "topic": TOPIC, "epoch": EPOCH})
        assert state["counters"]["forwarded"] == state["tickets"] == traffic.sent
        assert state["counters"].get("by_clone", 0) == (0 if way == "XDP" else traffic.sent)
        first.ask({"do": "close", "keep": False})
    assert not set_of(topology).folder.exists()
    assert tc_programs(topology) == 0


def assert_left_to_the_slow_path(topology: Topology, way: str) -> None:
    """Without tcx nobody makes copies by tc: that is told, and nothing is begun that a kill would leave."""
    program = launch(topology.broker, mode=WAYS[way][0])
    program.wait_line("ready")
    groups = [[(topology.subscriber.address, 7000 + number)] for number in range(GROUPS)]
    route = {"topic": TOPIC, "epoch": EPOCH, "groups": groups, "fanout": WAYS[way][1]}
    end = time.monotonic() + LIMIT
    # Before that the members' MAC addresses have to be found.
    while True:
        path, reason = program.ask({"do": "choose", **route})
        assert path == "slow"
        if NO_TCX in reason:
            break
        assert time.monotonic() < end, reason
    program.kill()
    assert tc_programs(topology) == 0
    (left,) = [each for each in orphans() if each.identity == set_of(topology).identity]
    remove(left)


def tc_programs(topology: Topology) -> int:
    """How many links of tc programs are pinned for the broker's node."""
    links = list(set_of(topology).tc_links())
    for link in links:
        link.close()
    return len(links)


def test_another_version_takes_the_tc_program_over_and_clean_removes_it(topology: Topology) -> None:
    if no_tcx():
        assert_left_to_the_slow_path(topology, "tc")
        return
    with ExitStack() as stack:
        members = Members(stack, topology)
        source = stack.enter_context(udp(topology.publisher))
        first = launch(topology.broker)
        first.wait_line("ready")
        installs(first, members.groups, "tc")
        interfaces = len(topology.broker.interfaces)
        assert tc_programs(topology) == interfaces
        first.kill()
        with pinned_map(set_of(topology).path("identity")) as identity:
            identity.update(0, b"another!")
        second = launch(topology.broker)
        second.wait_line("ready")
        assert second.ask({"do": "adopted"}) == {}
        installs(second, members.groups, "tc")
        # By the second broker's maps, or nothing would come.
        for _ in range(10):
            source.sendto(encode_event(TOPIC, 1, 0, 0, b"body"), BROKER)
        members.assert_all_came(10, members.take(10))
        second.kill()
        (left,) = [each for each in orphans() if each.identity == set_of(topology).identity]
        links = [stack.enter_context(link) for link in set_of(topology).tc_links()]
        assert [link.attached for link in links] == [True] * interfaces
        remove(left)
        assert not any(link.attached for link in links)
    assert not set_of(topology).folder.exists()

"""Where events come in that no program sees: a topic on the fast path says so, and it is so."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path as File

import pytest
from support.nodes import configure, ip, udp
from support.watched import Watched, in_broker

from tempos import Framing, Group, Member, Path, Reason, Route, Topic
from tempos.wire import encode_event
from tempos_bench.nodes.topology import Topology
from tempos_fastpath import offload as offload_module
from tempos_fastpath.offload import Offload

pytestmark = [pytest.mark.kernel, pytest.mark.netns]

TOPIC = Topic(7, "machines", framing=Framing.EVENT)
A, B_NEAR_A, B_NEAR_C, C = "10.0.1.2", "10.0.1.1", "10.0.2.1", "10.0.2.2"
SLOW = "; what comes in by these takes the slow path: "
UNNAMED = "eth0 (it is not one of fastpath.interfaces)"


async def until_reason(watched: Watched, reason: str) -> None:
    """Install whenever told to, until that is why."""
    while (await watched.until(Path.FAST)).reason != reason:
        await watched.told()


def test_what_comes_in_by_an_interface_without_a_program_is_told(topology: Topology) -> None:
    """An interface that is not named, then a tunnel as well, which comes and goes."""

    async def scenario(offload: Offload) -> None:
        to = Route(TOPIC, 1, (Group("g", (Member(C, receiver.getsockname()[1]),)),))
        watched = Watched(offload, to)
        choice = await watched.until(Path.FAST)
        assert choice.reason == f"XDP native, leaves by eth1{SLOW}{UNNAMED}"
        assert [(each.name, each.mode) for each in offload.status().interfaces] == [
            ("eth1", "native"),
            ("eth0", "none"),
        ]
        for source, where in ((near, B_NEAR_A), (far, B_NEAR_C)):
            source.sendto(encode_event(TOPIC.id, 1, 1, 0, b"body"), (where, 9998))
        await asyncio.get_running_loop().run_in_executor(None, receiver.recv, 2000)
        assert offload.counters()[TOPIC.id] == {Reason.FORWARDED: 1}, "of the other no program knows"
        watched.forget()
        ip(topology.broker, "link add over7 link eth0 type macvlan mode bridge")
        ip(topology.broker, "address add 10.0.7.1/24 dev over7")
        ip(topology.broker, "link set over7 up")
        more = f"{UNNAMED}; over7 (it is not one of fastpath.interfaces)"
        await until_reason(watched, f"XDP native, leaves by eth1{SLOW}{more}")
        ip(topology.broker, "link del over7")
        await until_reason(watched, f"XDP native, leaves by eth1{SLOW}{UNNAMED}")

    with ExitStack() as stack:
        near = stack.enter_context(udp(topology.publisher, (A, 0)))
        far = stack.enter_context(udp(topology.subscriber, (C, 0)))
        receiver = stack.enter_context(udp(topology.subscriber, (C, 0)))
        in_broker(topology, scenario, mode="native", interfaces=("eth1",))


def test_what_comes_in_by_an_interface_that_answers_for_the_address_of_another_is_told(
    topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two links to one network: by either the broker's host says that it has the address."""

    async def scenario(offload: Offload) -> None:
        to = Route(TOPIC, 1, (Group("g", (Member(C, receiver.getsockname()[1]),)),))
        watched = Watched(offload, to)
        fast = "XDP native, leaves by eth1"
        await until_reason(watched, fast)
        watched.forget()
        ip(topology.broker, "link add eth5 type veth peer name peer5")
        ip(topology.broker, "address add 10.0.1.3/24 dev eth5")
        ip(topology.broker, "link set peer5 up")
        ip(topology.broker, "link set eth5 up")
        answers = f"eth5 (it answers for {B_NEAR_A} as well; fastpath.interfaces may name it)"
        await until_reason(watched, f"{fast}{SLOW}{answers}")
        for setting in ("arp_ignore", "arp_filter"):
            set_to(setting, "1")
            await until_reason(watched, fast)
            set_to(setting, "0")
            await until_reason(watched, f"{fast}{SLOW}{answers}")

    def set_to(setting: str, value: str) -> None:
        topology.broker.call(lambda: File("/proc/sys/net/ipv4/conf/eth5", setting).write_text(value))

    # Of settings no event tells.
    monkeypatch.setattr(offload_module, "_REFRESH", 0.5)
    with ExitStack() as stack:
        receiver = stack.enter_context(udp(topology.subscriber, (C, 0)))
        in_broker(topology, scenario, mode="native", listen=[B_NEAR_A, B_NEAR_C])


@pytest.mark.parametrize("by", ["its own MAC", "what it stands on"])
def test_a_program_on_a_macvlan_sees_what_is_sent_to_its_own_mac(topology: Topology, by: str) -> None:
    """Linux answers for its address with both MACs; a program on what it stands on sees either."""
    ip(topology.broker, f"address del {B_NEAR_A}/24 dev eth0")
    ip(topology.broker, "link add over0 link eth0 type macvlan mode bridge")
    ip(topology.broker, f"address add {B_NEAR_A}/24 dev over0")
    ip(topology.broker, "link set over0 up")
    name = "over0" if by == "its own MAC" else "eth0"
    mac = configure(topology.broker, lambda netlink: netlink.get_links(ifname=name)[0].get("address"))
    command = ("ip", "neigh", "replace", B_NEAR_A, "lladdr", mac, "dev", "eth0", "nud", "permanent")
    topology.publisher.call(partial(subprocess.run, command, check=True))

    def scenario(seen: bool, unseen: str) -> Callable[[Offload], Awaitable[None]]:
        async def play(offload: Offload) -> None:
            to = Route(TOPIC, 1, (Group("g", (Member(C, receiver.getsockname()[1]),)),))
            choice = await Watched(offload, to).until(Path.FAST)
            assert choice.reason == "XDP generic, leaves by eth1" + unseen
            for source, where in ((near, B_NEAR_A), (far, B_NEAR_C)):
                source.sendto(encode_event(TOPIC.id, 1, 1, 0, b"body"), (where, 9998))
            for _ in range(1 + seen):
                await asyncio.get_running_loop().run_in_executor(None, receiver.recv, 2000)
            assert offload.counters()[TOPIC.id] == {Reason.FORWARDED: 1 + seen}

        return play

    why = f"it has no program, and answers for {B_NEAR_A} of over0; fastpath.interfaces may name it"
    with ExitStack() as stack:
        near = stack.enter_context(udp(topology.publisher, (A, 0)))
        far = stack.enter_context(udp(topology.subscriber, (C, 0)))
        receiver = stack.enter_context(udp(topology.subscriber, (C, 0)))
        in_broker(topology, scenario(name == "over0", f"{SLOW}eth0 ({why})"), mode="generic")
        in_broker(topology, scenario(seen=True, unseen=""), mode="generic", interfaces=("eth0", "eth1"))

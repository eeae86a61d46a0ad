"""What the host would drop, the fast path does not forward: by a source's way back, by its MAC."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, closing
from functools import partial

import pytest
from support.features import no_tcx
from support.inject import Injector
from support.nodes import udp
from support.packets import Addresses, datagram, event
from support.watched import LIMIT, Watched, in_broker

from tempos import Fanout, Framing, Group, Member, Path, Reason, Route, Topic
from tempos_bench.nodes.topology import Topology, mac_of
from tempos_fastpath.offload import Offload

pytestmark = [pytest.mark.kernel, pytest.mark.netns]

TOPIC = Topic(7, "guarded", framing=Framing.EVENT)
A, B_NEAR_A, C = "10.0.1.2", "10.0.1.1", "10.0.2.2"
#: Of C's network, and of none that the broker has a way to.
THERE, NOWHERE = "10.0.2.77", "203.0.113.9"
STRICT, LOOSE = "1", "2"


class Door:
    """Frames into the broker by its eth0, and what became of them there."""

    def __init__(self, stack: ExitStack, topology: Topology) -> None:
        self.topology = topology
        self.injector = stack.enter_context(closing(Injector(topology.publisher, "eth0")))
        self.receiver = stack.enter_context(udp(topology.subscriber, (C, 0)))
        self.receiver.settimeout(LIMIT)
        self.mac = mac_of(B_NEAR_A)
        self._numbers = itertools.count(1)

    def run(self, command: str) -> None:
        self.topology.broker.call(partial(subprocess.run, command.split(), check=True))

    def look_back(self, value: str) -> None:
        self.run(f"sysctl -qw net.ipv4.conf.eth0.rp_filter={value}")

    def send(self, source: str, mac: str = "") -> None:
        at = Addresses(mac_of(A), mac or self.mac, source, B_NEAR_A, C)
        self.injector.send(bytes(datagram(at, event(f"{next(self._numbers)}".encode(), topic=TOPIC.id))))

    async def leads_to(self, offload: Offload, source: str, reason: Reason, mac: str = "") -> None:
        """Send until the program counts it so; once it has, it stays so."""
        async with until(f"{source} {reason.name}") as again:
            while await self._one(offload, source, mac) is not reason:
                await again()
        for _ in range(3):
            # A change may take tc off for a moment, when the kernel's answers hold already.
            assert await self._one(offload, source, mac) in (reason, Reason.BY_CLONE)

    async def _one(self, offload: Offload, source: str, mac: str) -> Reason:
        before = told(offload)
        self.send(source, mac)
        late = 100
        async with until("it is counted") as again:
            while not (
                grown := {each for each, count in told(offload).items() if count > before.get(each, 0)}
            ) or (
                # What tc was to copy and did not is the slow path's, which there is none of here.
                grown == {Reason.BY_CLONE} and (late := late - 1)
            ):
                await again()
        (reason,) = grown - {Reason.BY_CLONE} or grown
        if reason is Reason.FORWARDED:
            await asyncio.get_running_loop().run_in_executor(None, self.receiver.recv, 2000)
        return reason


def told(offload: Offload) -> dict[Reason, int]:
    """Of our frames; what else comes in is no datagram for the broker."""
    every = offload.counters()
    found = {**every.get(0, {}), **every.get(TOPIC.id, {})}
    ours = (
        Reason.FORWARDED,
        Reason.OTHER_MAC,
        Reason.MARTIAN_SOURCE,
        Reason.UNKNOWN_WAY_BACK,
        Reason.BY_CLONE,
    )
    return {reason: count for reason, count in found.items() if reason in ours}


@contextlib.asynccontextmanager
async def until(what: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    end = asyncio.get_running_loop().time() + LIMIT

    async def again() -> None:
        assert asyncio.get_running_loop().time() < end, what
        await asyncio.sleep(0.002)

    yield again


def play(
    topology: Topology, mode: str, scenario: Callable[[Offload, Door], Awaitable[None]], **options: object
) -> None:
    with ExitStack() as stack:
        door = Door(stack, topology)
        members = [Group("g", (Member(C, door.receiver.getsockname()[1]),))]
        if mode == "tc" and (why := no_tcx()):
            pytest.skip(f"no copies by tc here: {why}")
        topic = Topic(7, "guarded", framing=Framing.EVENT, fanout=Fanout.TC) if mode == "tc" else TOPIC

        async def run(offload: Offload) -> None:
            await Watched(offload, Route(topic, 1, tuple(members))).until(Path.FAST)
            await scenario(offload, door)

        in_broker(topology, run, mode="native" if mode == "tc" else mode, **options)


MODES = pytest.mark.parametrize("mode", ["native", "generic", "tc"])


@MODES
def test_what_has_no_way_back_by_its_interface_is_not_forwarded(topology: Topology, mode: str) -> None:
    """As the host is set, and as it is set anew while the broker runs."""

    async def scenario(offload: Offload, door: Door) -> None:
        for source in (A, THERE, NOWHERE):
            await door.leads_to(offload, source, Reason.FORWARDED)
        door.look_back(STRICT)
        await door.leads_to(offload, THERE, Reason.UNKNOWN_WAY_BACK)
        await door.leads_to(offload, NOWHERE, Reason.UNKNOWN_WAY_BACK)
        await door.leads_to(offload, A, Reason.FORWARDED)
        door.run(f"ip route add {THERE}/32 via {A}")
        await door.leads_to(offload, THERE, Reason.FORWARDED)
        door.run(f"ip rule add to {THERE} lookup 77 priority 100")
        door.run("ip route add unreachable default table 77")
        await door.leads_to(offload, THERE, Reason.UNKNOWN_WAY_BACK)
        await door.leads_to(offload, A, Reason.FORWARDED)
        door.look_back(LOOSE)
        await door.leads_to(offload, THERE, Reason.UNKNOWN_WAY_BACK)
        door.run("ip rule del priority 100")
        await door.leads_to(offload, THERE, Reason.FORWARDED)
        await door.leads_to(offload, NOWHERE, Reason.UNKNOWN_WAY_BACK)
        door.run(f"ip route add default via {A}")
        await door.leads_to(offload, NOWHERE, Reason.FORWARDED)
        door.run("ip route del default")
        await door.leads_to(offload, NOWHERE, Reason.UNKNOWN_WAY_BACK)
        # Addresses of this machine in whole networks; no interface says so.
        door.run("ip route add local 198.51.100.0/24 dev lo")
        await door.leads_to(offload, "198.51.100.7", Reason.UNKNOWN_WAY_BACK)
        door.look_back("0")
        await door.leads_to(offload, NOWHERE, Reason.FORWARDED)
        await door.leads_to(offload, "198.51.100.7", Reason.UNKNOWN_WAY_BACK)

    play(topology, mode, scenario)


@MODES
def test_whose_mac_and_whose_address_it_is_may_change(topology: Topology, mode: str) -> None:
    async def scenario(offload: Offload, door: Door) -> None:
        former, other = door.mac, "02:00:00:00:77:77"
        await door.leads_to(offload, A, Reason.FORWARDED)
        await door.leads_to(offload, A, Reason.OTHER_MAC, other)
        door.run(f"ip link set eth0 address {other}")
        await door.leads_to(offload, A, Reason.FORWARDED, other)
        await door.leads_to(offload, A, Reason.OTHER_MAC, former)
        await door.leads_to(offload, "10.0.1.9", Reason.FORWARDED, other)
        door.run("ip addr add 10.0.1.9/32 dev lo")
        await door.leads_to(offload, "10.0.1.9", Reason.MARTIAN_SOURCE, other)
        door.run("ip addr del 10.0.1.9/32 dev lo")
        await door.leads_to(offload, "10.0.1.9", Reason.FORWARDED, other)

    play(topology, mode, scenario)


def test_who_does_not_wish_it_is_asked_nothing(topology: Topology) -> None:
    async def scenario(offload: Offload, door: Door) -> None:
        await door.leads_to(offload, NOWHERE, Reason.FORWARDED)

    topology.broker.call(
        partial(subprocess.run, ("sysctl", "-qw", "net.ipv4.conf.eth0.rp_filter=1"), check=True)
    )
    play(topology, "native", scenario, reverse_path=False)


def test_what_ipsec_is_for_is_the_slow_path_s(topology: Topology) -> None:
    """Towards one member, from the network, and as policies come and go."""
    to_c, from_a = f"dir out dst {C}/32 proto 17 sport 9998", f"dir in src {A}/32 proto 17 dport 9998"

    async def scenario(offload: Offload) -> None:
        member = Member(C, receiver.getsockname()[1])
        watched = Watched(offload, Route(TOPIC, 1, (Group("g", (member,)),)))
        await watched.until(Path.FAST)
        for where, whose in ((to_c, f"member {member}: "), (from_a, "what comes in for the data port: ")):
            for means, what in (
                ("action block", "blocks it"),
                ("tmpl proto esp mode transport", "has it encrypted"),
            ):
                ip(f"add {where} {means}")
                choice = await watched.until(Path.SLOW, what)
                assert choice.reason.startswith(f"{whose}an IPsec policy (")
                ip(f"delete {where}")
                await watched.until(Path.FAST)
        ip(f"add {to_c} action block priority 9")
        await watched.until(Path.SLOW)
        ip("add dir out dst 10.0.2.0/24 action allow priority 1")
        await watched.until(Path.FAST)

    def ip(words: str) -> None:
        command = ("ip", "xfrm", "policy", *words.split())
        topology.broker.call(partial(subprocess.run, command, check=True))

    with ExitStack() as stack:
        receiver = stack.enter_context(udp(topology.subscriber, (C, 0)))
        in_broker(topology, scenario, mode="native")

"""Attaching and offloading on real interfaces: who is left alone, what is refused, what is noticed."""

from __future__ import annotations

import asyncio
import errno
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path as File

import pytest
from support.features import no_tcx
from support.nodes import configure, ip, udp
from support.waiting import LIMIT
from support.watched import Watched, in_broker

from tempos import (
    Fanout,
    Framing,
    Group,
    Member,
    Path,
    PathChoice,
    PathPolicy,
    Reason,
    Route,
    Topic,
    Unavailable,
)
from tempos.wire import encode_event
from tempos_bench.nodes.topology import Topology
from tempos_bpf.errors import ProgramRefused
from tempos_bpf.links import XdpMode, attach_xdp, query_xdp
from tempos_bpf.objects import BpfObject
from tempos_fastpath import drops
from tempos_fastpath import offload as offload_module
from tempos_fastpath.loading import OBJECT, PROGRAM
from tempos_fastpath.network.facts import Facts
from tempos_fastpath.network.kernel import Kernel
from tempos_fastpath.network.survey import Survey
from tempos_fastpath.offload import Offload
from tempos_fastpath.resources import Resources

pytestmark = [pytest.mark.kernel, pytest.mark.netns]

UDP_SEGMENT = 103
TOPIC = Topic(7, "machines", framing=Framing.EVENT)
A, B_NEAR_A, B_NEAR_C, C = "10.0.1.2", "10.0.1.1", "10.0.2.1", "10.0.2.2"
NOWHERE = "203.0.113.5"


def route(*members: Member, epoch: int = 1, topic: Topic = TOPIC, groups: int = 1) -> Route:
    return Route(topic, epoch, tuple(Group(f"g{i}", members) for i in range(groups)))


def attached(topology: Topology) -> dict[str, str | None]:
    def look() -> dict[str, str | None]:
        found = {name: query_xdp(index) for index, name in socket.if_nameindex()}
        return {name: each.mode if each else None for name, each in found.items() if name != "lo"}

    return topology.broker.call(look)


def test_the_status_says_what_the_kernel_lacks(topology: Topology) -> None:
    async def this_one(offload: Offload) -> None:
        assert offload.status().lacks == lacks

    async def older(offload: Offload) -> None:
        devices, links = offload.status().lacks
        assert devices.startswith("it does not tell which devices take redirected frames")
        assert links.startswith("it has no links of tc programs")

    running = Kernel()
    lacks = topology.broker.call(running.lacks)
    assert running.tc_links() == (no_tcx() is None), "as it turns out where one is attached"
    assert len(lacks) == (running.features() is None) + (not running.tc_links())
    in_broker(topology, this_one)
    in_broker(topology, older, kernel=Kernel(features=lambda: None, tc_links=lambda: False))


def test_it_says_that_it_follows_until_programs_go_by_the_network_as_it_is(topology: Topology) -> None:
    async def until(condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.001)

    async def scenario(offload: Offload) -> None:
        await until(lambda: not offload.status().following)
        for change in ("add", "del"):
            before = offload._programs.listen
            await asyncio.to_thread(
                subprocess.run, ("ip", "address", change, "10.0.1.77/32", "dev", "eth0"), check=True
            )
            await until(lambda: offload.status().following)
            # Who asks twice a millisecond finds no moment at which it is said too early.
            await until(lambda: not offload.status().following)
            assert set(offload._programs.listen) ^ set(before) == {"10.0.1.77"}

    in_broker(topology, scenario)


def test_a_route_that_needs_new_facts_keeps_no_program_from_following(
    topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then all is read anew, of which the watch hears nothing: it has to look all the same."""

    async def scenario(offload: Offload) -> None:
        monkeypatch.setattr(Survey, "extend", lambda *_: None)
        while offload.status().following:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(
            subprocess.run, ("ip", "address", "add", "10.0.1.77/32", "dev", "eth0"), check=True
        )
        while not offload.status().following:
            await asyncio.sleep(0.001)
        await offload.install(route(Member("10.0.2.55", 5000)))
        while offload.status().following:
            await asyncio.sleep(0.001)
        assert "10.0.1.77" in offload._programs.listen

    in_broker(topology, scenario)


@pytest.mark.parametrize(
    "change", ["neigh replace 10.0.2.2 lladdr 02:00:00:00:00:77 dev eth1", "link del eth1"]
)
def test_what_one_route_finds_out_about_the_network_holds_for_all(
    topology: Topology, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Of what is known by then no event is heard."""

    async def scenario(offload: Offload) -> None:
        watched = Watched(offload, route(Member(C, 5000)))
        await watched.until(Path.FAST)
        while offload.status().following:
            await asyncio.sleep(0.001)
        watched.forget()
        offload._trigger.close()
        monkeypatch.setattr(Survey, "extend", lambda *_: None)
        await asyncio.to_thread(subprocess.run, ("ip", *change.split()), check=True)
        other = replace(TOPIC, id=8, name="others")
        await offload.install(route(Member("10.0.1.55", 5000), topic=other))
        await watched.told()

    monkeypatch.setattr(offload_module, "_REFRESH", 100 * LIMIT)
    in_broker(topology, scenario)


class Hold:
    """Programs are seen to when it is said: ``seeing`` from when it begins, ``go_on`` lets it."""

    def __init__(self) -> None:
        self.seeing, self.go_on, follow = threading.Event(), threading.Event(), Resources.follow

        def slowly(resources: Resources, facts: Facts) -> bool:
            self.seeing.set()
            assert self.go_on.wait(LIMIT)
            return follow(resources, facts)

        self.follow = slowly


def test_of_an_interface_that_is_gone_is_told_before_programs_are_seen_to(
    topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To load them takes its time, in which what leaves there would be lost."""
    hold = Hold()

    async def scenario(offload: Offload) -> None:
        watched = Watched(offload, route(Member(C, 5000)))
        await watched.until(Path.FAST)
        monkeypatch.setattr(Resources, "follow", hold.follow)
        watched.forget()
        try:
            await asyncio.to_thread(subprocess.run, ("ip", "link", "delete", "eth1"), check=True)
            await watched.until(Path.SLOW)
            assert await asyncio.to_thread(hold.seeing.wait, LIMIT)
            assert offload.status().following
        finally:
            hold.go_on.set()

    in_broker(topology, scenario)


def test_routes_follow_the_network_while_programs_are_seen_to(
    topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What changes once often changes again: a link that is down and up while programs are loaded."""
    hold = Hold()

    async def change(command: str) -> None:
        await asyncio.to_thread(subprocess.run, ("ip", *command.split()), check=True)

    async def scenario(offload: Offload) -> None:
        watched = Watched(offload, route(Member(C, 5000)))
        await watched.until(Path.FAST)
        while offload.status().following:
            await asyncio.sleep(0.001)
        monkeypatch.setattr(Resources, "follow", hold.follow)
        try:
            await change("address add 10.0.1.77/32 dev eth0")
            assert await asyncio.to_thread(hold.seeing.wait, LIMIT)
            watched.forget()
            await change(f"neigh replace {C} lladdr 02:00:00:00:00:77 dev eth1")
            await watched.told()
            await watched.until(Path.FAST)
            await change("link set eth1 down")
            await watched.until(Path.FAST, f"left out: they cannot be reached (member {C}:5000: ")
            await change("link set eth1 up")
            await watched.until(Path.FAST)
            assert offload.status().following
            assert "10.0.1.77" not in offload._programs.listen
        finally:
            hold.go_on.set()
        while offload.status().following:
            await asyncio.sleep(0.001)
        assert "10.0.1.77" in offload._programs.listen

    in_broker(topology, scenario)


@pytest.mark.parametrize("mode", ["auto", "native", "generic"])
def test_an_event_crosses_and_all_is_detached_at_the_end(topology: Topology, mode: str) -> None:
    real = "native" if mode == "auto" else mode

    async def scenario(offload: Offload) -> None:
        assert offload.status().mode == real
        assert [each.name for each in offload.status().interfaces] == ["eth0", "eth1"]
        assert attached(topology) == {"eth0": real, "eth1": real}
        to, there = route(Member(*receiver.getsockname()), epoch=3), Path.FAST
        choice = await Watched(offload, to).until(there)
        assert choice.reason == f"XDP {real}, leaves by eth1"
        loop = asyncio.get_running_loop()
        sender.sendto(encode_event(TOPIC.id, 1, 1, 0, b"body"), (B_NEAR_A, 9998))
        data, source = await loop.run_in_executor(None, receiver.recvfrom, 2000)
        # It asked no address, so the one that the kernel prefers; then it asks.
        assert (data[3], data[12:16], data[24:], source) == (3, bytes(4), b"body", (B_NEAR_C, 9998))
        assert offload.counters()[TOPIC.id] == {Reason.FORWARDED: 1}
        assert offload.tickets.read(TOPIC.id, 3, 0) == 1
        asked = route(Member(*receiver.getsockname(), source=B_NEAR_A), epoch=4)
        assert (await offload.install(asked)).path is there
        sender.sendto(encode_event(TOPIC.id, 1, 2, 0, b"body"), (B_NEAR_C, 9998))
        data, source = await loop.run_in_executor(None, receiver.recvfrom, 2000)
        assert (data[3], source) == (4, (B_NEAR_A, 9998))
        await offload.close()
        assert (offload.status().mode, offload.counters()) == ("none", {})
        assert (await offload.install(to)).path is Path.SLOW

    with ExitStack() as stack:
        sender = stack.enter_context(udp(topology.publisher, (A, 0)))
        receiver = stack.enter_context(udp(topology.subscriber, (C, 0)))
        in_broker(topology, scenario, mode=mode)
    assert attached(topology) == {"eth0": None, "eth1": None}


def test_a_burst_that_the_kernel_carries_as_one_buffer_goes_the_slow_path(topology: Topology) -> None:
    """Generic mode sees three datagrams of a GSO sender under one header: one ticket would not do."""

    def gso_sender() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, len(datagram))
        return sock

    datagram = encode_event(TOPIC.id, 1, 1, 0, b"body")

    async def scenario(offload: Offload) -> None:
        await Watched(offload, route(Member(C, 9998))).until(Path.FAST)
        sender.sendto(datagram * 3, (B_NEAR_A, 9998))
        sender.sendto(datagram, (B_NEAR_A, 9998))
        assert offload.counters()[TOPIC.id] == {Reason.BURST: 1, Reason.FORWARDED: 1}
        assert offload.tickets.read(TOPIC.id, 1, 0) == 1

    with closing(topology.publisher.call(gso_sender)) as sender:
        in_broker(topology, scenario, mode="generic")


def test_a_program_that_is_not_ours_is_never_touched(topology: Topology) -> None:
    def occupy() -> tuple[ExitStack, int]:
        with ExitStack() as stack:
            program = stack.enter_context(BpfObject(OBJECT)).program(PROGRAM)
            stack.enter_context(attach_xdp(program, socket.if_nametoindex("eth0"), XdpMode.NATIVE))
            return stack.pop_all(), program.info().id

    async def scenario(offload: Offload) -> None:
        busy, free = offload.status().interfaces
        assert (busy.mode, free.mode) == ("none", "native")
        assert f"'{PROGRAM}' (id {program_id}) in native mode, which is not ours" in busy.reason

    foreign, program_id = topology.broker.call(occupy)
    with foreign:
        with pytest.raises(Unavailable, match=rf"eth0 already carries .* \(id {program_id}\)"):
            in_broker(topology, scenario, interfaces=("eth0",))
        in_broker(topology, scenario)
        still = topology.broker.call(lambda: query_xdp(socket.if_nametoindex("eth0")))
        assert still is not None
        assert still.program_id == program_id
        assert attached(topology)["eth1"] is None
    assert attached(topology)["eth0"] is None


def test_no_interface_to_attach_to_is_said_with_every_reason(topology: Topology) -> None:
    async def never(offload: Offload) -> None:
        raise AssertionError(offload.status())

    expected = "nothing0: there is no such interface; lo: it is not an Ethernet interface"
    with pytest.raises(Unavailable, match=expected):
        in_broker(topology, never, interfaces=("nothing0", "lo"))


def test_what_the_kernel_cannot_carry_is_refused_in_words(topology: Topology) -> None:
    far = Member(C, 9998, "02:00:00:00:00:99")
    refused = {
        "17 groups: the fast path carries at most 16": route(far, groups=17),
        "the topic's policy is slow": route(far, topic=replace(TOPIC, policy=PathPolicy.SLOW)),
        "513 members: the fast path carries at most 512 of a topic": route(*[far] * 513),
        f"member {B_NEAR_C}:9998: it is this machine": route(far, Member(B_NEAR_C, 9998)),
        "no MAC address yet of member 10.0.2.200:9998 on eth1": route(far, Member("10.0.2.200", 9998)),
    }

    async def scenario(offload: Offload) -> None:
        for reason, unfit in refused.items():
            choice = await offload.install(route(far))
            assert choice.path is Path.FAST, "a MAC from the configuration needs no neighbour"
            assert await offload.install(unfit) == PathChoice(Path.SLOW, reason)
            assert offload._programs.map("routes").lookup(TOPIC.id) is None, "the old route must be gone"

    in_broker(topology, scenario)


@pytest.mark.parametrize("fanout", [Fanout.AUTO, Fanout.XDP, Fanout.TC])
def test_members_that_no_way_leads_to_are_left_out_and_the_others_get_theirs(
    topology: Topology, fanout: Fanout
) -> None:
    far = Member(C, 9998, "02:00:00:00:00:99")
    topic = replace(TOPIC, fanout=fanout)
    nowhere = {
        f"member {C}:9998: its events leave from 10.9.9.9, which this machine does not have now": replace(
            far, source="10.9.9.9"
        ),
        f"member {C}:9998: no route to it from 127.0.0.1 (Invalid argument)": replace(
            far, source="127.0.0.1"
        ),
    }
    for address, kind, why in (
        (NOWHERE, "", "Network is unreachable"),
        ("198.51.100.1", "blackhole", "a route drops what goes there (blackhole)"),
        ("198.51.100.2", "unreachable", "a route says that it cannot be reached (unreachable)"),
        ("198.51.100.3", "prohibit", "a route forbids it (prohibit)"),
    ):
        nowhere[f"member {address}:9998: no route to it ({why})"] = Member(address, 9998)
        if kind:
            ip(topology.broker, f"route add {kind} {address}")

    async def scenario(offload: Offload) -> None:
        if fanout is Fanout.TC and no_tcx():
            return
        for reason, lost in nowhere.items():
            for groups in ([Group("a", (lost, far))], [Group("a", (far,)), Group("b", (lost,))]):
                if len(groups) == 1 and fanout is not Fanout.AUTO:
                    continue
                choice = await offload.install(Route(topic, 1, tuple(groups)))
                assert choice.path is Path.FAST, choice
                assert f"1 of 2 members left out: they cannot be reached ({reason})" in choice.reason

    in_broker(topology, scenario)


def test_facts_that_change_are_told_and_others_are_not(topology: Topology) -> None:
    there = route(Member(C, 9998))

    async def scenario(offload: Offload) -> None:
        watched = Watched(offload, there)
        await watched.until(Path.FAST)
        index = socket.if_nametoindex("eth1")
        told: list[bool] = []
        offload.on_change(lambda: told.append(True))
        # Not our business: a neighbour no route uses.
        mac = "02:00:00:00:00:77"
        configure(topology.broker, lambda ip: ip.neigh("replace", dst="10.0.2.77", lladdr=mac, ifindex=index))
        while offload._facts.mac_of(index, "10.0.2.77") is None:
            await asyncio.sleep(0.01)
        assert not told
        configure(topology.broker, lambda ip: ip.neigh("replace", dst=C, lladdr=mac, ifindex=index))
        await watched.told()
        assert (await watched.until(Path.FAST)).path is Path.FAST
        configure(topology.broker, lambda ip: ip.link("set", index=index, state="down"))
        await watched.until(Path.FAST, f"left out: they cannot be reached (member {C}:9998: ")
        configure(topology.broker, lambda ip: ip.link("set", index=index, state="up"))
        await watched.until(Path.FAST)
        await offload.withdraw(TOPIC.id)
        assert offload._programs.map("routes").lookup(TOPIC.id) is None

    in_broker(topology, scenario)


def test_where_losses_cannot_be_counted_the_fast_path_serves_and_says_so(
    topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel whose verifier does not take the program that counts them."""

    def refused(path: File, *given: object, **more: object) -> BpfObject:
        log = "func 'xdp_devmap_xmit' arg0 type PTR is not a struct\nprocessed 0 insns\n"
        raise ProgramRefused(drops.PROGRAMS[0], path.name, errno.EACCES, "", log)

    async def scenario(offload: Offload) -> None:
        await Watched(offload, route(Member(C, receiver.getsockname()[1]))).until(Path.FAST)
        sender.sendto(encode_event(TOPIC.id, 1, 1, 0, b"body"), (B_NEAR_A, 9998))
        await asyncio.get_running_loop().run_in_executor(None, receiver.recv, 2000)
        assert offload.counters()[TOPIC.id] == {Reason.FORWARDED: 1}
        status = offload.status()
        assert status.mode == "native"
        said = "; losses behind the redirect are not counted (the kernel's verifier refused the program "
        assert status.reason.count("losses behind the redirect") == 1
        assert f"{said}tempos_refused of drops.bpf.o: func 'xdp_devmap_xmit' arg0 type PTR" in status.reason
        assert offload.drops() == {}

    monkeypatch.setattr(drops, "BpfObject", refused)
    with ExitStack() as stack:
        sender = stack.enter_context(udp(topology.publisher, (A, 0)))
        receiver = stack.enter_context(udp(topology.subscriber, (C, 0)))
        in_broker(topology, scenario)


def test_an_interface_that_goes_away_is_shown_and_survived(topology: Topology) -> None:
    async def scenario(offload: Offload) -> None:
        watched = Watched(offload, route(Member(C, 9998)))
        await watched.until(Path.FAST)
        configure(topology.broker, lambda ip: ip.link("del", index=socket.if_nametoindex("eth1")))
        await watched.until(Path.SLOW)
        while (eth1 := offload.status().interfaces[1]).mode != "none":
            await asyncio.sleep(0.01)
        assert eth1.reason == "the interface is gone"
        assert offload.status().mode == "native"

    in_broker(topology, scenario)


def test_many_routes_at_once_look_at_the_network_once(topology: Topology) -> None:
    topics = [Topic(number, f"t{number}", framing=Framing.RAW) for number in range(1, 41)]

    async def scenario(offload: Offload) -> None:
        looks = []
        survey = offload._survey
        read, extend = survey.read, survey.extend
        survey.read = lambda *given: looks.append("read") or read(*given)  # type: ignore[assignment, func-returns-value]
        survey.extend = lambda *given: looks.append("extend") or extend(*given)  # type: ignore[assignment, func-returns-value]
        routes = [route(Member(*receiver.getsockname()), topic=topic) for topic in topics]
        choices = await asyncio.gather(*map(offload.install, routes))
        assert len(looks) <= 4, looks
        assert {choice.path for choice in choices} <= {Path.FAST, Path.SLOW}
        for each in routes:
            await Watched(offload, each).until(Path.FAST)
        for topic in topics:
            sender.sendto(bytes((topic.id,)), (B_NEAR_A, 9998))
            assert receiver.recv(100) == bytes((topic.id,))
        assert all(offload.counters()[topic.id] == {Reason.FORWARDED: 1} for topic in topics)

    with ExitStack() as stack:
        sender = stack.enter_context(udp(topology.publisher, (A, 0)))
        receiver = stack.enter_context(udp(topology.subscriber, (C, 0)))
        in_broker(topology, scenario)

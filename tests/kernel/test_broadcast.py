"""Broadcasts in XDP over real links: what each copy looks like, what is lost to whom, and by which slots."""

from __future__ import annotations

import asyncio
import select
import socket
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, nullcontext

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import UDP
from scapy.layers.l2 import Ether
from support.expected import expected
from support.inject import Capture, Injector
from support.packets import Addresses, datagram, event, partial, raw, topic_of
from support.privileges import require_kernel, require_netns
from support.program import GATE
from support.waiting import LIMIT
from support.watched import in_broker

from tempos import Framing, Group, Member, Path, Reason, Route, Topic, Unavailable
from tempos._abi import Tags, Way
from tempos.wire import encode_event
from tempos_bench.nodes.namespace import Namespace
from tempos_bench.nodes.topology import Topology, mac_of
from tempos_bpf.errors import BpfError
from tempos_bpf.links import XdpMode
from tempos_bpf.maps import Map
from tempos_bpf.objects import BpfObject
from tempos_fastpath.fanouts import Fanouts
from tempos_fastpath.layout import HeldRoute, devmap_entry, encode_settings
from tempos_fastpath.loading import OBJECT, PROGRAM
from tempos_fastpath.network.legs import Hop
from tempos_fastpath.offload import Offload

pytestmark = [pytest.mark.kernel, pytest.mark.netns]

UDP_SEGMENT = 103
RAW, EVENT = Topic(1, "raw", framing=Framing.RAW), Topic(2, "event", framing=Framing.EVENT)
SINGLE = Topic(3, "single", framing=Framing.EVENT)
BROKER = "10.0.1.1"
#: Verified instructions; whoever needs more has a reason to say so here. Each group of a foreign topic may
#: be left out, and plain topics have a way of their own before all else.
INSTRUCTIONS = {PROGRAM: 155_000, "tempos_deliver": 620}


@pytest.fixture(params=["straight", "forked"])
def shape(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def members(topology: Topology, groups: Sequence[int], first_port: int = 20_000) -> tuple[Group, ...]:
    """Groups of so many members, whose addresses take turns; ports that differ in both bytes."""
    addresses = topology.subscriber.addresses
    port = iter(range(first_port, 65_000, 257))

    def member(number: int) -> Member:
        ip = addresses[number % len(addresses)]
        return Member(ip, next(port), mac_of(ip))

    return tuple(Group(f"g{g}", tuple(member(g + i) for i in range(size))) for g, size in enumerate(groups))


def network_of(address: str) -> str:
    return address.rpartition(".")[0]


async def install(offload: Offload, topic: Topic, groups: tuple[Group, ...], epoch: int = 1) -> str:
    offload.tickets.reset(topic.id, epoch)
    choice = await offload.install(Route(topic, epoch, groups))
    assert choice.path is Path.FAST, choice.reason
    return choice.reason


class Wire:
    """Frames into the broker's node, and what arrives at each interface of the subscriber's."""

    def __init__(self, stack: ExitStack, topology: Topology) -> None:
        a, b, c = topology.publisher, topology.broker, topology.subscriber
        self.addresses = Addresses(mac_of(a.address), mac_of(b.address), a.address, b.address, c.address)
        self._injector = stack.enter_context(closing(Injector(a, a.interfaces[0])))
        self._captures = [stack.enter_context(closing(Capture(c, name))) for name in c.interfaces]

    def send(self, frame: bytes) -> None:
        self._injector.send(frame)

    def arrived(self, count: int) -> list[list[bytes]]:
        """The frames of each interface, of which there must be so many in all; waits for them."""
        found: list[list[bytes]] = [[] for _ in self._captures]
        while sum(map(len, found)) < count:
            ready, _, _ = select.select(self._captures, [], [], LIMIT)
            assert ready, f"only {sum(map(len, found))} of {count} frames came"
            for frames, capture in zip(found, self._captures, strict=True):
                frames += capture.at_hand()
        assert sum(map(len, found)) == count
        return found


FRAMES = {
    "complete": lambda to: bytes(datagram(to, event(b"odd"))),
    "no checksum": lambda to: _without(bytes(datagram(to, event(b"body")))),
    "partial": lambda to: partial(bytes(datagram(to, event(b"body")))),
    "raw": lambda to: bytes(datagram(to, raw(b"x"))),
    "padded": lambda to: bytes(datagram(to, raw(b"x"))) + b"\xaa" * 16,
    "large": lambda to: bytes(datagram(to, event(bytes(range(256)) * 5))),
}


def _without(frame: bytes) -> bytes:
    return frame[:40] + b"\0\0" + frame[42:]


@pytest.mark.parametrize("sizes", [(1, 1), (3, 1, 2), (2,) * 16], ids=lambda sizes: f"{len(sizes)} groups")
def test_every_copy_is_right_to_the_byte(topology: Topology, sizes: Sequence[int]) -> None:
    async def scenario(offload: Offload) -> None:
        groups, epoch = members(topology, sizes), 0x1FE
        ours = {network_of(address): address for address in topology.broker.addresses}
        macs = {network: mac_of(address) for network, address in ours.items()}
        for topic in (RAW, EVENT):
            reason = await install(offload, topic, groups, epoch)
            assert reason.endswith(f"; {len(sizes)} groups: copies by XDP broadcast")
        drawn: Counter[int] = Counter()
        for make in FRAMES.values():
            frame = make(wire.addresses)
            topic = topic_of(frame)
            for _ in range(3):
                wire.send(frame)
                number = drawn[topic]
                drawn[topic] += 1
                wanted: dict[str, list[bytes]] = {}
                for group in groups:
                    sequence, turn = divmod(number, len(group.members))
                    member = group.members[turn]
                    network = network_of(member.ip)
                    hop = Hop(member.ip, member.port, 0, macs[network], member.mac or "", ours[network])
                    copy = expected(frame, hop, generic=False, epoch=epoch, sequence=sequence,
                                    stamped=topic == EVENT.id)  # fmt: skip
                    wanted.setdefault(network, []).append(copy)
                # On each interface in the order of the groups.
                assert [each for each in wire.arrived(len(sizes)) if each] == [
                    wanted[network] for network in sorted(wanted)
                ]
        for topic in drawn:
            assert [offload.tickets.read(topic, epoch, g) for g in range(len(sizes))] == [drawn[topic]] * len(
                sizes
            )
            assert offload.lost(topic, epoch, len(sizes)) == [0] * len(sizes)
            assert offload.counters()[topic] == {Reason.FORWARDED: drawn[topic]}

    with ExitStack() as stack:
        wire = Wire(stack, topology)
        in_broker(topology, scenario, mode="native")


class Bursts:
    """Sends events, so many at a time, that arrive in one receive cycle: for the kernel a single send.

    Frames of test runs do as well, but before Linux 6.3 copies of those are made of the wrong bytes.
    """

    def __init__(self, stack: ExitStack, topology: Topology, topics: Sequence[Topic]) -> None:
        encoded = [encode_event(topic.id, 1, number, 0, b"body") for number, topic in enumerate(topics)]
        self._burst, self._segment = b"".join(encoded), len(encoded[0])
        self._socket = stack.enter_context(closing(topology.publisher.call(self._open)))

    def _open(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, self._segment)
        return sock

    def send(self) -> None:
        self._socket.sendto(self._burst, (BROKER, 9998))


def test_copies_and_frames_of_single_groups_share_a_receive_cycle(topology: Topology) -> None:
    """The kernel runs the egress program on all of them."""
    topics = [SINGLE if number % 3 else EVENT for number in range(40)]
    share = Counter(topic.id for topic in topics)

    async def scenario(offload: Offload) -> None:
        # The single group first: its slot in `egress` is there before the interface gets the program.
        await install(offload, SINGLE, members(topology, [2], first_port=50_000))
        await install(offload, EVENT, members(topology, [2, 2, 2]))
        for _ in range(20):
            bursts.send()
            frames = [
                frame for each in wire.arrived(share[SINGLE.id] + 3 * share[EVENT.id]) for frame in each
            ]
            ports = Counter((Ether(frame)[UDP].dport >= 50_000, frame[42]) for frame in frames)
            assert ports == {(True, SINGLE.id): share[SINGLE.id], (False, EVENT.id): 3 * share[EVENT.id]}
        assert offload.lost(EVENT.id, 1, 3) == [0, 0, 0]

    with ExitStack() as stack:
        wire = Wire(stack, topology)
        bursts = Bursts(stack, topology, topics)
        in_broker(topology, scenario, mode="native")


def live(offload: Offload, frame: bytes, count: int) -> None:
    """So many frames in one receive cycle, as from the driver of the interface towards the publisher."""
    # Not the one that is attached: that looks for what only a veth's own receive path puts beside a frame.
    (gate,) = (each.gate for each in offload._programs.attachments if each.interface == "eth0")
    program = offload._programs._loader.program(XdpMode.NATIVE, Tags.IN_FRAME, gate)
    program.run_live(frame, repeat=count, ingress_ifindex=socket.if_nametoindex("eth0"), batch=count)


def test_what_a_full_ring_does_not_take_is_charged_to_its_groups(topology: Topology) -> None:
    async def scenario(offload: Offload) -> None:
        groups = members(topology, sizes)
        port_of = {member.port: g for g, group in enumerate(groups) for member in group.members}
        await install(offload, EVENT, groups)
        bursts.send()
        while sum(offload.counters()[EVENT.id].values()) < events:
            await asyncio.sleep(0)
        assert [offload.tickets.read(EVENT.id, 1, g) for g in range(width)] == [events] * width
        lost = offload.lost(EVENT.id, 1, width)
        assert sum(lost) > 0, f"{width * events} copies do not fit into rings of 256"
        frames = [frame for each in wire.arrived(width * events - sum(lost)) for frame in each]
        got = Counter(port_of[Ether(frame)[UDP].dport] for frame in frames)
        assert [events - got[g] for g in range(width)] == lost
        dropped = offload.drops()
        assert {error for errors in dropped.values() for error in errors} == {"ENOBUFS"}
        assert sum(errors["ENOBUFS"] for errors in dropped.values()) == sum(lost)
        # What came before is in an account of its own.
        await install(offload, EVENT, groups, epoch=2)
        wire.send(bytes(datagram(wire.addresses, event())))
        wire.arrived(width)
        assert (offload.lost(EVENT.id, 1, width), offload.lost(EVENT.id, 2, width)) == (lost, [0] * width)
        offload.tickets.reset(EVENT.id, 3)
        assert offload.lost(EVENT.id, 3, width) == [0] * width

    # Enough that they do not fit where they leave by two interfaces, either.
    events, sizes = 64, [2, 1] * 8
    width = len(sizes)
    with ExitStack() as stack:
        wire = Wire(stack, topology)
        bursts = Bursts(stack, topology, [EVENT] * events)
        in_broker(topology, scenario, mode="native")


def take_down(interface: str) -> None:
    with IPRoute() as ip:
        ip.link("set", index=socket.if_nametoindex(interface), state="down")


def test_an_interface_that_has_just_gone_down_costs_its_groups_every_copy(topology: Topology) -> None:
    """The kernel leaves it out without a word; only the account shows it."""

    async def scenario(offload: Offload) -> None:
        addresses = topology.subscriber.addresses
        groups = tuple(Group(ip, (Member(ip, 7000, mac_of(ip)),)) for ip in (addresses[0], addresses[-1]))
        await install(offload, EVENT, groups)
        # On another thread, because there is a loop in this one; meanwhile nobody here can notice.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(take_down, "eth1").result()
        live(offload, bytes(datagram(wire.addresses, event())), 10)
        there = len(addresses) - 1
        assert offload.lost(EVENT.id, 1, 2) == [10, 0 if there else 10]
        assert offload.counters()[EVENT.id] == {Reason.FORWARDED: 10}
        wire.arrived(10 * there)

    with ExitStack() as stack:
        wire = Wire(stack, topology)
        in_broker(topology, scenario, mode="native")


def test_slots_have_the_egress_program_for_as_long_as_copies_leave_there(topology: Topology) -> None:
    async def scenario(offload: Offload) -> None:
        programs = offload._programs
        deliver = programs.deliver.info().id

        def marked() -> dict[str, bool]:
            entries = [programs.map("egress").lookup(slot) for slot in range(8)]
            slots = [devmap_entry(entry) for entry in entries if entry]
            assert {program for _, program in slots} <= {0, deliver}
            return {socket.if_indextoname(index): program == deliver for index, program in slots}

        far = topology.subscriber.addresses[-1]
        everywhere = members(topology, [len(topology.subscriber.addresses)])
        name = topology.broker.interfaces[-1]
        await install(offload, SINGLE, everywhere)
        others = dict.fromkeys(topology.broker.interfaces[1:], False)
        assert marked() == others
        both = tuple(Group(f"g{g}", (Member(far, 7000 + g, mac_of(far)),)) for g in range(2))
        for topic in (RAW, EVENT):
            await install(offload, topic, both)
            assert marked() == {**others, name: True}
        # Anew while the interface is marked: it must not lose the program by that.
        await install(offload, SINGLE, everywhere, epoch=2)
        assert marked() == {**others, name: True}
        await offload.withdraw(RAW.id)
        assert marked() == {**others, name: True}
        await install(offload, EVENT, both[:1], epoch=2)
        assert marked() == others

    in_broker(topology, scenario, mode="native")


def test_the_devmaps_are_shared_and_their_number_is_bounded() -> None:
    require_netns()
    require_kernel()
    with Namespace("devmaps") as space, BpfObject(OBJECT) as loaded:
        space.call(lambda: _fill_devmaps(loaded.map("fanouts"), loaded))


def _fill_devmaps(table: Map, loaded: BpfObject) -> None:
    with IPRoute() as ip:
        for i in range(4):
            ip.link("add", ifname=f"a{i}", kind="veth", peer={"ifname": f"b{i}"})
    indices = [socket.if_nametoindex(f"{end}{i}") for i in range(4) for end in "ab"]
    fanouts = Fanouts(table, loaded.map("egress"), loaded.program("tempos_deliver"))
    with closing(fanouts):
        two = ((indices[0],) * 2,)
        first = fanouts.take(1, two)
        assert isinstance(first, int)
        assert fanouts.take(2, two) == first
        fanouts.make(first)
        assert table.lookup(first) is not None
        # A topic that goes over to others keeps the former until it has settled.
        second = fanouts.take(1, ((indices[1],) * 3, None, (indices[2],) * 3))
        assert isinstance(second, int)
        assert second > first
        fanouts.make(second)
        assert [table.lookup(second + offset) is None for offset in range(3)] == [False, True, False]
        fanouts.settle(1, second)
        third = fanouts.take(3, tuple((index,) for index in indices[3:7]))
        assert isinstance(third, int)
        assert fanouts.take(4, ((indices[7],),)) == "broadcasts leave by 7 other interfaces already"
        fanouts.settle(2, None)
        assert isinstance(fanouts.take(4, ((indices[7],),)), int)
        assert fanouts.take(5, (None,) * 4095 + (two[0],)) == "broadcasts leave by 7 other interfaces already"
        fanouts.settle(1, None)
        assert fanouts.take(5, (None,) * 4095 + (two[0],)) == "the kernel's table of devmaps is full"
        gone = fanouts.take(6, ((999,),))
        assert isinstance(gone, int)
        with pytest.raises(BpfError):
            fanouts.make(gone)


def test_routes_whose_picks_add_up_otherwise_are_not_gone_on_with() -> None:
    """Their members lead to other devmaps than ours would be."""
    require_kernel()
    spread = (((2, 0), (3, 1)), ((2, 0), (3, 1)))
    other = (((2, 1), (3, 0)), ((2, 0), (3, 1)))
    with BpfObject(OBJECT) as loaded:
        for egresses, usable in ((spread, True), (other, False)):
            fanouts = Fanouts(loaded.map("fanouts"), loaded.map("egress"), loaded.program("tempos_deliver"))
            with closing(fanouts), nullcontext() if usable else pytest.raises(Unavailable, match="topic 7"):
                fanouts.adopt({7: HeldRoute(7, 1, Way.BROADCAST, 5, egresses)})
        assert [loaded.map("fanouts").lookup(key) is not None for key in (4, 5, 6, 7, 8)] == [
            False, True, True, True, False,
        ]  # fmt: skip


def test_the_verifier_has_no_more_to_look_at_than_it_had() -> None:
    require_kernel()
    # Without an address to listen on, nearly all of it would be dead code.
    settings = encode_settings(9998, [BROKER], GATE, generic=False)
    with BpfObject(OBJECT, {"settings": settings}) as loaded:
        for name, most in INSTRUCTIONS.items():
            verified = loaded.program(name).info().verified_insns
            assert most / 2 < verified <= most, (name, verified)

"""Two sockets on one port: each gets the datagrams of its class, whatever shape they come in."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest
from scapy.layers.inet import IP, UDP, IPOption_NOP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from support.inject import Injector
from support.packets import Addresses, datagram, raw
from support.privileges import require_kernel, require_netns
from support.program import Rig
from support.waiting import LIMIT

from tempos import Quality, Topic, Unavailable
from tempos.wire import raw_header
from tempos_bench.nodes.topology import build, mac_of
from tempos_bpf.maps import Map
from tempos_fastpath.selector import attach_selector
from tempos_fastpath.starting import start

pytestmark = pytest.mark.kernel

STRICT, BEST_EFFORT = Topic(1, "strict", Quality.SQ), Topic(2, "best effort", Quality.BQ)


class Pair:
    """The two sockets of a port."""

    def __init__(self, address: str, port: int = 0) -> None:
        self.strict, self.best_effort = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        self.best_effort.bind((address, port))
        for each in (self.best_effort, self.strict):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.address: tuple[str, int] = self.best_effort.getsockname()
        self.strict.bind(self.address)
        for each in (self.strict, self.best_effort):
            each.settimeout(LIMIT)

    def received(self, strict: int = 0, *, both: int = 0) -> tuple[list[bytes], list[bytes]]:
        """What waits in each: strict, best effort; once so many are there, strict ones or ``both`` together.

        Loopback delivers before a send returns, unless the machine is busy.
        """
        found: tuple[list[bytes], list[bytes]] = [], []
        end = time.monotonic() + LIMIT
        while True:
            for each, waiting in zip((self.strict, self.best_effort), found, strict=True):
                while select.select([each], [], [], 0)[0]:
                    waiting.append(each.recv(65536))
            if len(found[0]) >= strict and sum(map(len, found)) >= both:
                return found
            assert time.monotonic() < end, found
            select.select([self.strict, self.best_effort], [], [], 0.1)

    def close(self) -> None:
        self.strict.close()
        self.best_effort.close()


@pytest.fixture(scope="module")
def loaded() -> Iterator[Rig]:
    """Whichever mode: its maps are what the selector looks into."""
    require_kernel()
    with closing(Rig(generic=False)) as rig:
        yield rig


@pytest.fixture
def pair() -> Iterator[Pair]:
    with closing(Pair("127.0.0.1")) as pair:
        yield pair


def maps(rig: Rig) -> dict[str, Map]:
    return {name: rig.map(name) for name in ("rows", "topics")}


def choose(rig: Rig, pair: Pair) -> None:
    attach_selector(maps(rig), pair.strict.fileno(), pair.best_effort.fileno())


def test_every_first_byte_leads_to_the_socket_of_its_class(rig: Rig, pair: Pair) -> None:
    strict = {number for number in range(1, 255) if number % 3 == 0}
    topics = [
        Topic(number, f"t{number}", Quality.SQ if number in strict else Quality.BQ)
        for number in range(1, 200)
    ]
    rig.topics.configure(topics)
    choose(rig, pair)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(256):
            sender.sendto(bytes((number,)), pair.address)
        sender.sendto(b"", pair.address)
    got_strict, got_best_effort = pair.received(both=256)
    wanted = sorted(number for number in strict if number < 200)
    assert [body[0] for body in got_strict] == wanted
    assert [body[:1] for body in got_best_effort] == [
        *(bytes((number,)) for number in range(256) if number not in wanted), b"",
    ]  # fmt: skip


def test_wide_ids_lead_to_the_socket_of_their_class(rig: Rig, pair: Pair) -> None:
    """Whatever stands in the first byte, and however little behind it."""
    strict, best_effort = (300, 32768, 65534), (256, 301, 65279)
    classes = [(strict, Quality.SQ), (best_effort, Quality.BQ)]
    rig.configure([Topic(id_, str(id_), quality) for ids, quality in classes for id_ in ids])
    choose(rig, pair)
    others = [b"\xff", b"\xff\x01", b"\xff\x00\x05", b"\xff\xff\xff", b"\xff\x01\x2e"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for datagram in (*map(raw_header, (*best_effort, *strict)), *others):
            sender.sendto(datagram, pair.address)
    both = len(strict) + len(best_effort) + len(others)
    assert pair.received(both=both) == ([*map(raw_header, strict)], [*map(raw_header, best_effort), *others])


@pytest.mark.parametrize("size", [1, 2, 100, 1472, 9000, 65507])
def test_the_size_of_a_datagram_does_not_matter(rig: Rig, pair: Pair, size: int) -> None:
    rig.topics.configure([STRICT, BEST_EFFORT])
    choose(rig, pair)
    bodies = [bytes((topic.id,)) * size for topic in (STRICT, BEST_EFFORT)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for body in bodies:
            sender.sendto(body, pair.address)
    assert pair.received(both=2) == ([bodies[0]], [bodies[1]])


def test_a_class_that_changes_is_in_force_at_once(rig: Rig, pair: Pair) -> None:
    choose(rig, pair)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for quality in (Quality.BQ, Quality.SQ, Quality.BQ):
            rig.topics.configure([replace(STRICT, quality=quality)])
            sender.sendto(b"\x01", pair.address)
            waiting = [b"\x01"]
            assert pair.received(both=1) == ((waiting, []) if quality is Quality.SQ else ([], waiting))


def test_a_flood_of_one_class_fills_its_own_buffer_only(rig: Rig, pair: Pair) -> None:
    rig.topics.configure([STRICT, BEST_EFFORT])
    choose(rig, pair)
    pair.best_effort.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(1000):
            sender.sendto(b"\x02" + bytes(500), pair.address)
            if number % 20 == 0:
                sender.sendto(b"\x01%d" % number, pair.address)
    strict, best_effort = pair.received(50)
    assert strict == [b"\x01%d" % number for number in range(0, 1000, 20)]
    assert len(best_effort) < 100


def test_it_lives_as_long_as_the_sockets_and_without_the_fast_path(pair: Pair) -> None:
    require_kernel()
    with closing(Rig(generic=False)) as rig:
        rig.topics.configure([STRICT])
        choose(rig, pair)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"\x01", pair.address)
        sender.sendto(b"\x02", pair.address)
        assert pair.received(both=2) == ([b"\x01"], [b"\x02"])
        pair.strict.close()
        sender.sendto(b"\x01", pair.address)
        assert pair.best_effort.recv(10) == b"\x01", "one that is closed is not chosen"


def test_sockets_that_cannot_be_told_apart_are_refused_and_go_on_as_before(rig: Rig, pair: Pair) -> None:
    rig.topics.configure([STRICT])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as alone:
        alone.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match="cannot set 0 in map sockets: Invalid argument"):
            attach_selector(maps(rig), pair.strict.fileno(), alone.fileno())
        alone.sendto(b"\x01", alone.getsockname())
        assert alone.recv(10) == b"\x01"
    # What was refused half-way holds nothing: the kernel lets go of it after a grace period.
    end, chosen = time.monotonic() + LIMIT, False
    while not chosen and time.monotonic() < end:
        with contextlib.suppress(Unavailable):
            choose(rig, pair)
            chosen = True
    assert chosen
    with pytest.raises(Unavailable, match="Device or resource busy"):
        choose(rig, pair)


@pytest.mark.netns
@pytest.mark.full
def test_what_comes_from_a_network_in_any_shape() -> None:
    """Padded, with options, cut short by its UDP header, in fragments: the topic is where the kernel says."""
    require_netns()
    require_kernel()
    with ExitStack() as stack:
        topology = stack.enter_context(build("straight"))
        at = Addresses(
            mac_of(topology.publisher.address), mac_of(topology.broker.address),
            topology.publisher.address, topology.broker.address, topology.subscriber.address,
        )  # fmt: skip
        injector = stack.enter_context(
            closing(Injector(topology.publisher, topology.publisher.interfaces[0]))
        )

        def in_pieces(body: bytes) -> list[bytes]:
            whole = bytes(UDP(sport=40000, dport=9998, len=8 + len(body), chksum=0) / Raw(body))
            fields = {"src": at.src, "dst": at.broker, "id": body[0], "proto": 17}
            link = Ether(src=at.src_mac, dst=at.dst_mac)
            return [
                bytes(
                    link
                    / IP(flags="MF" if end < len(whole) else 0, frag=at_ // 8, **fields)
                    / Raw(whole[at_:end])
                )
                for at_, end in ((start_, start_ + 1200) for start_ in range(0, len(whole), 1200))
            ]

        def shapes(topic: int) -> list[list[bytes]]:
            body = raw(b"|ab", topic=topic)
            return [
                [bytes(datagram(at, body)) + bytes(14)],
                [bytes(datagram(at, body, options=[IPOption_NOP()] * 4))],
                [bytes(datagram(at, body + b"behind it", udp={"len": 8 + len(body), "chksum": 0}))],
                in_pieces(body + bytes(5000)),
            ]

        empty = bytes(datagram(at, b"")) + b"\x01" * 18

        async def scenario() -> None:
            offload = await start(listen=["0.0.0.0"], port=9998, mode="auto", interfaces=())
            try:
                await offload.configure([STRICT, BEST_EFFORT])
                with closing(Pair("0.0.0.0", 9998)) as pair:
                    offload.select(pair.strict.fileno(), pair.best_effort.fileno())
                    for topic, here in ((STRICT, pair.strict), (BEST_EFFORT, pair.best_effort)):
                        for frames in shapes(topic.id):
                            for frame in frames:
                                injector.send(frame)
                            assert here.recv(65536)[:4] == raw(b"|ab", topic=topic.id)
                    injector.send(empty)
                    assert pair.best_effort.recv(10) == b"", "padding is no topic"
                    assert pair.received() == ([], [])
                    with pytest.raises(Unavailable, match="busy"):
                        offload.select(pair.strict.fileno(), pair.best_effort.fileno())
            finally:
                await offload.close()
            with pytest.raises(Unavailable, match="the fast path is closed"):
                offload.select(0, 0)

        topology.broker.call(lambda: asyncio.run(asyncio.wait_for(scenario(), LIMIT * 3)))

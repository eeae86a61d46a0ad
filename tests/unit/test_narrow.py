"""The broker tells publishers the largest datagram that all members get, and they keep to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest
from support.minibroker import MiniBrokerThread

from tempos import EventTooBig, LocalError, Member, Publisher, Topic, blocking, control, wire
from tempos.wire import IP_UDP_OVERHEAD
from tempos_broker.addresses import Towards, mtu_towards
from tempos_broker.members.narrow import AT_ONCE, GOOD_FOR, Narrowest

HEAT, COLD = Topic(7, "heat"), Topic(8, "cold")


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(5)
        yield sock


def test_the_narrowest_way_counts_and_is_asked_for_again_after_a_while() -> None:
    now, asked = 0.0, list[Towards]()
    mtus: dict[str, int | None] = {"10.0.0.1": 1500, "10.0.0.2": 1400, "10.0.0.3": None}

    def measure(towards: Towards) -> int | None:
        asked.append(towards)
        return mtus[towards[0]]

    narrowest = Narrowest(2048, measure, lambda: now)
    members = [Member(f"10.0.0.{number}", 5000) for number in (1, 2, 3)]
    assert narrowest.largest([]) == 2048
    assert narrowest.largest(members[:1]) == 1500 - IP_UDP_OVERHEAD
    assert narrowest.largest(members) == narrowest.largest(members) == 1400 - IP_UDP_OVERHEAD
    assert len(asked) == 3
    assert narrowest.largest(members, {("10.0.0.2", None)}) == 1500 - IP_UDP_OVERHEAD, "of those present"
    mtus["10.0.0.2"] = 1300
    now = GOOD_FOR
    assert narrowest.largest(members) == 1300 - IP_UDP_OVERHEAD
    many = [Member(f"10.1.{high}.{low}", 1) for high in range(2) for low in range(250)]
    mtus.update({member.ip: 9000 for member in many})
    before = len(asked)
    assert narrowest.largest(many) == 2048
    assert len(asked) - before == AT_ONCE
    assert mtu_towards(("127.0.0.1", None)) in (None, 65535, 65536), "of loopback, where it is told"


class Narrow(MiniBrokerThread):
    """Says of every topic that so many bytes are the most."""

    sizes: dict[int, int]

    def __init__(self, *topics: Topic, **sizes: int) -> None:
        super().__init__(*topics, heartbeat_ms=50)
        self.sizes = {topic.id: sizes[topic.name] for topic in topics if topic.name in sizes}
        answer = self.core.answer

        def with_sizes(datagram: bytes, ip: str) -> bytes:
            request = control.decode_request(datagram)
            if request.op not in ("resolve", "sent"):
                return answer(datagram, ip)
            reply = control.decode_reply(answer(datagram, ip))
            assert reply.ok is not None
            return control.encode_ok(
                request.id, **reply.ok, largest=[list(each) for each in self.sizes.items()]
            )

        self.core.answer = with_sizes  # type: ignore[method-assign]


async def test_events_and_batches_keep_to_what_all_members_get(receiver: socket.socket) -> None:
    with Narrow(HEAT, COLD, heat=500) as broker:
        options = {"data_port": receiver.getsockname()[1], "control_port": broker.control_port}
        async with Publisher("127.0.0.1", **options) as pub:  # type: ignore[arg-type]
            await pub.publish("heat", bytes(500 - wire.HEADER_LEN))
            assert len(receiver.recv(2000)) == 500
            with pytest.raises(
                EventTooBig, match=r"529 bytes, all members of topic 'heat' get 528"
            ) as caught:
                await pub.publish("heat", bytes(501 - wire.HEADER_LEN))
            assert (caught.value.size, caught.value.limit) == (529, 528)
            await pub.publish("cold", bytes(1000))
            assert len(receiver.recv(2000)) == 1000 + wire.HEADER_LEN
            async with pub.batch():
                for _ in range(30):
                    await pub.publish("heat", bytes(60))
            got = [receiver.recv(2000) for _ in range(5)]
            assert max(map(len, got)) <= 500
            assert sum(len(wire.decode_event(each).bodies) for each in got) == 30
            # A member that is narrower has come; the next word from the broker says so.
            broker.sizes[HEAT.id] = 300
            while True:
                try:
                    await pub.publish("heat", bytes(400))
                except EventTooBig:
                    break
                await asyncio.sleep(0.005)
            # It has gone again; whoever sends nothing else hears of it, too.
            broker.sizes[HEAT.id] = 500
            while True:
                try:
                    await pub.publish("heat", bytes(400))
                except EventTooBig:
                    await asyncio.sleep(0.005)
                else:
                    break


async def test_an_option_caps_datagrams_and_says_so(receiver: socket.socket) -> None:
    port = receiver.getsockname()[1]
    async with Publisher("127.0.0.1", data_port=port, topics=[HEAT], max_datagram=600, linger=5) as pub:
        for _ in range(30):
            await pub.publish("heat", bytes(60))
        await pub.flush()
        assert max(len(receiver.recv(2000)) for _ in range(4)) <= 600 - IP_UDP_OVERHEAD
        with pytest.raises(EventTooBig, match=r"max_datagram allows 600"):
            await pub.publish("heat", bytes(600))
    blocking_one = blocking.Publisher("127.0.0.1", data_port=port, topics=[HEAT], max_datagram=600)
    with blocking_one, pytest.raises(EventTooBig, match="600"):
        blocking_one.publish("heat", bytes(600))
    with pytest.raises(LocalError, match="at least"):
        Publisher(max_datagram=10)

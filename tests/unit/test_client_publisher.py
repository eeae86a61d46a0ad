"""The publisher: datagrams, batching, limits, errors."""

from __future__ import annotations

import asyncio
import errno
import inspect
import socket
import sys
from collections import deque
from collections.abc import Iterator, Sequence

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.minibroker import MiniBrokerThread

from tempos import (
    BodyError,
    ControlRefused,
    EventTooBig,
    Framing,
    LocalError,
    NoAnswer,
    Publisher,
    Topic,
    control,
    wire,
)
from tempos.publisher import BATCH_BYTES, PublisherStats
from tempos.sending.gathered import TURN_EVERY

HEAT = Topic(7, "heat")
RAW = Topic(8, "raw", framing=Framing.RAW)
COLD = Topic(9, "cold")
LOOPBACK_MTU = 65536


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(5)
        yield sock


def publisher_to(receiver: socket.socket, **options: float) -> Publisher:
    port = receiver.getsockname()[1]
    return Publisher("127.0.0.1", data_port=port, topics=[HEAT, RAW], **options)  # type: ignore[arg-type]


class ScriptedSocket:
    """Refuses sends as told, takes the rest."""

    def __init__(self, real: socket.socket, *errors: int) -> None:
        self.real = real
        self.errors = deque(errors)
        self.sent: list[bytes] = []
        self.crowds = 0

    def send(self, datagram: bytes) -> int:
        if self.errors and (number := self.errors.popleft()):
            raise OSError(number, errno.errorcode[number])
        self.sent.append(datagram)
        return len(datagram)

    def sendmsg(self, buffers: tuple[bytes], control: Sequence[tuple[int, int, bytes]]) -> None:
        """As the kernel: all of it or nothing, cut to the size that is told beside it."""
        if self.errors and (number := self.errors.popleft()):
            raise OSError(number, errno.errorcode[number])
        ((_, _, size),) = control
        (whole,), step = buffers, int.from_bytes(size, sys.byteorder)
        self.crowds += 1
        self.sent += [whole[at : at + step] for at in range(0, len(whole), step)]

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)


async def test_events_leave_with_header_and_sequence(receiver: socket.socket) -> None:
    async with publisher_to(receiver) as pub:
        await pub.publish("heat", {"c": 21.5})
        await pub.publish(HEAT, b"plain")
        await pub.publish(Topic(9, "other"), bytearray(b"x"))
        await pub.publish("raw", memoryview(b"anything"))
        events = [wire.decode_event(receiver.recv(2048)) for _ in range(3)]
        assert [(event.topic, event.sequence, event.flags) for event in events] == [
            (7, 0, 0),
            (7, 1, 0),
            (9, 0, 0),
        ]
        assert [bytes(event.bodies[0]) for event in events] == [msgpack.packb({"c": 21.5}), b"plain", b"x"]
        assert {event.publisher for event in events} == {pub.id}
        assert 0 <= events[1].sent_ns - events[0].sent_ns < 5e9
        assert receiver.recv(2048) == b"\x08anything"
        assert (pub.stats.datagrams, pub.stats.events, pub.stats.refused) == (4, 4, 0)
        assert pub.stats.bytes == 3 * 24 + 6 + len(msgpack.packb({"c": 21.5})) + 9


async def test_what_cannot_be_sent_is_refused_at_once(receiver: socket.socket) -> None:
    async with publisher_to(receiver) as pub:
        with pytest.raises(EventTooBig) as caught:
            await pub.publish("heat", bytes(65507 - 23))
        # Limited by IPv4 itself, one below the MTU of loopback.
        assert (caught.value.size, caught.value.limit) == (LOOPBACK_MTU, LOOPBACK_MTU - 1)
        assert "65536" in str(caught.value)
        assert "65535" in str(caught.value)
        with pytest.raises(BodyError, match=r"raw.*dict"):
            await pub.publish("raw", {})
        with pytest.raises(BodyError, match="msgpack"):
            await pub.publish("heat", object())
        with pytest.raises(LocalError, match="255"):
            await pub.publish(Topic(255, "reserved"), b"")
        with pytest.raises(LocalError, match="id 7 and framing event already"):
            await pub.publish(Topic(8, "heat"), b"")
        assert pub.stats.datagrams == 0
        await pub.publish("heat", bytes(65507 - 24))
        assert len(receiver.recv(65536)) == 65507
    with pytest.raises(LocalError, match="not open"):
        await pub.publish("heat", b"")
    with pytest.raises(LocalError, match="not open"):
        await Publisher().publish("heat", b"")


async def test_a_batch_fills_datagrams_and_counts_sequences_on(receiver: socket.socket) -> None:
    bodies = [b"%d" % number * (number % 90) for number in range(300)]
    bodies[150] = bytes(BATCH_BYTES)
    async with publisher_to(receiver) as pub:
        async with pub.batch():
            for body in bodies:
                await pub.publish("heat", body)
        got: list[bytes] = []
        sizes = []
        for _ in range(pub.stats.datagrams):
            datagram = receiver.recv(65536)
            sizes.append(len(datagram))
            event = wire.decode_event(datagram)
            assert event.sequence == len(got)
            got += map(bytes, event.bodies)
        assert got == bodies
        assert pub.stats.events == 300
        # The big one travels alone, the others as many together as fit.
        assert sorted(sizes)[-2] <= BATCH_BYTES < max(sizes)
        assert len(sizes) <= sum(map(len, bodies)) / (BATCH_BYTES - 24) * 1.3 + 3


async def test_linger_sends_what_waits_and_close_the_rest(receiver: socket.socket) -> None:
    async with publisher_to(receiver, linger=0.01) as pub:
        await pub.publish("heat", b"a")
        await pub.publish("heat", b"b")
        await pub.publish("raw", b"at once")
        assert receiver.recv(2048) == b"\x08at once"
        # The timer runs on the loop, the receiver waits beside it.
        event = wire.decode_event(await asyncio.to_thread(receiver.recv, 2048))
        assert [bytes(body) for body in event.bodies] == [b"a", b"b"]
        await pub.publish("heat", b"alone")
    event = wire.decode_event(receiver.recv(2048))
    assert (event.sequence, event.is_batch, bytes(event.bodies[0])) == (2, False, b"alone")
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_full_socket_makes_the_caller_wait_and_loses_nothing(receiver: socket.socket) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        ours.setblocking(False)
        theirs.settimeout(5)
        for linger in (0.0, 0.001):
            async with publisher_to(receiver, linger=linger) as pub:
                real, pub._socket = pub._socket, ours.dup()
                real.close()
                pub._socket.setblocking(False)
                # Nothing would cut it up here.
                pub._gathered._segments = False
                sending = [
                    asyncio.create_task(publish_numbers(pub, range(start, start + 2000)))
                    for start in (0, 2000)
                ]
                got: list[bytes] = []
                while len(got) < 4000:
                    event = wire.decode_event(await asyncio.to_thread(theirs.recv, 65536))
                    got += map(bytes, event.bodies)
                await asyncio.gather(*sending)
                assert sorted(map(int, got)) == list(range(4000))
                assert pub.stats.events == 4000
                assert pub.stats.failed == 0


async def publish_numbers(pub: Publisher, numbers: range) -> None:
    for number in numbers:
        await pub.publish("heat", b"%d" % number)


async def test_a_publisher_lets_the_loop_run(receiver: socket.socket) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with publisher_to(receiver) as pub:
        task = asyncio.create_task(other())
        for _ in range(4 * TURN_EVERY):
            await pub.publish("heat", b"")
        task.cancel()
    assert turns >= 3


async def test_refusals_are_counted_and_not_raised(receiver: socket.socket) -> None:
    pub = publisher_to(receiver)
    # Connected to somebody else it takes nothing from us, and nobody else can take its port.
    receiver.connect(("127.0.0.1", 9))
    async with pub:
        for _ in range(10):
            await pub.publish("heat", b"x")
        await pub.flush()
        assert (pub.stats.datagrams, pub.stats.refused) == (10, 10)


async def test_events_that_wait_and_cannot_be_sent_are_told_once_a_reason(
    receiver: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    # The former is tried twice each time: it may be an earlier datagram's.
    no_way = [errno.ENETUNREACH] * 40 + [errno.EACCES]
    async with publisher_to(receiver, linger=0.0001) as pub:
        pub._socket = scripted = ScriptedSocket(pub._socket, *no_way)  # type: ignore[assignment]
        for number in range(1, 24):
            await pub.publish("heat", b"x")
            while pub.stats.failed + len(scripted.sent) < number:
                await asyncio.sleep(0)
        assert (pub.stats.failed, len(scripted.sent)) == (21, 2)
    first, second, over = [line for line in caplog.messages if "batched events" in line]
    assert "ENETUNREACH" in first or "unreachable" in first
    assert second != first
    assert over == "batched events are sent again (it went wrong 21 times)"


async def test_a_path_that_becomes_narrow_halves_batches(receiver: socket.socket) -> None:
    async with publisher_to(receiver) as pub:
        pub._socket = scripted = ScriptedSocket(pub._socket, errno.EMSGSIZE, errno.EMSGSIZE)
        async with pub.batch():
            for number in range(100):
                await pub.publish("heat", b"%d" % number)
        sequences = [wire.decode_event(datagram).sequence for datagram in scripted.sent]
        bodies = [bytes(body) for sent in scripted.sent for body in wire.decode_event(sent).bodies]
        assert bodies == [b"%d" % number for number in range(100)]
        assert sequences[0] == 0
        assert len(sequences) == 3
        scripted.errors.extend([errno.EMSGSIZE])
        with pytest.raises(EventTooBig):
            await pub.publish("heat", b"x" * 100)
        scripted.errors.extend([errno.EPERM])
        with pytest.raises(LocalError, match="EPERM"):
            await pub.publish("heat", b"")
        pub._socket = scripted.real


async def test_names_are_asked_of_the_broker_once(receiver: socket.socket) -> None:
    with MiniBrokerThread(HEAT, RAW) as broker:
        async with Publisher(
            "localhost", data_port=receiver.getsockname()[1], control_port=broker.control_port
        ) as pub:
            await asyncio.gather(*(publish_numbers(pub, range(5)) for _ in range(3)))
            sequences = [wire.decode_event(receiver.recv(2048)).sequence for _ in range(15)]
            assert sorted(sequences) == list(range(15))
            assert broker.core.seen["resolve"] <= 3
            await pub.publish("raw", b"r")
            assert receiver.recv(2048) == b"\x08r"
            assert await pub.resolve("heat") == (HEAT, 0)
            with pytest.raises(ControlRefused, match="heat, raw"):
                await pub.publish("cold", b"")
            with pytest.raises(LocalError, match="takes 257 bytes; allowed: text of 1 to 256 bytes"):
                await pub.publish("x" * 257, b"")
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_no_broker_is_told_with_its_address(
    receiver: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "RETRY_AFTER", (0.01, 0.01))
    port = receiver.getsockname()[1]
    async with Publisher("127.0.0.1", control_port=port) as pub:
        with pytest.raises(NoAnswer, match=f"127.0.0.1:{port} after 2 tries"):
            await pub.publish("heat", b"")
    with pytest.raises(LocalError, match=r"a\.\.b"):
        await Publisher("a..b").__aenter__()
    with pytest.raises(LocalError, match="negative"):
        Publisher(linger=-1)


@given(
    st.lists(st.tuples(st.sampled_from(("heat", "cold", "raw")), st.integers(0, 700)), max_size=120),
    st.integers(100, 1472),
)
def test_batches_are_split_where_the_next_event_does_not_fit(
    events: list[tuple[str, int]], limit: int
) -> None:
    """Against the rule itself: per topic a datagram is filled until the next event does not fit."""

    async def sent() -> tuple[list[bytes], PublisherStats]:
        topics = [HEAT, COLD, RAW]
        async with Publisher("127.0.0.1", data_port=9, topics=topics) as pub:
            real = pub._socket
            pub._socket = taking = ScriptedSocket(real)
            pub._set_limit(limit)
            async with pub.batch():
                for name, size in events:
                    if size + 24 <= limit:
                        await pub.publish(name, bytes(size))
            return taking.sent, pub.stats

    datagrams, stats = asyncio.run(sent())
    rule: dict[int, list[list[int]]] = {7: [], 9: []}
    open_sizes = {7: 0, 9: 0}
    raw = 0
    for name, size in events:
        if size + 24 > limit:
            continue
        if name == "raw":
            raw += 1
            continue
        topic = 7 if name == "heat" else 9
        if open_sizes[topic] and open_sizes[topic] + 2 + size <= limit:
            rule[topic][-1].append(size)
            open_sizes[topic] += 2 + size
        else:
            rule[topic].append([size])
            # What fits only without a length of its own is in no batch.
            open_sizes[topic] = 26 + size if 26 + size <= limit else 0
    assert sum(datagram[0] == RAW.id for datagram in datagrams) == raw
    for topic, expected in rule.items():
        decoded = [wire.decode_event(datagram) for datagram in datagrams if datagram[0] == topic]
        assert [[len(body) for body in each.bodies] for each in decoded] == expected
        starts = [sum(map(len, expected[:index])) for index in range(len(expected))]
        assert [each.sequence for each in decoded] == starts
    assert stats.events == sum(len(part) for parts in rule.values() for part in parts) + raw
    assert (stats.datagrams, stats.bytes) == (len(datagrams), sum(map(len, datagrams)))


async def publish_in_batch(pub: Publisher, *events: tuple[Topic, bytes]) -> None:
    async with pub.batch():
        for topic, body in events:
            await pub.publish(topic, body)


async def test_what_is_published_beside_a_batch_that_waits_comes_after_it(receiver: socket.socket) -> None:
    async with publisher_to(receiver) as pub:
        pub._socket = scripted = ScriptedSocket(pub._socket, errno.EPERM)
        with pytest.raises(LocalError, match="EPERM"):
            await publish_in_batch(pub, (HEAT, b"lost"), (COLD, b"kept"), (COLD, b"waits"))
        # The first batch met the error; the second waits, and nothing gets into it any more.
        await pub.publish(COLD, b"at once")
        await publish_in_batch(pub, (COLD, b"after both"))
        await pub.flush()
        decoded = [wire.decode_event(datagram) for datagram in scripted.sent]
        assert [(each.sequence, [bytes(body) for body in each.bodies]) for each in decoded] == [
            (2, [b"at once"]),
            (0, [b"kept", b"waits"]),
            (3, [b"after both"]),
        ]
        pub._socket = scripted.real
    with pytest.raises(LocalError, match="not open"):
        pub.publish(HEAT, b"")


async def test_a_batch_in_which_the_path_gets_narrow_takes_no_more_than_that(receiver: socket.socket) -> None:
    async with publisher_to(receiver) as pub:
        pub._socket = scripted = ScriptedSocket(pub._socket)
        async with pub.batch():
            await pub.publish(HEAT, bytes(50))
            pub._set_limit(200)
            for _ in range(5):
                await pub.publish(HEAT, bytes(50))
        assert [len(datagram) for datagram in scripted.sent] == [180, 180]
        assert pub.stats.events == 6
        pub._socket = scripted.real


async def test_what_publish_gives_can_be_awaited_in_every_way(receiver: socket.socket) -> None:
    async with publisher_to(receiver) as pub:
        sent = pub.publish(HEAT, b"")
        assert inspect.isawaitable(sent)
        for _ in range(3):
            await sent
        await asyncio.wait_for(pub.publish(HEAT, b""), 5)
        await asyncio.gather(*(pub.publish(HEAT, b"") for _ in range(2 * TURN_EVERY)))
        await asyncio.ensure_future(pub.publish(HEAT, b""))
        assert pub.stats.events == 2 * TURN_EVERY + 3


async def test_refusals_are_known_before_the_next_line(receiver: socket.socket) -> None:
    pub = publisher_to(receiver)
    async with pub:
        await pub.publish("heat", b"x")
        assert pub.refusals() == 0
        receiver.connect(("127.0.0.1", 9))
        for number in range(1, 4):
            await pub.publish("heat", b"x")
            assert pub.refusals() == pub.refusals() == pub.stats.refused == number
    with pytest.raises(LocalError, match="not open"):
        pub.refusals()


async def test_one_that_is_cancelled_while_it_closes_leaves_no_socket_open(
    receiver: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    pub = await publisher_to(receiver).__aenter__()
    sock, asked = pub._socket, asyncio.Event()

    async def end() -> None:
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(pub._reach, "end", end)
    closing = asyncio.create_task(pub.close())
    await asked.wait()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert isinstance(sock, socket.socket)
    assert sock.fileno() == -1
    with pytest.raises(LocalError, match="not open"):
        await pub.publish(HEAT, b"late")
    monkeypatch.undo()
    await pub.close()

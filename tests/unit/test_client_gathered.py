"""Events of one turn of the event loop leave together, and what becomes of them is told as of each."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos import EventTooBig, LocalError, NoWay, Publisher, Topic, blocking, wire
from tempos.model import Framing
from tempos.requests import envelope
from tempos.sending import gathered
from tempos.sending.asked import Came, Lacks
from tempos.sending.gathered import EAGER, FEW, MOST, kernel_segments

HEAT, COLD = Topic(7, "heat"), Topic(300, "cold")
RAW = Topic(8, "raw", framing=Framing.RAW)

pytestmark = pytest.mark.skipif(not kernel_segments(), reason="this kernel does not know UDP_SEGMENT")


class Kernel:
    """A socket that takes all but what it is told to refuse, and cuts up what it is given as one buffer."""

    def __init__(self, real: socket.socket) -> None:
        self.real = real
        #: For each datagram or buffer that is to be sent: an errno, 0: it is taken.
        self.script: deque[int] = deque()
        #: An errno for every buffer of several.
        self.segmenting = 0
        self.sent: list[bytes] = []
        self.calls = 0

    def _look(self) -> None:
        self.calls += 1
        if self.script and (number := self.script.popleft()):
            raise OSError(number, errno.errorcode[number])

    def send(self, datagram: bytes) -> int:
        self._look()
        self.sent.append(datagram)
        return len(datagram)

    def sendmsg(self, buffers: Sequence[bytes], control: Sequence[tuple[int, int, bytes]]) -> None:
        if self.segmenting:
            raise OSError(self.segmenting, errno.errorcode[self.segmenting])
        self._look()
        ((_, _, size),) = control
        whole, step = b"".join(buffers), int.from_bytes(size, sys.byteorder)
        self.sent += [whole[at : at + step] for at in range(0, len(whole), step)]

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)

    @property
    def numbers(self) -> list[int]:
        """The events that have left, by the numbers in their bodies."""
        return [int(bytes(wire.decode_event(each).bodies[0])) for each in self.sent]


class Stand:
    """A publisher to such a socket, in the midst of a crowd."""

    def __init__(self, window: int | None = None) -> None:
        self.pub = Publisher("127.0.0.1", data_port=9, topics=[HEAT, COLD, RAW], window=window)
        self.number = 0

    async def __aenter__(self) -> Stand:
        await self.pub.__aenter__()
        self.kernel = Kernel(self.pub._socket)
        self.pub._socket = self.kernel
        while not self.pub._gathered.is_open:
            await self.publish()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.pub._socket = self.kernel.real
        await self.pub.close()

    async def publish(self, topic: Topic = HEAT) -> None:
        self.number += 1
        await self.pub.publish(topic, b"%06d" % self.number)

    @property
    def published(self) -> list[int]:
        return list(range(1, self.number + 1))


def read(datagram: bytes) -> int:
    """The number of an event or of a request."""
    return int(datagram[-6:])


@pytest.fixture(autouse=True, scope="module")
def whatever_the_machine_does() -> Iterator[None]:
    """However slow this machine is just now, what follows is of one burst."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathered, "APART", 10**15)
        yield


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(5)
        yield sock


async def test_the_first_are_in_the_socket_when_publish_returns() -> None:
    async with Publisher("127.0.0.1", data_port=9, topics=[HEAT]) as pub:
        real, pub._socket = pub._socket, (kernel := Kernel(pub._socket))
        for number in range(EAGER + 1):
            await pub.publish(HEAT, b"%d" % number)
            assert len(kernel.sent) == number + 1
        pub._socket = real


async def test_those_of_a_turn_leave_together_at_its_end() -> None:
    async with Stand() as stand:
        kernel, before = stand.kernel, stand.kernel.calls
        for _ in range(10):
            await stand.publish()
        assert kernel.calls == before
        await asyncio.sleep(0)
        assert kernel.calls == before + 1
        assert kernel.numbers == stand.published
        # The next turn is of the same crowd: none but its first leaves alone.
        for _ in range(3):
            await stand.publish()
        assert len(kernel.sent) == stand.number - 2


async def test_as_many_leave_as_the_kernel_takes_and_the_loop_gets_its_turn() -> None:
    async with Stand() as stand:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside, before = asyncio.create_task(other()), stand.kernel.calls
        for _ in range(20 * MOST):
            await stand.publish()
        beside.cancel()
        stats = stand.pub.stats
        assert stats.events == stats.datagrams == stand.number
        assert stats.bytes == 30 * stand.number
        assert stand.kernel.numbers == stand.published
        assert stand.kernel.calls - before < 20 * MOST / 8
        assert turns >= 3


@given(st.lists(st.tuples(st.sampled_from((HEAT, COLD, RAW)), st.integers(0, 40)), max_size=200))
def test_of_whatever_sizes_and_topics_all_leave_in_order_as_they_were(
    events: list[tuple[Topic, int]],
) -> None:
    async def play() -> tuple[list[bytes], int]:
        async with Stand() as stand:
            first = stand.number
            for topic, size in events:
                await stand.pub.publish(topic, bytes(size))
            assert stand.pub.stats.events == first + len(events)
            return stand.kernel.sent[first:], first

    sent, first = asyncio.run(play())
    expected = [(topic, bytes(size)) for topic, size in events]
    framings = {topic.id: topic.framing for topic in (HEAT, COLD, RAW)}
    found, numbers = [], {HEAT.id: first, COLD.id: 0}
    for each in sent:
        topic = wire.topic_in(each)
        if framings[topic] is Framing.RAW:
            found.append((RAW, each[1:]))
            continue
        event = wire.decode_event(each)
        assert event.sequence == numbers[topic]
        numbers[topic] += 1
        found.append((HEAT if topic == HEAT.id else COLD, bytes(event.bodies[0])))
    assert found == expected


async def test_where_the_broker_says_so_none_are_gathered() -> None:
    async with Publisher("127.0.0.1", data_port=9, topics=[HEAT]) as pub:
        real, pub._socket = pub._socket, (kernel := Kernel(pub._socket))
        pub._hear({"single": True})
        for number in range(3 * MOST):
            await pub.publish(HEAT, b"%d" % number)
        assert len(kernel.sent) == kernel.calls == 3 * MOST
        pub._hear({})
        for number in range(3 * MOST):
            await pub.publish(HEAT, b"%d" % number)
        assert kernel.calls < 5 * MOST
        pub._socket = real


async def test_each_arrives_as_a_datagram_of_its_own(receiver: socket.socket) -> None:
    port = receiver.getsockname()[1]
    async with Publisher("127.0.0.1", data_port=port, topics=[HEAT]) as pub:
        for number in range(120):
            await pub.publish(HEAT, b"%03d" % number)
        await pub.flush()
        events = [wire.decode_event(receiver.recv(65536)) for _ in range(120)]
    assert [(event.sequence, bytes(event.bodies[0])) for event in events] == [
        (number, b"%03d" % number) for number in range(120)
    ]


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL, errno.EOPNOTSUPP])
async def test_where_segmenting_is_refused_all_leave_one_by_one_and_that_is_told_once(
    number: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tempos.publisher")
    async with Stand() as stand:
        stand.kernel.segmenting = number
        for _ in range(5 * MOST):
            await stand.publish()
        assert stand.pub.stats.events == stand.number
        assert stand.kernel.numbers == stand.published
    assert len([line for line in caplog.messages if "several events at once" in line]) == 1


async def test_one_that_is_too_large_by_now_is_told_by_the_next_call_and_costs_no_other_event() -> None:
    async with Stand() as stand:
        for _ in range(5):
            await stand.publish()
        # The buffer, and the third of the events in it.
        stand.kernel.script.extend([errno.EMSGSIZE, 0, 0, errno.EMSGSIZE])
        await asyncio.sleep(0)
        lost = stand.number - 2
        with pytest.raises(EventTooBig):
            await stand.pub.publish(HEAT, b"not taken")
        stand.pub._set_limit(1000)
        await stand.publish()
        assert stand.pub.stats.events == stand.number - 1
        assert stand.kernel.numbers == [each for each in stand.published if each != lost]


async def test_what_finds_no_way_waits_and_that_is_told_by_the_next_calls() -> None:
    async with Stand() as stand:
        for _ in range(5):
            await stand.publish()
        stand.kernel.script.extend([errno.EPERM] * 2)
        await asyncio.sleep(0)
        with pytest.raises(NoWay):
            await stand.pub.publish(HEAT, b"not taken")
        stand.kernel.script.extend([errno.EPERM] * 2)
        with pytest.raises(NoWay):
            await stand.pub.flush()
        assert len(stand.kernel.sent) == stand.number - 5
        await stand.publish()
        assert stand.pub.stats.events == stand.number
        assert stand.kernel.numbers == stand.published


async def test_what_has_no_way_when_it_is_closed_is_told_and_counted() -> None:
    stand = await Stand().__aenter__()
    for _ in range(5):
        await stand.publish()
    stand.kernel.script.extend([errno.EPERM] * 8)
    with pytest.raises(NoWay):
        await stand.pub.close()
    assert stand.pub.stats.failed == 5
    assert stand.pub.stats.events == stand.number - 5
    with pytest.raises(LocalError, match="not open"):
        await stand.pub.publish(HEAT, b"")
    stand.kernel.real.close()


async def test_a_full_socket_makes_the_caller_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Stand() as stand:
        full = True

        async def until_writable() -> None:
            nonlocal full
            full = False
            await asyncio.sleep(0)

        def look() -> None:
            stand.kernel.calls += 1
            if full:
                raise BlockingIOError(errno.EAGAIN, "full")

        monkeypatch.setattr(stand.pub, "_until_writable", until_writable)
        monkeypatch.setattr(stand.kernel, "_look", look)
        for _ in range(3 * MOST):
            await stand.publish()
        assert not full
        full = True
        await stand.publish()
        await stand.pub.flush()
        assert not full
        assert stand.pub.stats.events == stand.number
        assert sorted(stand.kernel.numbers) == stand.published


async def test_the_news_of_an_earlier_datagram_is_counted_and_costs_none() -> None:
    async with Stand() as stand:
        for _ in range(5):
            await stand.publish()
        stand.kernel.script.extend([errno.ECONNREFUSED])
        await asyncio.sleep(0)
        assert stand.kernel.numbers == stand.published
        assert stand.pub.stats.refused == 1


async def test_a_request_and_a_batch_leave_behind_what_was_gathered() -> None:
    async with Stand() as stand:
        await stand.publish()
        async with stand.pub.batch():
            assert stand.kernel.numbers == stand.published
        for _ in range(EAGER + 2):
            await stand.publish()
        outlet = stand.pub._outlets["heat"]
        assert stand.pub._sent(outlet, outlet.single(stand.pub.id, time.time_ns(), b"%06d" % 0), 1)
        assert stand.kernel.numbers == [*stand.published, 0]


class Asked:
    """A request of a stand, with what came of it."""

    def __init__(self, stand: Stand) -> None:
        stand.number += 1
        asking = stand.pub._asking
        asking._address, asking._renew_at = bytes(envelope.ADDRESS_LEN), math.inf
        self.task = asyncio.ensure_future(stand.pub.request(HEAT, b"%06d" % stand.number, timeout=30))

    async def error(self) -> BaseException | None:
        await asyncio.wait({self.task}, timeout=10)
        return self.task.exception()


async def asked(stand: Stand, count: int) -> list[Asked]:
    """So many requests, made in a turn in which events are gathered."""
    await stand.publish()
    made = [Asked(stand) for _ in range(count)]
    await asyncio.sleep(0)
    return made


async def test_requests_of_a_turn_leave_together_in_their_order_and_are_answered() -> None:
    async with Stand() as stand:
        alone = stand.kernel.calls
        made = await asked(stand, 20)
        await asyncio.sleep(0)
        assert [read(each) for each in stand.kernel.sent] == stand.published
        # Events have no envelope, so the buffer of the requests is one of its own.
        assert stand.kernel.calls == alone + 1 + FEW + 1
        for datagram in stand.kernel.sent[-20:]:
            head = datagram[: wire.HEADER_LEN + envelope.LENGTH]
            stand.pub._asking.requests.receive(envelope.answer(head, wire.HEADER_LEN, 1) + b"well")
        assert [(await each.task).body for each in made] == [b"well"] * 20
        assert stand.pub.requests.answered == stand.pub.requests.requests == 20


@pytest.mark.parametrize(("number", "kind"), [(errno.EMSGSIZE, EventTooBig), (errno.EPERM, NoWay)])
async def test_what_a_request_cannot_be_sent_for_is_told_to_who_asks(
    number: int, kind: type[Exception]
) -> None:
    async with Stand() as stand:
        await stand.publish()
        await stand.pub._gathered.flush()
        before = stand.pub.stats.events
        # An event, and the first requests, by themselves; the buffer of the others, and each of them.
        stand.kernel.script.extend([0, *[0] * FEW, number, *[number] * 10])
        all_ = await asked(stand, FEW + 5)
        first, made = all_[:FEW], all_[FEW:]
        assert [type(await each.error()) for each in made] == [kind] * 5
        stand.kernel.script.clear()
        assert (stand.pub.requests.failed, stand.pub.requests.waiting) == (5, FEW)
        for each in first:
            each.task.cancel()
        stand.pub._set_limit(1000)
        await stand.publish()
        await stand.pub.flush()
        assert stand.pub.stats.events == before + FEW + 2
        assert stand.pub.stats.failed == 0


def test_the_blocking_publisher_does_the_same(receiver: socket.socket) -> None:
    port = receiver.getsockname()[1]
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    with blocking.Publisher("127.0.0.1", data_port=port, topics=[HEAT]) as pub:
        for number in range(200):
            pub.publish(HEAT, b"%03d" % number)
        pub.flush()
        assert pub.stats.events == 200
        got = [bytes(wire.decode_event(receiver.recv(65536)).bodies[0]) for _ in range(200)]
    assert got == [b"%03d" % number for number in range(200)]


@pytest.mark.parametrize("refused", [0, errno.EIO])
async def test_what_leaves_together_is_kept_until_it_is_confirmed(refused: int) -> None:
    async with Stand(1 << 20) as stand:
        assert stand.pub._confirming is not None
        stand.kernel.segmenting = refused
        kept = {topic: stand.pub._outlets[topic.name].kept for topic in (HEAT, COLD)}
        for number in range(300):
            await stand.publish((HEAT, HEAT, COLD, HEAT, RAW)[number // 7 % 5])
        await stand.pub.flush()
        window = stand.pub._confirming.window
        for topic, some in kept.items():
            assert some is not None
            sent = [each for each in stand.kernel.sent if wire.topic_in(each) == topic.id]
            # Each under its number, as it is asked for.
            again = window.lacks(Lacks(topic.id, 2**31, ((0, len(sent)),)))
            assert [wire.from_again(each) for each in again] == sent
            assert some.open == len(sent)
            window.came(Came(topic.id, 2**31, len(sent), ((3, 5), (40, 41))))
            assert some.open == 3
            window.came(Came(topic.id, 2**31, len(sent), ()))
            assert some.open == 0
        assert not window.is_open

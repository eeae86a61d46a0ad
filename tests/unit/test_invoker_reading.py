"""A worker that reads a data socket itself: what it takes, what it leaves, and what is there when it dies."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tempos import Framing, Subscriber, Topic, _abi, wire
from tempos.receiving.loan import Borrower
from tempos_invoker.workers import direct
from tempos_invoker.workers.direct import Broken, Shared

TOPIC, TURN = 7, 3
NUMBERS = struct.Struct("=4Q")


def event(sequence: int, body: bytes = b"x", topic: int = TOPIC, flags: int = 0) -> bytes:
    version = _abi.WIRE_VERSION << 4
    return struct.pack(">BBBBIIIQ", topic, version | flags, 0, 1, 9, sequence, sequence, 55) + body


class Ends:
    """Both ends in one process, with a socket to send to."""

    def __init__(self, stack: ExitStack) -> None:
        parts = direct.compiled()
        if parts is None:
            pytest.skip("the invoker's compiled part is not there")
        self.ffi, self.lib = parts
        self.data = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.data.bind(("127.0.0.1", 0))
        self.out = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.out.connect(self.data.getsockname())
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(self.ours)
        stack.enter_context(self.theirs)
        self.shared = Shared(self.ffi, self.lib)
        stack.callback(self.shared.close)
        self.memory = self.lib.tempos_direct_map(self.shared.memory)
        stack.callback(self.lib.tempos_direct_unmap, self.memory)
        self.found = self.ffi.new("struct tempos_datagram *")
        self.turn(TURN)

    def turn(self, number: int) -> None:
        self.shared.give(number)
        self.reader = self.ffi.gc(
            self.lib.tempos_reader_new(
                self.memory, number, TOPIC, self.data.fileno(), self.theirs.fileno(), self.shared.alarm
            ),
            self.lib.tempos_reader_close,
        )

    def next(self) -> tuple[int, bytes] | int:
        """The next call: its number and body; or what is told in its place."""
        code = self.lib.tempos_reader_next(self.reader, self.found)
        if code != 1:
            return int(code)
        return self.found.number, self.ffi.buffer(self.found.data, self.found.length)[wire.HEADER_LEN :]

    def rings(self) -> bool:
        """Whether the alarm has rung."""
        try:
            return bool(os.read(self.shared.alarm, 8))
        except BlockingIOError:
            return False

    def poke(self, offset: int, layout: str, *values: Any) -> None:
        """Write into the memory, as a function gone wild does."""
        size = self.lib.tempos_direct_size()
        struct.pack_into(layout, self.ffi.buffer(self.memory, size), offset, *values)


@pytest.fixture
def ends() -> Iterator[Ends]:
    with ExitStack() as stack:
        yield Ends(stack)


def test_events_of_the_topic_are_called_and_lie_where_the_invoker_finds_them(ends: Ends) -> None:
    for number in range(3):
        ends.out.send(event(number, b"%d" % number))
        assert ends.next() == (number, b"%d" % number)
    assert (ends.found.publisher, ends.found.sequence, ends.found.sent_ns) == (9, 2, 55)
    news = ends.shared.news
    came = ends.shared.take()
    assert (news, ends.shared.news) == (True, False)
    assert [each.content for each in came] == [event(number, b"%d" % number) for number in range(3)]
    assert [(each.called, each.number) for each in came] == [(True, 0), (True, 1), (True, 2)]
    assert all(each.received_ns for each in came)
    assert ends.shared.take() == []
    told = came[2].event(TOPIC, "t")
    assert (told.topic, told.body, told.publisher, told.sequence, told.sent_ns) == ("t", b"2", 9, 2, 55)


def test_what_is_not_simply_an_event_of_the_topic_is_left_to_the_invoker(ends: Ends) -> None:
    odd = [
        b"", b"\x07", event(0, flags=1), event(0, flags=8), event(0, topic=8),
        event(0)[:2] + b"\x01" + event(0)[3:], bytes([TOPIC, 0x20]) + event(0)[2:],
    ]  # fmt: skip
    for datagram in odd:
        ends.out.send(datagram)
    ends.out.send(event(1, flags=4))
    # It wakes the invoker, which the number of the first one that is called shows to be after all of these.
    assert ends.next() == (len(odd), b"x")
    came = ends.shared.take()
    assert [each.content for each in came if not each.called] == odd


def test_a_turn_ends_when_something_else_comes_or_it_is_taken_away(ends: Ends) -> None:
    ends.ours.send(b"call")
    assert ends.next() == 0
    assert ends.theirs.recv(10) == b"call"
    ends.out.send(event(1))
    ends.shared.end()
    assert ends.next() == 0
    assert not ends.shared.receives
    assert ends.shared.take() == []
    # Nothing was taken off the socket, and the next turn counts anew.
    ends.turn(TURN + 1)
    assert ends.next() == (0, b"x")
    assert ends.shared.count == 0
    assert [each.number for each in ends.shared.take()] == [0]
    assert ends.shared.count == 1


def test_of_a_worker_that_died_while_it_received_nothing_is_lost(ends: Ends) -> None:
    ends.out.send(event(1, b"whole"))
    assert ends.next() == (0, b"whole")
    # As if it had been killed before it could say so.
    turn, taken, received, _ = NUMBERS.unpack(ends.ffi.buffer(ends.memory, NUMBERS.size))
    ends.poke(0, "=4Q", turn, taken, received - 1, received)
    assert ends.shared.receives
    assert ends.shared.take() == []
    (pending,) = ends.shared.take(gone=True)
    assert (pending.content, pending.called) == (event(1, b"whole"), False)


def test_a_ring_that_is_full_waits_for_the_invoker_and_loses_nothing(ends: Ends) -> None:
    ends.data.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    sizes = [size for size in (1, 40_000, 1_400, 60_000, 9) for _ in range(40)]
    came: list[int] = []
    for number, size in enumerate(sizes):
        if number - len(came) >= 10:
            came += [len(each.content) - wire.HEADER_LEN for each in ends.shared.take()]
        ends.out.send(event(number, bytes(size)))
        assert ends.next() == (number, bytes(size))
    came += [len(each.content) - wire.HEADER_LEN for each in ends.shared.take()]
    assert came == sizes


def test_without_anybody_who_takes_it_the_ring_is_full_and_the_rest_stays_in_the_socket(ends: Ends) -> None:
    ends.data.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    fitting = (1 << 20) // 60_000
    for number in range(fitting):
        ends.out.send(event(number, bytes(60_000)))
        assert ends.next() == (number, bytes(60_000))
    ends.out.send(event(fitting, b"more"))
    ends.ours.send(b"?")
    assert ends.next() == 0
    assert ends.theirs.recv(1) == b"?"
    assert ends.rings()
    assert len(ends.shared.take()) == fitting
    assert ends.next() == (fitting, b"more")


def test_the_alarm_rings_at_once_where_the_ring_fills_up(ends: Ends) -> None:
    for number in range(ends.lib.TEMPOS_DIRECT_SLOTS // 2 - 1):
        ends.out.send(event(number))
        assert ends.next() == (number, b"x")
    # Whether it rang meanwhile is a question of time; now it does whatever the time is.
    ends.rings()
    ends.out.send(event(0))
    ends.next()
    os.set_blocking(ends.shared.alarm, True)
    assert ends.rings()


@pytest.mark.parametrize("at", [3, 1 << 20, 0xFFFFFFC0, (1 << 20) - 64])
def test_what_cannot_be_there_is_no_datagram(ends: Ends, at: int) -> None:
    ends.out.send(event(1))
    ends.next()
    ends.poke(NUMBERS.size, "=I", at)
    with pytest.raises(Broken):
        ends.shared.take()


def test_more_than_there_is_room_for_cannot_have_come(ends: Ends) -> None:
    ends.poke(16, "=Q", 5000)
    with pytest.raises(Broken):
        ends.shared.take()


def test_events_that_follow_one_another_are_found_as_a_run(ends: Ends) -> None:
    head = struct.Struct(">BBBBIIIQ")
    plain = [event(number, b"%d" % number) for number in range(4)]
    # Another publisher, one that is sent again, another epoch, numbers that are not the next.
    other = head.pack(TOPIC, _abi.WIRE_VERSION << 4, 0, 1, 8, 4, 4, 55)
    epoch = head.pack(TOPIC, _abi.WIRE_VERSION << 4, 0, 2, 9, 6, 6, 55)
    sent = [*plain, other, event(5, flags=4), event(6), epoch, event(8), event(9), event(4), event(11)]
    for datagram in sent:
        ends.out.send(datagram)
        ends.next()
    runs = []
    while (run := ends.shared.run(TOPIC, len(sent) - 2)) is not None:
        runs.append((run.count, run.publisher, run.sequence, run.delivery, run.epoch, run.size))
        ends.shared.skip(run.count)
        if not ends.shared.run(TOPIC, len(sent) - 2):
            # What is no part of a run is taken by itself, as it ever was: here with all behind it.
            break
    assert runs == [(4, 9, 0, 0, 1, sum(map(len, plain))), (1, 8, 4, 4, 1, len(other))]
    assert [each.content for each in ends.shared.take()] == sent[5:]
    ends.out.send(event(12))
    ends.next()
    assert ends.shared.run(TOPIC, len(sent) - 1) is None, "beyond what is known to be done"
    assert ends.shared.run(TOPIC + 1, len(sent)) is None
    assert ends.shared.run(TOPIC, 1 << 40) is not None
    ends.poke(NUMBERS.size + 4 * len(sent), "=I", 3)
    with pytest.raises(Broken):
        ends.shared.run(TOPIC, len(sent))


async def test_a_run_is_accounted_as_its_events_one_by_one_are() -> None:
    topic = Topic(id=TOPIC, name="t", framing=Framing.EVENT)
    to = Borrower(lambda: None, lambda: None)
    told = []
    for together in (True, False):
        async with Subscriber.listen("127.0.0.1", 0, topics=[topic]) as subscriber:
            subscriber._intake.doorman.expects_proof = False
            loan = subscriber.lend(to)
            assert loan is not None
            run = [event(number, b"%d" % number) for number in range(1, 6)]
            # Of a publisher that is not known yet, and behind a gap, nothing is taken together.
            assert not loan.account(5, 1, 1, 0, 9, 0)
            loan.hand_in(event(0), 1)
            assert not loan.account(5, 1, 1, 2, 9, 1)
            assert not loan.account(5, 1, 1, 1, 9, 2)
            assert not loan.account(5, 1, 2, 1, 9, 1)
            if together:
                assert loan.account(5, sum(map(len, run)), 1, 1, 9, 1)
            else:
                assert [len(loan.hand_in(each, 1)) for each in run] == [1] * 5
            (behind,) = loan.hand_in(event(8), 1)
            told.append((subscriber.stats, behind.missed))
    assert told[0] == told[1]
    assert (told[0][0].events, told[0][1]) == (7, 2)


async def test_a_socket_that_is_lent_is_read_elsewhere_and_given_back_in_time() -> None:
    topic = Topic(id=TOPIC, name="t", framing=Framing.EVENT)
    told: list[str] = []
    to = Borrower(lambda: told.append("report"), lambda: told.append("void"))
    async with Subscriber.listen("127.0.0.1", 0, topics=[topic]) as subscriber:
        # Where a proof may come from anywhere, who reads has to see from where.
        assert subscriber.lend(to) is None
        subscriber._intake.doorman.expects_proof = False
        loan = subscriber.lend(to)
        assert loan is not None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.connect(("127.0.0.1", subscriber.member.port))
            for number in range(10):
                out.send(event(number))
            assert loan.is_wanted(5)
            assert not loan.is_wanted(1000)
            with socket.socket(fileno=os.dup(loan.fileno())) as borrowed:
                datagram = borrowed.recv(1000)
            (first,) = loan.hand_in(datagram, 77)
            assert (first.topic, first.sequence, first.received_ns) == ("t", 0, 77)
            assert subscriber.poll() is None
            subscriber._intake.report()
            loan.end()
            assert [(await subscriber.next(10)).sequence for _ in range(9)] == list(range(1, 10))
        assert subscriber.stats.events == 10
        assert told == ["report"]


async def test_what_has_several_topics_or_no_header_is_not_lent() -> None:
    raw = Topic(id=TOPIC, name="t", framing=Framing.RAW)
    two = [Topic(id=number, name=str(number), framing=Framing.EVENT) for number in (1, 2)]
    to = Borrower(lambda: None, lambda: None)
    for topics in ([raw], two):
        async with Subscriber.listen("127.0.0.1", 0, topics=topics) as subscriber:
            subscriber._intake.doorman.expects_proof = False
            assert subscriber.lend(to) is None

"""The queue towards the consumer, against the plain list of events that it stands for."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.waiting import LIMIT

from tempos import Event, LocalError, Subscriber, Topic, wire
from tempos._sockets import ALONE, READ_BATCH, WatchingReader
from tempos.receiving.inbox import Inbox

HEAT = Topic(7, "heat")
U32 = 0xFFFFFFFF

#: What is done to an inbox: an event or a batch of so many is put in, or so many are taken.
steps = st.lists(
    st.tuples(st.sampled_from(("event", "batch", "take", "all")), st.integers(1, 90)), max_size=60
)


def event(sequence: int, missed: int = 0, body: bytes = b"") -> Event:
    return Event("heat", 7, body, 1, sequence & U32, 5, 2, 10, 20, missed)


@given(steps, st.integers(1, 100), st.integers(0, U32), st.integers(0, 3))
def test_an_inbox_gives_what_was_put_in(
    steps: list[tuple[str, int]], limit: int, sequence: int, missed: int
) -> None:
    inbox = Inbox(limit)
    model: list[Event] = []
    for what, number in steps:
        if what in ("event", "batch"):
            room = len(model) < limit
            if what == "event":
                first = event(sequence, missed, b"alone")
                assert inbox.put(first) is room
                events = [first]
            else:
                bodies = tuple(b"%d" % index for index in range(number))
                fields = ("heat", 7, bodies, 1, sequence, 5, 2, 10, 20, missed)
                assert inbox.put_batch(fields, bodies) is room
                events = [event(sequence, missed, bodies[0])]
                events += [event(sequence + index, 0, bodies[index]) for index in range(1, number)]
            if room:
                model += events
            sequence = (sequence + len(events)) & U32
        elif what == "take":
            for _ in range(number):
                assert inbox.take() == (model.pop(0) if model else None)
        elif inbox.ready or inbox.refill():
            taken = list(inbox.ready)
            inbox.ready.clear()
            assert taken == model[: len(taken)]
            del model[: len(taken)]
        else:
            assert not model
        assert inbox.waiting == len(model)
        assert bool(inbox) is bool(model)
    assert [inbox.take() for _ in model] == model
    assert inbox.take() is None


def stamped(delivery: int, *bodies: bytes) -> bytes:
    """A datagram as it comes from a broker: one body is an event, several are a batch."""
    if len(bodies) == 1:
        datagram = bytearray(wire.encode_event(7, 1, delivery * 100, time.time_ns(), bodies[0]))
    else:
        datagram = bytearray(wire.encode_batch(7, 1, delivery * 100, time.time_ns(), bodies))
    wire.stamp(datagram, 1, delivery)
    return bytes(datagram)


def sender_to(sub: Subscriber) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((sub.member.ip, sub.member.port))
    return sock


async def test_every_way_of_reading_goes_on_where_the_last_one_ended() -> None:
    async with Subscriber.listen("127.0.0.1", 0, topics=[HEAT]) as sub:
        with sender_to(sub) as sock:
            bodies: list[bytes] = []
            for delivery in range(30):
                run = [b"%d.%d" % (delivery, index) for index in range(1 if delivery % 3 else 10)]
                sock.send(stamped(delivery, *run))
                bodies += run
            got: list[bytes] = []
            for _ in range(6):
                got += [(await sub.next(5)).body for _ in range(3)]
                async for one in sub:
                    got.append(one.body)
                    break
                assert await sub.wait(LIMIT)
                polled = sub.poll()
                assert polled is not None
                got.append(polled.body)
                async for events in sub.batches():
                    assert events
                    got += [one.body for one in events]
                    break
            while len(got) < len(bodies):
                got += [one.body for one in await anext_batch(sub)]
            assert got == bodies
            assert (sub.stats.events, sub.stats.datagrams, sub.stats.missed) == (len(bodies), 30, 0)


async def anext_batch(sub: Subscriber) -> list[Event]:
    return await asyncio.wait_for(sub.batches().__anext__(), 5)


async def test_lists_carry_gaps_survive_cancelling_and_end() -> None:
    async with Subscriber.listen("127.0.0.1", 0, topics=[HEAT]) as sub:
        with sender_to(sub) as sock:
            waiting = asyncio.create_task(anext_batch(sub))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            with pytest.raises(LocalError, match="two consumers"):
                await sub.batches().__anext__()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            sock.send(stamped(2, b"a", b"b"))
            sock.send(stamped(5, b"c", b"d", b"e"))
            first, second = await anext_batch(sub), await anext_batch(sub)
            assert [(one.body, one.sequence, one.missed) for one in first] == [(b"a", 200, 2), (b"b", 201, 0)]
            assert [(one.body, one.sequence, one.missed) for one in second] == [
                (b"c", 500, 2),
                (b"d", 501, 0),
                (b"e", 502, 0),
            ]
            assert {type(one) for one in first + second} == {Event}
            sock.send(stamped(6, b"last", b"of all"))
        reading = asyncio.create_task(all_bodies(sub))
        await sub.close()
        assert await reading == [b"last", b"of all"]


async def all_bodies(sub: Subscriber) -> list[bytes]:
    return [one.body async for events in sub.batches() for one in events]


@pytest.mark.parametrize("portable", [False, True])
async def test_nothing_is_left_in_the_socket_however_it_comes(
    portable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if portable:
        monkeypatch.setattr("tempos._sockets.LINUX", False)
    delivery = 0
    async with Subscriber.listen("127.0.0.1", 0, topics=[HEAT]) as sub:
        with sender_to(sub) as sock:
            # One at a time, more than one, and crowds right after the reader has come to expect only one.
            for crowd in (*[1] * 5, 2, READ_BATCH + 5, 1, 1, ALONE + READ_BATCH + 3, *[1] * (ALONE + 2), 3):
                for _ in range(crowd):
                    sock.send(stamped(delivery, b"%d" % delivery))
                    delivery += 1
                for expected in range(delivery - crowd, delivery):
                    assert (await sub.next(5)).body == b"%d" % expected
        assert (sub.stats.datagrams, sub.stats.missed, sub.stats.overruns) == (delivery, 0, 0)


class CountingSocket:
    """A socket that tells how often it was asked for a datagram."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real
        self.asked = 0

    def recv(self, size: int) -> bytes:
        self.asked += 1
        return self._real.recv(size)

    def recvmsg(self, *sizes: int) -> object:
        self.asked += 1
        return self._real.recvmsg(*sizes)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


async def test_a_reader_that_found_one_asks_for_one() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with theirs:
        ours.setblocking(False)
        counting = CountingSocket(ours)
        got: list[bytes] = []
        reader = WatchingReader(counting, got.append, lambda lost: None)  # type: ignore[arg-type]
        theirs.send(b"0")
        assert not reader.read_now()
        assert counting.asked == 2
        for number in range(ALONE):
            theirs.send(b"%d" % number)
            assert reader.read_now()
        assert counting.asked == 2 + ALONE
        for _ in range(3):
            theirs.send(b"crowd")
        assert not reader.read_now()
        theirs.send(b"more")
        theirs.send(b"more")
        # The crowd is remembered: from now on it looks for a second one again.
        assert not reader.read_now()
        assert got == [b"0", *(b"%d" % number for number in range(ALONE)), *[b"crowd"] * 3, *[b"more"] * 2]
        await reader.close()

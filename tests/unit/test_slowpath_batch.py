"""The compiled batch helper through its façade: classification, the pool's account, refused sends."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempos import Framing, Group, Member, Quality, Reason, Route, Topic
from tempos.wire import check_payload
from tempos_broker.config.model import Limits
from tempos_broker.paths import LocalTickets
from tempos_broker.slowpath.core import SlowPath
from tempos_broker.slowpath.sockets import DataSocket

native = pytest.importorskip("tempos_broker.slowpath.native", reason="the compiled helper is not built")

SO_NO_CHECK = 11  # <asm-generic/socket.h>
LIMITS = Limits(queue_sq=8, queue_bq=8, batch=16, datagram=64)
TOPICS = (Topic(1, "raw", framing=Framing.RAW), Topic(2, "event", framing=Framing.EVENT))
FRAMINGS = {topic.id: topic.framing for topic in TOPICS}


def make() -> tuple[SlowPath, native.Batch]:
    core: SlowPath = SlowPath(TOPICS, LocalTickets(), 8, 8)
    return core, native.Batch(core, TOPICS, LIMITS)


def source(batch: native.Batch, sock: socket.socket, address: int = 0) -> DataSocket:
    """What both classes of a listen address come in by and leave by."""
    opened = DataSocket(sock, watches_drops=False)
    for quality in Quality:
        batch.channel(address, quality, opened, None)
    return opened


@pytest.fixture(scope="module")
def pipe() -> Iterator[tuple[socket.socket, socket.socket]]:
    # recvmmsg does not care which family its datagrams are of, and these cannot be lost.
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    far.setblocking(False)
    with near, far:
        yield near, far


event_like = st.builds(
    lambda version, reserved, rest: bytes((2, version, reserved)) + rest,
    st.sampled_from((0x10, 0x11, 0x18, 0x00, 0x20, 0xF7)),
    st.sampled_from((0, 1, 0x80)),
    st.binary(min_size=18, max_size=40),
)


@settings(deadline=None, max_examples=300)
@given(payloads=st.lists(st.one_of(st.binary(max_size=80), event_like), min_size=1, max_size=LIMITS.batch))
def test_classifies_every_payload_as_the_wire_module_does(
    payloads: list[bytes], pipe: tuple[socket.socket, socket.socket]
) -> None:
    core, batch = make()
    free = batch.free_slots()
    expected: dict[tuple[int, Reason], int] = {}
    waiting = 0
    for payload in payloads:
        pipe[0].send(payload)
        topic = payload[0] if payload else 0
        if len(payload) > LIMITS.datagram:
            reason = Reason.CUT_SHORT
        else:
            reason = check_payload(payload, FRAMINGS.get(topic, Framing.RAW))
        if reason is Reason.FORWARDED:
            if topic in FRAMINGS:
                waiting += 1
                continue
            reason = Reason.RESERVED_TOPIC if topic in (0, 255) else Reason.UNKNOWN_TOPIC
        expected[topic, reason] = expected.get((topic, reason), 0) + 1

    inlet = source(batch, pipe[1])
    assert batch.receive(inlet, 0, LIMITS.batch) == len(payloads)
    assert batch.receive(inlet, 0, LIMITS.batch) == 0

    refused = {
        (topic, reason): count
        for topic, row in core.counters().items()
        for reason, count in row.items()
        if reason is not Reason.QUEUE_FULL
    }
    assert refused == expected
    assert core.queued == min(waiting, LIMITS.queue_bq)
    assert core.received == len(payloads)
    # Nobody is subscribed: what waits is refused, and every slot but the armed ones is free again.
    assert core.next_best_effort(LIMITS.batch) is None
    assert batch.free_slots() == free - LIMITS.batch


def test_messages_the_kernel_refuses_are_skipped_told_and_leave_no_slot_behind() -> None:
    core, batch = make()
    free = batch.free_slots()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as broker,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher,
    ):
        for each in (sink, broker):
            each.bind(("127.0.0.1", 0))
        sink.settimeout(5)
        # 255.255.255.255 is refused with EACCES: this socket may not broadcast.
        good, bad = Member(*sink.getsockname()), Member("255.255.255.255", 9)
        route = Route(
            TOPICS[0], 3, (Group("mixed", (good, bad)), Group("bad", (bad,)), Group("good", (good,)))
        )
        core.swap(route)
        batch.swap(route)
        inlet = source(batch, broker)
        for number in range(8):
            publisher.sendto(bytes((1, number)), broker.getsockname())
        got = 0
        while got < 8:
            got += batch.receive(inlet, 0, LIMITS.batch)
        while (delivery := core.next_best_effort(LIMITS.batch)) is not None:
            batch.stage(Quality.BQ, delivery)
        flushed = batch.flush(Quality.BQ)
        assert flushed is not None
        assert flushed.blocked_by is None
        lost: dict[tuple[int, int], int] = {}
        for failure in flushed.failures:
            assert (failure.topic, failure.epoch) == (1, 3)
            lost[failure.group, failure.error] = lost.get((failure.group, failure.error), 0) + failure.copies
        assert lost == {(0, errno.EACCES): 4, (1, errno.EACCES): 8}
        received = [sink.recv(100)[1] for _ in range(12)]
        assert sorted(received) == sorted([0, 2, 4, 6, *range(8)])
        # An empty receive puts a slot behind each message again; all others must be free.
        assert batch.receive(inlet, 0, LIMITS.batch) == 0
    assert batch.free_slots() == free - LIMITS.batch


def test_what_is_staged_can_go_in_steps() -> None:
    core, batch = make()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as broker,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher,
    ):
        for each in (sink, broker):
            each.bind(("127.0.0.1", 0))
        sink.setblocking(False)
        member, bad = Member(*sink.getsockname()), Member("255.255.255.255", 9)
        names = ("a", "b", "bad", "c")
        groups = tuple(Group(name, (bad if name == "bad" else member,)) for name in names)
        route = Route(TOPICS[0], 1, groups)
        core.swap(route)
        batch.swap(route)
        inlet = source(batch, broker)
        for number in range(5):
            publisher.sendto(bytes((1, number)), broker.getsockname())
        got = 0
        while got < 5:
            got += batch.receive(inlet, 0, 5)
        while (delivery := core.next_best_effort(LIMITS.batch)) is not None:
            batch.stage(Quality.BQ, delivery)
        steps, arrived, failed = 0, 0, 0
        # Room for one message and no other, however small.
        while (flushed := batch.flush(Quality.BQ, 1)) is not None:
            steps += 1
            assert flushed.blocked_by is None
            failed += sum(failure.copies for failure in flushed.failures)
            with contextlib.suppress(BlockingIOError):
                while sink.recv(10):
                    arrived += 1
            assert flushed.left == 20 - arrived - failed
        # A step each, and the message that is refused one to notice and one for each copy but the last.
        assert len(names) < steps < 2 * len(names) + 5
        with contextlib.suppress(BlockingIOError):
            while sink.recv(10):
                arrived += 1
        assert (arrived, failed) == (15, 5)


def test_where_segmentation_is_refused_everything_goes_out_one_by_one() -> None:
    core, batch = make()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as broker,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher,
    ):
        for each in (sink, broker):
            each.bind(("127.0.0.1", 0))
        sink.settimeout(5)
        # Without UDP checksums the kernel does not segment: EINVAL.
        broker.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        route = Route(TOPICS[0], 1, (Group("g", (Member(*sink.getsockname()),)),))
        core.swap(route)
        batch.swap(route)
        inlet = source(batch, broker)
        for _ in range(2):
            for number in range(8):
                publisher.sendto(bytes((1, number)), broker.getsockname())
            got = 0
            while got < 8:
                got += batch.receive(inlet, 0, LIMITS.batch)
            delivery = core.next_best_effort(LIMITS.batch)
            assert delivery is not None
            batch.stage(Quality.BQ, delivery)
            assert batch.flush(Quality.BQ) is None
            assert [sink.recv(100)[1] for _ in range(8)] == list(range(8))
            assert not batch.segmenting()


@pytest.mark.parametrize("seed", range(4))
def test_every_copy_staged_arrives_or_is_told_and_every_slot_comes_back(seed: int) -> None:
    """Random topics, groups, sizes and sockets, dispatched in pieces of random size."""
    rng = random.Random(seed)
    with contextlib.ExitStack() as stack:

        def bound() -> socket.socket:
            opened = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            opened.bind(("127.0.0.1", 0))
            opened.setblocking(False)
            return opened

        sinks, inlets = [bound() for _ in range(5)], [bound() for _ in range(2)]
        publisher = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        topics = [
            Topic(i, f"t{i}", rng.choice(list(Quality)), i % 8, rng.choice(list(Framing)))
            for i in range(1, 9)
        ]
        limits = Limits(queue_sq=100, queue_bq=100, batch=32, datagram=512)
        core: SlowPath = SlowPath(topics, LocalTickets(), 100, 100)
        batch = native.Batch(core, topics, limits)
        doors = [source(batch, inlet, address) for address, inlet in enumerate(inlets)]
        free = batch.free_slots()

        def some_member() -> Member:
            # The address is refused with EACCES: these sockets may not broadcast.
            return (
                Member(*rng.choice(sinks).getsockname())
                if rng.random() < 0.9
                else Member("255.255.255.255", 9)
            )

        for topic in topics:
            groups = tuple(
                Group(f"g{index}", tuple(some_member() for _ in range(rng.randint(1, 6))))
                for index in range(rng.randint(0, 5))
            )
            route = Route(topic, rng.randint(1, 1000), groups)
            core.swap(route)
            batch.swap(route)

        sent = copies = failed = arrived = 0

        def flush() -> None:
            nonlocal failed, arrived
            for quality in Quality:
                flushed = batch.flush(quality)
                if flushed is not None:
                    assert flushed.blocked_by is None
                    failed += sum(failure.copies for failure in flushed.failures)
            for sink in sinks:
                with contextlib.suppress(BlockingIOError):
                    while sink.recv(2000):
                        arrived += 1

        def dispatch() -> bool:
            nonlocal copies
            limit = rng.randint(1, 32)
            quality = Quality.SQ
            delivery = core.next_strict(limit)
            if delivery is None:
                quality, delivery = Quality.BQ, core.next_best_effort(limit)
            if delivery is None:
                return False
            copies += delivery.count * len(delivery.route.groups)
            if batch.stage(quality, delivery):
                flush()
            return True

        for _ in range(50):
            for _ in range(rng.randint(0, 60)):
                size = rng.choice((24, 24, 24, 40, 40, 300, 512, 600, 5))
                header = bytes((rng.choice((*range(1, 9), 200)), 0x10, 0))
                publisher.sendto(header + bytes(size - 3), rng.choice(inlets).getsockname())
                sent += 1
            for address, door in enumerate(doors):
                while batch.receive(door, address, rng.randint(1, 32)):
                    while rng.random() < 0.7 and dispatch():
                        pass
        while dispatch():
            pass
        flush()
        assert core.received == sent
        assert copies == arrived + failed
        assert failed
        assert [batch.receive(door, address, 32) for address, door in enumerate(doors)] == [0, 0]
        assert batch.free_slots() == free - limits.batch

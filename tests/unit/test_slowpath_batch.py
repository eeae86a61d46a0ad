"""The compiled batch helper through its façade: classification, the pool's account, refused sends."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempos import Framing, Group, Member, Quality, Reason, Route, Topic
from tempos._rows import is_topic
from tempos._slots import NUMBERS, JournalLayout
from tempos.wire import check_payload, decode_event, encode_event, topic_in
from tempos_broker.config.model import Limits
from tempos_broker.paths import LocalTickets
from tempos_broker.slowpath.core import SlowPath
from tempos_broker.slowpath.portable import Singly
from tempos_broker.slowpath.sockets import DataSocket

native = pytest.importorskip("tempos_broker.slowpath.batched", reason="the compiled helper is not built")

SO_NO_CHECK = 11  # <asm-generic/socket.h>
LIMITS = Limits(queue_sq=8, queue_bq=8, batch=16, datagram=64)
TOPICS = (
    Topic(1, "raw", framing=Framing.RAW),
    Topic(2, "event", framing=Framing.EVENT),
    Topic(300, "wide raw", framing=Framing.RAW),
    Topic(65534, "wide event", framing=Framing.EVENT),
)
FRAMINGS = {topic.id: topic.framing for topic in TOPICS}


def make() -> tuple[SlowPath, native.Batch]:
    core: SlowPath = SlowPath(TOPICS, LocalTickets(), 8, 8)
    return core, native.Batch(core, TOPICS, LIMITS)


def sources(batch: native.Batch, *socks: socket.socket) -> list[DataSocket]:
    """What both classes come in by and leave by, one for each listen address."""
    opened = [DataSocket(sock, watches_drops=False) for sock in socks]
    for quality in Quality:
        batch.channels(quality, opened, None)
    return opened


def source(batch: native.Batch, sock: socket.socket) -> DataSocket:
    return sources(batch, sock)[0]


def bound(address: str = "127.0.0.1") -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((address, 0))
    opened.settimeout(5)
    return opened


def swap(core: SlowPath, batch: native.Batch, route: Route) -> None:
    core.swap(route)
    batch.swap(route)


def take(batch: native.Batch, inlet: DataSocket, count: int) -> None:
    """Receive so many, all of which are on their way."""
    while count > 0:
        count -= batch.receive(inlet, LIMITS.batch)
    assert not count


def drained(sink: socket.socket) -> int:
    """How many wait at a socket that does not block; they are gone then."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while sink.recv(2000):
            count += 1
    return count


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
enveloped = st.builds(
    lambda flags, rest, kind, more: bytes((2, 0x10 | flags, 0)) + rest + bytes((kind,)) + more,
    st.sampled_from((8, 8, 9, 10, 12)),
    st.binary(min_size=21, max_size=21),
    st.sampled_from((0x11, 0x12, 0x13, 0x10, 0x14, 0x21)),
    st.integers(25, 40).map(bytes),
)


wide = st.builds(
    lambda id_, rest, version, bits, more: (
        b"\xff" + id_.to_bytes(2, "big") + rest + bytes((version,)) + bits + more
    ),
    st.sampled_from((300, 65534, 65534, 0, 2, 255, 257, 65535)),
    st.binary(min_size=21, max_size=21),
    st.sampled_from((0x10, 0x11, 0x18, 0x00, 0x20)),
    st.sampled_from((bytes(3), bytes(3), b"\1\0\0", b"\0\0\x80")),
    st.one_of(st.binary(max_size=3), st.integers(30, 32).map(lambda size: b"\x11" + bytes(size))),
)
cut_wide = st.builds(lambda datagram, size: datagram[:size], wide, st.integers(1, 28))


@settings(deadline=None, max_examples=300)
@given(
    payloads=st.lists(
        st.one_of(st.binary(max_size=80), event_like, enveloped, wide, cut_wide),
        min_size=1,
        max_size=LIMITS.batch,
    )
)
def test_classifies_every_payload_as_the_wire_module_does(
    payloads: list[bytes], pipe: tuple[socket.socket, socket.socket]
) -> None:
    core, batch = make()
    free = batch.free_slots()
    expected: dict[tuple[int, Reason], int] = {}
    waiting = 0
    for payload in payloads:
        pipe[0].send(payload)
        topic = topic_in(payload)
        if len(payload) > LIMITS.datagram:
            reason = Reason.CUT_SHORT
        else:
            reason = check_payload(payload, FRAMINGS.get(topic, Framing.RAW))
        if reason is Reason.REPLY:
            # Without a key there is no address that it could have.
            reason = Reason.BAD_RETURN
        if reason is Reason.FORWARDED:
            if topic in FRAMINGS:
                waiting += 1
                continue
            reason = Reason.UNKNOWN_TOPIC if is_topic(topic) else Reason.RESERVED_TOPIC
        # All wide ids that no topic has are counted in one place.
        topic = topic if topic < 256 or topic in FRAMINGS else 255
        expected[topic, reason] = expected.get((topic, reason), 0) + 1

    inlet = DataSocket(pipe[1], watches_drops=False)
    assert batch.receive(inlet, LIMITS.batch) == len(payloads)
    assert batch.receive(inlet, LIMITS.batch) == 0

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
    with bound() as sink, bound() as broker, bound() as publisher:
        # 255.255.255.255 is refused with EACCES: this socket may not broadcast.
        good, bad = Member(*sink.getsockname()), Member("255.255.255.255", 9)
        route = Route(
            TOPICS[0], 3, (Group("mixed", (good, bad)), Group("bad", (bad,)), Group("good", (good,)))
        )
        swap(core, batch, route)
        inlet = source(batch, broker)
        for number in range(8):
            publisher.sendto(bytes((1, number)), broker.getsockname())
        take(batch, inlet, 8)
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
        assert batch.receive(inlet, LIMITS.batch) == 0
    assert batch.free_slots() == free - LIMITS.batch


def test_what_is_staged_can_go_in_steps() -> None:
    core, batch = make()
    with bound() as sink, bound() as broker, bound() as publisher:
        sink.setblocking(False)
        member, bad = Member(*sink.getsockname()), Member("255.255.255.255", 9)
        names = ("a", "b", "bad", "c")
        groups = tuple(Group(name, (bad if name == "bad" else member,)) for name in names)
        route = Route(TOPICS[0], 1, groups)
        swap(core, batch, route)
        inlet = source(batch, broker)
        for number in range(5):
            publisher.sendto(bytes((1, number)), broker.getsockname())
        take(batch, inlet, 5)
        while (delivery := core.next_best_effort(LIMITS.batch)) is not None:
            batch.stage(Quality.BQ, delivery)
        steps, arrived, failed = 0, 0, 0
        # Room for one message and no other, however small.
        while (flushed := batch.flush(Quality.BQ, 1)) is not None:
            steps += 1
            assert flushed.blocked_by is None
            failed += sum(failure.copies for failure in flushed.failures)
            arrived += drained(sink)
            assert flushed.left == 20 - arrived - failed
        # A step each, and the message that is refused one to notice and one for each copy but the last.
        assert len(names) < steps < 2 * len(names) + 5
        arrived += drained(sink)
        assert (arrived, failed) == (15, 5)


def test_where_segmentation_is_refused_everything_goes_out_one_by_one() -> None:
    core, batch = make()
    with bound() as sink, bound() as broker, bound() as publisher:
        # Without UDP checksums the kernel does not segment: EINVAL.
        broker.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        route = Route(TOPICS[0], 1, (Group("g", (Member(*sink.getsockname()),)),))
        swap(core, batch, route)
        inlet = source(batch, broker)
        for _ in range(2):
            for number in range(8):
                publisher.sendto(bytes((1, number)), broker.getsockname())
            take(batch, inlet, 8)
            delivery = core.next_best_effort(LIMITS.batch)
            assert delivery is not None
            batch.stage(Quality.BQ, delivery)
            assert batch.flush(Quality.BQ) is None
            assert [sink.recv(100)[1] for _ in range(8)] == list(range(8))
            assert not batch.segmenting()


OURS = ("127.0.0.3", "127.0.0.2", "127.0.0.1")


@pytest.mark.parametrize("listen", [OURS, ("0.0.0.0",)], ids=["bound", "any"])
def test_what_a_member_gets_leaves_from_its_source_whatever_it_came_to(listen: tuple[str, ...]) -> None:
    core, batch = make()
    # Of one that asked nothing: the first it listens on, or the kernel's choice.
    asked = [*OURS, None] * 2
    with contextlib.ExitStack() as stack:
        publisher, *sinks = (stack.enter_context(bound()) for _ in range(1 + len(asked)))
        doors = sources(batch, *(stack.enter_context(bound(address)) for address in listen))
        members = [Member(*sink.getsockname(), source=each) for sink, each in zip(sinks, asked, strict=True)]
        for topic in TOPICS:
            groups = (Group("all", tuple(members)), Group("same", tuple(reversed(members))))
            swap(core, batch, Route(topic, 1, groups))
        for number in range(8):
            address, port = doors[number % len(doors)].sock.getsockname()
            to = "127.0.0.7" if address == "0.0.0.0" else address
            publisher.sendto(encode_event(1 + number % 2, 1, number, 0, b""), (to, port))
        for door in doors:
            batch.receive(door, LIMITS.batch)
        while (delivery := core.next_best_effort(LIMITS.batch)) is not None:
            batch.stage(Quality.BQ, delivery)
        assert batch.flush(Quality.BQ) is None
        seen: Counter[tuple[str | None, str]] = Counter()
        for sink, each in zip(sinks, asked, strict=True):
            sink.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    seen[each, sink.recvfrom(100)[1][0]] += 1
        by_itself = OURS[0] if listen == OURS else "127.0.0.1"
        assert set(seen) == {*((each, each) for each in OURS), (None, by_itself)}
        assert seen.total() == 16


@pytest.mark.parametrize("count", [NUMBERS, NUMBERS + 36])
def test_a_batch_goes_to_many_groups(count: int) -> None:
    """All copies of a delivery are staged at once; each is stamped for its own member."""
    core, batch = make()
    free = batch.free_slots()
    with contextlib.ExitStack() as stack:
        broker, publisher, *sinks = (stack.enter_context(bound()) for _ in range(2 + count))
        inlet = source(batch, broker)
        pairs = [(Member(*sink.getsockname()), Member(*sinks[0].getsockname())) for sink in sinks]
        groups = tuple(Group(f"g{index}", pair[: 1 + index % 2]) for index, pair in enumerate(pairs))
        route = Route(TOPICS[1], 5, groups)
        swap(core, batch, route)
        for number in range(8):
            publisher.sendto(encode_event(2, 1, number, 0, b"%d" % number), broker.getsockname())
        take(batch, inlet, 8)
        deliveries = 0
        while (delivery := core.next_best_effort(8)) is not None:
            deliveries += 1
            batch.stage(Quality.BQ, delivery)
            assert batch.flush(Quality.BQ) is None
        assert deliveries == (1 if count == NUMBERS else 2)
        for index, sink in enumerate(sinks[1:], 1):
            step = 1 + index % 2
            events = [decode_event(sink.recv(100)) for _ in range(8 // step)]
            assert [event.sequence for event in events] == list(range(0, 8, step))
            assert [event.delivery_sequence for event in events] == list(range(8 // step))
            assert {event.epoch for event in events} == {5}
        odd = count // 2
        others = [decode_event(sinks[0].recv(100)) for _ in range(8 + odd * 4)]
        assert Counter(event.sequence % 2 for event in others) == {0: 4, 1: 4 + odd * 4}
        assert batch.receive(inlet, LIMITS.batch) == 0
        assert batch.free_slots() == free - LIMITS.batch


@pytest.mark.parametrize("seed", range(4))
def test_every_copy_staged_arrives_or_is_told_and_every_slot_comes_back(seed: int) -> None:
    """Random topics, groups, sizes, sockets and sources, dispatched in pieces of random size."""
    rng = random.Random(seed)
    ours = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    with contextlib.ExitStack() as stack:
        publisher, *sinks = (stack.enter_context(bound()) for _ in range(6))
        inlets = [stack.enter_context(bound(address)) for address in ours]
        for sink in sinks:
            sink.setblocking(False)
        topics = [
            Topic(i, f"t{i}", rng.choice(list(Quality)), i % 8, rng.choice(list(Framing)))
            for i in range(1, 9)
        ]
        limits = Limits(queue_sq=100, queue_bq=100, batch=32, datagram=512)
        core: SlowPath = SlowPath(topics, LocalTickets(), 100, 100)
        batch = native.Batch(core, topics, limits)
        doors = sources(batch, *inlets)
        free = batch.free_slots()

        def some_member() -> Member:
            # The address is refused with EACCES: these sockets may not broadcast.
            endpoint = rng.choice(sinks).getsockname() if rng.random() < 0.9 else ("255.255.255.255", 9)
            return Member(*endpoint, source=rng.choice((*ours, None)))

        for topic in topics:
            groups = tuple(
                Group(f"g{index}", tuple(some_member() for _ in range(rng.randint(1, 6))))
                for index in range(rng.randint(0, 5))
            )
            route = Route(topic, rng.randint(1, 1000), groups)
            swap(core, batch, route)

        sent = copies = failed = arrived = 0

        def flush() -> None:
            nonlocal failed, arrived
            for quality in Quality:
                flushed = batch.flush(quality)
                if flushed is not None:
                    assert flushed.blocked_by is None
                    failed += sum(failure.copies for failure in flushed.failures)
            arrived += sum(map(drained, sinks))

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
            for door in doors:
                while batch.receive(door, rng.randint(1, 32)):
                    while rng.random() < 0.7 and dispatch():
                        pass
        while dispatch():
            pass
        flush()
        assert core.received == sent
        assert copies == arrived + failed
        assert failed
        assert [batch.receive(door, 32) for door in doors] == [0, 0, 0]
        assert batch.free_slots() == free - limits.batch


@pytest.mark.parametrize("portable", [False, True])
def test_what_was_sent_again_meanwhile_is_refused_and_nothing_else(portable: bool) -> None:
    memory = pytest.importorskip("tempos_broker.journal.memory")
    layout = JournalLayout.of(64, 64)
    descriptor = memory.make(layout)
    journal = memory.Memory(descriptor, layout)
    os.close(descriptor)
    core: SlowPath = SlowPath(TOPICS, LocalTickets(), 64, 64)
    journals = {topic.id: journal for topic in TOPICS}
    if portable:
        batch = Singly(core, TOPICS, LIMITS, lambda topic, count, ip: None, "", journals=journals)
    else:
        batch = native.Batch(core, TOPICS, LIMITS, journals=journals)
    with bound() as inlet, bound() as outside:
        inlet.setblocking(False)
        (door,) = sources(batch, inlet)
        for turn, guarded in enumerate(((), (0,), (7,), (3, 4), tuple(range(8)))):
            for number in guarded:
                journal.guard(number, turn)
            for topic in (2, 65534, 1):
                refused = len(guarded) if topic != 1 else 0
                for number in range(8):
                    outside.sendto(encode_event(topic, number, turn, 0, b""), inlet.getsockname())
                take(batch, door, 8)
                assert core.queued == 8 - refused
                while core.next_strict(64) or core.next_best_effort(64):
                    pass
                assert core.queued == 0
        told = core.counters()
        assert [told[topic].get(Reason.REPEATED, 0) for topic in (2, 65534, 1)] == [12, 12, 0]
        assert [told[topic][Reason.NO_MEMBER] for topic in (2, 65534, 1)] == [28, 28, 40]

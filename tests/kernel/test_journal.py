"""Journals that programs write: byte for byte what came in, with the tickets drawn, and nothing torn."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path as File
from typing import Any

import pytest
from support.bpf import require_compiler
from support.packets import PORT, datagram
from support.privileges import require_kernel
from support.program import ADDRESSES, LOOPBACK, Rig, put_route

from tempos import Framing, Reason, Topic
from tempos._abi import Way
from tempos._slots import JournalLayout, journal_owner
from tempos.wire import encode_event, encode_raw
from tempos_bpf.objects import BpfObject, Verdict
from tempos_fastpath.clone import MAPS
from tempos_fastpath.clone import OBJECT as CLONE
from tempos_fastpath.journals import KernelJournals
from tempos_fastpath.layout import encode_route
from tempos_fastpath.network.legs import Hop
from tempos_fastpath.plan import Plan
from tempos_fastpath.survival.ownership import Identity
from tempos_fastpath.survival.pins import LATENCY, Pins

memory = pytest.importorskip("tempos_broker.journal.memory", reason="the compiled helper is not built")
pytestmark = [pytest.mark.kernel]

HOPS = tuple(
    Hop("10.2.0.9", 6001 + n, LOOPBACK, ADDRESSES.dst_mac, "02:00:00:00:00:07", ADDRESSES.broker)
    for n in range(3)
)
FOREIGN = Framing.FOREIGN
SIZES = (1, 2, 63, 64, 95, 96, 97, 223, 224, 225, 226, 500, 1471, 1472)


@pytest.fixture(params=["native", "generic"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    require_kernel()
    require_compiler()
    with closing(Rig(generic=request.param == "generic")) as made:
        yield made


def frame(payload: bytes, port: int = PORT) -> bytes:
    return bytes(datagram(ADDRESSES, payload, udp={"dport": port}))


def plan(topic: int, framing: Framing, groups: int = 1, way: Way = Way.ONE, epoch: int = 5) -> Plan:
    return Plan(topic, epoch, framing, 1500, (HOPS,) * groups, way=way, journal=True)


class Kept:
    """The journal of a topic in a rig, as this process has it."""

    def __init__(self, rig: Rig, topic: Topic, pins: Pins | None = None) -> None:
        rig.configure([topic])
        self.journals = KernelJournals(rig.map("journals"), rig.rows, lambda: pins)
        self.journals.put(topic)
        assert not self.journals.refusal(topic.id)
        layout = JournalLayout.of(topic.journal, topic.journal_room)
        descriptor = self.journals.journal(topic.id, layout)
        assert descriptor is not None
        self.memory = memory.Memory(descriptor, layout, journal_owner(topic.name, topic.framing.value))
        os.close(descriptor)

    def follow(self) -> int:
        """Take over what earlier brokers left; how many journals that were."""
        left = self.journals.former_journals(7)
        for descriptor, layout in left:
            self.memory.follow(memory.Memory(descriptor, layout))
            os.close(descriptor)
        self.journals.followed(7)
        return len(left)

    def entries(self) -> list[Any]:
        return [self.memory.read(each) for each in self.memory.positions()]


@pytest.mark.parametrize(
    ("framing", "topic"),
    [(framing, topic) for framing in Framing for topic in (7, 300) if topic > 255 or framing is not FOREIGN],
)
def test_what_came_in_is_kept_whatever_its_size(rig: Rig, topic: int, framing: Framing) -> None:
    ports = (2055,) if framing is FOREIGN else ()
    topic_kept = Topic(topic, "kept", framing=framing, journal=64, ports=ports)
    kept = Kept(rig, topic_kept)
    kept.memory.begin(5, 0)
    rig.install(plan(topic, framing))
    rig.ports.put(topic_kept)
    sent = []
    for number, size in enumerate(SIZES):
        body = bytes((number + at) % 256 for at in range(size))
        if framing is FOREIGN:
            payload = body
        elif framing is Framing.EVENT:
            payload = encode_event(topic, 1, number, 99, body[: 1472 - 28])
        else:
            payload = encode_raw(topic, body[: 1472 - 3])
        rig.run(frame(payload, *ports))
        sent.append(payload)
    entries = kept.entries()
    assert [each.payload for each in entries] == sent
    assert [(each.epoch, each.tickets, each.length) for each in entries] == [
        (5, (ticket,), len(payload)) for ticket, payload in enumerate(sent)
    ]
    assert entries[0].position == 1 << 32
    assert abs(memory.now() - entries[-1].at_ns) < 60e9


def test_what_is_larger_is_named_and_what_is_old_is_overwritten(rig: Rig) -> None:
    kept = Kept(rig, Topic(7, "kept", framing=Framing.RAW, journal=8, journal_bytes=100))
    rig.install(plan(7, Framing.RAW))
    rig.run(frame(encode_raw(7, b"of an epoch that the journal does not have")))
    assert kept.entries() == []
    kept.memory.begin(5, 0)
    for number in range(20):
        rig.run(frame(encode_raw(7, bytes([number]) * (99 + number % 2))))
    entries = kept.entries()
    assert [each.tickets for each in entries] == [(ticket,) for ticket in range(13, 21)]
    assert [each.payload for each in entries] == [
        None if number % 2 else encode_raw(7, bytes([number]) * 99) for number in range(12, 20)
    ]
    assert {each.length for each in entries} == {100, 101}


@pytest.mark.parametrize("topic", [7, 300])
@pytest.mark.parametrize("way", [Way.ONE, Way.BROADCAST])
def test_an_event_that_was_sent_again_meanwhile_is_dropped_before_it_draws(
    rig: Rig, topic: int, way: Way
) -> None:
    if rig.generic and way is Way.BROADCAST:
        pytest.skip("no broadcast there")
    kept = Kept(rig, Topic(topic, "kept", journal=8))
    kept.memory.begin(5, 0)
    rig.install(plan(topic, Framing.EVENT, 1 if way is Way.ONE else 2, way))
    assert not kept.memory.has_guards
    kept.memory.guard(77, 3)
    assert kept.memory.has_guards
    out = [rig.run(frame(encode_event(topic, publisher, number, 0, b""))) for publisher, number in
           ((77, 2), (77, 3), (78, 3), (3, 77))]  # fmt: skip
    assert [(each.reason, each.verdict) for each in out] == [
        (Reason.FORWARDED, Verdict.REDIRECT), (Reason.REPEATED, Verdict.DROP),
        (Reason.FORWARDED, Verdict.REDIRECT), (Reason.FORWARDED, Verdict.REDIRECT),
    ]  # fmt: skip
    assert [each.tickets[0] for each in kept.entries()] == [0, 1, 2]
    kept.memory.unguard()
    assert rig.run(frame(encode_event(topic, 77, 3, 0, b""))).reason is Reason.FORWARDED


def test_of_what_is_too_large_the_header_is_kept(rig: Rig) -> None:
    kept = Kept(rig, Topic(7, "kept", journal=8, journal_bytes=30))
    kept.memory.begin(5, 0)
    rig.install(plan(7, Framing.EVENT))
    for number in range(3):
        rig.run(frame(encode_event(7, 9, number, 0, bytes(500))))
    first = kept.memory.first(5)
    assert kept.memory.walk(first, first + 3).runs == [(9, 0, 3)]
    assert {each.payload for each in kept.entries()} == {None}


def test_where_no_journal_is_events_go_their_way(rig: Rig) -> None:
    rig.install(plan(7, Framing.RAW))
    assert rig.run(frame(encode_raw(7, b"x"))).reason.name == "FORWARDED"


def test_of_several_groups_all_tickets_stand_there(rig: Rig) -> None:
    if rig.generic:
        pytest.skip("no broadcast there")
    kept = Kept(rig, Topic(7, "kept", journal=8))
    kept.memory.begin(5, 0)
    for group in range(3):
        rig.tickets.draw(7, 5, group, 10 * group)
    rig.install(plan(7, Framing.EVENT, 3, Way.BROADCAST))
    payload = encode_event(7, 1, 2, 3, b"body" * 50)
    for _ in range(2):
        rig.run(frame(payload))
    assert [(each.tickets, each.payload) for each in kept.entries()] == [
        ((0, 10, 20), payload),
        ((1, 11, 21), payload),
    ]


def test_copies_by_tc_are_kept_once(rig: Rig) -> None:
    kept = Kept(rig, Topic(7, "kept", journal=8))
    kept.memory.begin(5, 0)
    rig.rows.give(7)
    route = plan(7, Framing.EVENT, 3, Way.CLONE)
    put_route(rig.map, route, 7, encode_route(route, 7, {}, 0))
    shared = {name: rig.map(name) for name in MAPS}
    payload = encode_event(7, 1, 2, 3, b"body" * 50)
    settings = {"settings": rig.settings}
    with closing(BpfObject(CLONE, settings, shared, without=[LATENCY])) as clone:
        for _ in range(2):
            clone.program("tempos_clone").run(frame(payload))
    assert [(each.tickets, each.payload) for each in kept.entries()] == [
        ((0, 0, 0), payload),
        ((1, 1, 1), payload),
    ]


def test_another_size_and_the_next_broker_find_their_places(rig: Rig) -> None:
    topic = Topic(7, "kept", framing=Framing.RAW, journal=8)
    kept = Kept(rig, topic)
    kept.memory.begin(5, 0)
    rig.install(plan(7, Framing.RAW))
    rig.run(frame(encode_raw(7, b"first")))
    # A broker that follows, by the same options, has the same memory.
    again = Kept(rig, topic)
    assert again.entries() == kept.entries()
    assert again.memory.has(5)
    larger = Kept(rig, replace(topic, journal=64))
    rig.run(frame(encode_raw(7, b"second")))
    assert [each.payload for each in larger.entries()] == [encode_raw(7, b"second")]
    larger.memory.follow(again.memory)
    assert [each.tickets for each in larger.entries()] == [(0,), (1,)]
    larger.journals.put(replace(topic, journal=0))
    assert rig.map("journals").lookup(7) is None


def test_what_is_being_replaced_outlives_who_was_killed_meanwhile(rig: Rig, tmp_path: File) -> None:
    pins = Pins(Identity(f"test {tmp_path.name}", os.getpid()))
    topic = Topic(7, "kept", framing=Framing.RAW, journal=8)
    larger = replace(topic, journal=64)
    try:
        kept = Kept(rig, topic, pins)
        kept.memory.begin(5, 0)
        rig.install(plan(7, Framing.RAW))
        rig.run(frame(encode_raw(7, b"first")))
        # All that this one does not live to: having it followed.
        kept.journals.put(larger)
        rig.run(frame(encode_raw(7, b"second")))
        kept.journals.close()
        assert pins.journals() == [7]
        again = Kept(rig, larger, pins)
        assert again.follow() == 1
        payloads = [encode_raw(7, body) for body in (b"first", b"second")]
        assert [each.payload for each in again.entries()] == payloads
        assert pins.journals() == []
        assert Kept(rig, larger, pins).follow() == 0
        # Of another topic that has the id by now nothing is taken.
        again.journals.put(topic)
        other = Kept(rig, replace(topic, name="other"), pins)
        assert (other.follow(), other.entries(), pins.journals()) == (0, [], [])
    finally:
        pins.remove()


def test_nothing_is_lost_of_those_that_are_replaced_while_they_are_about_to_follow(
    rig: Rig, tmp_path: File
) -> None:
    """Brokers that are killed one after the other, each by another size, before theirs has followed."""
    pins = Pins(Identity(f"test {tmp_path.name}", os.getpid()))
    topic = Topic(7, "kept", framing=Framing.RAW, journal=8)
    try:
        kept = Kept(rig, topic, pins)
        kept.memory.begin(5, 0)
        rig.install(plan(7, Framing.RAW))
        payloads = [encode_raw(7, b"%d" % number) for number in range(6)]
        for number, size in enumerate((8, 64, 256, 64, 128)):
            next_ = Kept(rig, replace(topic, journal=size), pins)
            rig.run(frame(payloads[number]))
            next_.journals.close()
        last = Kept(rig, replace(topic, journal=32), pins)
        rig.run(frame(payloads[5]))
        assert last.follow() == 5
        assert [each.payload for each in last.entries()] == payloads
        assert pins.journals() == []
    finally:
        pins.remove()


def test_what_is_taken_back_is_what_was_before(rig: Rig) -> None:
    """A reload that fails half way: nobody has taken the new memory, and the old one is written on."""
    topic = Topic(7, "kept", framing=Framing.RAW, journal=8)
    kept = Kept(rig, topic)
    kept.memory.begin(5, 0)
    rig.install(plan(7, Framing.RAW))
    kept.journals.put(replace(topic, journal=64))
    kept.journals.put(topic)
    rig.run(frame(encode_raw(7, b"on")))
    assert [each.payload for each in kept.entries()] == [encode_raw(7, b"on")]

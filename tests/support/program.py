"""The XDP program under `BPF_PROG_TEST_RUN`: routes by hand, frames in, and how each was counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

from support.packets import PORT, Addresses
from tempos import Framing, Reason, Topic
from tempos._abi import NARROW, Way
from tempos._rows import Rows
from tempos_bpf.maps import Map, MapType, create_map, possible_cpus
from tempos_bpf.objects import BpfObject
from tempos_fastpath.fanouts import Fanouts
from tempos_fastpath.layout import (
    SMALL_ROUTE_SIZE,
    decode_counters,
    decode_volumes,
    devmap_value,
    encode_route,
    encode_settings,
)
from tempos_fastpath.loading import DELIVER, OBJECT, PROGRAM, TIMED
from tempos_fastpath.network.gates import Gate
from tempos_fastpath.network.legs import Hop
from tempos_fastpath.plan import Plan
from tempos_fastpath.ports import KernelPorts
from tempos_fastpath.rows import KernelRows, sizes
from tempos_fastpath.survival.pins import LATENCY
from tempos_fastpath.tickets import SharedTickets
from tempos_fastpath.topics import SharedTopics

#: The loopback interface: a test run carries no redirect out, but the slot must not be empty.
LOOPBACK = 1
ADDRESSES = Addresses("02:00:00:00:00:01", "02:00:00:00:00:02", "10.1.2.3", "10.1.0.1", "10.2.0.9")

#: What the tests' frames come in by: of two MACs the second is the one.
GATE = Gate(("02:00:00:00:00:99", ADDRESSES.dst_mac), ("10.1.0.1", "10.9.9.9"))


#: As many as a test has at most: what is looked at after each frame goes by it.
TOPICS = 200


@dataclass(frozen=True)
class Outcome:
    """What one frame led to."""

    verdict: int
    topic: int
    reason: Reason
    data: bytes


class Rig:
    """The loaded program, one mode of it, for a ``gate``; ``timed``: the one that measures latency."""

    def __init__(self, *, generic: bool, timed: bool = False, gate: Gate = GATE) -> None:
        self.generic = generic
        self.settings = encode_settings(PORT, ["10.9.9.9", ADDRESSES.broker], gate, generic=generic)
        self.rows = Rows(TOPICS)
        also = [TIMED] if timed else []
        self._object = BpfObject(
            OBJECT, {"settings": self.settings}, sizes=sizes(self.rows, LATENCY), also=also
        )
        self.map = self._object.map
        self.program = self._object.program(TIMED if timed else PROGRAM)
        #: The routes that are in, by topic, and by which slot they leave.
        self._installed: dict[int, tuple[Plan, int]] = {}
        self.tickets = SharedTickets(self.map("tickets").mmap(), self.rows, self.map("copies"))
        self.topics = SharedTopics(self._object.map("topics").mmap(), self.rows)
        self._places = KernelRows(self._object.map("rows").mmap())
        self.ports = KernelPorts(self._object.map("ports").mmap())
        self._object.map("egress").update(0, devmap_value(LOOPBACK))
        self._fanouts = Fanouts(
            self._object.map("fanouts"), self._object.map("egress"), self._object.program(DELIVER)
        )

    def install(self, plan: Plan, slot: int = 0) -> None:
        """Swap a route in; its members leave by egress slot ``slot``, or by devmaps of its own."""
        row = self.rows.give(plan.topic)
        self._places.configure(self.rows.given())
        first: int | str = 0
        if plan.way is Way.BROADCAST:
            first = self._fanouts.take(plan.topic, plan.broadcast.devmaps)
            assert isinstance(first, int), first
            self._fanouts.make(first)
        put_route(self.map, plan, row, encode_route(plan, row, {LOOPBACK: slot}, first))
        self._installed[plan.topic] = plan, slot

    def keep(self, plans: Sequence[Plan]) -> None:
        """These routes and no others, as if just swapped in: those that are in stay, for a swap waits."""
        if self._installed != {plan.topic: (plan, 0) for plan in plans}:
            self.clear()
            for plan in plans:
                self.install(plan)
        self.reset()

    def remove(self, topic: int) -> None:
        for table in ("small_routes", "routes"):
            unroute(self.map(table), self.rows.of[topic])
        self._fanouts.settle(topic, None)
        self.rows.free(topic)
        self._places.configure(self.rows.given())
        self._installed.pop(topic, None)

    def clear(self) -> None:
        """As it was loaded."""
        for topic in tuple(self._installed):
            self.remove(topic)
        self.topics.configure([])
        for topic in self.rows.given():
            self.rows.free(topic)
        self._places.configure({})
        self.reset()

    def reset(self) -> None:
        """Tickets and counts at 0."""
        with closing(self.map("tickets").mmap()) as tickets:
            tickets.zero(0, tickets.size)
        for name in ("copies", "counters"):
            zero(self.map(name))

    def configure(self, topics: Sequence[Topic]) -> None:
        """Let the program know these topics, and the socket selector their classes."""
        for topic in topics:
            self.rows.give(topic.id)
        self.topics.configure(topics)
        self._places.configure(self.rows.given())

    def counters(self) -> Counter[tuple[int, Reason]]:
        return by_topic(self._sums(), self.rows)

    def run(self, frame: bytes) -> Outcome:
        """Run on one frame; exactly one counter must grow, by one, and bytes by what the frame has."""
        before, result, after = self._sums(), self.program.run(frame), self._sums()
        (((topic, reason), one),) = (by_topic(after, self.rows) - by_topic(before, self.rows)).items()
        assert one == 1
        assert volumes_in(after) - volumes_in(before) == grown(self.rows.of[topic], reason, frame)
        return Outcome(result.verdict, topic, reason, result.data)

    def _sums(self) -> memoryview:
        """All counts as they are, once: the whole of the map is long in reading."""
        return self._object.map("counters").sum_rows()

    def close(self) -> None:
        self.tickets.close()
        self.topics.close()
        self._places.close()
        self._fanouts.close()
        self._object.close()


def put_route(maps: Callable[[str], Map], plan: Plan, row: int, value: bytes) -> None:
    """Swap a route in by hand: small where the fast path would have it small."""
    small = plan.topic >= NARROW and plan.is_small
    value = value[:SMALL_ROUTE_SIZE] if small else value
    with create_map("route", MapType.ARRAY, key_size=4, value_size=len(value), max_entries=1) as inner:
        inner.update(0, value)
        maps("small_routes" if small else "routes").update(row, inner)
    unroute(maps("routes" if small else "small_routes"), row)


def unroute(routes: Map, row: int) -> None:
    """Let no route stand there; where none does the kernel need not wait for its programs."""
    if routes.lookup(row) is not None:
        routes.delete(row)


#: What the fast path drops; all that it does not forward else is the slow path's.
DROPPED = {Reason.NO_EGRESS, Reason.OVER_RATE, Reason.KEEP_ALIVE, Reason.REPEATED}


def by_topic(sums: memoryview, rows: Rows) -> Counter[tuple[int, Reason]]:
    """The counts that are not 0, by topic and reason."""
    topic_of = {row: topic for topic, row in rows.of.items()}
    return Counter(
        {
            (topic_of[row], reason): count
            for row, counts in decode_counters(sums).items()
            for reason, count in counts.items()
        }
    )


def volumes_in(sums: memoryview) -> Counter[tuple[int, str]]:
    """Bytes of payload by row, and whether they were forwarded or dropped."""
    told = decode_volumes(sums).items()
    return Counter({(row, key): count for row, each in told for key, count in each._asdict().items()})


def grown(row: int, reason: Reason, frame: bytes) -> Counter[tuple[int, str]]:
    """By what they grow for one frame of Ethernet, with IPv4 without options where it is counted at all.

    It may have one VLAN tag.
    """
    at = 42 if frame[12:14] == b"\x81\x00" else 38
    key = "forwarded" if reason is Reason.FORWARDED else "dropped" if reason in DROPPED else ""
    payload = int.from_bytes(frame[at : at + 2], "big") - 8
    return +Counter({(row, key): payload}) if key else Counter()


def zero(counts: Map) -> None:
    """Set those rows of an array of counts for each CPU to 0 that are not."""
    none, sums = bytes(counts.value_size), bytes(counts.sum_rows())
    if sums == bytes(len(sums)):
        return
    for row, at in enumerate(range(0, len(sums), len(none))):
        if sums[at : at + len(none)] != none:
            counts.update(row, bytes(len(none) * possible_cpus()))


def hops(count: int, first_port: int = 6001) -> tuple[Hop, ...]:
    """Members with addresses and ports that differ in every byte that a checksum can see."""
    return tuple(
        Hop(f"10.{2 + i % 7}.{i % 251}.{9 + i % 200}", first_port + 257 * i % 40000, LOOPBACK,
            f"02:aa:00:00:{i >> 8:02x}:{i & 255:02x}", f"02:bb:00:00:{i >> 8:02x}:{i & 255:02x}",
            f"172.{16 + i % 5}.{i % 241}.{1 + i % 199}")
        for i in range(count)
    )  # fmt: skip


def plan(topic: int, members: Sequence[Hop], *, framing: Framing, epoch: int = 1, mtu: int = 1500) -> Plan:
    return Plan(topic, epoch, framing, mtu, (tuple(members),))

"""Strict and best-effort load on one broker at the same time, and what each event of it took.

Where everything runs, for two cores are shared by three nodes:

| core  | what, the most urgent first                                                              |
|-------|------------------------------------------------------------------------------------------|
| first | two steady publishers and the receiver (all SCHED_FIFO), the flooder                     |
| other | the broker; on the fast path, which needs no broker, the receiver if it is to be busy    |

So no flooder ever takes a turn from what measures or from the broker, and what an event waits for is
the broker and the kernel. A sender's system call also runs the receiving side of a veth link: the
broker's packets arrive at the cost of the first core, as from an interface with a core of its own.
Both cores are kept from sleeping, under load and without it (see :mod:`tempos_bench.programs.awake`).

A flooder sends more than the broker can carry, GSO buffers at a time; its events end in sockets where
the kernel counts and drops all but a few, which are timed.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tempos import DATA_PORT, Group, Member, Path, PathPolicy, Topic
from tempos_bench.measure import samples
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.samples import Latency
from tempos_bench.measure.stats import ratio
from tempos_bench.nodes.topology import Topology
from tempos_bench.runs.rounds import cores
from tempos_bench.runs.run import current

#: SCHED_FIFO priorities: whoever publishes by the clock comes before whoever reads the clock.
_PUBLISHER_PRIORITY, _APART_PRIORITY, _RECEIVER_PRIORITY = 60, 55, 50
#: Seconds from the command to the first event: until all programs have heard it.
_LEAD = 0.1
#: Seconds without an event after which nothing is on its way any more.
_IDLE = 0.15
#: A flooder that is so far behind (seconds) cannot send what it is asked to; it goes on from there.
_SLIP = 0.005
#: Of a flow at most so many events are timed, of a flood and of any other.
_TIMED = {True: 20_000, False: 400_000}
#: Events handed to the kernel in one call.
_BATCH = 64
#: Where the members of the groups beyond the first listen, all topics at the same sockets.
_BEYOND_PORT = 9100


@dataclass(frozen=True, slots=True)
class Subject:
    """A topic, and where its events go: to ``port``, and to ``groups`` - 1 groups more, which discard.

    Several topics may go to one port: they then share its socket, and what has no room there is lost.
    """

    topic: Topic
    port: int
    groups: int = 1


@dataclass(frozen=True, slots=True)
class Flow:
    """So many events/s of a topic, sent by the first steady publisher or, ``apart``, by the other one.

    ``flood``: more than can be carried, or sent: by the flooder, in GSO buffers of ``segments`` events, and
    timed from the real sending, not from a schedule that the sender cannot keep.
    """

    topic: Topic
    rate: float
    apart: bool = False
    flood: bool = False
    segments: int = 16

    @property
    def sender(self) -> str:
        return "flooder" if self.flood else "apart" if self.apart else "steady"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one flow. Events; rates in events/s.

    ``offered``: what was really sent; ``slipped``: what the flooder had no time for. ``delivered``: reached
    the kernel of the subscriber's node and found room there; ``rate``: the same while they were being sent.
    Latencies are nan where publisher and subscriber have clocks that are too far apart.
    ``latency``: to that arrival, from the schedule, or of a flood from the sending; ``program``: the same
    to the receiving program; ``late``: from the schedule to the sending.
    """

    sent: int
    offered: float
    slipped: int
    delivered: int
    lost: int
    repeated: int
    reordered: int
    rate: float
    latency: Latency
    program: Latency
    late: Latency

    @property
    def lost_share(self) -> float:
        return ratio(self.lost, self.sent)


@dataclass(frozen=True, slots=True)
class Heard:
    """An outcome with the samples behind its latency, nanoseconds in the order of arrival.

    ``start``: what they count from, schedule or sending.
    """

    outcome: Outcome
    latency: array[int]
    start: str


class Load:
    """The programs around a broker in ``topology``; ended by ``stack``.

    ``ports``: where subjects will go; ``beyond``: for so many groups more. ``buffer``: receive buffer of the
    ports' sockets, bytes (0: as large as can be). ``busy``: the receiver takes time; it has the other core.
    """

    def __init__(
        self,
        stack: ExitStack,
        topology: Topology,
        ports: Sequence[int],
        *,
        size: int,
        beyond: int = 0,
        buffer: int = 0,
        busy: bool = False,
    ) -> None:
        self._topology = topology
        self._size = size
        self._publisher = 0
        self._thinned: dict[int, tuple[int, int]] = {}
        self._subjects: dict[int, Subject] = {}
        first, other = cores()
        a, c = topology.publisher, topology.subscriber
        programs = [
            node.role("awake", ready=True, cpu=core) for node in topology.machines for core in {first, other}
        ]
        binds = [option for port in ports for option in ("--bind", f"{c.address}:{port}")]
        for port in range(_BEYOND_PORT, _BEYOND_PORT + beyond):
            binds += ["--discard", f"{c.address}:{port}"]
        to = f"{topology.broker.address}:{DATA_PORT}"
        self._receiver = c.role("gather", *binds, "--buffer", buffer, "--fifo", _RECEIVER_PRIORITY,
                                ready=True, cpu=other if busy else first, talk=True)  # fmt: skip
        priorities = {"steady": _PUBLISHER_PRIORITY, "apart": _APART_PRIORITY, "flooder": 0}
        self._senders = {
            name: a.role("pace", "--to", to, "--fifo", priority, ready=True, cpu=first, talk=True)
            for name, priority in priorities.items()
        }
        programs += [self._receiver, *self._senders.values()]
        for program in programs:
            stack.callback(program.stop)
        for line in {program.output.removeprefix("ready").strip() for program in programs} - {""}:
            current().note(line)
        b, theirs = topology.broker, other if busy else first
        current().note(
            f"publishers (SCHED_FIFO {_PUBLISHER_PRIORITY} and {_APART_PRIORITY}) and flooder on "
            f"{a.core(first)}, receiver (SCHED_FIFO {_RECEIVER_PRIORITY}) on {c.core(theirs)}, broker on "
            f"{b.core(other)}; they are kept awake as far as can be"
        )

    @contextmanager
    def broker(
        self,
        subjects: Sequence[Subject],
        *,
        mode: str,
        quality: Mapping[str, object] | None = None,
        state: str = "off",
        beside: Mapping[Topic, Sequence[Group]] | None = None,
        limit: float = 60.0,
        first: str = "",
        latency: bool = False,
    ) -> Iterator[Broker]:
        """A broker for ``subjects``, which are what is played until it ends.

        ``mode``, ``quality`` and ``state`` as in its configuration; ``beside``: topics without events;
        ``limit``: seconds that its start may take; ``first``: as of :class:`Broker`; ``latency``: as in its
        configuration.
        When it is given, each subject is on the fast path, unless that is off or it keeps to the slow one.
        """
        self._subjects = {subject.topic.id: subject for subject in subjects}
        groups = {subject.topic: self._groups(subject) for subject in subjects}
        topics = {**groups, **(beside or {})}
        with Broker(
            self._topology.broker,
            topics,
            mode=mode,
            quality=quality,
            state=state,
            cpu=cores()[1],
            limit=limit,
            first=first,
            latency=latency,
        ) as broker:
            if mode != "off":
                for topic in groups:
                    slow = topic.policy is PathPolicy.SLOW
                    broker.wait_path(topic.name, Path.SLOW if slow else Path.FAST)
            if quality and quality.get("worker_sq"):
                current().note(f"SQ in a process of its own: {broker.wait_worker()}")
            yield broker

    def play(self, flows: Sequence[Flow], seconds: float, work: float = 0.0) -> dict[str, Heard]:
        """Send the flows for ``seconds`` at once; what came of each, by the name of its topic.

        ``work``: seconds that the receiver is busy with each event, as an application is.
        """
        wanted = [self._want(flow, seconds) for flow in flows]
        begin = {"do": "begin", "wanted": wanted, "size": self._size, "idle": _IDLE, "work": work}
        self._receiver.ask(begin)
        comparable = self._topology.clocks.agree()
        begin_ns = self._topology.publisher.soon(_LEAD)
        senders = []
        for name, program in self._senders.items():
            chosen = [each for each in zip(flows, wanted, strict=True) if each[0].sender == name]
            if chosen:
                program.tell(self._plan(chosen, begin_ns, seconds))
                senders.append(program)
        limit = seconds + 30
        sent = {lane["topic"]: lane for program in senders for lane in program.answer(limit)["lanes"]}
        answer = self._receiver.ask("end", limit)
        comparable = self._topology.clocks.agree() and comparable
        return {
            flow.topic.name: self._hear(flow, sent[flow.topic.id], answer, seconds, comparable)
            for flow in flows
        }

    def _groups(self, subject: Subject) -> tuple[Group, ...]:
        address = self._topology.subscriber.address
        ports = [subject.port, *range(_BEYOND_PORT, _BEYOND_PORT + subject.groups - 1)]
        return tuple(Group(f"group {port}", (Member(address, port),)) for port in ports)

    def _shares(self, port: int) -> bool:
        return sum(subject.port == port for subject in self._subjects.values()) > 1

    def _want(self, flow: Flow, seconds: float) -> dict[str, int]:
        port = self._subjects[flow.topic.id].port
        expect = math.ceil(flow.rate * seconds) + 2
        # What the kernel drops for want of room must be told from what it drops because we ask it to.
        keep = 1 if self._shares(port) else math.ceil(expect / _TIMED[flow.flood])
        if self._thinned.get(port) != (flow.topic.id, keep):
            self._receiver.ask({"do": "thin", "port": port, "topic": flow.topic.id, "keep_one_in": keep})
            self._thinned[port] = (flow.topic.id, keep)
        # A publisher of its own each time: what was left over of the last play is not taken for this one's.
        self._publisher += 1
        room = expect // keep + 1
        return {"topic": flow.topic.id, "publisher": self._publisher, "expect": expect, "room": room}

    def _plan(
        self, chosen: Sequence[tuple[Flow, Mapping[str, int]]], begin_ns: int, seconds: float
    ) -> dict[str, Any]:
        lanes = [
            {"topic": flow.topic.id, "interval": 1 / flow.rate, "count": math.ceil(flow.rate * seconds),
             "publisher": want["publisher"]}
            for flow, want in chosen
        ]  # fmt: skip
        plan = {"lanes": lanes, "begin_ns": begin_ns, "length": seconds, "size": self._size, "batch": _BATCH}
        floods = [flow.segments for flow, _ in chosen if flow.flood]
        return {**plan, "slip": _SLIP, "segments": max(floods)} if floods else plan

    def _hear(
        self, flow: Flow, sent: Mapping[str, Any], answer: Mapping[str, Any], seconds: float, comparable: bool
    ) -> Heard:
        """``comparable``: arrivals can be held against sending times; without it there is no latency."""
        trace = next(trace for trace in answer["traces"] if trace["topic"] == flow.topic.id)
        port = self._subjects[flow.topic.id].port
        thinned = 0 if self._shares(port) else answer["dropped"][str(port)]
        delivered = trace["received"] + thinned
        columns = (samples.unpack(trace[name]) for name in ("transit", "late", "taken", "arrived"))
        transit, late, taken, arrived = columns
        timed = transit
        if flow.flood:
            timed = array("I", (max(whole - before, 0) for whole, before in zip(transit, late, strict=True)))
        if not comparable:
            timed, taken = array("I"), array("I")
        outcome = Outcome(
            sent=sent["sent"],
            offered=sent["sent"] / seconds,
            slipped=sent["slipped"],
            delivered=delivered,
            lost=sent["sent"] - delivered,
            repeated=trace["repeated"],
            reordered=trace["reordered"],
            rate=rate_within(arrived, seconds) * self._thinned[port][1],
            latency=samples.summarize(timed),
            program=samples.summarize([way + wait for way, wait in zip(timed, taken, strict=True)]),
            late=samples.summarize(late),
        )
        return Heard(outcome, timed, "sending" if flow.flood else "schedule")


def rate_within(arrived: Sequence[int], seconds: float) -> float:
    """Events/s of those that arrived (microseconds from the first one on) while all were being sent.

    What arrives later was waiting in a queue: it would make what is carried look like more. The first
    tenth is left out for the same reason, while the queues fill.
    """
    low, high = seconds * 0.1e6, seconds * 0.95e6
    return sum(low <= when < high for when in arrived) / (high - low) * 1e6

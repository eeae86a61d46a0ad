"""Every way from a publisher to a subscriber that is measured, and how one measurement of it goes.

A way is a system and what speaks to it: its client library, or the raw generator. Whether a subscription
holds is found out by events: a measurement begins when one has come through.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from tempos_bench.measure import samples
from tempos_bench.measure.samples import Latency
from tempos_bench.measure.stats import percentile
from tempos_bench.nodes.node import Program, ProgramFailed
from tempos_bench.peers import ground
from tempos_bench.peers.ground import Place
from tempos_bench.peers.usage import Running, Usage, measured

#: Seconds without an event after which nothing is on its way any more.
_IDLE = 0.15
#: Seconds from the command to the first event of a schedule.
_LEAD = 0.05
#: Sequences that the slots for seen ones are made for; more than any system here delivers.
_MOST_RATE = 60_000_000
_KEEP = 200_000
_LIMIT = 60.0
#: The share of events that may be lost for a rate to count as carried.
TOLERANCE = 0.001
#: How many rates are tried, how far apart they are at the most, and at what ratio it is near enough.
_STEPS, _LEAP, _CLOSE = 5, 1.5, 1.08
_WARM_RATE, _WARM_SECONDS = 2000.0, 0.1
#: The shortest wait for an echo that answers, in seconds.
SETTLE_LIMIT = 15.0


@dataclass(frozen=True, slots=True)
class Way:
    """``system`` through ``kind``; ``program`` is `raw` or `library`, ``speaks`` what it is told to speak.

    ``gso``: several datagrams leave as one buffer, which the kernel cuts (UDP GSO).
    """

    system: str
    kind: str
    program: str
    speaks: str
    batched: bool = False
    gso: bool = False

    @property
    def name(self) -> str:
        return f"{self.system}, {self.kind}"

    @property
    def is_raw(self) -> bool:
        return self.program == "raw"

    @property
    def is_tempos(self) -> bool:
        return self.system.startswith("tempos")

    @property
    def hears(self) -> str:
        """What its subscriber is told to speak: batched or not is the publisher's business."""
        return self.speaks.removesuffix("-batch")

    def topic(self, name: str) -> str:
        """The topic for ``name``; one server's two protocols have topics of their own."""
        return name.upper() if self.speaks == "mqtt1" else name

    @property
    def place(self) -> str:
        """The name of the place it runs at: one of the ways of tempos, or a peer."""
        return self.system.removeprefix("tempos ").removesuffix(" QoS 0").removesuffix(" QoS 1")


def _tempos() -> list[Way]:
    ways = []
    for mode in ground.MODES:
        system = f"tempos {mode}"
        # A generic XDP program is shown a buffer whole, before it is cut: none that a fast path understands.
        gso = mode != "fast generic"
        ways += [
            Way(system, "raw", "raw", "tempos", gso=gso),
            Way(system, "raw batched", "raw", "tempos-batch", True, gso),
        ]
        if mode != "fast generic":
            ways += [
                Way(system, "Python", "library", "tempos"),
                Way(system, "Python batched", "library", "tempos-batch", True),
            ]
    return ways


#: All of them. Peers over TCP have no batched way of their own: there everything shares segments.
WAYS = (
    *_tempos(),
    Way("NATS", "raw", "raw", "nats"),
    Way("NATS", "nats-py", "library", "nats"),
    Way("Mosquitto QoS 0", "raw", "raw", "mqtt0"),
    Way("Mosquitto QoS 0", "paho-mqtt", "library", "mqtt0"),
    Way("Mosquitto QoS 1", "raw", "raw", "mqtt1"),
    Way("Mosquitto QoS 1", "paho-mqtt", "library", "mqtt1"),
    Way("Redis", "raw", "raw", "redis"),
    Way("Redis", "redis-py", "library", "redis"),
    Way("ZeroMQ", "raw", "raw", "zeromq"),
    Way("ZeroMQ", "pyzmq", "library", "zeromq"),
    Way("Zenoh", "eclipse-zenoh", "library", "zenoh"),
)
#: The peers that have groups in which one member gets each event.
GROUPED = ("NATS", "Mosquitto QoS 0", "Mosquitto QoS 1")
#: The libraries' packages, for the note on what is missing.
PACKAGES = {"nats": "nats-py", "mqtt0": "paho-mqtt", "mqtt1": "paho-mqtt", "redis": "redis",
            "zeromq": "pyzmq", "zenoh": "eclipse-zenoh"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Played:
    """One measurement. ``rate``: events/s while they were sent, or heard if that took longer; in seconds.

    ``latest``: the most that the publisher was behind its schedule; ``by_member``: events of each member;
    ``server``, ``worker``, ``all``: processor time of the server, of the subscriber, and of everybody.
    """

    sent: int
    received: int
    repeated: int
    damaged: int
    rate: float
    latest: float
    by_member: tuple[int, ...]
    server: float
    all: float
    peak: int
    latency: Latency | None = None
    worker: float = 0.0

    @property
    def lost(self) -> int:
        return self.sent - self.received

    def per_million(self, seconds: float) -> float:
        return seconds / self.received * 1e6 if self.received else math.nan


def is_carried(played: Played) -> bool:
    """Whether so little was lost that the rate counts."""
    return played.lost <= TOLERANCE * played.sent


class Subject(Protocol):
    """The subscriber of a measurement, as :class:`~tempos_bench.nodes.node.Program` is one."""

    @property
    def pid(self) -> int: ...

    @property
    def output(self) -> str: ...

    def ask(self, message: object, limit: float = 30.0) -> Any: ...


class Ends:
    """The two ends of one way, connected."""

    def __init__(
        self,
        place: Place,
        way: Way,
        publisher: Program,
        subscriber: Subject,
        topic: str,
        counter: list[int],
        carried: dict[int, float],
        size: int = 64,
    ) -> None:
        """``carried``: by size, the rates that earlier ends of the same way were found to carry.

        ``size``: of the bodies that show whether events come through.
        """
        self._place, self._way = place, way
        self._publisher, self._subscriber = publisher, subscriber
        self._runs = counter
        self._carried = carried
        place.settle(topic)
        self._warm_up(size)

    def lossless(self, size: int, seconds: float) -> Played:
        """As fast as can be with no more than :data:`TOLERANCE` of it lost.

        TCP holds a publisher back; datagrams it does not. Where they get lost, what is carried is looked
        for between what arrived of too many and what was sent, in as many steps as :data:`_STEPS`; the
        next time the search begins where this one ended.
        """
        carried = self._carried.get(size)
        if carried is None:
            played, _ = self.play(size, seconds, full=True)
            if is_carried(played):
                return played
            rate, too_many = played.rate, max(played.sent / seconds, played.rate * _CLOSE)
        else:
            rate, too_many = carried, carried * _CLOSE**2
        best = None
        for _ in range(_STEPS):
            played, _ = self.play(size, seconds, rate, full=True)
            if is_carried(played):
                best, self._carried[size] = played, rate
                rate = min(math.sqrt(rate * too_many), rate * _LEAP)
            else:
                too_many = rate
                known = self._carried.get(size, 0.0) if best else 0.0
                rate = math.sqrt(known * rate) if known else rate / _LEAP
            if best and too_many < self._carried[size] * _CLOSE:
                break
        if best is None:
            # Nothing of what was tried is carried: the next search begins lower, and the loss is told.
            self._carried[size] = rate
        return best or played

    def play(
        self, size: int, seconds: float, rate: float = 0.0, *, full: bool = False, timed: bool = True
    ) -> tuple[Played, array[int]]:
        """Send bodies of ``size`` bytes, ``rate`` a second (0: as fast as can be); what came of it.

        The latencies are from the schedule to the subscribing program, nanoseconds; none where the clocks of
        both are too far apart or nobody wants them (``timed``). ``full``: batches leave when they are full,
        not an event at a time, and nothing is timed.
        """
        run = self._next()
        expect = math.ceil(max(rate, _MOST_RATE if self._way.is_raw else 1) * seconds) + 1
        self._subscriber.ask(
            {"size": size, "run": run, "idle": _IDLE, "expect": expect, "room": 0 if full else _KEEP}
        )
        nodes = self._place.topology
        timed = timed and not full and nodes.clocks.agree()
        ends = (
            Running(nodes.publisher, self._publisher.pid),
            self._place.subscriber(self._subscriber.pid),
        )
        with measured(self._place.server, ends, nodes.machines) as usage:
            command = {"size": size, "run": run, "seconds": seconds, "rate": rate, "full": full,
                       "begin_ns": nodes.publisher.soon(_LEAD)}  # fmt: skip
            sent = self._publisher.ask(command, _LIMIT)
            got = self._subscriber.ask("end", _LIMIT)
        if got["damaged"]:
            raise ProgramFailed(f"{self._way.name}: {got['damaged']} events arrived damaged")
        timed = timed and nodes.clocks.agree()
        latency = samples.unpack(got["latency"]) if timed else array("I")
        # As long as was sent or as long as was heard: no clock is held against that of another node.
        took = max(got["last_ns"] - got["first_ns"], sent["ended_ns"] - sent["began_ns"]) / 1e9
        played = _played(sent, got, took, usage, None if full else samples.summarize(latency))
        return played, latency

    def _warm_up(self, size: int) -> None:
        """Until an event has come through: caches are warm then, and every subscription holds."""
        end = time.monotonic() + SETTLE_LIMIT
        while not self.play(size, _WARM_SECONDS, _WARM_RATE, timed=False)[0].received:
            if time.monotonic() > end:
                raise ProgramFailed(
                    f"{self._way.name}: no event came through within {SETTLE_LIMIT:g} s\n"
                    f"{self._publisher.output}\n{self._subscriber.output}"
                )

    def _next(self) -> int:
        self._runs[0] += 1
        return self._runs[0]


def _played(
    sent: Mapping[str, float], got: Mapping[str, object], took: float, usage: Usage, latency: Latency | None
) -> Played:
    received, repeated, damaged, members = (
        got["received"], got["repeated"], got["damaged"], got["by_member"]
    )  # fmt: skip
    assert isinstance(received, int)
    assert isinstance(repeated, int)
    assert isinstance(damaged, int)
    assert isinstance(members, list)
    return Played(
        sent=int(sent["sent"]),
        received=received,
        repeated=repeated,
        damaged=damaged,
        rate=received / took if received else 0.0,
        latest=sent["latest"],
        by_member=tuple(members),
        server=usage.server,
        all=usage.all,
        peak=usage.peak,
        latency=latency,
        worker=usage.ends[-1],
    )


@dataclass(frozen=True, slots=True)
class Trips:
    """Round trips: percentiles in microseconds, and how many were asked for but not answered."""

    p50: float
    p99: float
    lost: int


class RoundTrip:
    """A raw generator at A that pings, one at C that answers; both through the server."""

    def __init__(self, stack: ExitStack, place: Place, way: Way, counter: list[int]) -> None:
        self._way, self._runs = way, counter
        self._echo: Program = place.end("raw", "echo", way.speaks, way.topic(ground.THERE))
        self._ping: Program = place.end("raw", "ping", way.speaks, way.topic(ground.THERE))
        for program in (self._echo, self._ping):
            stack.callback(program.stop)
        for program in (self._echo, self._ping):
            program.wait_line("ready", SETTLE_LIMIT)
        place.settle(ground.THERE)
        end = time.monotonic() + SETTLE_LIMIT
        while self.play(64, 10).lost:
            if time.monotonic() > end:
                raise ProgramFailed(
                    f"{way.name}: nothing came back\n{self._echo.output}\n{self._ping.output}"
                )

    def play(self, size: int, count: int) -> Trips:
        """``count`` round trips, one after the other."""
        self._runs[0] += 1
        run = self._runs[0]
        self._echo.ask({"size": size, "run": run, "idle": 0.02, "expect": count, "room": 0})
        found = self._ping.ask({"size": size, "run": run, "count": count}, _LIMIT)["samples_ns"]
        self._echo.ask("end", _LIMIT)
        return Trips(percentile(found, 50) / 1000, percentile(found, 99) / 1000, count - len(found))


@dataclass(frozen=True, slots=True)
class Asked:
    """Requests: how long each took that was answered, nanoseconds, all of them in seconds, and those lost.

    ``cpu``: seconds of processor that server and both ends took.
    """

    samples_ns: Sequence[int]
    seconds: float
    lost: int
    cpu: float


class Requests:
    """A client library at A that asks, one at C that answers; both through the server."""

    def __init__(self, stack: ExitStack, place: Place, way: Way) -> None:
        topic = way.topic(ground.CLIENT)
        self._place = place
        answers: Program = place.end("requests", "answer", way.speaks, topic)
        self._asker: Program = place.end("requests", "ask", way.speaks, topic)
        for program in (answers, self._asker):
            stack.callback(program.stop)
        for program in (answers, self._asker):
            program.wait_line("ready", SETTLE_LIMIT)
        nodes = place.topology
        self._ends = Running(nodes.publisher, self._asker.pid), Running(nodes.subscriber, answers.pid)
        place.settle(topic)
        warm = self.play(64, 200, 1)
        if not warm.samples_ns:
            raise ProgramFailed(f"{way.name}: nothing is answered\n{answers.output}\n{self._asker.output}")

    def play(self, size: int, count: int, outstanding: int) -> Asked:
        """``count`` requests with bodies of so many bytes, ``outstanding`` at a time."""
        command = {"size": size, "count": count, "outstanding": outstanding}
        with measured(self._place.server, self._ends, self._place.topology.machines) as usage:
            told = self._asker.ask(command, _LIMIT)
        return Asked(told["samples_ns"], told["seconds"], told["lost"], usage.all)

"""Who stands where while ways are compared. Ends are started when they are first used, and stay connected.

Where several topologies can stand at the same time, all do. On three hosts one set of systems stands at a
time: that of the way that is used, and all of it goes when one of another set is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from tempos_bench.nodes.node import Program
from tempos_bench.nodes.topology import build, many
from tempos_bench.peers import ground
from tempos_bench.peers.ground import CLIENT, GROUP, MEMBERS, RAW, Place
from tempos_bench.peers.ways import PACKAGES, SETTLE_LIMIT, WAYS, Ends, Requests, RoundTrip, Way
from tempos_bench.runs.rounds import cores
from tempos_bench.runs.run import current

#: The name of the stand that all peers share.
_PEERS = "peers"


def _topic(way: Way, grouped: bool) -> str:
    return GROUP if grouped else RAW if way.is_raw else CLIENT


class Stand:
    """The places that stand together, and every way that is connected there; ended by ``stack``."""

    def __init__(self, stack: ExitStack, places: Mapping[str, Place]) -> None:
        self.stack, self.places = stack, places
        self.ends: dict[tuple[Way, bool], Ends] = {}
        self.trips: dict[Way, RoundTrip] = {}
        self.requests: dict[Way, Requests] = {}
        self._started: dict[tuple[Way, bool], tuple[Program, Program]] = {}
        self._ready: set[Program] = set()
        self._subscribers: dict[tuple[str, str, str, str], Program] = {}

    def start(self, way: Way, grouped: bool) -> tuple[Program, Program]:
        """The publisher and the subscriber of a way; batched ways share the subscriber of the others."""
        if (way, grouped) not in self._started:
            place, topic = self.places[way.place], way.topic(_topic(way, grouped))
            key = (way.place, way.program, way.hears, topic)
            if key not in self._subscribers:
                options = {"group": "workers", "members": MEMBERS} if grouped and not way.is_tempos else {}
                self._subscribers[key] = place.end(way.program, "subscribe", way.hears, topic, **options)
            flags = ("--gso",) if way.gso else ()
            publisher = place.end(way.program, "publish", way.speaks, topic, *flags)
            for program in (publisher, self._subscribers[key]):
                self.stack.callback(program.stop)
            self._started[way, grouped] = publisher, self._subscribers[key]
        return self._started[way, grouped]

    def ready(self, way: Way, grouped: bool) -> tuple[Program, Program]:
        """The same, when they are connected."""
        programs = self.start(way, grouped)
        for program in set(programs) - self._ready:
            program.wait_line("ready", SETTLE_LIMIT)
        self._ready |= set(programs)
        return programs


class Field:
    """Everything that is compared in one run; ended by ``stack``."""

    def __init__(self, stack: ExitStack, systems: Sequence[str], *, awake: bool = False) -> None:
        """``awake``: cores are kept from sleeping (see :mod:`tempos_bench.programs.awake`)."""
        self._stack = stack
        self._awake = awake
        self._runs = [0]
        self._carried: dict[tuple[Way, bool], dict[int, float]] = {}
        self._stands: dict[str, Stand] = {}
        with build() as topology:
            self._servers = ground.present(topology, systems)
            ends = (topology.publisher, topology.subscriber)
            self._libraries = {
                name: found[0]
                for name in sorted(set(PACKAGES.values()))
                if all(found := [node.inquire("distribution", name=name) for node in ends])
            }
        versions = (f"{name} {version}" for name, version in self._libraries.items())
        current().note(f"libraries: {', '.join(versions) or 'none'}")

    def ways(self, *, batched: bool) -> list[Way]:
        """Those that can be measured here; a library that is not installed gets a note."""
        places = {*ground.MODES, *(server.name for server in self._servers)}
        return [
            way
            for way in WAYS
            if way.place in places and (batched or not way.batched) and self._has_library(way)
        ]

    def connect(self, ways: Sequence[Way], *, grouped: bool = False) -> None:
        """Start the ends of many ways at once, and wait until events come through each of them.

        Where places stand one at a time there is nothing to start beforehand.
        """
        if not many():
            return
        for way in ways:
            self._stand(way).start(way, grouped)
        for way in ways:
            current()(f"connecting {way.name}")
            self.ends(way, grouped=grouped)

    def ends(self, way: Way, *, grouped: bool = False) -> Ends:
        """Both ends of a way, started when they are first asked for."""
        stand, key = self._stand(way), (way, grouped)
        if key not in stand.ends:
            publisher, subscriber = stand.ready(way, grouped)
            place, topic = stand.places[way.place], way.topic(_topic(way, grouped))
            carried = self._carried.setdefault(key, {})
            stand.ends[key] = Ends(place, way, publisher, subscriber, topic, self._runs, carried)
        return stand.ends[key]

    def round_trip(self, way: Way) -> RoundTrip:
        """Ping and echo of a way, started when they are first asked for."""
        stand = self._stand(way)
        if way not in stand.trips:
            stand.trips[way] = RoundTrip(stand.stack, stand.places[way.place], way, self._runs)
        return stand.trips[way]

    def requests(self, way: Way) -> Requests:
        """Who asks and who answers by a way's library, started when they are first asked for."""
        stand = self._stand(way)
        if way not in stand.requests:
            stand.requests[way] = Requests(stand.stack, stand.places[way.place], way)
        return stand.requests[way]

    def _stand(self, way: Way) -> Stand:
        name = way.place if way.is_tempos else _PEERS
        if name not in self._stands:
            if not many():
                for other in self._stands.values():
                    other.stack.close()
                self._stands.clear()
            stack = self._stack.enter_context(ExitStack())
            places: Mapping[str, Place] = (
                {name: ground.tempos(stack, name)} if way.is_tempos else ground.peers(stack, self._servers)
            )
            self._stands[name] = Stand(stack, places)
            # All that stand together are on the same machines.
            if self._awake and len(self._stands) == 1:
                for node in next(iter(places.values())).topology.machines:
                    for core in set(cores()):
                        program = node.role("awake", ready=True, cpu=core)
                        stack.callback(program.stop)
                        if lacking := program.output.removeprefix("ready").strip():
                            current().note(lacking)
        return self._stands[name]

    def _has_library(self, way: Way) -> bool:
        package = PACKAGES.get(way.speaks)
        if way.is_raw or way.is_tempos or package is None or package in self._libraries:
            return True
        current().note(f"{way.name} left out: {package} is not installed (pip install 'tempos[peers]')")
        return False

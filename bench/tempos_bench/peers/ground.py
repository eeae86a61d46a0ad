"""Where the systems stand side by side: the same three nodes for each, and every server on the middle one.

The peers' servers share one set of nodes. Tempos has a set of its own for each of its ways (fast path
native, fast path generic, slow path), so that no other system's packets pass an XDP program. Who is
measured is the only one that is busy; the others wait or, where there is one set of nodes, are not there.
Publishers run on the first core, subscribers on the other; a server may use both, as it sees fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from tempos import DATA_PORT, Framing, Group, Member, Topic, Unavailable
from tempos import Path as DataPath
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.node import Program
from tempos_bench.nodes.topology import Topology, build
from tempos_bench.peers.servers import ANY, SERVERS, Server
from tempos_bench.peers.usage import Running
from tempos_bench.runs.rounds import cores
from tempos_bench.runs.run import current

#: What flows: from raw generators, from client libraries, to one group, there and back.
RAW, CLIENT, GROUP, THERE, BACK = "r", "c", "g", "p", "q"
#: Members of the group, where a system has groups.
MEMBERS = 4
#: Tempos' ways, and the mode of the fast path that each has.
MODES = {"fast native": "native", "fast generic": "generic", "slow": "off"}
_TOPICS = {
    name: Topic(id=number, name=name, framing=Framing.EVENT)
    for number, name in enumerate((RAW, CLIENT, GROUP, THERE, BACK), 1)
}
_PORTS = {RAW: (9001,), GROUP: tuple(range(9011, 9011 + MEMBERS)), THERE: (9021,), BACK: (9022,)}


class Place:
    """One system on its three nodes: who serves, and how its programs are told where."""

    def __init__(self, topology: Topology, pid: int) -> None:
        self.topology = topology
        self.server = Running(topology.broker, pid)

    def end(self, program: str, do: str, kind: str, topic: str, *flags: str, **options: object) -> Program:
        """Start one end: ``program`` is `raw` or `library`, ``kind`` what it speaks.

        Its line `ready` is to be waited for: so that many can start at once, that is the caller's.
        Publishers and those who ping or ask are at A, subscribers and those who answer at C.
        """
        first, other = cores()
        at_a = do in ("publish", "ping", "ask")
        node = self.topology.publisher if at_a else self.topology.subscriber
        words = [f"--{name}={value}" for name, value in options.items()]
        return node.role(
            f"peers.{program}", "--do", do, "--wire" if program == "raw" else "--client", kind,
            *self._where(at_a, do, topic, program), *flags, *words,
            cpu=first if at_a else other, talk=True,
        )  # fmt: skip

    def _where(self, at_a: bool, do: str, topic: str, program: str) -> Sequence[str]:
        raise NotImplementedError

    def subscriber(self, pid: int) -> Running:
        """The process ``pid`` that subscribes, where it runs."""
        return Running(self.topology.subscriber, pid)

    def settle(self, topic: str) -> None:
        """Return when events of the topic go the way that is to be measured."""


class PeerPlace(Place):
    """A peer."""

    def __init__(self, topology: Topology, program: Program, server: Server) -> None:
        super().__init__(topology, program.pid)
        self._server = server

    def _where(self, at_a: bool, do: str, topic: str, program: str) -> Sequence[str]:
        broker = self.topology.broker.address if at_a else self.topology.facing_subscriber
        hear = f"{broker}:{self._server.port + self._server.subscribers}"
        if do == "subscribe":
            return ("--connect", hear, "--topic", topic)
        # Topics of one protocol in capitals, where a server speaks two: neither hears the other's events.
        answers = BACK.upper() if topic.isupper() else BACK
        back = ("--back", answers, "--hear", hear) if do in ("ping", "echo") else ()
        return ("--connect", f"{broker}:{self._server.port}", "--topic", topic, *back)


class TemposPlace(Place):
    """Tempos with one of its ways."""

    def __init__(self, topology: Topology, broker: Broker, fast: bool) -> None:
        super().__init__(topology, broker.pid)
        self._broker, self._fast = broker, fast

    def _where(self, at_a: bool, do: str, topic: str, program: str) -> Sequence[str]:
        broker = self.topology.broker.address if at_a else self.topology.facing_subscriber
        if program in ("library", "requests"):
            return ("--connect", f"{broker}:{DATA_PORT}", "--topic", topic)
        words = ["--connect", f"{broker}:{DATA_PORT}", "--topic", str(_TOPICS[topic].id)]
        if do in ("ping", "echo"):
            words += ["--back", str(_TOPICS[BACK].id)]
        if do != "publish":
            node = self.topology.publisher if at_a else self.topology.subscriber
            ports = _PORTS[BACK if do == "ping" else topic]
            words += [word for port in ports for word in ("--bind", f"{node.address}:{port}")]
        return words

    def settle(self, topic: str) -> None:
        for name in (topic, BACK) if topic == THERE else (topic,):
            self._broker.wait_path(name, DataPath.FAST if self._fast else DataPath.SLOW)


def tempos(stack: ExitStack, way: str) -> TemposPlace:
    """Tempos on nodes of its own; ``way`` is one of :data:`MODES`."""
    topology = stack.enter_context(build())
    a, c = topology.publisher.address, topology.subscriber.address
    homes = {RAW: c, GROUP: c, THERE: c, BACK: a}
    topics: dict[Topic, Sequence[Group]] = {
        topic: (Group(name, tuple(Member(homes[name], port) for port in _PORTS[name])),)
        if name in homes
        else ()
        for name, topic in _TOPICS.items()
    }
    mode = MODES[way]
    broker = stack.enter_context(Broker(topology.broker, topics, mode=mode))
    return TemposPlace(topology, broker, fast=mode != "off")


def present(topology: Topology, names: Sequence[str]) -> list[Server]:
    """Those peers whose servers are installed where a broker would be; the others get a note.

    Raises :class:`Unavailable` where there should be some, and none is.
    """
    wanted = [server for server in SERVERS if server.name in names]
    lacking = {server.name: server.missing(topology.broker) for server in wanted}
    if lacking and all(lacking.values()):
        raise Unavailable("; ".join(filter(None, lacking.values())))
    for reason in filter(None, lacking.values()):
        current().note(reason)
    found = [server for server in wanted if not lacking[server.name]]
    for server in found:
        current().note(f"{server.name} {server.version(topology.broker)}: {server.settings}")
    return found


def peers(
    stack: ExitStack, servers: Sequence[Server], topology: Topology | None = None
) -> dict[str, PeerPlace]:
    """The servers, on one set of nodes: those of ``topology``, or their own."""
    topology = topology or stack.enter_context(build())
    addresses = topology.broker.addresses
    places = {}
    for server in servers:
        current()(f"starting {server.name}")
        program = server.start(topology.broker, address=addresses[0] if len(addresses) == 1 else ANY)
        places[server.name] = PeerPlace(topology, program, server)
    return places

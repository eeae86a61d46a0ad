"""The event loop stays free: strict events beside a large state, a broker at rest, and what a join costs.

* **State**: strict events on the slow path, steady, while the broker has many topics with many members each;
  state off and on in turn, and on while somebody reads all pages about every topic again and again, each on a
  broker of its own. Members of the other topics get no events. The broker's loop runs under SCHED_FIFO, below
  those who send and read the clock: what else the machine does is not what is asked.
* **Hosts**: members on addresses of their own, each with heartbeats, in one group of a topic on the fast
  path: the processor time of the broker at rest, once what the joins left to do has settled, and of each
  further join.
"""

from __future__ import annotations

import http.client
import ipaddress
import itertools
import math
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from tempos import API_PORT, Framing, Group, Member, PathPolicy, Quality, TemposError, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.load import Flow, Load, Subject
from tempos_bench.measure.stats import ratios, summarize
from tempos_bench.nodes.node import Node
from tempos_bench.nodes.topology import build
from tempos_bench.peers.usage import Running, measured
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import cores, turned
from tempos_bench.runs.run import Run

_SQ = Topic(id=1, name="SQ", quality=Quality.SQ, framing=Framing.EVENT, policy=PathPolicy.SLOW)
_HOSTS = Topic(id=2, name="hosts", framing=Framing.EVENT)
_SQ_PORT, _GROUP = 9001, "hosts"
#: Members of one group go to so many ports from here on, where nobody listens.
_FIRST_PORT = 20000
#: Of the broker's loop; the processes and threads that it starts are ordinary ones.
_BROKER_PRIORITY = 10
_STATES = ("off", "on", "on, pages read")
_PAGES = ("/v1/status", "/v1/ledger", "/v1/topics", "/v1/routes")
#: Seconds between two pages, so that who reads does not keep the processor from who sends.
_PAGE_EVERY = 0.1


@dataclass(frozen=True, slots=True)
class Parameters:
    """``topics`` in all, each but the strict one with ``members``; ``rate``: SQ events/s, for ``seconds``.

    ``hosts`` are members while the broker rests, ``rest`` seconds, ``settle`` seconds after the last joined;
    ``joins`` are measured beside ``full``.
    """

    rounds: int
    topics: int
    members: int
    rate: float
    seconds: float
    payload: int
    hosts: int
    settle: float
    rest: float
    full: int
    joins: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    progress.plan(p.rounds * len(_STATES) + 1)
    return [*_state(p, progress), *_hosts(p, progress)]


def _state(p: Parameters, progress: Run) -> list[Figure]:
    p99: dict[str, list[float]] = {state: [] for state in _STATES}
    lost = pages = 0
    with build() as topology, ExitStack() as stack:
        load = Load(stack, topology, (_SQ_PORT,), size=p.payload)
        address = topology.subscriber.address
        members = tuple(Member(address, _FIRST_PORT + number) for number in range(p.members))
        beside = {
            Topic(id=2 + number, name=f"beside {number}", policy=PathPolicy.SLOW): (Group("g", members),)
            for number in range(p.topics - 1)
        }
        folder = stack.enter_context(topology.broker.folder())
        for number in progress.repetitions(p.rounds):
            for state in turned(_STATES, number):
                file = "off" if state == "off" else f"{folder}/{number}.db"
                with (
                    progress.variant(f"round {number + 1} of {p.rounds}, state {state}"),
                    load.broker([Subject(_SQ, _SQ_PORT)], mode="off", state=file, beside=beside) as broker,
                    _reading(topology.broker if state == _STATES[-1] else None) as read,
                ):
                    broker.node.inquire("hurry", pid=broker.pid, priority=_BROKER_PRIORITY)
                    outcome = load.play([Flow(_SQ, p.rate)], p.seconds)[_SQ.name].outcome
                p99[state].append(outcome.latency.p99)
                lost += outcome.lost
                pages += len(read)
    off, on, read_too = p99.values()
    return [
        median("SQ p99, state on to off", ratios(on, off), "x", Better.LOWER, credible=(0.5, math.inf)),
        median(
            "SQ p99, pages read to not", ratios(read_too, on), "x", Better.LOWER, credible=(0.5, math.inf)
        ),
        Figure("pages", pages, "pages"),
        *(median(f"SQ p99, state {state}", summarize(values), "us") for state, values in p99.items()),
        Figure("SQ lost", lost, "events"),
    ]


@contextmanager
def _reading(node: Node | None) -> Iterator[list[int]]:
    """Somebody reads one page after the other at this broker; the bytes of each that was read to its end."""
    read: list[int] = []
    over = threading.Event()

    def pages() -> None:
        for number in itertools.count():
            if over.wait(_PAGE_EVERY):
                return
            connection = http.client.HTTPConnection("127.0.0.1", API_PORT, timeout=30)
            with closing(connection):
                connection.request("GET", _PAGES[number % len(_PAGES)])
                read.append(len(connection.getresponse().read()))

    if node is None:
        yield read
        return
    thread = threading.Thread(target=node.call, args=(pages,), name="reads pages")
    thread.start()
    try:
        yield read
    finally:
        over.set()
        thread.join()


def _hosts(p: Parameters, progress: Run) -> list[Figure]:
    core, other = cores()
    with build() as topology, progress.variant(f"{p.full} hosts"), ExitStack() as stack:
        b, c = topology.broker, topology.subscriber
        addresses = _addresses(c, topology.facing_subscriber, p.full + p.joins)
        file = f"{stack.enter_context(b.folder())}/hosts.db"
        limit = {"members_per_group": p.full + p.joins}
        broker = stack.enter_context(
            Broker(b, {_HOSTS: ()}, mode="native", state=file, limits=limit, cpu=other)
        )
        to = topology.facing_subscriber
        tenants = c.role("tenants", "--broker", to, "--topic", _HOSTS.name, "--group", _GROUP, *addresses,
                         ready=True, cpu=core, talk=True)  # fmt: skip
        process = Running(b, broker.pid)
        tenants.ask({"join": p.hosts}, 120)
        # Nothing is done meanwhile: the input is answered after so many seconds of heartbeats.
        tenants.ask({"rest": p.settle}, p.settle + 30)
        with measured(process, (), ()) as rest:
            tenants.ask({"rest": p.rest}, p.rest + 30)
        tenants.ask({"join": p.full - p.hosts}, 120)
        with measured(process, (), ()) as joining:
            took = tenants.ask({"join": p.joins}, 120)["seconds"]
        path = broker.topic(_HOSTS.name)
        progress.note(f"{path.path} path: {path.reason}")
    return [
        Figure("processor at rest", rest.server / p.rest * 100, "%", Better.LOWER),
        Figure("processor time of a join", joining.server / p.joins * 1e3, "ms", Better.LOWER),
        median("a join takes", summarize([each * 1e3 for each in took]), "ms"),
    ]


def _addresses(node: Node, known: str, count: int) -> list[str]:
    """So many addresses of the node's network, given to the interface that faces the broker."""
    network = ipaddress.IPv4Network(f"{known}/24", strict=False)
    hosts = [str(each) for each in network.hosts() if str(each) not in (known, node.address)]
    if count > len(hosts):
        raise TemposError(f"{network} has addresses for {len(hosts)} hosts, {count} are needed")
    lines = "\n".join(f"addr add {each}/24 dev {node.interfaces[0]}" for each in hosts[:count])
    node.call(lambda: subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True))
    return hosts[:count]

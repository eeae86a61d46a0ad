"""What the broker does beside its events: writing its state, letting members in, keeping them.

* Strict events, one after the other, while the state of many topics is kept up: state on and off in turn.
  Nobody sends to the other topics, so nothing of them is to be written.
* Members from many hosts join one group, each with an address of its own; then they send heartbeats and
  nothing else happens. What that takes of a processor is the broker's whole process, fast path included.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from pyroute2 import IPRoute

from tempos import CONTROL_PORT, DATA_PORT, Framing, Group, Member, Quality, TemposError, Topic, Unavailable
from tempos.control import decode_reply, encode_request
from tempos.wire import encode_event
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.stats import percentile, ratios, summarize
from tempos_bench.nodes.topology import Topology, build, links_are_ours
from tempos_bench.report.figures import Figure
from tempos_bench.runs.rounds import cores, in_turn, interleave
from tempos_bench.runs.run import Run

_STRICT = Topic(id=1, name="strict", quality=Quality.SQ, framing=Framing.EVENT)
_JOINED = Topic(id=2, name="joined", framing=Framing.EVENT)
_LIMIT = 5.0
#: Seconds between two heartbeats of a member, as the broker's default has it.
_HEARTBEAT = 2.5
#: So many of the joins are looked at: the last.
_LAST = 20
_MS = 1000.0


@dataclass(frozen=True, slots=True)
class Parameters:
    """``rounds`` of ``events`` strict events each, one every ``beat`` seconds.

    Beside them there are ``topics`` of ``members`` each.
    ``hosts`` join; then ``seconds`` of nothing but their heartbeats.
    """

    rounds: int
    events: int
    beat: float
    topics: int
    members: int
    hosts: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Hosts:
    """``join``: seconds of a processor for each of the last joins. ``rest``: share of a core afterwards."""

    join: float
    rest: float


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    if not links_are_ours():
        raise Unavailable("loop-free gives a node of this machine many addresses; other hosts keep theirs")
    variants = {name: partial(_strict, p, name) for name in ("off", "on")}
    states = interleave(p.rounds, variants, progress)
    (hosts,) = in_turn({"hosts": lambda: _hosts(p, progress)}, progress).values()
    tails = {name: [percentile(times, 99) for times in rounds] for name, rounds in states.items()}
    return [
        *(
            Figure(f"SQ p99, state {name}", summarize(values).median * _MS, "ms")
            for name, values in tails.items()
        ),
        *(Figure(f"SQ longest, state {name}", max(map(max, states[name])) * _MS, "ms") for name in states),
        Figure("SQ p99, state on against off", ratios(tails["on"], tails["off"]).median, "times"),
        Figure("a join of the last host", hosts.join * _MS, "ms of a processor"),
        Figure("at rest, heartbeats alone", hosts.rest * 100, "% of a core"),
    ]


def _strict(p: Parameters, state: str) -> list[float]:
    """Seconds from the publisher to the member, event by event, by the slow path."""
    _, other = cores()
    with build() as topology, ExitStack() as stack:
        node = topology.subscriber
        sink = node.call(lambda: _bound(node.address))
        source = topology.publisher.call(lambda: _bound(topology.publisher.address))
        stack.callback(sink.close)
        stack.callback(source.close)
        topics: dict[Topic, Sequence[Group]] = {_STRICT: [Group("g", (Member(node.address, _port(sink)),))]}
        for id_ in range(2, p.topics + 1):
            crowd = tuple(Member(node.address, 20_000 + number) for number in range(p.members))
            topics[Topic(id=id_, name=f"topic-{id_}", framing=Framing.EVENT)] = [Group("g", crowd)]
        folder = "" if state == "off" else stack.enter_context(topology.broker.folder())
        file = f"{folder}/state.db" if folder else "off"
        with Broker(topology.broker, topics, mode="off", state=file, cpu=other, limit=120):
            return [_once(source, sink, topology, number, p.beat) for number in range(p.events)]


def _once(source: socket.socket, sink: socket.socket, topology: Topology, number: int, beat: float) -> float:
    began = time.perf_counter()
    source.sendto(encode_event(_STRICT.id, 1, number, 0, b"event"), (topology.broker.address, DATA_PORT))
    sink.recv(2048)
    took = time.perf_counter() - began
    time.sleep(beat)
    return took


def _hosts(p: Parameters, progress: Run) -> Hosts:
    with build("straight") as topology, ExitStack() as stack:
        node, target = topology.subscriber, (topology.facing_subscriber, CONTROL_PORT)
        network = node.address.rsplit(".", 1)[0]
        addresses = [f"{network}.{number}" for number in range(3, 3 + p.hosts)]

        def add() -> None:
            with IPRoute() as netlink:
                (index,) = netlink.link_lookup(ifname=node.interfaces[0])
                for address in addresses:
                    netlink.addr("add", index=index, address=address, prefixlen=24)

        node.call(add)
        members = [node.call(lambda address=address: _bound(address)) for address in addresses]  # type: ignore[misc]
        for each in members:
            stack.callback(each.close)
        folder = stack.enter_context(topology.broker.folder())
        broker = stack.enter_context(
            Broker(
                topology.broker,
                {_JOINED: ()},
                mode="native",
                state=f"{folder}/state.db",
                limits={"members_per_group": max(64, p.hosts)},
            )
        )
        used = [0.0]
        for number, each in enumerate(members):
            if number == p.hosts - _LAST:
                used[0] = topology.broker.inquire("used", pids=[broker.pid])[0]
            _ask(each, target, "subscribe", number, topic=_JOINED.name, group="g", port=_port(each))
        join = (topology.broker.inquire("used", pids=[broker.pid])[0] - used[0]) / _LAST
        progress.pause(2 * _HEARTBEAT)
        before, began = topology.broker.inquire("used", pids=[broker.pid])[0], time.monotonic()
        beats = 0
        while (at := began + beats * _HEARTBEAT / p.hosts) < began + p.seconds:
            time.sleep(max(0.0, at - time.monotonic()))
            each = members[beats % p.hosts]
            _ask(each, target, "heartbeat", beats % p.hosts, port=_port(each), received=[])
            beats += 1
        spent = topology.broker.inquire("used", pids=[broker.pid])[0] - before
        return Hosts(join, spent / (time.monotonic() - began))


def _ask(sock: socket.socket, target: tuple[str, int], op: str, client: int, **fields: object) -> None:
    """Ask until there is an answer; raises :class:`TemposError` for a refusal, and where none comes."""
    request, end = encode_request(op, 1, client + 1, **fields), time.monotonic() + _LIMIT
    while time.monotonic() < end:
        sock.sendto(request, target)
        if select.select([sock], [], [], 1.0)[0]:
            reply = decode_reply(sock.recv(2048))
            if reply.error is not None:
                raise TemposError(f"{op}: {reply.error}")
            return
    raise TemposError(f"{op}: no answer within {_LIMIT:g} s")


def _bound(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 0))
    sock.settimeout(_LIMIT)
    return sock


def _port(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])

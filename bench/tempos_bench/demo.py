"""The demo: the same events over every way there is from A to C, side by side in one table.

Straight topology, the project's own clients as programs in their nodes, a broker started anew for each
way. Which path carried the events is read from the broker's counters, never assumed. Where namespaces
cannot be had, the demo says what is missing and shows the slow path on loopback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tempos import Path, TemposError, Topic
from tempos_bench import report
from tempos_bench.broker import Broker, TopicStatus
from tempos_bench.node import Node, Program, ProgramFailed, local
from tempos_bench.rounds import cores
from tempos_bench.topology import build, missing

TOPIC = Topic(id=1, name="demo")
_GROUP = "demo"
#: Where the subscriber listens when no broker stands between.
_DIRECT_PORT = 9001
#: How long a topic may take to get onto the fast path before the demo goes on without.
_OFFLOAD_LIMIT = 3.0


@dataclass(frozen=True, slots=True)
class Load:
    """``paced`` events at ``rate`` per second, then ``burst`` without a pause."""

    paced: int = 2000
    rate: float = 1000.0
    burst: int = 20_000

    @property
    def events(self) -> int:
        return self.paced + self.burst


@dataclass(frozen=True, slots=True)
class Way:
    """A way for the events: its name, and the broker's fast path mode; None is past the broker."""

    name: str
    mode: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the events on one way. Latencies in microseconds; ``story``: who carried them, and why."""

    way: Way
    sent: int
    received: int
    events_per_s: float | None
    latency_us: Mapping[str, float | None]
    story: str

    @property
    def lost(self) -> int:
        return self.sent - self.received

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        counts = (self.sent, self.received, self.lost, self.events_per_s)
        return (self.way.name, *map(report.number, counts), *map(_latency, self.latency_us.values()))


WAYS = (
    Way("direct, no broker", None),
    Way("slow path", "off"),
    Way("fast path, XDP generic", "generic"),
    Way("fast path, XDP native", "native"),
)
HEADERS = ("path", "sent", "received", "lost", "events/s", "p50 us", "p90 us", "p99 us")


def run(load: Load, progress: Callable[[str], None]) -> tuple[list[Outcome], str | None]:
    """Run every way that can be had here; the outcomes, and what is missing for the others, if anything."""
    lacking = missing()
    outcomes = []
    with _nodes(lacking) as (publisher, broker, subscriber):
        for way in WAYS if lacking is None else WAYS[:2]:
            progress(f"{way.name}: {load.events:,} events")
            outcomes.append(_travel(way, load, publisher, broker, subscriber))
    return outcomes, lacking


def as_text(outcomes: list[Outcome], lacking: str | None) -> str:
    """The table and the story of each way, for people."""
    lines = [report.table(HEADERS, [outcome.cells() for outcome in outcomes]), ""]
    width = max(len(outcome.way.name) for outcome in outcomes)
    lines += [f"{outcome.way.name.ljust(width)}  {outcome.story}" for outcome in outcomes]
    if lacking is not None:
        lines += ["", f"Only over loopback, without nodes and without the fast path: {lacking}.",
                  "Run it as root on Linux to see the whole way."]  # fmt: skip
    return "\n".join(lines)


@contextmanager
def _nodes(lacking: str | None) -> Iterator[tuple[Node, Node, Node]]:
    if lacking is None:
        with build("straight") as topology:
            yield topology.publisher, topology.broker, topology.subscriber
        return
    here = local()
    try:
        yield here, here, here
    finally:
        here.close()


def _travel(way: Way, load: Load, a: Node, b: Node, c: Node) -> Outcome:
    if way.mode is None:
        known = ("--topic", TOPIC.name, "--topic-id", TOPIC.id, "--port", _DIRECT_PORT)
        receiving = _subscribe(load, c, "--address", c.address, *known)
        sent = _publish(load, a, "--to", c.address, *known)
        return _outcome(way, sent, receiving, "no broker: what the network alone takes")
    with Broker(b, {TOPIC: ()}, mode=way.mode, cpu=cores()[1]) as broker:
        topic = ("--topic", TOPIC.name)
        receiving = _subscribe(load, c, "--address", b.addresses[-1], "--group", _GROUP, *topic)
        if way.mode != "off":
            # Where it does not come to that, the demo goes on: the story tells which path it was, and why.
            with suppress(ProgramFailed):
                broker.wait_path(TOPIC.name, Path.FAST, _OFFLOAD_LIMIT)
        # The reason holds while there is a member, the counters once all has been sent.
        reason = broker.topic(TOPIC.name).reason
        sent = _publish(load, a, "--to", b.addresses[0], *topic)
        status = broker.wait_received(TOPIC.name, sent["sent"], limit=2)
        return _outcome(way, sent, receiving, _story(status, reason))


def _subscribe(load: Load, node: Node, *arguments: object) -> Program:
    return node.role("subscribe", *arguments, "--expect", load.events, ready=True, cpu=cores()[1])


def _publish(load: Load, node: Node, *arguments: object) -> dict[str, Any]:
    phases = ("--paced", load.paced, "--rate", load.rate, "--burst", load.burst)
    sent: dict[str, Any] = node.role("publish", *arguments, *phases, cpu=cores()[0]).result(60)
    return sent


def _outcome(way: Way, sent: dict[str, Any], receiving: Program, story: str) -> Outcome:
    got = receiving.result(60)
    if got["distinct"] != got["received"]:
        raise TemposError(f"{way.name}: {got['received'] - got['distinct']} events arrived twice")
    latency = got["latency_us"] or {}
    percentiles = {f"p{percent}": latency.get(percent) for percent in ("50", "90", "99")}
    return Outcome(way, sent["sent"], got["received"], got["events_per_s"], percentiles, story)


def _story(status: TopicStatus, reason: str) -> str:
    """Who carried the events, by the broker's counters, and why."""
    carried = [
        f"{count:,} by the {name} path"
        for name, count in (("fast", status.fast), ("slow", status.slow))
        if count
    ]
    refused = [f"{count:,} refused ({reason})" for reason, count in status.refused.items()]
    return f"{', '.join(carried + refused) or 'nothing'} of {status.received:,} received ({reason})"


def _latency(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"

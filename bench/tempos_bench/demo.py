"""The demo: the same events over every way there is from A to C, side by side in one table.

Straight topology, the project's own clients as programs in their nodes, a broker started anew for each
way. Which path carried the events is read from the broker's counters, never assumed. Where namespaces
cannot be had, the demo says what is missing and shows the slow path on loopback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tempos import Path, TemposError, Topic
from tempos_bench import report
from tempos_bench.broker import Broker, TopicStatus
from tempos_bench.node import Node, ProgramFailed, local
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
    latency_us: tuple[float | None, float | None, float | None]
    story: str

    @property
    def lost(self) -> int:
        return self.sent - self.received

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        counts = (self.sent, self.received, self.lost, self.events_per_s)
        return (self.way.name, *map(report.number, counts), *map(_latency, self.latency_us))


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
        sent, got = _clients(load, a, c, ("--to", c.address, *known), ("--address", c.address, *known))
        return _outcome(way, sent, got, "straight to the subscriber: what the network alone takes")
    _, other = cores()
    with Broker(b, {TOPIC: ()}, mode=way.mode, cpu=other) as broker:

        def settle() -> None:
            if way.mode != "off":
                try:
                    broker.wait_path(TOPIC.name, Path.FAST, _OFFLOAD_LIMIT)
                except ProgramFailed:
                    # No failure of the demo: the story tells which path it was, and why.
                    return

        topic = ("--topic", TOPIC.name)
        sent, got = _clients(
            load,
            a,
            c,
            ("--to", b.addresses[0], *topic),
            ("--address", b.addresses[-1], "--group", _GROUP, *topic),
            settle,
        )
        status = broker.wait_received(TOPIC.name, sent["sent"], limit=2)
        return _outcome(way, sent, got, _story(status, broker.status()["paths"]["fast"]))


def _clients(
    load: Load,
    a: Node,
    c: Node,
    publisher: tuple[object, ...],
    subscriber: tuple[object, ...],
    settle: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    core, _ = cores()
    receiving = c.role("subscribe", *subscriber, "--expect", load.events, ready=True, cpu=core)
    settle()
    sending = a.role(
        "publish", *publisher, "--paced", load.paced, "--rate", load.rate, "--burst", load.burst, cpu=core
    )
    return sending.result(60), receiving.result(60)


def _outcome(way: Way, sent: dict[str, Any], got: dict[str, Any], story: str) -> Outcome:
    if got["distinct"] != got["received"]:
        raise TemposError(f"{way.name}: {got['received'] - got['distinct']} events arrived twice")
    latency = got["latency_us"] or {}
    p50, p90, p99 = (latency.get(percent) for percent in ("50", "90", "99"))
    return Outcome(way, sent["sent"], got["received"], got["events_per_s"], (p50, p90, p99), story)


def _story(status: TopicStatus, fast: dict[str, Any]) -> str:
    """Who carried the events, by the broker's counters, and why."""
    carried = [
        f"{name} path {count:,}" for name, count in (("fast", status.fast), ("slow", status.slow)) if count
    ]
    refused = [f"{count:,} refused ({reason})" for reason, count in status.refused.items()]
    why = f"{status.reason}; XDP {fast['mode']}: {fast['reason']}"
    return f"carried by: {', '.join(carried + refused) or 'nobody'} of {status.received:,} ({why})"


def _latency(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"

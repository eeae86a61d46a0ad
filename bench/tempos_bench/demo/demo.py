"""The demo: the same events over every way there is from A to C, side by side in one table.

Straight topology, the project's own clients as programs in their nodes, a broker started anew for each
way. Which path carried the events is read from the broker's counters, never assumed: a row is named for that,
and a way that was tried and not taken is told apart. Where namespaces cannot be had, the demo says what is
missing and shows the slow path on loopback.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from socket import AF_INET, SO_REUSEADDR, SOCK_DGRAM, SOCK_STREAM, SOL_SOCKET, socket
from typing import Any

from tempos import API_PORT, CONTROL_PORT, DATA_PORT, Path, TemposError, Topic, Unavailable
from tempos.doctor.installation import lacking_packages
from tempos_bench.measure.broker import Broker, TopicStatus
from tempos_bench.nodes.node import Node, Program, ProgramFailed, local
from tempos_bench.nodes.topology import build, missing
from tempos_bench.report.figures import number, table
from tempos_bench.runs.rounds import cores

TOPIC = Topic(id=1, name="demo")
_GROUP = "demo"
#: Where the subscriber listens when no broker stands between.
_DIRECT_PORT = 9001
#: How long a topic may take to get onto the fast path before the demo goes on without.
_OFFLOAD_LIMIT = 10.0
#: Of the events, by the path that the row is to show. A few may be what only the other one understands.
_MOST = 0.9


@dataclass(frozen=True, slots=True)
class Load:
    """``paced`` events at ``rate`` per second, then ``burst`` without a pause."""

    paced: int = 2000
    rate: float = 1000.0
    burst: int = 20_000

    @property
    def events(self) -> int:
        return self.paced + self.burst


#: Without privileges the kernel grants socket buffers for a few hundred datagrams; a burst must fit.
_MODEST = Load(burst=250)


@dataclass(frozen=True, slots=True)
class Way:
    """A way for the events: its name, the broker's fast path mode (None: past the broker), a word for it."""

    name: str
    mode: str | None
    word: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the events on one way. Latencies in microseconds; ``story``: who carried them.

    ``fast``, ``slow``: how many went by each of the broker's paths. ``reason``: why the topic had its path.
    """

    way: Way
    sent: int
    received: int
    events_per_s: float | None
    latency_us: Mapping[str, float | None]
    story: str
    ledger_closed: bool
    fast: int = 0
    slow: int = 0
    reason: str = ""

    @property
    def name(self) -> str:
        """What carried the events."""
        if self.way.mode in (None, "off") or (self.fast and not self.slow):
            return self.way.name
        if not self.fast:
            return f"{'slow path' if self.slow else 'nothing'} (not XDP {self.way.mode})"
        return f"{self.way.name}, {self.slow:,} slow"

    @property
    def taken(self) -> bool:
        """Whether it was this way that the events went."""
        if self.way.mode in (None, "off"):
            return not self.fast
        return self.fast >= _MOST * (self.fast + self.slow) > 0

    @property
    def told(self) -> str:
        """The story, with the reason of the path where that is the one that was to be shown."""
        return f"{self.story} ({self.reason})" if self.taken and self.reason else self.story

    @property
    def lost(self) -> int:
        return self.sent - self.received

    @property
    def sound(self) -> bool:
        """Whether every event arrived and the broker's ledger says so too."""
        return not self.lost and self.ledger_closed

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        counts = (self.sent, self.received, self.lost, self.events_per_s)
        return (self.name, *map(number, counts), *map(_latency, self.latency_us.values()))


WAYS = (
    Way("direct, no broker", None, "direct"),
    Way("slow path", "off", "slow"),
    Way("fast path, XDP generic", "generic", "generic"),
    Way("fast path, XDP native", "native", "native"),
)
HEADERS = ("path", "sent", "received", "lost", "events/s", "p50 us", "p90 us", "p99 us")


def run(progress: Callable[[str], None], words: Collection[str] = ()) -> tuple[list[Outcome], str | None]:
    """Run every way that can be had here; the outcomes, and what is missing for the others, if anything.

    ``words``: only these ways. Raises :class:`Unavailable` where not even the slow path can be shown, or
    nothing of what was asked for.
    """
    if without := lacking_packages("broker"):
        raise Unavailable(
            "what carried the events is asked of the broker's control API, which lacks "
            f"{', '.join(without)}: pip install 'tempos[broker,fastpath,bench]'"
        )
    lacking = missing()
    load = Load() if lacking is None else _MODEST
    ways = [way for way in (WAYS if lacking is None else WAYS[:2]) if not words or way.word in words]
    if not ways:
        raise Unavailable(f"none of {', '.join(words)} can be had here: {lacking}")
    outcomes = []
    with nodes(lacking) as (publisher, broker, subscriber):
        for way in ways:
            progress(f"{way.name}: {load.events:,} events")
            outcomes.append(_travel(way, load, publisher, broker, subscriber))
    return outcomes, lacking


def as_text(outcomes: list[Outcome], lacking: str | None) -> str:
    """The table and the story of each way, for people."""
    lines = [table(HEADERS, [outcome.cells() for outcome in outcomes]), ""]
    width = max(len(outcome.name) for outcome in outcomes)
    lines += [f"{outcome.name.ljust(width)}  {outcome.told}" for outcome in outcomes]
    lines += ["", *(f"NOT SHOWN: {each.way.name}: {each.reason}" for each in outcomes if not each.taken)]
    if lacking is not None:
        lines += ["", f"Only over loopback, without nodes and without the fast path: {lacking}.",
                  "Run it as root on Linux to see the whole way."]  # fmt: skip
    return "\n".join(lines)


@contextmanager
def nodes(lacking: str | None) -> Iterator[tuple[Node, Node, Node]]:
    """Publisher, broker and subscriber: nodes, or this machine where something is ``lacking``."""
    if lacking is None:
        with build("straight") as topology:
            yield topology.publisher, topology.broker, topology.subscriber
        return
    _claim()
    here = local()
    try:
        yield here, here, here
    finally:
        here.close()


def _claim() -> None:
    """See that nobody else has what the demo takes of loopback; raises :class:`Unavailable`."""
    for kind, *ports in ((SOCK_STREAM, API_PORT), (SOCK_DGRAM, DATA_PORT, CONTROL_PORT)):
        for port in ports:
            with socket(AF_INET, kind) as tried:
                tried.setsockopt(SOL_SOCKET, SO_REUSEADDR, int(kind is SOCK_STREAM))
                try:
                    tried.bind(("127.0.0.1", port))
                except OSError as error:
                    raise Unavailable(
                        f"over loopback the demo's broker has 127.0.0.1:{port}, and that cannot be had: "
                        f"{error.strerror}. End the broker that runs here first, or run the demo as root"
                    ) from error


def _travel(way: Way, load: Load, a: Node, b: Node, c: Node) -> Outcome:
    if way.mode is None:
        known = ("--topic", TOPIC.name, "--topic-id", TOPIC.id, "--port", _DIRECT_PORT)
        receiving = _subscribe(load, c, "--address", c.address, *known)
        sent = _publish(load, a, "--to", c.address, *known)
        return _outcome(way, sent, receiving.result(60), "no broker: what the network alone takes")
    with Broker(b, {TOPIC: ()}, mode=way.mode, cpu=cores()[1]) as broker:
        topic = ("--topic", TOPIC.name)
        receiving = _subscribe(load, c, "--address", b.addresses[-1], "--group", _GROUP, *topic)
        if way.mode != "off" and broker.status()["paths"]["fast"]["mode"] != "none":
            # Where it does not come to that, the demo goes on: the row tells which path it was, and why.
            with suppress(ProgramFailed):
                broker.wait_path(TOPIC.name, Path.FAST, _OFFLOAD_LIMIT)
        # The reason holds while there is a member, the counters once all has been sent.
        reason = broker.topic(TOPIC.name).reason
        sent = _publish(load, a, "--to", b.addresses[0], *topic)
        # Leaving, the subscriber tells what it got; with that the ledger can be closed.
        got = receiving.result(60)
        status = broker.wait_delivered(TOPIC.name, sent["sent"], limit=2)
        return _outcome(way, sent, got, _story(status), status, reason)


def _subscribe(load: Load, node: Node, *arguments: object) -> Program:
    return node.role("demo.subscribe", *arguments, "--expect", load.events, ready=True, cpu=cores()[1])


def _publish(load: Load, node: Node, *arguments: object) -> dict[str, Any]:
    phases = ("--paced", load.paced, "--rate", load.rate, "--burst", load.burst)
    sent: dict[str, Any] = node.role("demo.publish", *arguments, *phases, cpu=cores()[0]).result(60)
    return sent


def _outcome(
    way: Way,
    sent: dict[str, Any],
    got: dict[str, Any],
    story: str,
    status: TopicStatus | None = None,
    reason: str = "",
) -> Outcome:
    if got["distinct"] != got["received"]:
        raise TemposError(f"{way.name}: {got['received'] - got['distinct']} events arrived twice")
    latency = got["latency_us"] or {}
    return Outcome(
        way=way,
        sent=sent["sent"],
        received=got["received"],
        events_per_s=got["events_per_s"],
        latency_us={f"p{percent}": latency.get(percent) for percent in ("50", "90", "99")},
        story=story,
        ledger_closed=status is None or (status.closed and status.received == sent["sent"]),
        fast=status.fast if status else 0,
        slow=status.slow if status else 0,
        reason=reason,
    )


def _story(status: TopicStatus) -> str:
    """Who carried the events, by the broker's counters, and where the ledger says they went."""
    paths = (("fast", status.fast), ("slow", status.slow))
    carried = [f"{count:,} by the {name} path" for name, count in paths if count]
    carried += [f"{count:,} of these handed up ({why})" for why, count in status.passed.items()]
    refused = [f"{count:,} refused ({why})" for why, count in status.refused.items()]
    ledger = [f"{g.tickets:,} tickets, {g.delivered:,} delivered" for g in status.groups]
    path = f"{', '.join(carried + refused) or 'nothing'} of {status.received:,} received"
    return f"{path}; ledger: {', '.join((*ledger, *status.problems)) or 'no group'}"


def _latency(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"

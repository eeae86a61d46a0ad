"""The highest rate without a single loss: per path, datagram size and number of members.

The sender is a real socket on a schedule; the receiver's kernel counts and discards, so that what is
searched for is what the broker's node carries, not what a receiver takes. Senders that hand over 16
datagrams at once (UDP GSO) go faster than those that hand over each by itself. "At least" means that the
sender was asked for more and could not: its node is the limit then.

All of it runs on two cores: sender and receiver on one, the broker on the other. The fast path's work is
done on the sender's core, inside its system calls.
"""

from __future__ import annotations

from dataclasses import dataclass

from tempos import DATA_PORT, Framing, Group, Member, Path, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.search import Found, Trial, no_drop_rate
from tempos_bench.measure.stats import summarize
from tempos_bench.nodes.topology import MTU, Topology, build
from tempos_bench.report.figures import Figure
from tempos_bench.runs.rounds import cores, interleave
from tempos_bench.runs.run import Run

_TOPIC = Topic(id=1, name="events", framing=Framing.EVENT)
_FIRST_PORT = 9001
_IP_UDP = 28
_SIZES = (32, 256, 1024, MTU - _IP_UDP)
_GSO = 16
_PATHS = {"off": "slow path", "native": "fast path, native", "generic": "fast path, generic"}


@dataclass(frozen=True, slots=True)
class Parameters:
    """Rates between ``lowest`` and ``highest`` (datagrams/s), to within ``tolerance``.

    A trial takes ``seconds``. ``members``: the larger of the two numbers of members, the other is 1.
    """

    rounds: int
    seconds: float
    lowest: float
    highest: float
    tolerance: float
    members: int


@dataclass(frozen=True, slots=True)
class _Variant:
    """Payload bytes, members to send to, datagrams that the sender hands over at once."""

    size: int
    members: int
    segments: int

    def __str__(self) -> str:
        sender = ", GSO sender" if self.segments > 1 else ""
        return f"{self.size} B, {self.members} member{'s' if self.members > 1 else ''}{sender}"


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    found: dict[str, list[Found]] = {}
    for mode in _PATHS:
        found |= _with_broker(mode, p, progress)
    figures = []
    for name, rounds in found.items():
        rates = summarize([one.rate for one in rounds])
        at_least = ", at least" if all(one.bound for one in rounds) else ""
        figures += [Figure(f"{name}{at_least}", rates.median, "datagrams/s")]
    return figures


def _with_broker(mode: str, p: Parameters, progress: Run) -> dict[str, list[Found]]:
    """Every variant of one path, by its name."""
    results: dict[str, list[Found]] = {}
    for members in (1, p.members):
        wanted = [_Variant(32, members, segments) for segments in (1, _GSO)]
        if members == 1:
            wanted += [_Variant(size, 1, _GSO) for size in _SIZES[1:]]
        with build() as topology:
            topics = {_TOPIC: (Group("bench", tuple(_members(topology, members))),)}
            with Broker(topology.broker, topics, mode=mode, cpu=cores()[1]) as broker:
                broker.wait_path(_TOPIC.name, Path.SLOW if mode == "off" else Path.FAST)
                variants = {
                    f"{_PATHS[mode]}, {variant}": lambda variant=variant: _search(topology, variant, p)
                    for variant in wanted
                }
                results |= interleave(p.rounds, variants, progress)
    return results


def _members(topology: Topology, count: int) -> list[Member]:
    return [Member(topology.subscriber.address, _FIRST_PORT + i) for i in range(count)]


def _search(topology: Topology, variant: _Variant, p: Parameters) -> Found:
    return no_drop_rate(
        lambda rate: _attempt(topology, variant, rate, p.seconds), p.lowest, p.highest, p.tolerance
    )


def _attempt(topology: Topology, variant: _Variant, rate: float, seconds: float) -> Trial:
    core, _ = cores()
    binds = [part for member in _members(topology, variant.members) for part in ("--bind", member)]
    sink = topology.subscriber.role(
        "sink", *binds, "--discard", "--idle", 0.2, ready=True, talk=True, cpu=core
    )
    sent = topology.publisher.role(
        "blast", "--to", f"{topology.broker.address}:{DATA_PORT}", "--topic", _TOPIC.id,
        "--count", int(rate * seconds), "--rate", rate, "--limit", seconds * 1.5, "--size", variant.size,
        "--segments", variant.segments, cpu=core,
    ).result(seconds * 2 + 30)  # fmt: skip
    received = sink.ask("all is sent", 60)["received"]
    took = (sent["ended_ns"] - sent["began_ns"]) / 1e9
    return Trial(sent["sent"] / took, sent["sent"], sent["sent"] - received)

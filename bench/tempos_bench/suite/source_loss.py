"""The source's burst (its figure 5.1): 100,000 datagrams from a real socket, and how many arrive.

Again and again, without a pause and with one, over the fast path in both modes and over the slow path,
one-armed as in the source. The receiver checks every byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tempos import DATA_PORT, Framing, Group, Member, Path, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.stats import summarize
from tempos_bench.nodes.topology import Topology, build, links_are_ours
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import cores, interleave
from tempos_bench.runs.run import Run

_TOPIC = Topic(id=1, name="events", framing=Framing.EVENT)
_PORT = 9001
_MODES = {"native": "native", "generic": "generic", "slow path": "off"}
_PAUSES = ("no pause", "with a pause")


@dataclass(frozen=True, slots=True)
class Parameters:
    """``repetitions`` of ``datagrams`` with ``payload`` bytes; ``rate``: datagrams/s of the paced ones."""

    repetitions: int
    datagrams: int
    rate: float
    payload: int


@dataclass(frozen=True, slots=True)
class Burst:
    """``rate``: datagrams/s as the sender saw it; ``intact``: received, each once and undamaged."""

    sent: int
    intact: int
    rate: float


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    if links_are_ours():
        progress.note(
            "the source's loss is that of its network card's queue and its receiver; here the queue is a "
            "veth ring of 256 and the receiver's buffer is as large as the kernel grants"
        )
    progress.note("how long the source's pause was is not told there")
    with build("one-armed") as topology:
        variants: dict[str, Callable[[], Burst]] = {
            f"{name}, {pause}": lambda mode=mode, pause=pause: _burst(  # type: ignore[misc]
                topology, p, mode, 0.0 if pause == _PAUSES[0] else p.rate
            )
            for name, mode in _MODES.items()
            for pause in _PAUSES
        }
        results = interleave(p.repetitions, variants, progress)
    figures = []
    for name, bursts in results.items():
        mode, _, pause = name.partition(", ")
        shares = summarize([burst.intact / burst.sent * 100 for burst in bursts])
        rate = summarize([burst.rate for burst in bursts])
        figures += [
            median(f"{mode}: received, {pause}", shares, "%", Better.HIGHER, source=_source(mode, pause)),
            Figure(f"{mode}: least received, {pause}", min(shares.values), "%", Better.HIGHER),
            median(f"{mode}: sent, {pause}", rate, "datagrams/s", Better.NEITHER),
        ]
    return figures


def _source(mode: str, pause: str) -> str | None:
    if pause != _PAUSES[0]:
        return None
    return {"native": "below 100 %", "generic": "below 100 %, with dips"}.get(mode)


def _burst(topology: Topology, p: Parameters, mode: str, rate: float) -> Burst:
    core, other = cores()
    a, c = topology.publisher, topology.subscriber
    member = Member(c.address, _PORT)
    with Broker(topology.broker, {_TOPIC: (Group("bench", (member,)),)}, mode=mode, cpu=other) as broker:
        broker.wait_path(_TOPIC.name, Path.SLOW if mode == "off" else Path.FAST)
        sink = c.role(
            "sink",
            "--bind",
            member,
            "--expect",
            p.datagrams,
            "--size",
            p.payload,
            ready=True,
            cpu=other,
        )
        sent = a.role(
            "blast", "--to", f"{topology.broker.address}:{DATA_PORT}", "--topic", _TOPIC.id,
            "--count", p.datagrams, "--size", p.payload, "--rate", rate, cpu=core,
        ).result(60 + (p.datagrams / rate if rate else 0))  # fmt: skip
        got = sink.result(60)
    return Burst(
        sent=sent["sent"],
        intact=got["received"] - got["repeated"] - got["damaged"],
        rate=sent["sent"] / (sent["ended_ns"] - sent["began_ns"]) * 1e9,
    )

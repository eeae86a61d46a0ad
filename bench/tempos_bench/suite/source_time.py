"""The source's run time of the XDP program (its figure 5.2 and the text below it), sparse and dense.

By the kernel's own statistics of BPF programs, from a real socket's datagrams: one at a time with
pauses between them, and as fast as the socket sends. Both modes, one-armed. The statistics
themselves cost some 20 ns a run, in the source's figures as in ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from tempos import DATA_PORT, Framing, Group, Member, Path, Topic
from tempos_bench.measure import probe
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.probe import Probe, ProgramFigures, attached_program
from tempos_bench.measure.stats import summarize
from tempos_bench.nodes.topology import Topology, build, many
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import cores, interleave
from tempos_bench.runs.run import Run

_TOPIC = Topic(id=1, name="events", framing=Framing.EVENT)
_PORT = 9001
_MODES = ("native", "generic")
_SOURCE = {"native, dense": "40-45 ns", "generic, dense": "30-35 ns"}


@dataclass(frozen=True, slots=True)
class Parameters:
    """A sample is the mean of ``sparse`` datagrams at ``rate``/s, or of ``dense`` without a pause.

    ``samples`` of each kind and mode; ``payload`` bytes.
    """

    samples: int
    sparse: int
    rate: float
    dense: int
    payload: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    progress.note("the source does not tell on which processor its times were taken")
    results: dict[str, list[float]] = {}
    # On the same three hosts there is one broker at a time.
    for modes in (_MODES,) if many() else ((mode,) for mode in _MODES):
        results |= _measure(p, progress, modes)
    figures = [
        median(name, summarize(values), "ns", source=_SOURCE.get(name)) for name, values in results.items()
    ]
    for name, values in results.items():
        spread = summarize(values)
        figures.append(Figure(f"{name}: middle half", spread.high - spread.low, "ns", Better.NEITHER))
    return figures


def _measure(p: Parameters, progress: Run, modes: Sequence[str]) -> dict[str, list[float]]:
    """Samples of each kind, of all ``modes`` in turn."""
    with ExitStack() as stack:
        lanes = {}
        for mode in modes:
            progress(f"building: {mode}")
            lanes[mode] = _Node(stack, mode, p)
        statistics = Probe(lanes[modes[0]].topology.broker)
        statistics.statistics(on=True)
        variants = {
            f"{mode}, {kind}": lambda lane=lane, count=count, rate=rate: lane.run_time(count, rate)
            for mode, lane in lanes.items()
            for kind, count, rate in (("sparse", p.sparse, p.rate), ("dense", p.dense, 0.0))
        }
        return interleave(p.samples, variants, progress)


class _Node:
    """A broker on a topology of its own, whose fast path runs in one mode."""

    def __init__(self, stack: ExitStack, mode: str, p: Parameters) -> None:
        self._core, other = cores()
        self._payload = p.payload
        self.topology: Topology = stack.enter_context(build("one-armed"))
        self._member = Member(self.topology.subscriber.address, _PORT)
        topics = {_TOPIC: (Group("bench", (self._member,)),)}
        self._broker = stack.enter_context(Broker(self.topology.broker, topics, mode=mode, cpu=other))
        self._broker.wait_path(_TOPIC.name, Path.FAST)
        self._sink = self.topology.subscriber.role(
            "sink",
            "--bind",
            self._member,
            "--discard",
            ready=True,
            talk=True,
            cpu=other,
        )
        node = self.topology.broker
        self._program = attached_program(node, node.interfaces[0])

    def run_time(self, count: int, rate: float) -> float:
        """Mean run time over ``count`` datagrams at ``rate``/s (0: without a pause), nanoseconds."""
        before = self._figures()
        self.topology.publisher.role(
            "blast", "--to", f"{self.topology.broker.address}:{DATA_PORT}", "--topic", _TOPIC.id,
            "--count", count, "--size", self._payload, "--rate", rate, cpu=self._core,
        ).result(60 + (count / rate if rate else 0))  # fmt: skip
        after = self._figures()
        runs = after.runs - before.runs
        return (after.run_time_ns - before.run_time_ns) / runs if runs else float("nan")

    def _figures(self) -> ProgramFigures:
        return probe.figures(self.topology.broker, self._broker.pid, self._program)

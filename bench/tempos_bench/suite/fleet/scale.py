"""What an event costs in a fleet of one, two and three brokers, and what a hundred brokers do to their store.

Each broker gets events of its own at one rate, from a generator in C, for members whose sockets nobody reads:
the kernel drops what comes. So a broker's time on its processor is told, and how it grows with the fleet. The
hundred are simulated: their fleets are real, the store is in memory and takes its time.
"""

from __future__ import annotations

import json
import statistics
from contextlib import ExitStack, closing
from dataclasses import dataclass

from tempos import Group, Member, Quality, TemposError, Topic
from tempos_bench.compiled import traffic
from tempos_bench.fleet.ground import ground
from tempos_bench.measure.stats import percentile
from tempos_bench.nodes.node import PYTHON, local
from tempos_bench.report.figures import Figure
from tempos_bench.runs.run import Run

_TOPIC = Topic(id=1, name="orders", quality=Quality.SQ)
_MEMBERS = 2


@dataclass(frozen=True, slots=True)
class Parameters:
    """``rounds`` of ``seconds`` at ``rate`` events/s for each broker; what is simulated, ``delay`` in s."""

    rounds: int
    seconds: float
    rate: float
    simulated_brokers: int
    simulated_members: int
    simulated_changes: int
    delay: float


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    costs: dict[int, list[float]] = {1: [], 2: [], 3: []}
    lost = 0
    for number in range(p.rounds):
        for brokers in costs:
            progress(f"round {number + 1}, {brokers} brokers")
            cost, missing = _cost(p, brokers)
            costs[brokers].append(cost)
            lost += missing
    figures = [
        Figure(f"{brokers} brokers: time of an event", statistics.median(values), "us", rounds=tuple(values))
        for brokers, values in costs.items()
    ]
    alone = statistics.median(costs[1])
    figures += [
        Figure(f"{brokers} brokers: beside one", statistics.median(costs[brokers]) / alone, "times")
        for brokers in (2, 3)
    ]
    progress(f"{p.simulated_brokers} brokers and {p.simulated_members:,} members, simulated")
    return [*figures, Figure("never reached a broker", lost, "events"), *_simulated(p)]


def _cost(p: Parameters, brokers: int) -> tuple[float, int]:
    """Microseconds on a processor of an event, and how many never came to a broker."""
    with ExitStack() as stack:
        socks = [stack.enter_context(traffic.open_socket(bind=traffic.Endpoint("127.0.0.1", 0)))
                 for _ in range(_MEMBERS)]  # fmt: skip
        group = Group("sink", tuple(Member("127.0.0.1", sock.getsockname()[1]) for sock in socks))
        made = stack.enter_context(ground({_TOPIC: (group,)}, brokers=brokers))
        count = round(p.rate * p.seconds)
        before, _ = made.cpu()
        senders = [
            made.node.role(
                "blast", "--to", f"{address}:{made.data}", "--topic", _TOPIC.id, "--count", count,
                "--rate", p.rate,
            )
            for address in made.addresses
        ]  # fmt: skip
        sent = sum(each.result(p.seconds * 3 + 30)["sent"] for each in senders)
        received = made.account(_TOPIC.name)["received"]
        after, _ = made.cpu()
    if not received:
        raise TemposError("no broker received anything")
    return (after - before) / received * 1e6, sent - received


def _simulated(p: Parameters) -> list[Figure]:
    with closing(local()) as node:
        program = node.start((
            PYTHON, "-m", "tempos_broker.fleet.simulation", "--brokers", str(p.simulated_brokers),
            "--members", str(p.simulated_members), "--changes", str(p.simulated_changes),
            "--delay", str(p.delay),
        ))  # fmt: skip
        told = json.loads(program.wait_line("{", 1800.0))
    took = told["route everywhere after s"]
    return [
        Figure("simulated: all joined everywhere after", told["all joined everywhere after s"], "s"),
        Figure("simulated: route everywhere, median", percentile(took, 50) * 1e3, "ms"),
        Figure("simulated: route everywhere, p99", percentile(took, 99) * 1e3, "ms"),
        Figure("simulated: writes for a change", told["writes per change"], "writes"),
        Figure("simulated: messages for a change", told["told per change"], "messages"),
        Figure("simulated: memory of one broker", told["memory of one broker bytes"] / 1e6, "MB"),
    ]

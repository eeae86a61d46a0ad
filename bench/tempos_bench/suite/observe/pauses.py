"""Who keeps the broker from its core while strict events pass, and whether part of it is the broker's own.

Strict events go at a rate through a broker that carries best-effort ones, too, both on the slow path, and
`tempos observe pauses` looks at the broker: each of its waits for a CPU, and who ran meanwhile. In turn, each
on a broker of its own, all but the first under SCHED_FIFO, so that nobody else takes its turn and what is
late is so by what it does itself:

| variant         | the broker                                                            |
|-----------------|-----------------------------------------------------------------------|
| ordinary        | as it is, with a state file, scheduled as any process                 |
| today           | the same under SCHED_FIFO                                             |
| no state        | without one                                                           |
| not frozen      | the collector of garbage goes through what was there at the start, too |
| no collector    | garbage is not collected at all                                       |
| short switch    | threads take turns each 0.5 ms, of 5                                  |

What a pause does not explain (a collector at work, a thread that waits for another of its own process) shows
in the events that came late all the same.
"""

from __future__ import annotations

import re
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from tempos import Framing, PathPolicy, Quality, Topic
from tempos_bench.measure.load import Flow, Load, Subject
from tempos_bench.measure.stats import ratios, summarize
from tempos_bench.nodes.topology import build
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import interleave
from tempos_bench.runs.run import Cell, Run
from tempos_bench.watching.tool import Tool

_SQ = Topic(id=1, name="SQ", quality=Quality.SQ, framing=Framing.EVENT, policy=PathPolicy.SLOW)
_BQ = Topic(id=2, name="BQ", quality=Quality.BQ, framing=Framing.EVENT, policy=PathPolicy.SLOW)
_SQ_PORT, _BQ_PORT = 9001, 9002
_ORDINARY, _TODAY, _NO_STATE = "ordinary", "today", "no state"
_FIFO = "import gc, os, sys; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(40))"
#: What runs in the broker's process before the broker does.
_FIRST = {
    _ORDINARY: "",
    _TODAY: _FIFO,
    _NO_STATE: _FIFO,
    "not frozen": f"{_FIFO}; gc.freeze = lambda: None",
    "no collector": f"{_FIFO}; gc.enable = lambda: None",
    "short switch": f"{_FIFO}; sys.setswitchinterval(0.0005)",
}
#: An event is late, and a wait is a pause, from so many milliseconds on.
_LATE_MS = 1.0
#: Who ran is told as NAME[PID] MS, interrupts and the idle CPU as NAME MS.
_RAN = re.compile(r"(.+?)(?:\[(\d+)\])? ([\d.]+)(?:, |$)")
#: Of those who ran the table has so many.
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Parameters:
    """``rate`` of strict events a second, ``beside`` of best-effort ones; for ``seconds`` a round."""

    rounds: int
    seconds: float
    rate: float
    beside: float
    payload: int


@dataclass(frozen=True, slots=True)
class Passed:
    """Of one play. Events: ``late`` ones and all, lost; p99 in us. The broker's pauses; what it waited in ms.

    ``own``: of that, while another thread of the broker ran. ``ran``: ms, by who ran.
    """

    events: int
    late: int
    lost: int
    p99: float
    pauses: int
    waited: float
    longest: float
    own: float
    ran: dict[str, float]


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    with build() as topology, ExitStack() as stack:
        load = Load(stack, topology, (_SQ_PORT, _BQ_PORT), size=p.payload)
        folder = stack.enter_context(topology.broker.folder())

        def play(name: str) -> Passed:
            return _play(load, p, name, f"{folder}/{name.replace(' ', '-')}.db")

        found = interleave(p.rounds, {name: partial(play, name) for name in _FIRST}, progress)
    _tell(found, progress)
    figures: list[Figure] = []
    today = [each.p99 for each in found[_TODAY]]
    for name, plays in found.items():
        events = sum(each.events for each in plays)
        figures += [
            median(f"{name}: SQ p99", summarize([each.p99 for each in plays]), "us"),
            Figure(
                f"{name}: SQ of {events:,} late", sum(each.late for each in plays), "events", Better.LOWER
            ),
            Figure(f"{name}: pauses", sum(each.pauses for each in plays), "pauses", Better.LOWER),
            Figure(f"{name}: longest pause", max(each.longest for each in plays), "ms", Better.LOWER),
        ]
        if name != _TODAY:
            beside = ratios([each.p99 for each in plays], today)
            figures.append(median(f"{name}: SQ p99 beside today", beside, "ratio", Better.NEITHER))
    waited = sum(each.waited for each in found[_ORDINARY])
    own = sum(each.own for each in found[_ORDINARY]) / waited if waited else 0.0
    return [
        *figures,
        Figure("of the broker's pauses its own threads'", 100 * own, "%", Better.LOWER),
        Figure(
            "SQ lost", sum(each.lost for plays in found.values() for each in plays), "events", Better.LOWER
        ),
    ]


def _play(load: Load, p: Parameters, name: str, file: str) -> Passed:
    subjects = [Subject(_SQ, _SQ_PORT), Subject(_BQ, _BQ_PORT)]
    state = "off" if name == _NO_STATE else file
    with load.broker(subjects, mode="off", state=state, first=_FIRST[name]) as broker:
        with Tool("pauses", "--pid", str(broker.pid), "--longer", str(_LATE_MS)) as tool:
            heard = load.play([Flow(_SQ, p.rate), Flow(_BQ, p.beside, apart=True)], p.seconds)
            lines = tool.stop()
        pid = broker.pid
    pauses = [line for line in lines if line["type"] == "event"]
    ran: dict[str, float] = defaultdict(float)
    own = 0.0
    for pause in pauses:
        for comm, who, ms in _RAN.findall(pause["ran"]):
            ran["the broker itself" if who == str(pid) else comm] += float(ms)
            own += float(ms) if who == str(pid) else 0.0
    waits = [pause["waited_ms"] for pause in pauses]
    sq = heard[_SQ.name]
    return Passed(
        events=len(sq.latency),
        late=sum(ns > _LATE_MS * 1e6 for ns in sq.latency),
        lost=sq.outcome.lost,
        p99=sq.outcome.latency.p99,
        pauses=len(waits),
        waited=sum(waits),
        longest=max(waits, default=0.0),
        own=own,
        ran=dict(ran),
    )


def _tell(found: dict[str, list[Passed]], progress: Run) -> None:
    """Who ran while the broker waited, in each variant."""
    total: dict[str, float] = defaultdict(float)
    by: dict[str, dict[str, float]] = {name: defaultdict(float) for name in found}
    for name, plays in found.items():
        for comm, ms in ((comm, ms) for each in plays for comm, ms in each.ran.items()):
            by[name][comm] += ms
            total[comm] += ms
    most = sorted(total, key=lambda comm: -total[comm])[:_SHOWN]
    rows: list[list[Cell]] = [[comm, *(round(by[name][comm], 1) for name in found)] for comm in most]
    progress.add_table("Who ran while the broker waited for its core (ms, all rounds)", ("", *found), rows, 1)

"""Strict events on the fast path while best-effort ones flood it.

No sender here offers more than the fast path carries; what a flood fills up is the subscriber. So:

| variant             | the subscriber                                                                  |
|---------------------|---------------------------------------------------------------------------------|
| own sockets         | a socket for each class; BQ as fast as it can be sent                           |
| one socket          | one program takes both classes from one socket with a buffer of usual size, and |
|                     | is busy `work` seconds with each event; BQ at 1, 3 and 10 times what that carries |
| one socket, limited | the same, and a token bucket on the BQ topic lets `limit` of that through       |

Without the bucket SQ loses events at the full socket: that is what it is for, and both are shown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from tempos import Framing, Quality, Topic
from tempos_bench.measure.load import Load, Subject
from tempos_bench.measure.qos import (
    CARRIES,
    Plays,
    TwoClasses,
    carried_figures,
    describe,
    judged_figures,
    keep,
    loads,
)
from tempos_bench.measure.stats import summarize
from tempos_bench.nodes.topology import build
from tempos_bench.report.figures import Figure, median
from tempos_bench.runs.run import Run

OWN, SHARED, LIMITED = "own sockets", "one socket", "one socket, limited"
_SQ = Topic(id=1, name="SQ", quality=Quality.SQ, framing=Framing.EVENT)
_BQ = Topic(id=2, name="BQ", quality=Quality.BQ, framing=Framing.EVENT)
_SQ_PORT, _BQ_PORT, _SHARED_PORT = 9001, 9002, 9003
_ONCE = (1.0,)


@dataclass(frozen=True, slots=True)
class Parameters:
    """``rate``: SQ, events/s. ``times``: BQ, as multiples of what the one socket's program carries.

    That is busy ``work`` seconds with each event and has ``buffer`` bytes. The bucket lets ``limit`` (of 1)
    of what it carries through, ``burst`` datagrams at once. ``segments`` and ``flood``: as in qos-slow.
    """

    mode: str
    rounds: int
    seconds: float
    rate: float
    times: tuple[float, ...]
    work: float
    buffer: int
    limit: float
    burst: int
    segments: int
    flood: float
    payload: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    classes = TwoClasses(_SQ, _BQ, p.rate, p.flood, p.segments)
    found: dict[str, list[Plays]] = {OWN: [], SHARED: [], LIMITED: []}
    limits: list[float] = []
    progress.note("until the subscriber's kernel: SQ from its schedule, BQ from its sending")
    progress.plan(p.rounds * (4 + 2 * (len(p.times) + 3)))
    with build() as topology, ExitStack() as stack:
        ports = (_SQ_PORT, _BQ_PORT, _SHARED_PORT)
        load = Load(stack, topology, ports, size=p.payload, buffer=p.buffer, busy=True)
        with progress.keeping(lambda: limits):
            for number in progress.repetitions(p.rounds):

                def play(
                    name: str,
                    bq: Topic,
                    times: Sequence[float],
                    carried: float | None = None,
                    at: int = number,
                ) -> Plays:
                    ports = (_SQ_PORT, _BQ_PORT) if name == OWN else (_SHARED_PORT, _SHARED_PORT)
                    subjects = [Subject(topic, port) for topic, port in zip((_SQ, bq), ports, strict=True)]
                    text = f"round {at + 1} of {p.rounds}, {name}"
                    with load.broker(subjects, mode=p.mode):
                        return loads(
                            load, classes, times, p.seconds, progress, text=text, number=at,
                            work=0.0 if name == OWN else p.work, carried=carried,
                        )  # fmt: skip

                this = {OWN: play(OWN, _BQ, _ONCE), SHARED: play(SHARED, _BQ, p.times)}
                carried = this[SHARED][CARRIES]["BQ"].outcome.rate
                limit = max(int(carried * p.limit), 1)
                limited = dataclasses.replace(_BQ, rate=limit, burst=p.burst)
                this[LIMITED] = play(LIMITED, limited, p.times, carried)
                for name, plays in this.items():
                    found[name].append(plays)
                    keep(progress, name, plays)
                limits.append(limit)
    describe(progress, found)
    times = {OWN: _ONCE, SHARED: p.times, LIMITED: p.times}
    return [
        *(figure for name, rounds in found.items() for figure in judged_figures(name, rounds, times[name])),
        median("limit of BQ", summarize(limits), "datagrams/s"),
        *(figure for name in (OWN, SHARED) for figure in carried_figures(name, found[name], times[name])),
    ]

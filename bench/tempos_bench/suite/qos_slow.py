"""Strict events on the slow path while best-effort ones flood it.

SQ: events at a steady rate to one subscriber. BQ: a topic with several groups, so that the broker has
several sends for each event; first as many as the flooder can send, which tells what the broker can
carry, then 1, 3 and 10 times that. Every load is held against SQ alone, in the same round, with the
same broker. A round goes through all ways of keeping the classes apart (`variants`), each with a broker
of its own:

| variant | the classes' way to the broker                                                  |
|---------|---------------------------------------------------------------------------------|
| apart   | a socket each on the one port, a classic BPF program chooses by topic           |
| ebpf    | the same by the eBPF program, which reads the class where the fast path does,   |
|         | whose program is loaded and hands everything up                                 |
| one     | one socket, and user-space queues: what is left without any privilege. What     |
|         | overflows the socket is lost whatever its class, so SQ loses events here        |
| worker  | as apart, and SQ in a process of its own under SCHED_FIFO                       |

At the end both classes flood at once, with a share of the sending reserved for BQ.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from tempos import Framing, PathPolicy, Quality, TemposError, Topic
from tempos_bench.measure.load import Flow, Load, Subject
from tempos_bench.measure.qos import Plays, TwoClasses, carried_figures, describe, judged_figures, keep, loads
from tempos_bench.measure.stats import ratio, summarize
from tempos_bench.nodes.topology import build
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import turned
from tempos_bench.runs.run import Run

#: The mode of the fast path, and the `[quality]` of the broker's configuration, by variant.
VARIANTS: dict[str, tuple[str, Mapping[str, object]]] = {
    "apart": ("off", {"sockets": "classic"}),
    "ebpf": ("native", {"sockets": "ebpf"}),
    "one": ("off", {"sockets": "one"}),
    "worker": ("off", {"sockets": "auto", "worker_sq": True, "priority_sq": 99}),
}
_SQ = Topic(id=1, name="SQ", quality=Quality.SQ, framing=Framing.EVENT, policy=PathPolicy.SLOW)
_BQ = Topic(id=2, name="BQ", quality=Quality.BQ, framing=Framing.EVENT, policy=PathPolicy.SLOW)
_SQ_PORT, _BQ_PORT = 9001, 9002


@dataclass(frozen=True, slots=True)
class Parameters:
    """``rate``: SQ, events/s. ``times``: BQ, as multiples of what the broker can carry.

    ``groups`` of the BQ topic; ``segments``: events in a GSO buffer of the flooder, which can send
    ``flood`` events/s at the most; ``share``: percent for BQ when SQ floods as well.
    """

    variants: tuple[str, ...]
    rounds: int
    seconds: float
    rate: float
    times: tuple[float, ...]
    groups: int
    segments: int
    flood: float
    share: int
    payload: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    if unknown := set(p.variants) - VARIANTS.keys():
        raise TemposError(f"no variant {', '.join(sorted(unknown))} of qos-slow: {', '.join(VARIANTS)}")
    classes = TwoClasses(_SQ, _BQ, p.rate, p.flood, p.segments)
    found: dict[str, list[Plays]] = {name: [] for name in p.variants}
    shares: list[float] = []
    progress.note("SQ is timed from its schedule, BQ from its sending; both until the subscriber's kernel")
    progress.plan(p.rounds * (len(p.variants) * (len(p.times) + 3) + 1))
    with build() as topology, ExitStack() as stack:
        subjects = [Subject(_SQ, _SQ_PORT), Subject(_BQ, _BQ_PORT, p.groups)]
        load = Load(stack, topology, (_SQ_PORT, _BQ_PORT), size=p.payload, beyond=p.groups - 1)
        with progress.keeping(lambda: shares):
            for number in progress.repetitions(p.rounds):
                this = {}
                for name in turned(p.variants, number):
                    mode, settings = VARIANTS[name]
                    with load.broker(subjects, mode=mode, quality=settings) as broker:
                        quality = broker.status()["quality"]
                        progress.note(f"{name}: sockets {quality['sockets']}, {quality['reason']}")
                        text = f"round {number + 1} of {p.rounds}, {name}"
                        this[name] = loads(
                            load, classes, p.times, p.seconds, progress, text=text, number=number
                        )
                with progress.variant(
                    f"round {number + 1} of {p.rounds}: SQ and BQ flood, share {p.share} %"
                ):
                    share = _share(load, classes, p)
                for name, plays in this.items():
                    found[name].append(plays)
                    keep(progress, name, plays)
                shares.append(share)
                progress.keep("share", share)
    describe(progress, found)
    return [
        *(figure for name, rounds in found.items() for figure in judged_figures(name, rounds, p.times)),
        median("BQ's share while SQ floods", summarize(shares), "of 1", Better.HIGHER),
        *(figure for name, rounds in found.items() for figure in carried_figures(name, rounds, p.times)),
    ]


def _share(load: Load, classes: TwoClasses, p: Parameters) -> float:
    """BQ's share of what is sent while both classes flood; both have the same number of groups."""
    mode, settings = VARIANTS[p.variants[0]]
    quality = {**settings, "share_bq": p.share}
    subjects = [Subject(_SQ, _SQ_PORT, p.groups), Subject(_BQ, _BQ_PORT, p.groups)]
    with load.broker(subjects, mode=mode, quality=quality):
        half = p.flood / 2
        flows = [Flow(topic, half, flood=True, segments=p.segments) for topic in (classes.sq, classes.bq)]
        heard = load.play(flows, p.seconds)
    sq, bq = heard["SQ"].outcome.rate, heard["BQ"].outcome.rate
    return ratio(bq, sq + bq)

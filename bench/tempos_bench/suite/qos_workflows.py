"""The source's test of its delivery section: one strict workflow beside one best-effort workflow, and three.

Each workflow is a topic with one subscriber and a steady rate, on the slow path and on the fast path.
SQ has a publisher of its own; the BQ workflows share one, at rates that differ by a thousandth, so that
every relation of their events to SQ's occurs. The source let it run for 5 minutes on real machines.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from tempos import Framing, PathPolicy, Quality, Topic
from tempos_bench.measure.load import Flow, Heard, Load, Subject
from tempos_bench.measure.qos import SQ_ALONE, Plays, describe, keep
from tempos_bench.measure.stats import ratios, summarize
from tempos_bench.nodes.topology import build, links_are_ours
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import turned
from tempos_bench.runs.run import Run

#: How the source names them, and how many BQ workflows each has.
BQ_ALONE, ONE, THREE = "BQ alone", "1 SQ + 1 BQ", "1 SQ + 3 BQ"
MODES = {"slow path": "off", "fast path": "native"}
_DRIFT = 0.001
_SQ_ID = 1
_PORT = 9000


@dataclass(frozen=True, slots=True)
class Parameters:
    """``rate``: events/s of each workflow, for ``seconds`` a round and load."""

    rounds: int
    seconds: float
    rate: float
    payload: int


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    found: dict[str, list[Plays]] = {name: [] for name in MODES}
    progress.note("all from their schedule until the subscriber's kernel")
    if links_are_ours():
        progress.note(
            "the source measured between real machines with TSN cards, from the trigger's generation of an "
            "event to its delivery; here three namespaces of one machine: compare how BQ acts on SQ, not "
            "microseconds"
        )
    progress.plan(p.rounds * len(MODES) * 4)
    with build() as topology, ExitStack() as stack:
        load = Load(stack, topology, [_PORT + number for number in range(1, 5)], size=p.payload)
        with progress.keeping(lambda: all(found.values())):
            for number in progress.repetitions(p.rounds):
                for path in turned(list(MODES), number):
                    topics = _topics(path)
                    subjects = [Subject(topic, _PORT + topic.id) for topic in topics]
                    with load.broker(subjects, mode=MODES[path]):
                        plays = _play(
                            load, topics, p, progress, f"round {number + 1} of {p.rounds}, {path}", number
                        )
                    found[path].append(plays)
                    keep(progress, path, plays)
    describe(progress, found)
    return [figure for path, rounds in found.items() for figure in _figures(path, rounds)]


def _topics(path: str) -> list[Topic]:
    policy = PathPolicy.SLOW if path == "slow path" else PathPolicy.AUTO
    strict = Topic(_SQ_ID, "SQ", quality=Quality.SQ, framing=Framing.EVENT, policy=policy)
    names = ("BQ", "BQ 2", "BQ 3")
    return [strict] + [
        Topic(_SQ_ID + number, name, quality=Quality.BQ, framing=Framing.EVENT, policy=policy)
        for number, name in enumerate(names, start=1)
    ]


def _play(
    load: Load, topics: list[Topic], p: Parameters, progress: Run, text: str, number: int
) -> dict[str, dict[str, Heard]]:
    strict, *others = topics
    sq = [Flow(strict, p.rate)]
    bq = [Flow(topic, p.rate * (1 + _DRIFT * at), apart=True) for at, topic in enumerate(others, start=1)]
    flows = {SQ_ALONE: sq, BQ_ALONE: bq[:1], ONE: sq + bq[:1], THREE: sq + bq}
    found = {}
    for name in turned(list(flows), number):
        with progress.variant(f"{text}: {name}"):
            found[name] = load.play(flows[name], p.seconds)
    return {name: found[name] for name in flows}


def _figures(path: str, rounds: list[Plays]) -> list[Figure]:
    alone = [plays[SQ_ALONE]["SQ"].outcome.latency for plays in rounds]
    worst = [one.max for one in alone]
    figures = [
        median(f"{path}: SQ p50 alone", summarize([one.p50 for one in alone]), "us"),
        median(f"{path}: SQ p99 alone", summarize([one.p99 for one in alone]), "us"),
        Figure(f"{path}: SQ worst alone", max(worst), "us", rounds=tuple(worst), source="at most 700 us"),
    ]
    for name in (ONE, THREE):
        beside = [plays[name]["SQ"].outcome.latency for plays in rounds]
        ratio = ratios([one.p99 for one in beside], [one.p99 for one in alone])
        figures.append(
            median(f"{path}, {name}: SQ p99 to alone", ratio, "x", Better.LOWER, source="SQ is not affected")
        )
    lost = {
        quality: sum(
            each.outcome.lost
            for plays in rounds for heard in plays.values() for name, each in heard.items()
            if name.startswith(quality)
        )
        for quality in ("SQ", "BQ")
    }  # fmt: skip
    return figures + [
        Figure(f"{path}: {quality} lost", count, "events", Better.LOWER) for quality, count in lost.items()
    ]

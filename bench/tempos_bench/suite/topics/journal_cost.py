"""What a journal costs a topic, on both paths: rate and run time of one that has one, and one that has none.

Both topics are served by one broker and their frames take the same way, so a round switches from one to the
other at no cost. Lanes are built anew for each size of payload. What must agree besides: every frame of the
fast path came out, and the journals have the latest events, each of them, up to the last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from tempos import DATA_PORT, Framing, Group, Member, Path, Topic
from tempos_bench.measure import probe
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.lane import GROUP, Crossing, Lane
from tempos_bench.measure.stats import Summary, differences, ratios, summarize
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import cores, interleave, warm_up
from tempos_bench.runs.run import Run

T = TypeVar("T")

FAST, SLOW = "fast path", "slow path"
PLAIN, KEPT = "no journal", "journal"
_MODES = {FAST: ("native", Path.FAST), SLOW: ("off", Path.SLOW)}
_IDS = {PLAIN: 1, KEPT: 2}
#: Latest events that are looked for in the journal: a page of it.
_LATEST = 100


@dataclass(frozen=True, slots=True)
class Parameters:
    """``frames`` a round and variant, ``slow_frames`` on the slow path; ``payloads``: bytes of UDP payload.

    ``journal``: events kept, each with as many bytes as its datagram has.
    """

    rounds: int
    frames: int
    slow_frames: int
    payloads: tuple[int, ...]
    journal: int


@dataclass(slots=True)
class _Findings:
    """By path, payload and topic, in rounds; ``times``: ns of the program, of the fast path only."""

    rates: dict[str, list[float]] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)
    lost: int = 0
    elsewhere: int = 0
    missing: int = 0


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    found = _Findings()
    done: list[int] = []
    progress.plan(len(p.payloads) * p.rounds * len(_IDS) * 3)
    with progress.keeping(lambda: done):
        for payload in p.payloads:
            _measure(p, payload, found, progress)
            done.append(payload)
    progress.add_table(
        f"journals of {p.journal:,} events",
        ("path", "B", f"{PLAIN}, events/s", f"{KEPT}, events/s", "ratio", f"{PLAIN}, ns", f"{KEPT}, ns"),
        [_row(path, payload, found) for path in _MODES for payload in done],
        1,
    )
    return [
        *(figure for payload in done for figure in _figures(payload, found)),
        Figure("lost, fast path", found.lost, "datagrams", Better.LOWER),
        Figure("not by the fast path", found.elsewhere, "datagrams", Better.LOWER),
        Figure("not in the journal", found.missing, "events", Better.LOWER),
    ]


class _Served:
    """A lane whose frames a broker forwards on one path, with a topic of each kind."""

    def __init__(self, stack: ExitStack, path: str, p: Parameters, payload: int) -> None:
        core, other = cores()
        mode, wanted = _MODES[path]
        self.lane = Lane(stack, core, payload)
        group = Group(GROUP, (Member(self.lane.topology.subscriber.address, DATA_PORT),))
        topics = {
            Topic(_IDS[PLAIN], PLAIN.replace(" ", "-"), framing=Framing.EVENT): (group,),
            Topic(
                _IDS[KEPT], KEPT, framing=Framing.EVENT, journal=p.journal, journal_bytes=payload
            ): (group,),
        }  # fmt: skip
        self.broker = stack.enter_context(Broker(self.lane.topology.broker, topics, mode=mode, cpu=other))
        for topic in topics:
            self.broker.wait_path(topic.name, wanted)

    def cross(self, kind: str, frames: int) -> Crossing:
        """Frames of the topic of this kind, as they come on the fast path."""
        self.lane.aim(_IDS[kind])
        return self.lane.cross(frames)

    def flood(self, kind: str, frames: int) -> Crossing:
        """All at once, for the slow path takes them as fast as it can."""
        self.lane.aim(_IDS[kind])
        return self.lane.flood(frames)

    def run_time(self, kind: str, frames: int) -> float:
        """Of the program, for one frame of the topic of this kind; with the statistics' own cost."""
        node, pid = self.lane.topology.broker, self.broker.pid
        self.lane.aim(_IDS[kind])
        before = probe.figures(node, pid, self.lane.program())
        self.lane.source.generate(frames)
        after = probe.figures(node, pid, before.id)
        return (after.run_time_ns - before.run_time_ns) / (after.runs - before.runs)

    def by_fast_path(self) -> int:
        return sum(topic["fast"] for topic in self.broker.status()["topics"])

    def missing(self) -> int:
        """How many of the latest events the journal does not have."""
        drawn = int(self.broker.entry(KEPT)["groups"][0]["tickets"])
        told = self.broker.ask("GET", f"/v1/topics/{KEPT}/journal?last={_LATEST}")["events"]
        kept = {each["tickets"][0] for each in told}
        return sum(ticket not in kept for ticket in range(max(0, drawn - _LATEST), drawn))


def _measure(p: Parameters, payload: int, found: _Findings, progress: Run) -> None:
    with ExitStack() as stack:
        progress(f"building lanes for {payload} B")
        fast, slow = (_Served(stack, path, p, payload) for path in _MODES)
        crossings = {_key(FAST, payload, kind): partial(fast.cross, kind, p.frames) for kind in _IDS}
        floods = {_key(SLOW, payload, kind): partial(slow.flood, kind, p.slow_frames) for kind in _IDS}
        times = {_run_time(payload, kind): partial(fast.run_time, kind, p.frames) for kind in _IDS}
        warm_up(crossings | floods, progress)
        before = fast.by_fast_path()
        results = _all(p.rounds, crossings | floods, progress)
        live = [each for key in crossings for each in results[key]]
        found.elsewhere += sum(each.sent for each in live) - (fast.by_fast_path() - before)
        found.lost += sum(each.sent - each.received for each in live)
        for key, rounds in results.items():
            found.rates[key] = [each.rate for each in rounds]
        fast.lane.source.statistics(on=True)
        found.times |= _all(p.rounds, times, progress)
        fast.lane.source.statistics(on=False)
        found.missing += fast.missing() + slow.missing()


def _all(rounds: int, variants: Mapping[str, Callable[[], T]], progress: Run) -> dict[str, list[T]]:
    """A size of which some is missing has no figures."""
    results = interleave(rounds, variants, progress)
    if progress.interrupted:
        raise KeyboardInterrupt
    return results


def _key(path: str, payload: int, kind: str) -> str:
    return f"{path}, {payload} B, {kind}"


def _run_time(payload: int, kind: str) -> str:
    return f"run time, {payload} B, {kind}"


def _ratio(path: str, payload: int, found: _Findings) -> Summary:
    return ratios(found.rates[_key(path, payload, KEPT)], found.rates[_key(path, payload, PLAIN)])


def _row(path: str, payload: int, found: _Findings) -> list[str | float | None]:
    rates = [summarize(found.rates[_key(path, payload, kind)]).median for kind in _IDS]
    times = [summarize(found.times[_run_time(payload, kind)]).median for kind in _IDS]
    rest = times if path == FAST else (None, None)
    return [path, payload, *rates, _ratio(path, payload, found).median, *rest]


def _figures(payload: int, found: _Findings) -> list[Figure]:
    figures = []
    for path in _MODES:
        plain, kept = (_key(path, payload, kind) for kind in _IDS)
        ratio = _ratio(path, payload, found)
        name = f"{path}, {payload} B, ratio"
        figures += [
            median(plain, summarize(found.rates[plain]), "datagrams/s"),
            median(kept, summarize(found.rates[kept]), "datagrams/s", yardstick=plain),
            median(name, ratio, "x", Better.HIGHER),
            Figure(f"{name}, lower quartile", ratio.low, "x"),
            Figure(f"{name}, upper quartile", ratio.high, "x"),
        ]
    plain, kept = (_run_time(payload, kind) for kind in _IDS)
    more = differences(found.times[kept], found.times[plain])
    return [
        *figures,
        median(plain, summarize(found.times[plain]), "ns"),
        median(kept, summarize(found.times[kept]), "ns", yardstick=plain),
        median(f"run time, {payload} B, difference", more, "ns"),
    ]

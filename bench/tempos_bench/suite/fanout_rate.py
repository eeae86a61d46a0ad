"""Deliveries per second to 1, 2, 4, 8 and 16 groups: live frames in, counted and dropped at the far end.

    XDP        the broker's fast path, which broadcasts
    tc         the same, but the copies are made by its tc program
    slow path  the broker without a fast path; this one also to 32 and 64 groups
    bare       a program that broadcasts and rewrites nothing: the limit

Each has a lane of its own and all take turns in one run; lanes are built anew for every repetition, as in
`redirect`. Frames come in batches so small that the copies of one find room in a veth's ring of 256: what is
measured is how fast copies are made, not where they are lost. The slow path takes its events as fast
as it can from a full socket.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from tempos import Fanout, Framing, Group, Member, Path, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.measure.lane import Crossing, Lane
from tempos_bench.measure.probe import Probe
from tempos_bench.measure.stats import ratios, summarize
from tempos_bench.report.figures import Better, Figure, median
from tempos_bench.runs.rounds import cores, interleave, warm_up
from tempos_bench.runs.run import Run

GROUPS = (1, 2, 4, 8, 16)
#: More than the kernel carries: only the slow path serves these.
MORE_GROUPS = (32, 64)
XDP, TC, SLOW, BARE = "XDP", "tc", "slow path", "bare"
#: Brokers: the fast path's mode, what the topics ask for, the path that must serve them.
_BROKERS = {
    XDP: ("native", Fanout.AUTO, Path.FAST),
    TC: ("native", Fanout.TC, Path.FAST),
    SLOW: ("off", Fanout.AUTO, Path.SLOW),
}
_FIRST_PORT = 10_000
#: Copies that may stand in a veth's ring of 256 at a time.
_ROOM = 192
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Parameters:
    """``deliveries`` a round and variant, ``slow_deliveries`` on the slow path, of ``payload`` bytes."""

    repetitions: int
    rounds: int
    deliveries: int
    slow_deliveries: int
    payload: int


@dataclass(slots=True)
class Findings:
    """Over all repetitions. ``instructions`` and ``times`` (ns for one event) by program, or groups."""

    rates: dict[str, list[float]] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    unsent: dict[str, int] = field(default_factory=lambda: {XDP: 0, TC: 0})
    elsewhere: int = 0
    instructions: dict[str, int] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)


def run(p: Parameters, progress: Run) -> list[Figure]:
    """Measure."""
    findings = Findings()
    for _ in progress.repetitions(p.repetitions):
        _repeat(p, findings, progress)
    return _figures(findings)


class _Lanes:
    """The four lanes of one repetition."""

    def __init__(self, stack: ExitStack, p: Parameters) -> None:
        core, other = cores()
        self._p = p
        self._lanes = {name: Lane(stack, core, p.payload) for name in (XDP, TC, SLOW, BARE)}
        self.brokers = {name: _serve(stack, self._lanes[name], name, other) for name in _BROKERS}
        self._bare = Probe(self._lanes[BARE].topology.broker, core)
        self._width = 0
        self._aimed: dict[str, int] = {}
        self.probe = self._bare

    def cross(self, name: str, groups: int, share: int = 1) -> Crossing:
        """One crossing, of a ``share``-th of what a round has; sent and received are deliveries."""
        lane = self._lanes[name]
        if name == BARE:
            self._widen(groups)
        elif self._aimed.get(name) != groups:
            lane.aim(groups)
            self._aimed[name] = groups
        wanted = self._p.slow_deliveries if name == SLOW else self._p.deliveries
        frames = max(wanted // groups // share, 1)
        crossing = lane.flood(frames) if name == SLOW else lane.cross(frames, min(_BATCH, _ROOM // groups))
        return Crossing(frames * groups, crossing.received, crossing.seconds)

    def _widen(self, groups: int) -> None:
        if self._width != groups:
            near, far = self._lanes[BARE].topology.broker.interfaces
            program = "redirect_only" if groups == 1 else "broadcast_only"
            self._bare.attach(program, near, redirect_to=far, copies=groups)
            self._width = groups


def _serve(stack: ExitStack, lane: Lane, name: str, cpu: int) -> Broker:
    """A broker with a topic for each number of groups; the number is the topic's id."""
    mode, fanout, path = _BROKERS[name]
    address = lane.topology.subscriber.address
    topics = {
        Topic(count, f"groups-{count}", framing=Framing.EVENT, fanout=fanout): tuple(
            Group(f"group-{number}", (Member(address, _FIRST_PORT + number),)) for number in range(count)
        )
        for count in (GROUPS if path is Path.FAST else (*GROUPS, *MORE_GROUPS))
    }
    broker = stack.enter_context(Broker(lane.topology.broker, topics, mode=mode, cpu=cpu))
    for topic in topics:
        broker.wait_path(topic.name, path)
    return broker


def _repeat(p: Parameters, findings: Findings, progress: Run) -> None:
    with ExitStack() as stack:
        progress("building")
        lanes = _Lanes(stack, p)
        variants: dict[str, Callable[[], Crossing]] = {
            _key(name, groups): lambda name=name, groups=groups: lanes.cross(name, groups)  # type: ignore[misc]
            for groups in (*GROUPS, *MORE_GROUPS)
            for name in _served(groups)
        }
        warm_up(variants, progress)
        before = {name: _account(lanes.brokers[name]) for name in (XDP, TC)}
        results = interleave(p.rounds, variants, progress)
        for name, (carried_before, unsent_before) in before.items():
            sent = sum(c.sent // groups for groups in GROUPS for c in results[_key(name, groups)])
            carried, unsent = _account(lanes.brokers[name])
            findings.elsewhere += sent - (carried - carried_before)
            findings.unsent[name] += unsent - unsent_before
        for key, crossings in results.items():
            findings.rates.setdefault(key, []).extend(c.rate for c in crossings)
            findings.lost[key] = findings.lost.get(key, 0) + sum(c.sent - c.received for c in crossings)
        progress("run times")
        _run_times(lanes, findings)


def _account(broker: Broker) -> tuple[int, int]:
    """Events that the fast path carried, and copies that it could not send."""
    topics = broker.status()["topics"]
    unsent = sum(group["unsent"] for topic in topics for group in topic["groups"])
    return sum(topic["fast"] for topic in topics), unsent


def _run_times(lanes: _Lanes, findings: Findings) -> None:
    """What the programs take for one event, with the statistics' own cost (some 20 ns for each run)."""
    lanes.probe.statistics(on=True)
    for name in (XDP, TC):
        pid = lanes.brokers[name].pid
        for groups in GROUPS:
            before = lanes.probe.held_by(pid)
            events = lanes.cross(name, groups, share=4).sent // groups
            after = lanes.probe.held_by(pid)
            spent = sum(after[program].run_time_ns - before[program].run_time_ns for program in before)
            findings.times.setdefault(_key(name, groups), []).append(spent / events)
        findings.instructions |= {program: held.instructions for program, held in after.items()}
    lanes.probe.statistics(on=False)


def _served(groups: int) -> tuple[str, ...]:
    return (XDP, TC, SLOW, BARE) if groups in GROUPS else (SLOW,)


def _key(name: str, groups: int) -> str:
    return f"{name}, {groups} group{'s' if groups > 1 else ''}"


def _figures(findings: Findings) -> list[Figure]:
    rates = findings.rates
    figures = [
        Figure(_key(name, groups), summarize(rates[_key(name, groups)]).median, "deliveries/s")
        for groups in (*GROUPS, *MORE_GROUPS)
        for name in _served(groups)
    ]
    for other in (TC, BARE, SLOW):
        for groups in GROUPS:
            ratio = ratios(rates[_key(XDP, groups)], rates[_key(other, groups)])
            name = f"{_key(XDP, groups)} / {other}"
            figures += [
                # What only hands copies on is not outdone by what also looks at them.
                median(name, ratio, "x", Better.HIGHER, credible=(0, 1.1 if other == BARE else math.inf)),
                Figure(f"{name}, lower quartile", ratio.low, "x"),
                Figure(f"{name}, upper quartile", ratio.high, "x"),
            ]
    for name in (XDP, TC):
        figures += [
            Figure(f"lost, {_key(name, groups)}", findings.lost[_key(name, groups)], "deliveries")
            for groups in GROUPS
        ]
        # A topic of one group has no copies to account for.
        lost = sum(findings.lost[_key(name, groups)] for groups in GROUPS if groups > 1 or name == TC)
        figures.append(Figure(f"lost, {name}, but not told", lost - findings.unsent[name], "deliveries"))
    figures.append(Figure("not by the fast path", findings.elsewhere, "datagrams"))
    figures += [
        Figure(f"run time, {key}", summarize(times).median, "ns/event")
        for key, times in findings.times.items()
    ]
    figures += [
        Figure(f"verified instructions, {program}", count, "instructions")
        for program, count in sorted(findings.instructions.items())
    ]
    return figures

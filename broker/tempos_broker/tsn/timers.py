"""Whether the timers of an ordinary kernel can keep a schedule that the arithmetic allows. Pure.

    gate opens by a timer         ... LATE at most       gate closes, by the clock
    |------------------------------|----- room ----------|
                                    the frame must have left before: one that does not fit any more is kept

Where the kernel itself opens the gates, it does so by a timer and then by a soft interrupt, but it closes
them by the clock: a window shorter than those are late lets nothing through, in every cycle again. etf
takes a frame up by a timer, too, and drops what it takes up after its launch time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tempos import Quality
from tempos_broker.tsn import tc
from tempos_broker.tsn.schedule import US, Schedule, shortest_cycle

#: How late timers of an ordinary kernel must be reckoned with, ns. What they are on one machine can be less
#: (a kernel with PREEMPT_RT) or much more (a virtual one).
LATE = 100 * US
#: What a shorter delta of etf is to be replaced by, ns.
DELTA = 200 * US


@dataclass(frozen=True, slots=True)
class Hazard:
    """What would not leave, and why; what to do about it."""

    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}"


def hazards(schedule: Schedule, port: tc.Port) -> tuple[Hazard, ...]:
    """What timers would hardly keep of this schedule; a network card that runs it needs none."""
    if port.mode is tc.Mode.SOFTWARE:
        return tuple(_windows(schedule))
    if port.mode is tc.Mode.TXTIME:
        return tuple(_launches(port))
    return ()


def _windows(schedule: Schedule) -> Iterator[Hazard]:
    late = f"by a timer that may be {LATE // US} us late"
    if schedule.sq.length < LATE + _largest(schedule):
        yield Hazard(
            f"the SQ window is open for {schedule.sq.length:,} ns, {late}: it may be closed again before a "
            "frame can leave, in every cycle, and then no SQ event leaves at all",
            _with_margin(schedule),
        )
    largest = schedule.link.ns(schedule.link.largest)
    if schedule.bq.length < LATE + largest:
        longer = schedule.cycle + LATE + largest - schedule.bq.length
        yield Hazard(
            f"the BQ window is open for {schedule.bq.length:,} ns, {late}, and its largest frame takes "
            f"{largest:,}: BQ, and everything else that is not SQ, may not leave",
            f"plan with --cycle {-(-longer // US)}",
        )


def _with_margin(schedule: Schedule) -> str:
    """The margin with which SQ has time to leave although its gate opens late, and the cycle that takes."""
    margin = LATE // US
    shortest = shortest_cycle(schedule.flows, schedule.link, LATE)
    if shortest is None:
        return f"it takes --margin {margin}, and no cycle up to 1 s holds that: plan with less SQ"
    if shortest > schedule.cycle:
        return f"plan with --margin {margin}, which takes --cycle {shortest // US} at least"
    return f"plan with --margin {margin}"


def _launches(port: tc.Port) -> Iterator[Hazard]:
    if port.delta < LATE:
        yield Hazard(
            f"etf takes a frame up {port.delta:,} ns before its launch time, by a timer that may be "
            f"{LATE // US} us late, and drops what comes after it",
            f"plan with --delta {DELTA // US}",
        )


def _largest(schedule: Schedule) -> int:
    link = schedule.link
    return max(link.ns(link.frame(flow.payload)) for flow in schedule.flows if flow.quality is Quality.SQ)

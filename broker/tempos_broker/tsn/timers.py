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
#: (a kernel with PREEMPT_RT) or much more (a virtual one): `lateness` measures that.
LATE = 100 * US
#: How much longer a delta of etf is to be than timers are late.
_SPARE = 2
#: What a shorter delta of etf is to be replaced by, ns.
DELTA = _SPARE * LATE


@dataclass(frozen=True, slots=True)
class Hazard:
    """What would not leave, and why; what to do about it."""

    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}"


def hazards(schedule: Schedule, port: tc.Port, late: int = LATE) -> tuple[Hazard, ...]:
    """What timers would hardly keep of this schedule; a network card that runs it needs none.

    ``late``: how late they are, ns; never less than :data:`LATE` is reckoned with.
    """
    late = max(LATE, -(-late // US) * US)
    if port.mode is tc.Mode.SOFTWARE:
        return tuple(_windows(schedule, late))
    if port.mode is tc.Mode.TXTIME:
        return tuple(_launches(port, late))
    return ()


def _windows(schedule: Schedule, late: int) -> Iterator[Hazard]:
    timer = f"by a timer that may be {late // US} us late"
    largest = schedule.link.ns(schedule.link.largest)
    sq_is_short = schedule.sq.length < late + _largest(schedule)
    remedy = _remedy(schedule, late, sq_is_short=sq_is_short)
    if sq_is_short:
        yield Hazard(
            f"the SQ window is open for {schedule.sq.length:,} ns, {timer}: it may be closed again before a "
            "frame can leave, in every cycle, and then no SQ event leaves at all",
            remedy,
        )
    if schedule.bq.length < late + largest:
        yield Hazard(
            f"the BQ window is open for {schedule.bq.length:,} ns, {timer}, and its largest frame takes "
            f"{largest:,}: BQ, and everything else that is not SQ, may not leave",
            remedy,
        )


def _remedy(schedule: Schedule, late: int, *, sq_is_short: bool) -> str:
    """The margin and the cycle with which both have time to leave although their gates open late."""
    # What was measured is another figure the next time: proposed is what holds then, too.
    late = late if late == LATE else _SPARE * late
    margin = late if sq_is_short else schedule.margin
    asked = f"--margin {margin // US}"
    shortest = shortest_cycle(schedule.flows, schedule.link, margin, late)
    if shortest is None:
        return f"it takes {asked}, and no cycle up to 1 s holds that: plan with less SQ"
    if shortest <= schedule.cycle:
        return f"plan with {asked}"
    cycle = f"--cycle {shortest // US}"
    return f"plan with {asked}, which takes {cycle} at least" if sq_is_short else f"plan with {cycle}"


def _launches(port: tc.Port, late: int) -> Iterator[Hazard]:
    if port.delta < late:
        yield Hazard(
            f"etf takes a frame up {port.delta:,} ns before its launch time, by a timer that may be "
            f"{late // US} us late, and drops what comes after it",
            f"plan with --delta {_SPARE * late // US}",
        )


def _largest(schedule: Schedule) -> int:
    link = schedule.link
    return max(link.ns(link.frame(flow.payload)) for flow in schedule.flows if flow.quality is Quality.SQ)

"""From what is to be carried to the windows of a cycle. Pure arithmetic: integers in, integers out.

A cycle is an SQ window, a BQ window and a guard band, in this order. Rules kept here:

* the windows follow one another and their lengths add up to the cycle;
* the SQ window carries every SQ frame of one cycle;
* before the SQ window opens again, nothing begins for as long as the largest BQ frame takes: so one that
  was begun at the last moment is over (the guard band);
* the BQ window carries at least one largest frame, or such a frame would never leave;
* what is rounded, is rounded to the safe side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tempos import LocalError, Quality
from tempos_broker.tsn.wire import Link

NS = 1_000_000_000
US = 1000
#: A longer cycle is no use to anybody; the kernel's own end is 2 ** 31 ns.
MAX_CYCLE = NS
#: Steps towards the shortest cycle; only where SQ all but fills the link are they not enough.
_STEPS = 10_000

#: The traffic classes, as bits of a gate mask. Everything that is not SQ goes as BQ does.
TC_BQ, TC_SQ = 0, 1


class DoesNotFit(LocalError):
    """There is no schedule for what was asked."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What one topic sends: ``rate`` datagrams per second of ``payload`` bytes, ``copies`` of each."""

    topic: str
    quality: Quality
    priority: int
    rate: int
    payload: int
    copies: int = 1

    def per_cycle(self, cycle: int) -> int:
        """The datagrams that can come in one cycle of ``cycle`` ns if they come evenly: rounded up."""
        return -(-self.rate * cycle // NS)

    def frames(self, cycle: int) -> int:
        """The frames that leave for these."""
        return self.per_cycle(cycle) * self.copies


@dataclass(frozen=True, slots=True)
class Window:
    """From ``start`` on, ``length`` ns long, the gates of the classes in the bit mask ``gates`` are open."""

    name: str
    gates: int
    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class Schedule:
    """A cycle of ``cycle`` ns. ``margin``: what the SQ window and the guard band have been lengthened by."""

    link: Link
    flows: tuple[Flow, ...]
    cycle: int
    margin: int
    sq: Window
    bq: Window
    guard: Window

    @property
    def windows(self) -> tuple[Window, ...]:
        return self.sq, self.bq, self.guard

    @property
    def sq_bytes(self) -> int:
        """The bytes on the wire of all SQ frames of a cycle."""
        return sq_bytes(self.flows, self.link, self.cycle)

    @property
    def longest_wait(self) -> int:
        """How long an SQ frame waits at most, ns: it comes when what is left of its window is too short."""
        largest = max(self.link.frame(flow.payload) for flow in self.flows if flow.quality is Quality.SQ)
        return self.bq.length + self.guard.length + self.link.ns(largest)

    @property
    def bq_bits(self) -> int:
        """The bits per second that the BQ window carries, preamble and gap included."""
        return self.link.mbit * 1_000_000 * self.bq.length // self.cycle

    @property
    def bq_asked(self) -> int:
        """The bits per second that the BQ flows ask for, as far as they are known."""
        asked = (
            flow.rate * flow.copies * self.link.frame(flow.payload) for flow in _of(self.flows, Quality.BQ)
        )
        return 8 * sum(asked)


def sq_bytes(flows: Sequence[Flow], link: Link, cycle: int) -> int:
    """The bytes on the wire of all SQ frames that can come in ``cycle`` ns."""
    return sum(flow.frames(cycle) * link.frame(flow.payload) for flow in _of(flows, Quality.SQ))


def plan(flows: Sequence[Flow], link: Link, cycle: int, margin: int = 0) -> Schedule:
    """The schedule of a cycle of ``cycle`` ns; raises :class:`DoesNotFit` with the sum that is too large.

    ``margin``: ns by which timers and clocks may be off, added to the SQ window and to the guard band.
    """
    if not sum(flow.frames(cycle) for flow in _of(flows, Quality.SQ)):
        raise DoesNotFit("no topic of class SQ has anything to send: there is nothing to make windows for")
    for flow in flows:
        if flow.payload > link.largest_payload:
            raise DoesNotFit(
                f"topic {flow.topic}: datagrams of {flow.payload:,} bytes do not fit into one frame, which "
                f"carries {link.largest_payload:,} (MTU {link.mtu:,} less 28 of headers), and events are "
                "never "
                "fragmented; send smaller ones, or raise the MTU"
            )
    sq = link.ns(sq_bytes(flows, link, cycle)) + margin
    largest = link.ns(link.largest)
    guard = largest + margin
    bq = cycle - sq - guard
    if bq < largest:
        raise DoesNotFit(_why(sq, guard, largest, cycle) + _remedy(flows, link, margin))
    return Schedule(
        link,
        tuple(flows),
        cycle,
        margin,
        Window("SQ", 1 << TC_SQ, 0, sq),
        Window("BQ", 1 << TC_BQ, sq, bq),
        Window("guard", 0, sq + bq, guard),
    )


def shortest_cycle(flows: Sequence[Flow], link: Link, margin: int = 0, spare: int = 0) -> int | None:
    """The shortest cycle that carries the flows, in ns, whole microseconds; None if none is found up to 1 s.

    ``spare``: ns by which the BQ window is to be longer than its largest frame. What is needed grows with the
    cycle; starting from below, the cycle is made what is needed until it suffices.
    """
    largest = link.ns(link.largest)
    cycle = US
    for _ in range(_STEPS):
        needed = link.ns(sq_bytes(flows, link, cycle)) + 2 * largest + 2 * margin + spare
        if needed <= cycle:
            return cycle
        cycle = -(-needed // US) * US
        if cycle > MAX_CYCLE:
            break
    return None


def _of(flows: Sequence[Flow], quality: Quality) -> list[Flow]:
    return [flow for flow in flows if flow.quality is quality]


def _why(sq: int, guard: int, largest: int, cycle: int) -> str:
    if sq > cycle:
        return f"SQ does not fit into the cycle: its window needs {sq:,} ns, the cycle has {cycle:,}"
    if sq + guard > cycle:
        return (
            "the cycle is shorter than SQ window and guard band: "
            f"{sq:,} ns + {guard:,} ns = {sq + guard:,}, the cycle has {cycle:,}"
        )
    return (
        f"the BQ window is shorter than a frame: {cycle:,} ns less {sq:,} for SQ and {guard:,} for the "
        "guard band "
        f"leaves {cycle - sq - guard:,}, the largest frame takes {largest:,} and would never leave"
    )


def _remedy(flows: Sequence[Flow], link: Link, margin: int) -> str:
    shortest = shortest_cycle(flows, link, margin)
    if shortest is None:
        return "; no cycle up to 1 s carries this: plan with less SQ, smaller datagrams or a faster link"
    return f"; the shortest cycle that carries this is {shortest // US:,} us"

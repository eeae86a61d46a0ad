"""A plan in words, with its arithmetic line by line, and as JSON values. Decides nothing."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tempos import PathPolicy, Quality
from tempos.cli.status import table
from tempos_broker.config import BrokerConfig
from tempos_broker.tsn import tc
from tempos_broker.tsn.schedule import TC_BQ, TC_SQ, US, Flow, Schedule
from tempos_broker.tsn.timers import hazards
from tempos_broker.tsn.traffic import Traffic, bursts
from tempos_broker.tsn.wire import FCS, GAP, HEADER, IPV4, MIN_FRAME, NOT_COUNTED, PREAMBLE, TAG, UDP
from tempos_daemon.schema import count

_WHO_OPENS = {
    tc.Mode.SOFTWARE: "the kernel, by a timer",
    tc.Mode.TXTIME: "taprio sets launch times (flags 0x1), etf keeps them",
    tc.Mode.OFFLOAD: "the network card (flags 0x2)",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is to be told: the schedule, where it goes, and what it was made of."""

    config: BrokerConfig
    traffic: Traffic
    schedule: Schedule
    port: tc.Port


def describe(plan: Plan) -> Iterator[str]:
    """The plan for people, a line each."""
    schedule, port = plan.schedule, plan.port
    link = schedule.link
    tagged = ", VLAN tag" if link.tagged else ""
    yield (
        f"{port.interface}: a cycle of {schedule.cycle // US:,} us on {link.mbit:,} Mbit/s, "
        f"MTU {link.mtu:,}{tagged}; gates opened by {_WHO_OPENS[port.mode]}"
    )
    for hazard in hazards(schedule, port):
        yield ""
        yield f"WARNING: {hazard.text}"
        yield f"         {hazard.remedy}; --apply refuses it as it is"
    yield ""
    yield "traffic"
    yield from table(
        ("topic", "class", "priority", "datagrams/s", "bytes", "copies", "frames per cycle"),
        [
            (
                flow.topic,
                flow.quality.value,
                str(flow.priority),
                f"{flow.rate:,}",
                f"{flow.payload:,}",
                str(flow.copies),
                f"{flow.frames(schedule.cycle):,}",
            )
            for flow in schedule.flows
        ],
    )
    yield ""
    yield "arithmetic"
    for number, line in enumerate(_arithmetic(schedule), 1):
        yield f"  {number:>2}. {line}"
    yield ""
    yield "windows"
    yield from table(
        ("window", "from ns", "to ns", "length ns", "share", "gates", "open for"),
        [
            (
                window.name,
                f"{window.start:,}",
                f"{window.end:,}",
                f"{window.length:,}",
                f"{100 * window.length / schedule.cycle:.2f} %",
                f"{window.gates:02x}",
                {1 << TC_SQ: "SQ", 1 << TC_BQ: "BQ and everything else"}.get(window.gates, "nobody"),
            )
            for window in schedule.windows
        ],
    )
    yield ""
    yield "traffic classes"
    of_bq, of_sq = port.ranges
    yield f"  TC {TC_SQ}  SQ: SO_PRIORITY {port.so_priority_sq}; transmit queues {of_sq} (count@first)"
    yield (
        f"  TC {TC_BQ}  BQ: SO_PRIORITY {port.so_priority_bq}, and every other that is not "
        f"{port.so_priority_sq}; transmit queues {of_bq}"
    )
    yield ""
    yield "commands"
    for command in tc.commands(schedule, port):
        yield f"  {shlex.join(command)}"
    yield "and to remove it"
    yield f"  {shlex.join(tc.removal(port))}"
    yield ""
    yield "to know"
    for note in notes(plan):
        yield f"  * {note}"


def document(plan: Plan) -> dict[str, Any]:
    """The plan for scripts, as JSON values; times in ns."""
    schedule, port = plan.schedule, plan.port
    of_bq, of_sq = port.ranges
    return {
        "interface": port.interface,
        "mode": port.mode.value,
        "link_mbit": schedule.link.mbit,
        "mtu": schedule.link.mtu,
        "tagged": schedule.link.tagged,
        "cycle_ns": schedule.cycle,
        "margin_ns": schedule.margin,
        "base_time_ns": port.base_time,
        "clock": None if port.mode is tc.Mode.OFFLOAD else port.clock,
        "flows": [
            {
                "topic": flow.topic,
                "class": flow.quality.value,
                "priority": flow.priority,
                "datagrams_s": flow.rate,
                "payload_bytes": flow.payload,
                "copies": flow.copies,
                "wire_bytes": schedule.link.frame(flow.payload),
                "frames_per_cycle": flow.frames(schedule.cycle),
            }
            for flow in schedule.flows
        ],
        "unknown": list(plan.traffic.unknown),
        "windows": [
            {"name": each.name, "gates": each.gates, "start_ns": each.start, "length_ns": each.length}
            for each in schedule.windows
        ],
        "classes": [
            {"class": "BQ", "tc": TC_BQ, "so_priority": port.so_priority_bq, "queues": of_bq},
            {"class": "SQ", "tc": TC_SQ, "so_priority": port.so_priority_sq, "queues": of_sq},
        ],
        "longest_wait_ns": schedule.longest_wait,
        "bq_bits_s": schedule.bq_bits,
        "warnings": [str(hazard) for hazard in hazards(schedule, port)],
        "arithmetic": list(_arithmetic(schedule)),
        "notes": list(notes(plan)),
        "commands": [list(command) for command in tc.commands(schedule, port)],
        "removal": list(tc.removal(port)),
    }


def notes(plan: Plan) -> Iterator[str]:
    """What the plan rests on, and what it does not reach."""
    config, schedule, port = plan.config, plan.schedule, plan.port
    fast = [entry.topic.name for entry in config.topics if entry.topic.policy is not PathPolicy.SLOW]
    if fast and config.fastpath.mode != "off":
        yield (
            "the fast path's events pass no qdisc (an XDP redirect goes straight to the driver), so no "
            "window "
            f'holds them: for those of {", ".join(fast)} to keep the schedule, set path = "slow", or '
            'fastpath.mode = "off" for all'
        )
    if port.mode is tc.Mode.SOFTWARE:
        yield (
            "tempos marks what the slow path sends with SO_PRIORITY and sets no launch times (SO_TXTIME): "
            "taprio "
            "needs none. Its timer runs late by what this machine's scheduling takes; --margin makes room "
            "for that"
        )
    if port.mode is tc.Mode.TXTIME:
        yield (
            "tempos sets no launch times (SO_TXTIME) itself. taprio sets them for every sender that does "
            "not, which "
            "is why etf is told skip_sock_check; without it etf would drop all that tempos sends"
        )
        yield (
            f"what etf takes up too late it drops and counts: watch `tc -s qdisc show dev {port.interface}`, "
            "and raise --delta until that stands still"
        )
        yield (
            f"txtime-delay = {tc.txtime_delay(schedule, port):,} ns = delta {port.delta:,} + one largest "
            "frame "
            "that may be on its way: every frame leaves at least so much later than without a schedule"
        )
    if port.mode is tc.Mode.OFFLOAD:
        yield (
            "the card's own clock (PTP) runs the schedule; tempos marks what the slow path sends with "
            "SO_PRIORITY and sets no launch times (SO_TXTIME), which taprio does not need"
        )
    else:
        yield (
            "the kernel reckons with the speed that the driver reports: it must be the "
            f"{schedule.link.mbit:,} Mbit/s "
            "of this plan (`ethtool` tells; where the driver knows none, the kernel takes 10)"
        )
    yield (
        "the windows mean something to others only as far as the clocks agree (PTP); base-time "
        f"{port.base_time:,}: "
        "a cycle begins there and every cycle before and after it"
    )
    yield (
        "it is assumed that every copy leaves through this interface; --traffic TOPIC=RATE/s:BYTESxN tells "
        "how many do"
    )
    if plan.traffic.unknown:
        yield f"not reckoned, for nothing tells how much they send: {', '.join(plan.traffic.unknown)} (BQ)"
    if schedule.bq_asked > schedule.bq_bits:
        yield (
            f"BQ asks for {schedule.bq_asked:,} bit/s, more than the {schedule.bq_bits:,} of its window: "
            "what is "
            "beyond waits in the qdisc and is dropped there"
        )
    yield from plan.traffic.notes
    yield from bursts(config, schedule.flows, schedule.cycle)


def _arithmetic(schedule: Schedule) -> Iterator[str]:
    link, cycle = schedule.link, schedule.cycle
    tag = f" + {TAG} tag" if link.tagged else ""
    padded = MIN_FRAME + (TAG if link.tagged else 0)
    headers = PREAMBLE + HEADER + (TAG if link.tagged else 0) + IPV4 + UDP + FCS + GAP
    yield (
        f"a datagram of N bytes takes {PREAMBLE} preamble + {HEADER} Ethernet{tag} + {IPV4} IPv4 + {UDP} "
        "UDP + N "
        f"+ {FCS} FCS + {GAP} gap = N + {headers} bytes on the wire, at least {link.smallest} "
        f"(what is between preamble and gap is padded to {padded})"
    )
    yield f"a byte takes 8,000 / {link.mbit:,} ns; times are rounded up to a whole ns"
    terms = []
    for flow in schedule.flows:
        if flow.quality is Quality.SQ:
            yield _demand(flow, schedule)
            terms.append(f"{flow.frames(cycle) * link.frame(flow.payload):,}")
    total = schedule.sq_bytes
    summed = f"{' + '.join(terms)} = {total:,}" if len(terms) > 1 else f"{total:,}"
    margin = f" + margin {schedule.margin:,}" if schedule.margin else ""
    whole = f" = {schedule.sq.length:,} ns" if margin else ""
    yield f"SQ window: {summed} bytes x 8,000 / {link.mbit:,} = {link.ns(total):,} ns{margin}{whole}"
    largest = link.ns(link.largest)
    whole = f" = {schedule.guard.length:,} ns" if margin else ""
    yield (
        f"guard band: a BQ frame begun just before its gate closes; at most MTU {link.mtu:,} = "
        f"{link.largest:,} "
        f"bytes on the wire x 8,000 / {link.mbit:,} = {largest:,} ns{margin}{whole}"
    )
    yield (
        f"BQ window: what is left, {cycle:,} - {schedule.sq.length:,} - {schedule.guard.length:,} = "
        f"{schedule.bq.length:,} ns; at least one largest frame ({largest:,} ns) must fit, and does; "
        f"{schedule.bq_bits:,} bit/s"
    )
    sums = " + ".join(f"{window.length:,}" for window in schedule.windows)
    yield f"check: {sums} = {sum(window.length for window in schedule.windows):,} ns, the cycle"
    yield (
        "an SQ frame waits for its gate at most BQ window + guard band + its own time, where that no longer "
        f"fitted: {schedule.longest_wait:,} ns; a shorter cycle makes it less"
    )
    yield (
        f"the kernel counts a frame without {PREAMBLE} + {FCS} + {GAP} bytes: `stab overhead "
        f"{NOT_COUNTED}` makes "
        "it count them"
    )


def _demand(flow: Flow, schedule: Schedule) -> str:
    cycle, link = schedule.cycle, schedule.link
    exact = flow.rate * cycle / 1e9
    each = link.frame(flow.payload)
    copies = f" x {count(flow.copies, 'copy', 'copies')}" if flow.copies > 1 else ""
    return (
        f"{flow.topic}: {flow.rate:,}/s x {cycle // US:,} us = {exact:,.3f}, rounded up to "
        f"{flow.per_cycle(cycle):,}{copies}; {flow.payload:,} bytes are {each:,} on the wire: "
        f"{flow.frames(cycle):,} x {each:,} = {flow.frames(cycle) * each:,} bytes"
    )


def summary(commands: Sequence[tc.Command]) -> str:
    """Commands that were carried out."""
    return "\n".join(f"done: {shlex.join(command)}" for command in commands)

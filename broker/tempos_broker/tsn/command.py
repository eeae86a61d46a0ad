"""The command ``tempos tsn``: a time-aware schedule for an interface, printed, and applied only on request.

What it needs is imported when it runs: ``tempos --help`` must not pay for it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tempos_broker.tsn.tc import Port
    from tempos_broker.tsn.text import Plan

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_OK = 0
#: As clock_gettime(2) and iproute2 name them, and taprio takes them.
CLOCKS = ("CLOCK_TAI", "CLOCK_REALTIME", "CLOCK_MONOTONIC", "CLOCK_BOOTTIME")

_PLAN_EXAMPLES = """\
The SQ window is made to measure: what the SQ topics send in one cycle, with all that Ethernet adds. How much
that is comes from --traffic, else from a topic's `rate` in the file. Before it stands a guard band as long
as the largest BQ frame; the rest of the cycle is BQ's. The plan shows its arithmetic line by line.

examples:
  tempos tsn plan -c b.toml -i eth0 --cycle 1000 --link 1000 --traffic alarms=2000/s:64 --margin 100
        print a schedule for a cycle of 1 ms on 1 Gbit/s; timers may be 100 us late
  tempos tsn plan -c b.toml -i eth0 --cycle 1000 --link 1000 --traffic alarms=2000/s:64x3 --offload
        each event leaves for 3 groups; the network card opens the gates, so it takes no margin
  tempos tsn plan -c b.toml -i eth0 --cycle 1000 --link 1000 --txtime
        with launch times that etf keeps
  tempos tsn plan -c b.toml -i eth0 --cycle 1000 --link 1000 --margin 100 --apply
        print it and put it on eth0, as root; nothing is changed where that does not succeed
  tempos tsn plan -i eth0 --undo --apply
        take it off eth0; without --apply the command is only shown

Where the kernel's timers open the gates, a window of a few microseconds is closed again before a frame can
leave: the plan warns, and --apply refuses, unless this machine's timers are known to be better (--anyway).
--apply also measures them, for half a second, and refuses what is shorter than they are late.
Exit code 0 if all went well, 1 if no schedule fits or it could not be applied, 2 for usage.
"""


def register(subparsers: Subparsers) -> None:
    """Add ``tempos tsn plan``."""
    parser = subparsers.add_parser(
        "tsn",
        help="plan a time-aware schedule (IEEE 802.1Qbv) for an interface",
        description="Time-aware schedules (IEEE 802.1Qbv) that keep SQ and BQ apart on the wire.",
        epilog="examples:\n  tempos tsn plan --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    plan = actions.add_parser(
        "plan",
        help="print the taprio and etf commands that fit the topics",
        description="Print the commands of a schedule that fits the topics, with the arithmetic behind them.",
        epilog=_PLAN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = plan.add_argument
    add("-c", "--config", metavar="FILE", help="the broker's configuration, TOML")
    add(
        "-i", "--interface", metavar="NAME", required=True, type=_interface, help="the interface SQ leaves by"
    )
    add("--cycle", metavar="US", type=_whole(1, 1_000_000), help="the cycle, microseconds")
    add("--link", metavar="MBIT", type=_whole(1, 1_000_000), help="the speed of the link, Mbit/s")
    add("--traffic", metavar="TOPIC=RATE/s:BYTES", action="append", default=[],
        help="what a topic carries: datagrams per second, bytes of UDP payload (the header of event topics "
             "is "
             "payload); xN behind it: so many copies leave, one for each group (default: the groups in the "
             "file, "
             "at least 1)")  # fmt: skip
    add("--datagram", metavar="BYTES", type=_whole(1, 65507),
        help="UDP payload of topics that only have a rate (default: the most that one frame "
             "carries)")  # fmt: skip
    add("--mtu", metavar="BYTES", type=_whole(68, 65535), default=1500, help="default: %(default)s")
    add("--vlan", action="store_true", help="frames carry a VLAN tag (IEEE 802.1Q)")
    add("--margin", metavar="US", type=_whole(0, 1_000_000), default=0,
        help="how far timers and clocks may be off, microseconds; added to SQ window and guard band "
             "(default: %(default)s)")  # fmt: skip
    add("--queues", metavar="N", type=_whole(2, 4096),
        help="transmit queues to share out; SQ gets the last (default: 2)")  # fmt: skip
    add("--clock", choices=CLOCKS, help=f"whose time it is (default: {CLOCKS[0]})")
    add("--base-time", metavar="NS", type=_whole(0, 2**63 - 1), default=0,
        help="a moment at which a cycle begins, ns of that clock (default: %(default)s)")  # fmt: skip
    gates = plan.add_mutually_exclusive_group()
    gates.add_argument("--txtime", action="store_true", help="taprio sets launch times, and etf keeps them")
    gates.add_argument(
        "--offload", action="store_true", help="the network card runs the schedule by its own clock"
    )
    add("--delta", metavar="US", type=_whole(1, 1_000_000),
        help="with --txtime: how long before its launch time etf takes a frame up (default: 200)"
        )  # fmt: skip
    add("--json", action="store_true", help="print one JSON object instead of text; times in ns")
    add("--apply", action="store_true", help="run the commands; needs root")
    add("--anyway", action="store_true",
        help="with --apply: also a plan that timers will hardly keep, or made for another speed")  # fmt: skip
    add("--undo", action="store_true", help="show the command that removes a schedule; with --apply, run it")
    plan.set_defaults(run=run_plan, fail=plan.error)


def run_plan(options: argparse.Namespace) -> int:
    """Print the plan, or its removal; carry it out where that was asked for."""
    if options.undo:
        return _undo(options)
    missing = [name for name in ("config", "cycle", "link") if getattr(options, name) is None]
    if missing:
        options.fail(f"the following arguments are required: {', '.join(f'--{name}' for name in missing)}")
    port, plan = _plan(options)
    from tempos_broker.tsn import text

    if not options.json:
        print("\n".join(text.describe(plan)), flush=True)
    if options.apply:
        from tempos_broker.tsn import apply

        _need_root()
        done = apply.apply(plan.schedule, port, apply.Programs(), anyway=options.anyway)
        if not options.json:
            print(f"\n{text.summary(done)}")
    if options.json:
        print(json.dumps({**text.document(plan), "applied": options.apply}, indent=2, ensure_ascii=False))
    return _OK


def _undo(options: argparse.Namespace) -> int:
    from tempos_broker.tsn import apply, tc, text

    port = tc.Port(options.interface, 0, 0)
    removal = tc.removal(port)
    if options.apply:
        _need_root()
        apply.undo(port, apply.Programs())
    if options.json:
        print(json.dumps({"removal": list(removal), "applied": options.apply}, indent=2))
    else:
        print(text.summary([removal]) if options.apply else " ".join(removal))
    return _OK


def _plan(options: argparse.Namespace) -> tuple[Port, Plan]:
    from tempos import LocalError
    from tempos_broker.config import load
    from tempos_broker.tsn import schedule, tc, text, timers, traffic, wire

    mode = tc.Mode.TXTIME if options.txtime else tc.Mode.OFFLOAD if options.offload else tc.Mode.SOFTWARE
    _no_contradiction(options)
    config = load(options.config)
    quality = config.quality
    if quality.so_priority_sq == quality.so_priority_bq:
        raise LocalError(
            f"{options.config}: quality.so_priority_sq and quality.so_priority_bq are both "
            f"{quality.so_priority_sq}: "
            "taprio could not tell SQ from BQ; give them different values"
        )
    link = wire.Link(options.link, options.mtu, options.vlan)
    carried = traffic.traffic(config, map(traffic.figures, options.traffic), link, options.datagram)
    made = schedule.plan(carried.flows, link, options.cycle * schedule.US, options.margin * schedule.US)
    port = tc.Port(
        options.interface,
        quality.so_priority_sq,
        quality.so_priority_bq,
        mode,
        options.queues or 2,
        options.clock or CLOCKS[0],
        options.base_time,
        (options.delta * schedule.US if options.delta else timers.DELTA) if mode is tc.Mode.TXTIME else 0,
    )
    return port, text.Plan(config, carried, made, port)


def _no_contradiction(options: argparse.Namespace) -> None:
    if options.offload and options.clock:
        options.fail("--clock: with --offload the clock is the network card's own")
    if options.txtime and options.clock not in (None, "CLOCK_TAI"):
        options.fail("--clock: with --txtime only CLOCK_TAI; etf knows no other")
    if options.txtime and options.queues:
        options.fail("--queues: with --txtime everything takes queue 0, where one etf sorts it")
    if options.anyway and not options.apply:
        options.fail("--anyway: only with --apply")
    if options.delta and not options.txtime:
        options.fail("--delta: only with --txtime")


def _need_root() -> None:
    from tempos import LocalError

    if os.geteuid() != 0:
        raise LocalError("--apply needs root; nothing was changed")


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,19}", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer from {low} to {high}")
        return int(text)

    return parse


def _interface(text: str) -> str:
    from tempos_daemon import kinds
    from tempos_daemon.schema import NotAllowed

    try:
        name: str = kinds.INTERFACE.parse(text)
    except NotAllowed:
        raise argparse.ArgumentTypeError(f"{text!r} is not {kinds.INTERFACE.allowed}") from None
    # tc and ip would take it for an option.
    if name.startswith("-"):
        raise argparse.ArgumentTypeError(f"{text!r} begins with a dash")
    return name

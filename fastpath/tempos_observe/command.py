"""The command ``tempos observe``: tools that show what processes and the network of this machine really do.

A tool's declaration is read for its options; what touches the kernel is imported when it runs.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from tempos_observe.tool import Tool
from tempos_observe.tools import TOOLS, tool
from tempos_observe.wishes import Wishes

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_EXAMPLES = """\
examples:
  tempos observe list
        the tools, and the question that each answers
  tempos observe udploss --broker
        which datagrams the broker, its worker and the invokers lose, and why
  tempos observe TOOL --help
        what a tool hooks, what it cannot see, and its examples

Each begins with what it hooked, and ends, at Ctrl-C or when its time is over, with how much it lost.
Needs root, or CAP_BPF and CAP_PERFMON, and a kernel that describes its types (BTF).
Exit code 0 if all went well, 1 if something was lost or refused, 2 if it cannot run here.
"""
_OK, _REFUSED, _CANNOT = 0, 1, 2
#: Seconds: between two looks at least.
_SHORTEST = 0.1


def register(subparsers: Subparsers) -> None:
    """Add ``tempos observe``."""
    parser = subparsers.add_parser(
        "observe",
        help="see what processes and the network really do",
        description="Show what processes and the network of this machine really do.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = parser.add_subparsers(dest="tool", metavar="TOOL", required=True)
    listing = names.add_parser("list", help="the tools, and the question that each answers")
    listing.add_argument("--json", action="store_true", help="for scripts: a list of objects")
    listing.set_defaults(run=run_list)
    for name in TOOLS:
        _add(names, tool(name))


def run_list(options: argparse.Namespace) -> int:
    """Print the tools."""
    found = [tool(name) for name in TOOLS]
    if options.json:
        print(json.dumps([{"name": each.name, "question": each.question} for each in found], indent=2))
        return _OK
    width = max(len(each.name) for each in found)
    for each in found:
        print(f"{each.name:<{width}}  {each.question}")
    return _OK


def _add(names: Subparsers, chosen: Tool) -> None:
    parser = names.add_parser(
        chosen.name,
        help=chosen.question,
        description=chosen.question,
        epilog=_told(chosen),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if chosen.by_process:
        parser.add_argument("--pid", type=_number(1), action="append", default=[], metavar="N",
                            help="only this process; may be given several times")  # fmt: skip
        parser.add_argument("--comm", type=_comm, metavar="NAME",
                            help="only processes, or threads, of this name (at most 15 bytes)")  # fmt: skip
        parser.add_argument("--broker", action="store_true",
                            help="only broker, worker and invokers, and what they start")  # fmt: skip
    parser.add_argument("--duration", type=_seconds(0), metavar="S",
                        help="end after so many seconds (default: at Ctrl-C)")  # fmt: skip
    often = f"{chosen.interval:g}" if chosen.interval else "only at the end"
    parser.add_argument("--interval", type=_seconds(_SHORTEST), metavar="S",
                        help=f"show what is counted every so many seconds (default: {often})")  # fmt: skip
    parser.add_argument("--top", type=_number(1), metavar="N", help="of a table only the first so many rows")
    parser.add_argument("--json", action="store_true", help="for programs: an object a line")
    for option in chosen.options:
        if option.kind is None:
            parser.add_argument(f"--{option.name}", action="store_true", help=option.help)
        else:
            parser.add_argument(f"--{option.name}", type=option.kind, metavar=option.metavar or None,
                                default=[] if option.many else option.default, help=option.help,
                                action="append" if option.many else "store")  # fmt: skip
    parser.set_defaults(run=lambda options: run_tool(chosen, options))


def run_tool(chosen: Tool, options: argparse.Namespace) -> int:
    """Run one until it is told to stop."""
    from tempos import TemposError, Unavailable

    given = vars(options)
    wishes = Wishes(
        pids=frozenset(given.get("pid", ())),
        comm=given.get("comm") or "",
        broker=given.get("broker", False),
        duration=options.duration,
        interval=options.interval,
        top=options.top,
        json=options.json,
        own={each.name: given[each.name.replace("-", "_")] for each in chosen.options},
    )
    try:
        if chosen.check is not None:
            chosen.check(wishes)
        from tempos_observe.frame.running import run

        return run(chosen, wishes)
    except (TemposError, ModuleNotFoundError) as error:
        print(f"tempos observe {chosen.name}: {error}", file=sys.stderr)
        return _CANNOT if isinstance(error, Unavailable | ModuleNotFoundError) else _REFUSED


def _told(chosen: Tool) -> str:
    lines = ["hooks:", *(f"  {hook.what}" for hook in chosen.hooks)]
    lines += ["", "cannot see:", *(f"  {each}" for each in chosen.blind)] if chosen.blind else []
    if chosen.examples:
        lines += ["", "examples:"]
        for example in chosen.examples:
            lines += [f"  tempos observe {example.command}", f"        {example.text}"]
    return "\n".join(lines) + "\n"


def _number(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text) if text.lstrip("-").isdecimal() else None
        if value is None or value < least:
            raise argparse.ArgumentTypeError(f"{text!r}: a whole number, at least {least}")
        return value

    return number


def _seconds(least: float) -> Callable[[str], float]:
    def seconds(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < least or value == 0:
            raise argparse.ArgumentTypeError(
                f"{text!r}: seconds, {f'at least {least:g}' if least else 'above 0'}"
            )
        return value

    return seconds


def _comm(text: str) -> str:
    if not text or len(text.encode()) > 15 or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r}: a name of 1 to 15 bytes, as `ps -o comm` shows it")
    return text

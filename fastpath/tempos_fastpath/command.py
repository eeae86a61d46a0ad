"""The command ``tempos fastpath``: what fast paths this machine has, and how to remove one.

What it needs is imported when it runs: ``tempos --help`` must not pay for it, and it must work where
the extension was not built.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tempos_fastpath.survival.orphans import Installed

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_EXAMPLES = """\
A broker with `fastpath.pin` leaves its fast path forwarding when it is killed, until a broker of the
same name takes it over. If none is to come back, remove what it left.

examples:
  tempos fastpath list
        all fast paths of this machine: whose, where, and whether that broker still runs
  tempos fastpath clean default
        remove what the broker "default" left
  tempos fastpath clean --all
        remove what any broker left that no longer runs

Needs root. Exit code 0 if all went well, 1 if something was refused, 2 if it cannot run here.
"""
_OK, _REFUSED, _CANNOT = 0, 1, 2


def register(subparsers: Subparsers) -> None:
    """Add ``tempos fastpath``."""
    parser = subparsers.add_parser(
        "fastpath",
        help="list or remove fast paths of this machine",
        description="List or remove the fast paths of this machine.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="show whose they are, where, and whether that broker runs")
    listing.add_argument("--json", action="store_true", help="for scripts: a list of objects")
    listing.set_defaults(run=run_list)
    clean = actions.add_parser("clean", help="remove what a broker left that no longer runs")
    clean.add_argument("name", metavar="NAME", nargs="?", help="the broker's name (broker.name)")
    clean.add_argument("--all", action="store_true", help="those of every broker that no longer runs")
    clean.add_argument("--force", action="store_true", help="also where the broker still runs")
    clean.set_defaults(run=run_clean, fail=clean.error)


def run_list(options: argparse.Namespace) -> int:
    """Print every fast path of this machine."""
    from tempos import TemposError

    try:
        from tempos_fastpath.survival.orphans import installed, unseen

        found, why = installed(), unseen()
    except TemposError as error:
        return _say(error)
    if options.json:
        print(json.dumps([_document(each) for each in found], indent=2, ensure_ascii=False))
    elif not found and not why:
        print("no fast path on this machine")
    for each in () if options.json else found:
        print(_line(each))
    return _say(f"there may be more: {why}") if why else _OK


def run_clean(options: argparse.Namespace) -> int:
    """Remove the fast paths that were asked for."""
    from tempos import TemposError

    if options.all == (options.name is not None):
        options.fail("give either a NAME or --all")
    try:
        from tempos_fastpath.survival.orphans import installed, remove, tidy, unseen

        if why := unseen():
            return _say(why)
        tidy()
        found = [each for each in installed() if options.all or each.identity.name == options.name]
    except TemposError as error:
        return _say(error)
    if options.all and not options.force:
        found = [each for each in found if not each.alive]
    if not found:
        print("nothing to remove" if options.all else f"no fast path of a broker named {options.name!r}")
        return _OK if options.all else _REFUSED
    code = _OK
    for each in found:
        try:
            remove(each, force=options.force)
            print(f"removed {_line(each)}")
        except (TemposError, OSError) as error:
            print(f"tempos fastpath: {error}", file=sys.stderr)
            code = _REFUSED
    return code


def _say(error: Exception | str) -> int:
    print(f"tempos fastpath: {error}", file=sys.stderr)
    return _CANNOT


def _line(each: Installed) -> str:
    where = ", ".join(f"{name} ({mode})" for name, mode in each.interfaces) or "no interface left"
    if each.alive:
        broker = f"broker alive, pid {each.pid}"
    else:
        broker = f"broker gone, pid was {each.pid}" if each.pid else "broker gone"
    topics = spans(each.topics) or "none"
    return f"{each.identity.name}: {where}; {broker}; topics {topics}; namespace {each.identity.namespace}"


def spans(numbers: Iterable[int]) -> str:
    """Numbers as a person would say them: "1, 4 to 7"."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][-1] == number - 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return ", ".join(" to ".join(map(str, each)) for each in found)


def _document(each: Installed) -> dict[str, object]:
    return {
        "name": each.identity.name,
        "namespace": each.identity.namespace,
        "alive": each.alive,
        "pid": each.pid or None,
        "pinned": each.pinned,
        "interfaces": [{"name": name, "mode": mode} for name, mode in each.interfaces],
        "topics": list(each.topics),
    }

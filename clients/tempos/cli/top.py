"""``tempos top``: what a broker does now: findings, then the busiest topics, over and over.

In a terminal it is :mod:`tempos.cli.live`, which goes by what the broker tells those who look; into a file,
a pipe, or a terminal that cannot move its cursor, it is lines by two statuses, which this module makes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tempos.cli.api import Api, add_api
from tempos.cli.words import not_delivered
from tempos.errors import one_line

if TYPE_CHECKING:
    from tempos.cli.extensions import Subparsers
    from tempos.doctor.serving import Moment

_EXAMPLES = """\
examples:
  tempos top                        the busiest topics, every second, until Ctrl-C
  tempos top --sort loss            those first that lost most
  tempos top --once --json | jq '.topics[] | {name, in_per_s, lost}'
"""


def register(subparsers: Subparsers) -> None:
    """Add ``tempos top``."""
    parser = subparsers.add_parser(
        "top",
        help="the busiest topics of a broker, and what is wrong, again and again",
        description="Show what is wrong and how much goes through each topic, again and again.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_api(parser)
    parser.add_argument("--sort", choices=("rate", "lag", "loss"), default="rate", help="what comes first")
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="default: 1")
    parser.add_argument("--once", action="store_true", help="measure one interval, print it, end")
    parser.add_argument("--json", action="store_true", help="JSON: one object, or one a line")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show it until Ctrl-C, or once."""
    if not 0.1 <= options.interval <= 3600:
        options.fail(f"--interval {options.interval}: allowed: 0.1 to 3600 seconds")
    api = Api.of(options)
    if sys.stdout.isatty() and sys.stdin.isatty() and not (options.once or options.json) and _can_move():
        from tempos.cli.live.screen import show

        return show(api, options.sort)
    from tempos.doctor.serving import moments

    before, at = api.get("/v1/status"), time.monotonic()
    while True:
        time.sleep(options.interval)
        now, then = api.get("/v1/status"), time.monotonic()
        shown = measured(before, now, then - at, options.sort, moments(api))
        before, at = now, then
        if options.json:
            print(json.dumps(shown, ensure_ascii=False), flush=True)
        else:
            # Whoever reads a pipe or a file gets whole lines.
            columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
            print("\n".join(line[:columns] for line in render(shown)), flush=True)
        if options.once:
            return 0


def _can_move() -> bool:
    """Whether the terminal's cursor can be moved, as far as curses knows it."""
    try:
        import curses

        curses.setupterm()
    except (ImportError, curses.error):
        return False
    return curses.tigetstr("cup") is not None


def measured(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    seconds: float,
    sort: str = "rate",
    when: Mapping[tuple[str, str], Moment] | None = None,
) -> dict[str, Any]:
    """Two statuses, so many seconds apart, as rates; ``sort``: rate, lag (events that wait) or loss.

    ``when``: by code and subject since when it is wrong.
    """
    from tempos.doctor import Asked, judge
    from tempos.doctor.findings import BAD
    from tempos.doctor.serving import SERVING, few, look, timed

    known = {each["id"]: each for each in before["topics"]}
    same = before["broker"]["pid"] == now["broker"]["pid"]
    topics = [_topic(known.get(each["id"]) if same else None, each, seconds) for each in now["topics"]]
    key = {"rate": "in_per_s", "lag": "waiting", "loss": "lost"}[sort]
    topics.sort(key=lambda each: (-each[key], each["name"]))
    found = [timed(each, when or {}) for each in look(now)]
    wrong = [each for each in judge(SERVING.checks, few(found)[0], Asked()) if not each.had]
    wrong.sort(key=lambda each: each.severity not in BAD)
    return {
        "broker": now["broker"]["name"],
        "seconds": round(seconds, 3),
        "wrong": [
            {"code": each.code, "name": each.name, "severity": each.severity.value,
             "subject": each.subject, "cause": each.cause, "fix": each.fix}
            for each in wrong
        ],
        "topics": topics,
    }  # fmt: skip


def _topic(before: Mapping[str, Any] | None, now: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    groups = now["groups"]

    def rate(counted: int, earlier: int | None) -> float:
        return 0.0 if earlier is None else round(max(0, counted - earlier) / seconds, 1)

    tickets = sum(group["tickets"] for group in groups)
    had = None if before is None else sum(group["tickets"] for group in before["groups"])
    return {
        "name": now["name"],
        "class": now["class"],
        "path": now["path"],
        "reason": now["reason"],
        "in_per_s": rate(now["received"], None if before is None else before["received"]),
        "out_per_s": rate(tickets, had),
        "members": sum(len(group["members"]) for group in groups),
        "waiting": sum(each["waiting"] or 0 for group in groups for each in group["members"]),
        "lost": not_delivered(now),
    }


def render(shown: Mapping[str, Any]) -> Iterator[str]:
    """Lines for a screen of 80 columns."""
    wrong = [each for each in shown["wrong"] if each["severity"] != "note"]
    first = next(iter(wrong), None)
    if first is None:
        notes = [f"{each['code']} {each['name']}" for each in shown["wrong"]]
        noted = f" (noted: {', '.join(dict.fromkeys(notes))})" if notes else ""
        yield one_line(f"{shown['broker']}: nothing is wrong{noted}")
    else:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        yield one_line(f"{first['code']} {first['name']}{more}: {first['subject']}: {first['cause']}")
        yield one_line(f"what to do: {first['fix']}" if first["fix"] else "")
    yield ""
    columns = f"{'in/s':>9} {'out/s':>9} {'mem':>4} {'wait':>6} {'lost':>7}"
    yield f"{'topic':<24} {'cls':3} {'path':4} {columns}  why"
    for each in shown["topics"]:
        name = one_line(each["name"])
        name = name if len(name) <= 24 else name[:23] + "…"
        yield one_line(
            f"{name:<24} {each['class']:3} {each['path'] or '-':4} {each['in_per_s']:>9,.0f} "
            f"{each['out_per_s']:>9,.0f} {each['members']:>4} {each['waiting']:>6,} {each['lost']:>7,}  "
            f"{each['reason']}"
        )

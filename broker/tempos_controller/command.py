"""The Controller's commands: ``tempos up``, ``tempos platform`` and ``tempos workflow``.

Each function adds one command to the parser of ``tempos`` and sets ``run``. What a command needs is imported
when it runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_PLATFORM_EXAMPLES = """\
examples:
  tempos platform check config/platform.toml
        whether the file is sound, or all that is wrong with it
  tempos platform plan config/platform.toml
        what would change, in the order in which it would be done
"""


def platform(subparsers: Subparsers) -> None:
    """Add ``tempos platform check`` and ``tempos platform plan``."""
    parser = subparsers.add_parser(
        "platform",
        help="check a platform's file, or tell what it would change",
        description="Check the file of a platform, or tell what it would change, without changing anything.",
        epilog=_PLATFORM_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    check = actions.add_parser("check", help="tell whether a file is sound, or all that is wrong with it")
    check.set_defaults(run=_run_check)
    plan = actions.add_parser("plan", help="tell what would change, in order")
    plan.set_defaults(run=_run_plan)
    for each in (check, plan):
        each.add_argument("file", metavar="FILE", help="the platform, TOML")
        each.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def _run_check(options: argparse.Namespace) -> int:
    from tempos import ConfigError
    from tempos_controller.config.load import load
    from tempos_daemon.schema import count

    problems: list[str] = []
    sizes = {"workflows": 0, "functions": 0, "triggers": 0, "topics": 0, "nodes": 0}
    try:
        found = load(Path(options.file)).platform
    except ConfigError as error:
        problems = error.problems
    else:
        sizes = {kind: len(getattr(found, kind)) for kind in sizes}
    if options.json:
        print(json.dumps({"file": options.file, "ok": not problems, **sizes, "problems": problems}, indent=2))
    elif problems:
        print("\n".join(problems), file=sys.stderr)
    else:
        told = ", ".join(count(number, kind[:-1]) for kind, number in sizes.items())
        print(f"{options.file}: ok, {told}")
    return 1 if problems else 0


def _run_plan(options: argparse.Namespace) -> int:
    from tempos_controller.config.load import load
    from tempos_controller.plan.planner import plan
    from tempos_controller.plan.wanted import Parts, compile_platform

    found = load(Path(options.file)).platform
    actions = plan(Parts(), compile_platform(found))
    lines = [line for action in actions for line in action.words()]
    if options.json:
        print(json.dumps({"file": options.file, "changes": lines}, indent=2))
    else:
        print("\n".join(lines) or "nothing would change")
    return 0

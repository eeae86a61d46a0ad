"""``tempos up`` and ``tempos platform``: run a platform's file, check it, list and remove what there is."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tempos.cli.answer import show_answer, understood
from tempos.cli.status import table
from tempos_controller.commands.access import add_controller, ask, changes_of, controller, made
from tempos_daemon import logs

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_UP_EXAMPLES = """\
examples:
  tempos up config/platform.toml
        broker, triggers, invokers and Controller, all in the foreground; Ctrl-C ends them in order
  tempos up platform.toml --state /tmp/try
        the same with its state in another folder

Prints a line that begins with "ready" when every part has in force what the file says, and below it what can
be called. What was changed at run time (`tempos workflow`) is there again after a restart; a file that is not
as it was the last time is put in force over it. SIGHUP reads the file again. The daemons outlive a Controller
that is killed: the next one finds them and goes on. SIGUSR2 ends the Controller alone.
"""

_PLATFORM_EXAMPLES = """\
examples:
  tempos platform check config/platform.toml
        whether the file is sound, or all that is wrong with it
  tempos platform plan config/platform.toml
        what it would change of what runs, in the order in which it would be done
  tempos platform ls
        all workflows, functions, triggers and nodes of the platform that runs
  tempos platform rm node edge
        have a node no longer, also one that is gone for good; the same with a trigger, function, workflow
  tempos platform rm function old older --plan
        only tell what that would do

What was made by the file comes back with `tempos up` where the file has it still. `rm` returns when all of
what it names is gone, or nothing has changed, with the reason: what something else needs stays.
"""

#: Kinds of what a platform has, as they are written in its file.
_KINDS = ("workflow", "function", "trigger", "node")


def up(subparsers: Subparsers) -> None:
    """Add ``tempos up``."""
    parser = subparsers.add_parser(
        "up",
        help="run all of a platform's file: broker, triggers, invokers, Controller",
        description="Run all that the file of a platform describes, until told to stop.",
        epilog=_UP_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="the platform, TOML")
    parser.add_argument("--state", metavar="DIR", help="keep the state here (default: controller.state)")
    logs.add_options(parser, "warning")
    parser.set_defaults(run=_run_up)


def platform(subparsers: Subparsers) -> None:
    """Add ``tempos platform`` with ``check``, ``plan``, ``ls`` and ``rm``."""
    parser = subparsers.add_parser(
        "platform",
        help="check a platform's file, tell what it would change; list and remove what there is",
        description="Check the file of a platform, tell what it would change; list and remove what there is.",
        epilog=_PLATFORM_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    check = actions.add_parser("check", help="tell whether a file is sound, or all that is wrong with it")
    check.set_defaults(run=_run_check)
    plan = actions.add_parser("plan", help="tell what would change of what runs, in order")
    plan.set_defaults(run=_run_plan)
    plan.add_argument("--from-nothing", action="store_true", help="as if nothing were in force; asks nobody")
    for each in (check, plan):
        each.add_argument("file", metavar="FILE", help="the platform, TOML")
    listed = actions.add_parser("ls", help="list workflows, functions, triggers and nodes of what runs")
    listed.set_defaults(run=_run_list)
    listed.add_argument(
        "kind", nargs="?", choices=_KINDS, metavar="KIND", help=f"only these: {', '.join(_KINDS)}"
    )
    gone = actions.add_parser("rm", help="have some of these no longer; what is on its way arrives first")
    gone.set_defaults(run=_run_remove)
    gone.add_argument("kind", choices=_KINDS, metavar="KIND", help=", ".join(_KINDS))
    gone.add_argument("names", nargs="+", metavar="NAME", help="one of them, or more in one change")
    gone.add_argument("--plan", action="store_true", help="only tell what would be done")
    for each in (plan, listed, gone):
        add_controller(each)
    for each in (check, plan, listed, gone):
        each.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def _run_up(options: argparse.Namespace) -> int:
    from tempos_daemon.entry import wait_for_configuration

    # Before the Controller's modules are read, which takes a while.
    wait_for_configuration()
    from tempos_controller.__main__ import run

    return run(options)


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

    loaded = load(Path(options.file))
    answer: Any
    if options.from_nothing:
        from tempos_controller.plan.planner import plan
        from tempos_controller.plan.wanted import Parts, compile_platform

        actions = plan(Parts(), compile_platform(loaded.platform))
        answer = {"changes": [line for action in actions for line in action.words()]}
    else:
        from tempos_controller.commands.changes import change_of, upload

        api = controller(options)
        ask(lambda: upload(api, loaded.code))
        answer = ask(lambda: api.post("/v1/plan", {**change_of(loaded.documents), "whole": True}))
    with understood(options.api):
        told = changes_of(answer, "nothing would change")
        document = {"file": options.file, **answer}
    print(json.dumps(document, indent=2) if options.json else told)
    return 0


def _run_list(options: argparse.Namespace) -> int:
    api = controller(options, 30)
    kinds = (options.kind,) if options.kind else _KINDS
    answer = ask(lambda: {kind: api.get(f"/v1/{kind}s") for kind in kinds})
    show_answer(options, answer, _listed)
    return 0


def _listed(answer: Any) -> str:
    rows: list[tuple[str, ...]] = [
        (kind, each["name"], _about(kind, each["document"]), ", ".join(each.get("workflows", ())) or "-",
         made(each))
        for kind, items in answer.items()
        for each in items
    ]  # fmt: skip
    lines = table(("kind", "name", "what", "workflows", "made"), rows)
    return "\n".join(line[2:] for line in lines) if rows else "nothing"


def _about(kind: str, document: Any) -> str:
    """What a person tells one from another by."""
    match kind:
        case "workflow":
            return f"topic {document['topic']}"
        case "node":
            elsewhere = (f"{part} {document[part]}" for part in ("invoker", "trigger") if document.get(part))
            return ", ".join(elsewhere) or "here"
        case "trigger":
            return str(document["kind"])
    return str(document["mode"])


def _run_remove(options: argparse.Namespace) -> int:
    names = list(dict.fromkeys(options.names))
    api, change = controller(options), {"remove": {options.kind: names}}
    # Refused for a name that nothing has.
    ask(lambda: [api.get(f"/v1/{options.kind}s/{quote(name, safe='')}") for name in names])
    answer = ask(lambda: api.post("/v1/plan" if options.plan else "/v1/apply", change))
    nothing = "nothing of what runs would change" if options.plan else f"removed: {', '.join(names)}"
    show_answer(options, answer, lambda done: changes_of(done, nothing))
    return 0

"""``tempos workflow``: list, show, change, remove and watch the workflows of a running platform."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tempos.cli.answer import show_answer, understood
from tempos.cli.options import count, positive
from tempos.cli.status import clock, number, table
from tempos_controller.commands.access import add_controller, ask, changes_of, controller, made

if TYPE_CHECKING:
    from collections.abc import Callable

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_EXAMPLES = """\
examples:
  tempos workflow ls                          every workflow, and whether all is in force
  tempos workflow show count                  its steps, and what became of every event
  tempos workflow apply workflow.toml         have what the file holds, beside what there is
  tempos workflow apply workflow.toml --plan  only tell what that would do
  tempos workflow rm count                    what is on its way through it arrives first
  tempos workflow logs count                  the last lines that its functions wrote
  tempos workflow top                         rates, again and again

The file of `apply` holds [[workflow]] tables, and the [[function]], [[trigger]] and [[node]] that they need
and that are not there yet, as a platform's file does. It returns when all is in force or nothing changed.
"""


def workflow(subparsers: Subparsers) -> None:
    """Add ``tempos workflow``."""
    parser = subparsers.add_parser(
        "workflow",
        help="list, show, change, remove or watch workflows",
        description="List, show, change, remove or watch the workflows of a running platform.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    orders = parser.add_subparsers(metavar="ORDER", dest="order", required=True)

    def add(name: str, text: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        order = orders.add_parser(name, help=text, description=text)
        add_controller(order)
        order.set_defaults(run=run)
        return order

    listed = add("ls", "every workflow, and whether all is in force", _list)
    shown = add("show", "one workflow: its steps, and what became of every event", _show)
    applied = add("apply", "have what a file holds; answered when it is in force", _apply)
    applied.add_argument("file", metavar="FILE")
    applied.add_argument("--plan", action="store_true", help="only tell what would be done")
    gone = add("rm", "remove a workflow; what is on its way through it arrives first", _remove)
    told = add("logs", "the last lines that the functions of a workflow wrote", _logs)
    told.add_argument("-n", "--lines", metavar="N", type=count, default=50, help="(default: %(default)s)")
    told.add_argument(
        "--all", action="store_true", help="also lines that do not name the workflow or its parts"
    )
    watched = add("top", "events per second through every step, again and again", _top)
    watched.add_argument(
        "--once", action="store_const", const=1, dest="count", help="once, and end: as --count 1"
    )
    watched.add_argument("--every", metavar="S", type=positive, default=1.0, help="(default: %(default)g)")
    watched.add_argument("--count", metavar="N", type=count, help="so many times (default: until Ctrl-C)")
    for each in (listed, shown, applied, gone):
        each.add_argument("--json", action="store_true", help="print the answer of the API")
    for each in (shown, gone, told):
        each.add_argument("name", metavar="NAME")


def _address(name: str) -> str:
    return f"/v1/workflows/{quote(name, safe='')}"


def _list(options: argparse.Namespace) -> int:
    api = controller(options, 30)
    status = ask(lambda: api.get("/v1/status"))
    answer = ask(lambda: api.get("/v1/workflows"))

    def show(workflows: Any) -> str:
        rows: list[tuple[str, ...]] = [
            (
                each["name"], each["class"], each["topic"], ", ".join(each["triggers"]) or "-",
                " -> ".join(step["function"] for step in each["steps"]), each["steps"][-1]["result"] or "-",
                made(each),
            )
            for each in workflows
        ]  # fmt: skip
        lines = table(("name", "class", "topic", "triggers", "functions", "result", "made"), rows)
        return "\n".join([*(line[2:] for line in lines), *_amiss(status)]) if rows else "no workflow"

    show_answer(options, answer, show)
    return 0


def _amiss(status: Any) -> list[str]:
    changing = [f"changing: {status['changing']}"] if status["changing"] else []
    lines = [f"NOT IN FORCE  {what}: {why}" for what, why in status["amiss"].items()]
    lines += [
        f"{part['name']} {part['reason']}; started again in {part['starts_in_s']:.1f} s"
        for part in status["parts"]
        if part.get("starts_in_s") is not None
    ]
    return ["", *changing, *lines] if changing or lines else []


def _show(options: argparse.Namespace) -> int:
    answer = ask(lambda: controller(options, 30).get(_address(options.name)))
    show_answer(options, answer, _one)
    return 0


def _one(workflow: Any) -> str:
    lines = [f"{workflow['name']}  {workflow['class']}, made {made(workflow)}, topic {workflow['topic']}"]
    lines += [
        f"  trigger {each['name']} on node {each['node']}: {_endpoint(each)}"
        for each in workflow["endpoints"]
    ]
    for step in workflow["steps"]:
        result = f" -> {step['result']}" if step["result"] else ""
        error = f", errors to {step['error']}" if step["error"] else ""
        lines.append(f"  step {step['name']}: {step['topic']} -> {step['function']}{result}{error}")
        lines += [f"    node {each['node']}: {_step(each)}" for each in step["accounts"]]
    lines += [f"  {what} does not answer: what it counted is not known now" for what in workflow["away"]]
    return "\n".join(lines)


def _endpoint(told: Any) -> str:
    """The account of an endpoint: received = published + waiting + dropped."""
    words = [f"{number(told['received'])} received", f"{number(told['published'])} published"]
    words += [f"{number(told['waiting'])} waiting"] if told["waiting"] else []
    words += [f"{number(count)} dropped ({reason})" for reason, count in told["dropped"].items() if count]
    if (answers := told.get("answers")) is not None:
        words.append(f"{number(answers['answered'])} of {number(answers['requests'])} answered")
        otherwise = {"deadline": answers["timeouts"], **answers["failed"]}
        words += [f"{number(count)} not ({reason})" for reason, count in otherwise.items() if count]
    why = told.get("why_not") or told.get("shut")
    return ", ".join([*words, *([why] if why else [])])


def _step(told: Any) -> str:
    """The account of a step: accepted = succeeded + failed + waiting + running."""
    account = told["account"]
    words = [f"{number(account['accepted'])} accepted", f"{number(account['succeeded'])} succeeded"]
    words += [f"{number(count)} failed ({reason})" for reason, count in account["failed"].items()]
    words += [f"{number(account[key])} {key}" for key in ("waiting", "running", "retries") if account[key]]
    return ", ".join([*words, *(["DOES NOT ADD UP"] if account["drift"] else [])])


def _apply(options: argparse.Namespace) -> int:
    from tempos_controller.commands.changes import read_change, upload

    change, code, others = read_change(options.file)
    if others:
        told = ", ".join(f"[{each}]" for each in others)
        print(
            f"tempos workflow: {told} of {options.file} are no part of a change: left alone", file=sys.stderr
        )
    api = controller(options)
    ask(lambda: upload(api, code))
    answer = ask(lambda: api.post("/v1/plan" if options.plan else "/v1/apply", change))
    nothing = "nothing would change" if options.plan else "nothing to change: it is in force as it is"
    show_answer(options, answer, lambda done: changes_of(done, nothing))
    return 0


def _remove(options: argparse.Namespace) -> int:
    answer = ask(lambda: controller(options).delete(_address(options.name)))
    show_answer(options, answer, lambda done: changes_of(done, f"{options.name} is removed"))
    return 0


def _logs(options: argparse.Namespace) -> int:
    api = controller(options, 30)
    told = ask(lambda: api.get(f"{_address(options.name)}/logs"))
    with understood(api.url):
        written = sorted(
            (line["time"], each["where"], line["pid"], line["text"])
            for each in told["logs"]
            for line in each["lines"]
        )
        lines = [f"{clock(at)} {where} {process:>7} {text}" for at, where, process, text in written]
        remarks = [
            f"{each['where']}: {each['left_out']} lines were left out there"
            for each in told["logs"]
            if each["left_out"]
        ]
        remarks += [f"{what} does not answer: what it said is not known now" for what in told["away"]]
    for line in lines[-options.lines :] if lines else ["its functions wrote nothing"]:
        print(line)
    for line in remarks:
        print(line, file=sys.stderr)
    return 0


def _top(options: argparse.Namespace) -> int:
    from tempos_controller.commands.rates import Rates

    api = controller(options, 30)
    rates = Rates()
    shown = 0
    while options.count is None or shown < options.count:
        with understood(api.url):
            told = ask(lambda: [api.get(_address(each["name"])) for each in api.get("/v1/workflows")])
            rows = rates.rows(told, time.monotonic())
        if rows is not None:
            lines = table(("workflow", "part", "in/s", "done/s", "failed/s", "waiting", "running"), rows)
            if sys.stdout.isatty():
                print("\x1b[H\x1b[2J", end="")
            print("\n".join(line[2:] for line in lines), flush=True)
            shown += 1
            if shown == options.count:
                break
        time.sleep(options.every)
    return 0

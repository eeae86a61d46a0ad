"""The commands ``tempos invoker``, ``tempos function`` and ``tempos errors``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from tempos_daemon import logs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tempos.cli.api import Api

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

API = "http://127.0.0.1:9995"
#: Seconds that a call by hand may take.
CALL_WITHIN = 3700.0

_INVOKER_EXAMPLES = """\
examples:
  tempos invoker
        wait for a deployment over the API, 127.0.0.1:9995; the one of the last time is in force at once
  tempos invoker -c config/invoker.toml
        do what a file says; SIGHUP reads it again
  tempos invoker -c config/invoker.toml --check
        only find out whether the file is sound

A file holds [invoker] (name, api, api_token, api_token_file, state, log, priority_sq, budget_sq) and, if it
is to be the deployment itself, [broker], [[function]] and [[step]]. Prints one line that begins with "ready"
when every function of a file has its workers. Stops cleanly, within 5 seconds: takes no more events,
finishes what has come as far as there is time for it.
"""

_FUNCTION_EXAMPLES = """\
examples:
  tempos function ls
  tempos function invoke count -m '{"text": "abracadabra", "pattern": "ab"}'
  cat image.png | tempos function invoke thumbnail > small.png
  tempos function logs count
  cc -shared -fPIC -I "$(tempos function header)" -o count.so count.c

Exit codes of invoke: 0 it succeeded, 1 it did not (the condition and the reason are told).
"""

_ERRORS_EXAMPLES = """\
examples:
  tempos errors list --workflow count --condition timeout
  tempos errors show 17                         where it came from, what failed, and its body
  tempos errors redrive 17 18                   accept these events anew
  tempos errors redrive --workflow count        all that failed in a workflow
  tempos errors redrive --all

The invoker keeps the latest 1,000 failures; a step's error topic gets them all.
"""


def invoker(subparsers: Subparsers) -> None:
    """Add ``tempos invoker``."""
    parser = _parser(
        subparsers, "invoker", "let events call functions", "Let events call functions.", _INVOKER_EXAMPLES
    )
    parser.add_argument("-c", "--config", metavar="FILE", help="what to do, in TOML")
    parser.add_argument("--check", action="store_true", help="only check the file")
    logs.add_options(parser)
    parser.set_defaults(run=_run)


def function(subparsers: Subparsers) -> None:
    """Add ``tempos function``."""
    parser = _parser(
        subparsers, "function", "list and call functions", "List and call functions.", _FUNCTION_EXAMPLES
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    ls = _action(actions, "ls", "functions, their workers and their accounts", _ls)
    ls.add_argument("--json", action="store_true", help="as the API tells it")
    call = _action(actions, "invoke", "call one by hand, and print its output", _invoke)
    call.add_argument("name", metavar="NAME")
    call.add_argument("-m", "--message", metavar="BODY", help="the body (default: standard input)")
    header = actions.add_parser("header", help="the folder of tempos_function.h, for functions in C")
    header.set_defaults(run=_header)
    lines = _action(actions, "logs", "the latest lines that one wrote", _logs)
    lines.add_argument("name", metavar="NAME")
    lines.add_argument("--json", action="store_true", help="as the API tells it")


def errors(subparsers: Subparsers) -> None:
    """Add ``tempos errors``."""
    parser = _parser(
        subparsers,
        "errors",
        "list, show and redrive invocations that failed",
        "List, show and redrive invocations that failed.",
        _ERRORS_EXAMPLES,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listed = _action(actions, "list", "the latest first", _list)
    _add_filter(listed)
    listed.add_argument("--limit", type=int, default=100, help="at most so many (default: 100)")
    listed.add_argument("--json", action="store_true", help="as the API tells it")
    shown = _action(actions, "show", "one of them, with its body", _show)
    shown.add_argument("number", type=int)
    shown.add_argument("--json", action="store_true", help="as the API tells it")
    again = _action(actions, "redrive", "accept failed events anew", _redrive)
    again.add_argument("number", type=int, nargs="*")
    _add_filter(again)
    again.add_argument("--all", action="store_true", help="all that are kept")
    again.add_argument("--json", action="store_true", help="as the API tells it")


def _parser(
    subparsers: Subparsers, name: str, text: str, description: str, examples: str
) -> argparse.ArgumentParser:
    return subparsers.add_parser(
        name,
        help=text,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _action(actions: Any, name: str, text: str, run: Any) -> argparse.ArgumentParser:
    from tempos.cli.api import add_api

    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
    add_api(parser, "the invoker's API", "TEMPOS_INVOKER_API", API)
    parser.set_defaults(run=run)
    return parser


def _add_filter(parser: argparse.ArgumentParser) -> None:
    from tempos_invoker.core.account import CONDITIONS

    for name in ("workflow", "step", "function"):
        parser.add_argument(f"--{name}", metavar="NAME", help=f"only those of this {name}")
    parser.add_argument("--condition", choices=tuple(CONDITIONS), help="only those of this condition")


def _api(options: argparse.Namespace, timeout: float = 5.0) -> Api:
    from tempos.cli.api import Api
    from tempos_daemon.token import made_here

    return Api.of(options, timeout, whose="invoker", made=lambda url: made_here("invoker", url))


# --- tempos invoker ------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    if options.check and not options.config:
        print("tempos invoker: --check needs a file: -c FILE", file=sys.stderr)
        return 2
    from tempos_invoker.__main__ import run

    return run(options)


# --- tempos function -----------------------------------------------------------------------------


def _ls(options: argparse.Namespace) -> int:
    from tempos.cli.answer import show_answer

    show_answer(options, _api(options).get("/v1/status"), show_functions)
    return 0


def show_functions(status: Any) -> str:
    """The functions of a status as a table, and what is wrong with them."""
    from tempos.cli.status import number, table

    rows: list[tuple[str, ...]] = []
    faults: list[str] = []
    for each in status["functions"]:
        account = each["account"]
        serving = [worker for worker in each["workers"] if worker["state"] == "serving"]
        policies = sorted({worker["scheduling"].get("policy", "?") for worker in serving})
        rows.append(
            (
                each["name"] + (" (leaving)" if each["leaving"] else ""),
                each["class"],
                each["mode"],
                each["version"],
                f"{len(serving)}/{each['concurrency']}",
                ",".join(policies) or "-",
                number(account["accepted"]),
                number(account["succeeded"]),
                number(sum(account["failed"].values())),
                number(account["waiting"]),
                number(account["running"]),
                number(each["restarts"]),
            )
        )
        if each["fault"]:
            faults.append(f"{each['name']}: {each['fault']}")
        if account["drift"]:
            faults.append(f"{each['name']}: its account is off by {account['drift']}")
        for condition, count in account["failed"].items():
            faults.append(f"{each['name']}: {count} failed: {condition}")
    head = (
        "function", "class", "mode", "version", "workers", "scheduled", "accepted", "succeeded", "failed",
        "waiting", "running", "restarts",
    )  # fmt: skip
    if not rows:
        return "no functions: no deployment is in force"
    return "\n".join([*table(head, rows), *faults])


def _invoke(options: argparse.Namespace) -> int:
    from tempos.cli import bodies

    if options.message is None:
        body = sys.stdin.buffer.read()
    else:
        body = options.message.encode(errors="surrogateescape")
    path = f"/v1/functions/{quote(options.name, safe='')}/invoke"
    output = _api(options, CALL_WITHIN).send(path, body)
    if sys.stdout.isatty() or options.message is not None:
        sys.stdout.write(bodies.show(output) + "\n")
    else:
        sys.stdout.buffer.write(output)
    return 0


def _logs(options: argparse.Namespace) -> int:
    from tempos.cli.answer import show_answer

    show_answer(options, _api(options).get(f"/v1/logs/{quote(options.name, safe='')}"), show_log)
    return 0


def show_log(answer: Any) -> str:
    """The lines of a function, with their times and processes."""
    from tempos.cli.status import clock

    lines = [f"{clock(line['time'])} {line['pid']:>7} {line['text']}" for line in answer["lines"]]
    if answer["left_out"]:
        lines.append(f"({answer['left_out']} lines were left out: it writes more than is kept)")
    return "\n".join(lines) if lines else "it wrote nothing"


def _header(options: argparse.Namespace) -> int:
    from tempos_invoker.headers import FOLDER

    print(FOLDER)
    return 0


# --- tempos errors -------------------------------------------------------------------------------


def _wanted(options: argparse.Namespace) -> dict[str, Any]:
    names = ("workflow", "step", "function", "condition")
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _list(options: argparse.Namespace) -> int:
    from tempos.cli.answer import show_answer

    query = urlencode({**_wanted(options), "limit": options.limit})
    is_chosen = bool(_wanted(options))
    show_answer(options, _api(options).get(f"/v1/errors?{query}"), lambda told: show_errors(told, is_chosen))
    return 0


def show_errors(answer: Any, is_chosen: bool = False) -> str:
    """Failures as a table; ``is_chosen``: of all those that are kept not each was asked for."""
    from tempos.cli.status import clock, table

    rows: list[tuple[str, ...]] = [
        (
            str(each["number"]),
            clock(each["times"]["received"] / 1e9),
            f"{each['workflow']}/{each['step']}",
            each["condition"],
            str(each["attempts"]),
            each["id"],
            each["reason"],
        )
        for each in answer["errors"]
    ]
    if not rows:
        return "no failure that is kept is such" if is_chosen else "no failures are kept"
    lines = list(table(("number", "received", "step", "condition", "attempts", "id", "reason"), rows))
    if (more := answer["found"] - len(rows)) > 0:
        lines.append(f"({more:,} more: --limit)")
    if dropped := answer["dropped"]:
        lines.append(f"({dropped:,} earlier ones are kept no more; the step's error topic had them)")
    return "\n".join(lines)


def _show(options: argparse.Namespace) -> int:
    from tempos.cli.answer import show_answer

    show_answer(options, _api(options).get(f"/v1/errors/{options.number}"), show_error)
    return 0


def show_error(answer: Any) -> str:
    """One failure, a line for each of what is known of it."""
    from tempos.cli import bodies
    from tempos.cli.status import clock

    times = {f"{name}": clock(value / 1e9) if value else "-" for name, value in answer["times"].items()}
    told = {
        **{key: answer[key] for key in ("id", "workflow", "step", "function", "version", "topic")},
        **{key: answer[key] for key in ("condition", "reason", "attempts")},
        **times,
        "body": bodies.show(bytes.fromhex(answer["body"])),
    }
    return "\n".join(f"{name + ':':<11}{value}" for name, value in told.items())


def _redrive(options: argparse.Namespace) -> int:
    from tempos.cli.answer import show_answer, understood

    wanted = _wanted(options)
    if not (wanted or options.number or options.all):
        options.fail("say which: numbers, --workflow, --step, --function, --condition, or --all")
    if options.number:
        wanted["numbers"] = options.number
    answer = _api(options).post("/v1/errors/redrive", wanted)
    with understood(options.api):
        left = answer["left"]
        missing = set(options.number) - {*answer["redriven"], *left}
    show_answer(options, answer, lambda told: show_redriven(told, sorted(missing)))
    return 1 if missing or left else 0


def show_redriven(answer: Any, missing: Sequence[int] = ()) -> str:
    """How many were accepted anew; ``missing``: numbers that were asked for and are not there."""
    text = f"{len(answer['redriven'])} accepted anew"
    if missing:
        text += f"; kept no more, or not of those asked for: {', '.join(map(str, missing))}"
    if answer["left"]:
        text += f"; left, for their step is gone: {', '.join(map(str, answer['left']))}"
    return text

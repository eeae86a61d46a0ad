"""``tempos ctl`` and ``tempos reload``: what an operator does to a running broker."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tempos.cli import clients, topics
from tempos.cli import options as opt
from tempos.cli.answer import show_answer
from tempos.cli.api import Api, add_api, add_api_again
from tempos.cli.completion import with_groups, with_members, with_topics
from tempos.cli.status import number, table
from tempos.cli.topics import topic_table

if TYPE_CHECKING:
    from tempos.cli.extensions import Subparsers

_EXAMPLES = """\
examples:
  tempos ctl topics
  tempos ctl topic add plant/line1/press --class SQ
                                                make one; see tempos ctl topic --help for set and remove
  tempos ctl client add sensor-1 --publish plant/# -o sensor-1.key
                                                a client with a key; see tempos ctl client --help
  tempos ctl path temperature fast              take the fast path; auto, slow
  tempos ctl drain temperature workers 10.0.2.2:5000
                                                exit code 0 once it has confirmed everything, 1 if not
  tempos ctl remove temperature workers 10.0.2.2:5000 --for 1h
                                                it may not come back for an hour
  tempos ctl kept-out                           who may not come back, and until when
  tempos ctl let-in temperature workers 10.0.2.2:5000
  tempos ctl reload                             apply a changed configuration; `tempos reload` is the same

A member that was taken out stays out for two leases, or as long as --for says, or until it is let in: it is
told why, asks again with each heartbeat and comes back by itself when it may. That holds for its address and
port in that group, over restarts of the broker, too. With --for 0 it may come back at once.
"""

#: Seconds that a reload may take: longer than a broker gives to the checking of its file.
RELOAD = 150.0

_RELOAD_EXAMPLES = """\
examples:
  tempos reload                     print what changed, a line each
  tempos config check broker.toml && tempos reload

Topics, their static members, limits of groups, and who may ask can change; what cannot is told, and then
nothing changes. SIGHUP does the same.
"""


def register(subparsers: Subparsers) -> None:
    """Add ``tempos ctl``."""
    parser = subparsers.add_parser(
        "ctl",
        help="change a running broker: paths, members, configuration",
        description="Ask and change a running broker through its control API.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_api(parser)
    parser.set_defaults(run=_run_none, help_=parser.print_help)
    actions = parser.add_subparsers(metavar="ACTION", dest="action")

    def add(name: str, text: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("--json", action="store_true", help="print the answer of the API")
        add_api_again(action)
        action.set_defaults(run=run)
        return action

    add("topics", "every topic with its path", _topics)
    topics.register(actions)
    clients.register(actions)
    route = add("route", "the groups and members of a topic", _route)
    with_topics(route.add_argument("topic", metavar="TOPIC"))
    path = add("path", "let a topic take another path; nothing is lost or doubled", _path)
    with_topics(path.add_argument("topic", metavar="TOPIC"))
    path.add_argument("policy", choices=("fast", "slow", "auto"))
    drain = add("drain", "take a member out, losing nothing", _drain)
    drain.add_argument(
        "--patience", metavar="S", type=opt.positive, default=5.0,
        help="seconds to wait for its confirmation, at most 60 (default: %(default)g)",
    )  # fmt: skip
    remove = add("remove", "take a member out at once", _remove)
    for action in (drain, remove):
        how_long = action.add_mutually_exclusive_group()
        how_long.add_argument(
            "--for", metavar="TIME", dest="keep_out", type=opt.duration,
            help="it may not come back for so long: 90s, 15m, 2h, 1d (default: two leases)",
        )  # fmt: skip
        how_long.add_argument(
            "--until-let-in", action="store_true", help="it may not come back until `tempos ctl let-in`"
        )
    for action in (drain, remove, add("let-in", "let somebody come back who is kept out", _let_in)):
        with_topics(action.add_argument("topic", metavar="TOPIC"))
        with_groups(action.add_argument("group", metavar="GROUP"))
        with_members(action.add_argument("member", metavar="IP:PORT"))
    add("kept-out", "who may not come back, and until when", _kept_out)
    add("reload", "apply a changed configuration, whole or not at all", _reload)
    add("ready", "whether the broker is ready", _ready)


def register_reload(subparsers: Subparsers) -> None:
    """Add ``tempos reload``."""
    parser = subparsers.add_parser(
        "reload",
        help="let a running broker apply its changed configuration",
        description="Let a running broker apply its changed configuration, whole or not at all.",
        epilog=_RELOAD_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the answer of the API")
    add_api(parser)
    parser.set_defaults(run=_reload)


def _run_none(options: argparse.Namespace) -> int:
    options.help_()
    return 2


def _topics(options: argparse.Namespace) -> int:
    show_answer(options, Api.of(options, 60).get("/v1/topics"), topic_table)
    return 0


def _route(options: argparse.Namespace) -> int:
    def show(route: Any) -> str:
        lines = [f"epoch {route['epoch']}, {route['path'] or 'no'} path"]
        lines += [f"  group {group['name']}: {', '.join(group['members'])}" for group in route["groups"]]
        return "\n".join(lines if route["groups"] else [*lines, "  no member"])

    show_answer(options, Api.of(options).get(f"/v1/topics/{quote(options.topic, safe='')}/route"), show)
    return 0


def _path(options: argparse.Namespace) -> int:
    where = f"/v1/topics/{quote(options.topic, safe='')}/path"
    answer = Api.of(options).post(where, {"policy": options.policy})
    show_answer(options, answer, lambda path: f"{path['topic']}: {path['path']} path: {path['reason']}")
    return 0 if options.policy in ("auto", answer.get("path")) else 1


def _member(options: argparse.Namespace) -> str:
    topic, group, member = (quote(part, safe="") for part in (options.topic, options.group, options.member))
    return f"/v1/topics/{topic}/groups/{group}/members/{member}"


def _drain(options: argparse.Namespace) -> int:
    api = Api.of(options, options.patience + 5)
    how_long = {"keep_out_s": options.keep_out, "until_let_in": options.until_let_in}
    answer = api.post(_member(options) + "/drain", {"patience_s": options.patience, **how_long})

    def show(done: Any) -> str:
        confirmed = f"{number(done['delivered'])} of {number(done['ticketed'])} datagrams confirmed"
        return f"{confirmed}; {_stays_out(done)}"

    show_answer(options, answer, show)
    return 0 if answer.get("confirmed") else 1


def _remove(options: argparse.Namespace) -> int:
    how_long = ""
    if options.until_let_in:
        how_long = "?until_let_in=true"
    elif options.keep_out is not None:
        how_long = f"?keep_out_s={options.keep_out!r}"
    answer = Api.of(options).delete(_member(options) + how_long)
    show_answer(options, answer, lambda done: f"{done['removed']} is out; {_stays_out(done)}")
    return 0


def _stays_out(done: Any) -> str:
    kept = done["kept_out"]
    return f"it stays out {kept['until']}" if kept else "it may come back at once"


def _let_in(options: argparse.Namespace) -> int:
    show_answer(
        options,
        Api.of(options).post(_member(options) + "/let-in"),
        lambda done: f"{done['let_in']} may come back",
    )
    return 0


def _kept_out(options: argparse.Namespace) -> int:
    def show(rows: Any) -> str:
        head = ("member", "topic", "group", "why", "stays out")
        cells: list[tuple[str, ...]] = [
            (f"{row['ip']}:{row['port']}", row["topic"], row["group"], row.get("why", ""), row["until"])
            for row in rows
        ]
        return "\n".join(line[2:] for line in table(head, cells)) if rows else "nobody"

    show_answer(options, Api.of(options).get("/v1/kept-out"), show)
    return 0


def _reload(options: argparse.Namespace) -> int:
    answer = Api.of(options, RELOAD).post("/v1/reload")
    show_answer(options, answer, lambda done: "\n".join(done["changes"]) or "nothing changed")
    return 0


def _ready(options: argparse.Namespace) -> int:
    show_answer(
        options, Api.of(options).get("/v1/ready"), lambda done: "ready" if done["ready"] else "not ready"
    )
    return 0

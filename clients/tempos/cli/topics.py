"""``tempos ctl topic``: make, change, remove and list the topics of a running broker."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tempos.cli.answer import show_answer
from tempos.cli.api import Api, orders_of
from tempos.cli.completion import with_topics
from tempos.cli.options import positive
from tempos.cli.status import number, table
from tempos.errors import ApiRefused, RemoteError
from tempos.model import Fanout, Framing, Overflow, PathPolicy, Pick, Prefer, Quality, Unheard

if TYPE_CHECKING:
    from tempos.cli.extensions import Subparsers

_EXAMPLES = """\
examples:
  tempos ctl topic add plant/line1/press --class SQ --rate 1000
                                            made at once, with an id that is free
  tempos ctl topic add alarms --id 7 --framing raw --source 10.0.0.0/8
  tempos ctl topic add netflow --ports 2055,9995 --member ip=10.0.0.8,port=2055
                                            what routers send there, to a collector of theirs
  tempos ctl topic add displays --member ip=10.0.0.7,port=5000,group=wall
  tempos ctl topic set plant/line1/press --rate 2000 --default burst
  tempos ctl topic remove plant/line1/press --drain
  tempos ctl topic list --run-time

What is made here is served by the broker from then on, survives its restart where it keeps state, and stands
beside the topics of its file; `tempos config dump` writes it into one. Options and checks are those of the
file. Id, name and framing make a topic what it is, so they do not change: with others it is another topic.
"""


def register(actions: Subparsers) -> None:
    """Add ``topic`` to the actions of ``tempos ctl``."""
    add = orders_of(
        actions, "topic", "make, change, remove or list topics",
        "Make, change, remove or list the topics of a running broker.", _EXAMPLES,
    )  # fmt: skip
    made = add("add", "make a topic; it is served when this returns", _add)
    made.add_argument("name", metavar="NAME")
    made.add_argument(
        "--id", metavar="N", type=int, help="its number in the data (default: one that is free)"
    )
    made.add_argument("--framing", choices=[each.value for each in Framing],
                      help="how events are laid out (default: event; foreign with --ports)")  # fmt: skip
    changed = add("set", "change options of a topic that was made at run time", _set)
    with_topics(changed.add_argument("name", metavar="NAME"))
    for each in (made, changed):
        _add_options(each)
    changed.add_argument(
        "--default", metavar="OPTION", action="append", default=[], dest="defaults",
        help="set this option back to its default; may be given several times",
    )  # fmt: skip
    gone = add(
        "remove", "remove a topic that was made at run time, and print what became of its events", _remove
    )
    with_topics(gone.add_argument("name", metavar="NAME"))
    gone.add_argument(
        "--drain",
        action="store_true",
        help="also if it has members: they get what is on its way, and are told",
    )
    gone.add_argument(
        "--patience", metavar="S", type=positive, default=5.0,
        help="seconds to wait for what they confirm, at most 60 (default: %(default)g)",
    )  # fmt: skip
    listed = add("list", "every topic, who made it, and which path serves it", _list)
    listed.add_argument("--run-time", action="store_true", help="only those that were made at run time")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--class", dest="quality", choices=[each.value for each in Quality])
    parser.add_argument("--priority", metavar="N", type=int, help="inside its class; 7 is served first")
    parser.add_argument("--path", choices=[each.value for each in PathPolicy])
    parser.add_argument(
        "--source", metavar="NETWORK", action="append", dest="sources",
        help="take events of this network only; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--ports", metavar="PORT[,PORT...]", type=_ports,
        help="take what any sender sends to these ports, as it is",
    )  # fmt: skip
    parser.add_argument(
        "--pick", choices=[each.value for each in Pick],
        help="with --ports: which member of a group gets a datagram",
    )  # fmt: skip
    parser.add_argument("--rate", metavar="N", type=int, help="datagrams per second that are taken")
    parser.add_argument("--burst", metavar="N", type=int, help="how many of them may come at once")
    parser.add_argument("--overflow", choices=[each.value for each in Overflow])
    parser.add_argument("--fanout", choices=[each.value for each in Fanout])
    parser.add_argument(
        "--unheard",
        choices=[each.value for each in Unheard],
        help="what happens to members that events do not reach",
    )
    parser.add_argument("--journal", metavar="N", type=int, help="keep the last N events")
    parser.add_argument("--journal-bytes", metavar="N", type=int, help="bytes of payload kept of each")
    parser.add_argument(
        "--retain", action=argparse.BooleanOptionalAction, help="a new member first gets the last event"
    )
    parser.add_argument(
        "--repair",
        metavar="yes|no|auto",
        type=_repair,
        help="whether members can have sent again what they miss",
    )
    parser.add_argument(
        "--redeliver",
        action=argparse.BooleanOptionalAction,
        help="what a member that is gone has not processed goes to others of its group",
    )
    parser.add_argument(
        "--prefer", choices=[each.value for each in Prefer],
        help="in a fleet: all members of a group alike, or those of the broker's zone while there are any",
    )  # fmt: skip
    parser.add_argument(
        "--member", metavar="ip=IP[,port=PORT][,group=G][,mac=MAC][,source=IP][,weight=N]", action="append",
        type=_member, dest="members", help="a static member; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--group", metavar="name=G[,from=NETWORK...][,every=N][,source=keep][,probe=tcp]...",
        action="append", type=_group, dest="groups",
        help="with --ports: what members of a group get; may be given several times",
    )  # fmt: skip


def _group(text: str) -> dict[str, Any]:
    """What stands for the options of a group; the broker judges them."""
    group: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        # A group's key of the broker's file is "sources", which errors name.
        is_network = key in ("from", "sources")
        if not equals or (key in group and not is_network):
            raise argparse.ArgumentTypeError(f"{text!r} is not such as name=a,from=10.1.0.0/16,every=10")
        if is_network:
            group.setdefault("sources", []).append(value)
        else:
            group[key] = _number(value) if key in ("every", "down_after", "probe_port") else value
    return group


def _number(text: str) -> int | float | str:
    """As a file would have it; what is none stays as it is, and the broker says what is allowed."""
    if text.isascii() and text.isdigit():
        return int(text)
    return float(text) if re.fullmatch(r"[0-9]+\.[0-9]+", text) else text


def _ports(text: str) -> list[int]:
    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not such as 2055,9995") from None


def _repair(text: str) -> bool | str:
    if text not in ("yes", "no", "auto"):
        raise argparse.ArgumentTypeError(f"{text!r} is not yes, no or auto")
    return text if text == "auto" else text == "yes"


def _member(text: str) -> dict[str, Any]:
    """What stands for a static member; the broker judges it."""
    member: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or key in member:
            raise argparse.ArgumentTypeError(f"{text!r} is not such as ip=10.0.0.7,port=5000,group=wall")
        member[key] = _number(value) if key in ("port", "weight") else value
    return member


#: Options as this command has them, and their keys in the broker's file.
_KEYS = {
    "id": "id", "quality": "class", "priority": "priority", "framing": "framing", "path": "path",
    "sources": "sources", "rate": "rate", "burst": "burst", "overflow": "overflow", "fanout": "fanout",
    "unheard": "unheard", "journal": "journal", "journal_bytes": "journal_bytes", "retain": "retain",
    "repair": "repair", "redeliver": "redeliver", "members": "member", "ports": "ports", "pick": "pick",
    "prefer": "prefer",
    "groups": "group",
}  # fmt: skip
_SPELLINGS = {"source": "sources", "journal-bytes": "journal_bytes"}


def _given(options: argparse.Namespace) -> dict[str, Any]:
    return {key: value for name, key in _KEYS.items() if (value := getattr(options, name, None)) is not None}


def _address(name: str) -> str:
    return f"/v1/topics/{quote(name, safe='')}"


def ask(call: Callable[[], Any]) -> Any:
    """The answer; where several things are wrong with the order, each on a line of its own."""
    try:
        return call()
    except ApiRefused as error:
        if len(error.problems) > 1:
            raise RemoteError("\n  ".join(("refused", *error.problems))) from error
        raise


def _add(options: argparse.Namespace) -> int:
    body = {"name": options.name, **_given(options)}
    if "ports" in body:
        body.setdefault("framing", Framing.FOREIGN.value)
    answer = ask(lambda: Api.of(options, 30).post("/v1/topics", body))
    show_answer(options, answer, _one)
    return 0


def _set(options: argparse.Namespace) -> int:
    given = _given(options)
    unset = {_SPELLINGS.get(key, key): None for key in options.defaults}
    if not given and not unset:
        options.fail("what to change? give options, or --default OPTION")
    if both := sorted(given.keys() & unset.keys()):
        options.fail(f"--default {both[0]} stands beside another value for it: give one of both")
    answer = ask(lambda: Api.of(options, 30).patch(_address(options.name), {**given, **unset}))
    show_answer(options, answer, _one)
    return 0


def _one(topic: Any) -> str:
    limit = f", at most {number(topic['rate'])} datagrams/s" if topic["rate"] else ""
    sources = f", from {', '.join(topic['sources'])}" if topic["sources"] else ""
    if topic["ports"]:
        sources += f", at port {', '.join(map(str, topic['ports']))}"
    ends = "" if topic["durable"] else "\n  it ends with this broker, which keeps no state (state.file)"
    return (
        f"{topic['name']} ({topic['id']}): {topic['class']}, priority {topic['priority']}, "
        f"{topic['framing']}{limit}{sources}; {topic['path']} path: {topic['reason']}{ends}"
    )


def _remove(options: argparse.Namespace) -> int:
    query = f"?drain={'true' if options.drain else 'false'}&patience_s={options.patience!r}"
    answer = ask(lambda: Api.of(options, options.patience + 30).delete(_address(options.name) + query))

    def show(done: Any) -> str:
        account = done["account"]
        lines = [
            f"{done['removed']} ({done['id']}) is removed; {number(account['received'])} datagrams had come, "
            f"{number(account['fast'] + account['slow'])} went to its groups"
        ]
        if done["members"]:
            lines.append(
                f"  {number(done['members'])} members were taken out; those with a lease confirmed "
                f"{number(done['delivered'])} of {number(done['ticketed'])} datagrams"
            )
        return "\n".join([*lines, *(f"  does not add up: {each}" for each in account["problems"])])

    show_answer(options, answer, show)
    return 0 if answer.get("confirmed") else 1


def _list(options: argparse.Namespace) -> int:
    answer = Api.of(options, 60).get("/v1/topics")
    if options.run_time and isinstance(answer, list):
        answer = [topic for topic in answer if isinstance(topic, dict) and topic.get("origin") == "run-time"]
    show_answer(options, answer, topic_table)
    return 0


def topic_table(topics: Any) -> str:
    """Every topic in a line."""
    head = ("name", "id", "class", "path", "policy", "members", "made", "why")
    rows: list[tuple[str, ...]] = [
        (
            topic["name"], str(topic["id"]), topic["class"], topic["path"] or "-", topic["policy"],
            number(sum(len(group["members"]) for group in topic["groups"])),
            "by the file" if topic["origin"] == "file" else "at run time" if topic["durable"] else "for now",
            topic["reason"],
        )
        for topic in topics
    ]  # fmt: skip
    return "\n".join(line[2:] for line in table(head, rows))

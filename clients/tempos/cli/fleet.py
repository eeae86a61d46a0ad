"""``tempos fleet``: who is in the fleet of a broker, where members are at home, whether all adds up."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tempos.cli.answer import show_answer
from tempos.cli.api import Api, add_api, add_api_again
from tempos.cli.status import duration, number, table
from tempos.errors import LocalError, RemoteError

if TYPE_CHECKING:
    from tempos.cli.extensions import Subparsers

#: Seconds between two looks at how far a broker is.
_EVERY = 0.5
_EXAMPLES = """\
examples:
  tempos fleet status                           the brokers, and how far behind each is
  tempos fleet members                          where each member is at home, and what it wants
  tempos fleet ledger                           the accounts of all brokers together
  tempos fleet drain hall-1                     take a broker out of service, so that it can be stopped
  tempos fleet drain hall-1 --undo              take it back

Of the ledger each broker is asked at the API that it names to the others, without a token; those that cannot
be reached from here are told, and the exit code is 1, as where an account does not add up.
"""
_DRAIN = """\
Publishers that know other brokers of the fleet go on there, and its members are at home there from then on.
Waits until nobody publishes at it and nobody is at home there: then it can be stopped, and nothing is lost.
Exit code 1: that did not come about in time; it stays out of service all the same, until it is started again
or taken back.
"""
_NONE = "this broker is in no fleet: [fleet] in its configuration"


def register(subparsers: Subparsers) -> None:
    """Add ``tempos fleet``."""
    parser = subparsers.add_parser(
        "fleet",
        help="several brokers, one bus: who is in, who is at home where",
        description="Ask a broker about the fleet that it is in.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_api(parser)
    parser.set_defaults(run=_run_none, help_=parser.print_help)
    actions = parser.add_subparsers(metavar="ACTION", dest="action")

    def add(
        name: str, text: str, run: Callable[[argparse.Namespace], int], more: str = ""
    ) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=text, description=more or text)
        action.add_argument("--json", action="store_true", help="print the answer of the API")
        add_api_again(action)
        action.set_defaults(run=run)
        return action

    add("status", "the brokers, and how far behind each is", _status)
    add("members", "where each member is at home, and what it wants", _members)
    add("ledger", "the accounts of all brokers together", _ledger)
    drain = add("drain", "take a broker out of service", _drain, _DRAIN)
    drain.add_argument("broker", metavar="BROKER", help="its name, as the status has it")
    drain.add_argument("--undo", action="store_true", help="take it back into service")
    drain.add_argument(
        "--wait", metavar="SECONDS", type=float, default=30.0,
        help="how long to wait until nobody needs it (default: 30; 0: not at all)",
    )  # fmt: skip


def _run_none(options: argparse.Namespace) -> int:
    options.help_()
    return 2


def _fleet(options: argparse.Namespace) -> dict[str, Any]:
    fleet: dict[str, Any] | None = Api.of(options).get("/v1/fleet")["fleet"]
    if fleet is None:
        raise LocalError(_NONE)
    return fleet


def _status(options: argparse.Namespace) -> int:
    show_answer(options, _fleet(options), lambda fleet: "\n".join(status_lines(fleet)))
    return 0


def status_lines(fleet: Mapping[str, Any]) -> Iterable[str]:
    """What a person looks for."""
    reach = fleet["registry"]
    why = f": {fleet['why']}" if fleet["why"] else ""
    since = duration(fleet["since_s"])
    yield f"fleet {fleet['name']}, asked of {fleet['broker']}; registry {reach} for {since}{why}"
    if fleet["untold"]:
        yield f"{number(fleet['untold'])} members are not told of yet"
    for word, lacking in (("topic", fleet["lacks_topics"]), ("client", fleet["lacks_clients"])):
        for each in lacking:
            where = f"{each['name']} is not at {fleet['broker']} as in the rest of the fleet"
            yield f"{word} {where}: {each['reason']}"
    newest = max([each["in_force"] for each in fleet["brokers"]], default=0)
    agreed = min([each["in_force"] for each in fleet["brokers"]], default=0)
    yield f"agreed on revision {number(agreed)}; the newest that is in force anywhere is {number(newest)}"
    rows: list[tuple[str, ...]] = [
        (
            each["name"], f"{each['address']}:{each['control_port']}", each["zone"] or "-",
            number(each["members"]), number(each["serves"]), number(each["lacks"]),
            number(each["lacks_topics"]), number(each["lacks_clients"]), number(newest - each["in_force"]),
            _service(each["leaving"]),
        )
        for each in fleet["brokers"]
    ]  # fmt: skip
    yield from table(
        ("broker", "at", "zone", "members", "serves", "lacks", "topics lacking", "clients lacking", "behind",
         "in service"),
        rows,
    )  # fmt: skip


def _service(leaving: Mapping[str, Any] | None) -> str:
    if leaving is None:
        return "yes"
    if leaving["done"]:
        return "no"
    stay = f"{number(leaving['members'])} members" if leaving["members"] else ""
    come = "" if leaving["quiet"] else "events come"
    return f"leaves: {' and '.join(filter(None, (stay, come))) or 'soon'}"


def _drain(options: argparse.Namespace) -> int:
    fleet, api = _fleet(options), Api.of(options)
    path = f"/v1/fleet/brokers/{quote(options.broker, safe='')}/drain"
    (api.delete if options.undo else api.post)(path)
    if options.undo:
        print(f"{options.broker} is in service again")
        return 0
    until = time.monotonic() + options.wait
    while True:
        now = {each["name"]: each for each in _fleet(options)["brokers"]}
        leaving = now.get(options.broker, {}).get("leaving") or {}
        if leaving.get("done") or options.broker not in now:
            print(f"{options.broker} is out of service: nobody needs it, it can be stopped")
            return 0
        if time.monotonic() >= until:
            break
        time.sleep(_EVERY)
    needs = _service(leaving).partition(": ")[2] if leaving else "it has not said anything yet"
    print(f"{options.broker} is being taken out of service of {fleet['name']}, but not yet done: {needs}")
    return 1 if options.wait else 0


def _members(options: argparse.Namespace) -> int:
    _fleet(options)

    def show(answer: Any) -> str:
        rows: list[tuple[str, ...]] = [
            (
                f"{each['ip']}:{each['port']}", each["home"], "yes" if each["here"] else "no",
                ", ".join(f"{name} ({group})" for name, group in each["wants"].items()),
            )
            for each in answer
        ]  # fmt: skip
        return "\n".join(table(("member", "home", "here", "wants"), rows)) if rows else "nobody"

    show_answer(options, Api.of(options).get("/v1/fleet/members"), show)
    return 0


def _ledger(options: argparse.Namespace) -> int:
    fleet, asked = _fleet(options), Api.of(options)
    told: dict[str, Any] = {}
    away: list[str] = []
    for each in fleet["brokers"]:
        try:
            mine = each["name"] == fleet["broker"]
            # The token is for the one that was named. An API on loopback may be another broker's from here.
            api = asked if mine else Api(f"http://{each['api']}")
            if not each["api"] or (api.get("/v1/fleet")["fleet"] or {}).get("broker") != each["name"]:
                away.append(each["name"])
            else:
                told[each["name"]] = api.get("/v1/ledger")
        except RemoteError:
            away.append(each["name"])
    answer = {**sums(told), "away": away}
    show_answer(options, answer, lambda answer: "\n".join(_ledger_lines(answer)))
    return 0 if answer["balanced"] and not away else 1


def sums(told: Mapping[str, Any]) -> dict[str, Any]:
    """The accounts of several brokers, by name, as one."""
    topics: dict[str, dict[str, int]] = {}
    for ledger in told.values():
        for topic in ledger["topics"]:
            sum_ = topics.setdefault(topic["name"], dict.fromkeys(_SUMMED, 0))
            sum_["received"] += topic["received"]
            sum_["refused"] += sum(topic["refused"].values())
            for group in topic["groups"]:
                for key in _OF_GROUPS:
                    sum_[key] += group[key]
    return {
        "brokers": list(told),
        "balanced": all(ledger["balanced"] for ledger in told.values()),
        "topics": topics,
    }


_OF_GROUPS = ("tickets", "delivered", "dropped", "unconfirmed", "lost", "unknown", "filtered", "sampled")
_SUMMED = ("received", "refused", *_OF_GROUPS)


def _ledger_lines(answer: Mapping[str, Any]) -> Iterable[str]:
    yield f"{', '.join(answer['brokers'])}: {'balanced' if answer['balanced'] else 'NOT BALANCED'}"
    if answer["away"]:
        yield f"not reached from here: {', '.join(answer['away'])}"
    rows: list[tuple[str, ...]] = [
        (name, *(number(counts[key]) for key in _SUMMED)) for name, counts in answer["topics"].items()
    ]
    yield from table(("topic", *_SUMMED), rows)

"""``tempos ledger``: where every event went, per topic, group and member, and whether it adds up."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tempos.cli import options as opt
from tempos.cli.answer import understood
from tempos.cli.api import Api, add_api
from tempos.cli.completion import with_topics
from tempos.cli.status import counts, number, table
from tempos.cli.words import between, group_name, member_name
from tempos.errors import LocalError

if TYPE_CHECKING:
    from tempos.cli.extensions import Subparsers

#: Publishers of a topic that are shown at most, those with the most losses first.
PUBLISHERS_SHOWN = 20

_EXAMPLES = """\
examples:
  tempos ledger                     every topic; exit code 0 if everything adds up, 1 if not
  tempos ledger temperature         one topic
  tempos ledger --json | jq '.topics[].groups[] | {name, tickets, lost}'
  tempos ledger --watch             again every second, until Ctrl-C

Per topic, received = fast + slow + refused. Per group, tickets = delivered + dropped + unconfirmed + lost
+ unknown: dropped reached a member that did not give it to its program (too slow, damaged, left before),
unconfirmed will still be reported by members in the group, lost never was by those that left, unknown
went to static members, which report nothing. The unit is the datagram. Of topics that are repaired it also
says what members missed and got when they asked for it, and what they ask for no more.

Publishers number their events, so that it shows, in events, what never drew a ticket: lost on the way to the
broker, or refused by it. "at least", "a to b": it cannot be told from what was lost behind the broker.
"""


def register(subparsers: Subparsers) -> None:
    """Add ``tempos ledger``."""
    parser = subparsers.add_parser(
        "ledger",
        help="show where every event went, and whether it adds up",
        description="Show per topic, group and member where every event went, and whether it adds up.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    only = parser.add_argument("topic", metavar="TOPIC", nargs="?", help="only this topic (default: all)")
    with_topics(only)
    parser.add_argument("--json", action="store_true", help="the document as the broker gives it")
    parser.add_argument("--watch", action="store_true", help="show it again and again")
    parser.add_argument(
        "--every", metavar="S", type=opt.positive, default=1.0,
        help="seconds between two looks with --watch (default: %(default)g)",
    )  # fmt: skip
    add_api(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Fetch the ledger and print it; 0 if it balances."""
    api = Api.of(options)
    clear = "\x1b[H\x1b[2J" if options.watch and not options.json and sys.stdout.isatty() else ""
    while True:
        document = api.get("/v1/ledger")
        with understood(api.url):
            document = _only(document, options.topic)
            if options.json:
                text = json.dumps(document, indent=None if options.watch else 2, ensure_ascii=False)
            else:
                text = "\n".join(render(document))
            balanced = bool(document["balanced"])
        print(clear + text, flush=True)
        if not options.watch:
            return 0 if balanced else 1
        time.sleep(options.every)


def _only(document: dict[str, Any], topic: str | None) -> dict[str, Any]:
    if topic is None:
        return document
    topics = [entry for entry in document["topics"] if entry["name"] == topic]
    if not topics:
        known = ", ".join(entry["name"] for entry in document["topics"])
        raise LocalError(f"the broker has no topic {topic!r}; known: {known}")
    return {**document, "topics": topics, "balanced": all(entry["balanced"] for entry in topics)}


def render(document: Mapping[str, Any]) -> Iterator[str]:
    """The document as lines for people."""
    for topic in document["topics"]:
        yield from _topic(topic)
        yield ""
    if document.get("unattributed"):
        yield f"of no topic: {counts(document['unattributed'])}"
    for interface, errors in document.get("drops", {}).items():
        yield f"lost behind the redirect to {interface}: {counts(errors)}"
    yield "balanced" if document["balanced"] else "NOT BALANCED"


def _topic(topic: Mapping[str, Any]) -> Iterator[str]:
    refused = sum(topic["refused"].values())
    yield (
        f"{topic['name']}  received {number(topic['received'])} = fast {number(topic['fast'])} "
        f"+ slow {number(topic['slow'])} + refused {number(refused)}"
    )
    if topic["refused"]:
        yield f"  refused: {counts(topic['refused'])}"
    if topic.get("replies"):
        yield f"  replies to requests sent on: {number(topic['replies'])}"
    if topic["unsent"]:
        yield f"  copies that could not be sent: {counts(topic['unsent'])}"
    rows = []
    for group in topic["groups"]:
        rows.append(
            _row(group_name(group["name"]), group, group["tickets"], group["delivered"], group["unknown"])
        )
        for member in group["members"]:
            static = member["static"]
            state = " (static)" if static else " (left)" if member["left"] else ""
            name = f"  {member_name(member)}{state}"
            unknown = member["ticketed"] if static else 0
            rows.append(_row(name, member, member["ticketed"], member["delivered"] or 0, unknown))
    if rows:
        head = ("group, member", "tickets", "delivered", "dropped", "unconfirmed", "lost", "unknown")
        yield from table(head, rows)
    else:
        yield "  no group"
    for group in topic["groups"]:
        if less := group.get("filtered", 0) + group.get("sampled", 0):
            yield (
                f"  group {group_name(group['name'])}: {number(less)} not for its members, "
                f"{number(group['filtered'])} by their senders, {number(group['sampled'])} as it is a sample"
            )
        if group.get("unsent"):
            yield f"  group {group_name(group['name'])}: {number(group['unsent'])} copies could not be sent"
        if missed := group.get("repaired", 0) + group.get("given_up", 0):
            yield (
                f"  group {group_name(group['name'])}: {number(missed)} missed, "
                f"{number(group['repaired'])} of them repaired, {number(group['given_up'])} given up"
            )
        if behind := group.get("orphaned", 0):
            yield (
                f"  group {group_name(group['name'])}: {number(behind)} left behind by members that went, "
                f"{number(group['redelivered'])} of them processed by others, "
                f"{number(group['pending'])} to be, {number(group['lapsed'])} not to be had any more"
            )
        for member in group["members"]:
            if member.get("overruns"):
                yield (
                    f"  {member['ip']}:{member['port']} lost at least {number(member['overruns'])} "
                    "for want of room in its socket"
                )
    yield from _publishers(topic)
    for problem in topic["problems"]:
        yield f"  does not add up: {problem}"


def _publishers(topic: Mapping[str, Any]) -> Iterator[str]:
    """What never drew a ticket, per publisher."""
    rows = topic.get("publishers", ())
    lost = topic.get("lost_before")
    if not lost or not (lost["publishers"] or lost["unfollowed"]):
        return
    shown = sorted(rows, key=lambda row: -(row["at_most"] or row["at_least"]))[:PUBLISHERS_SHOWN]
    if shown:
        head = ("publisher", "sent", "received", "never ticketed")
        yield from table(head, [_publisher(row) for row in shown])
    rest = lost["publishers"] - len(shown)
    if rest or len(shown) > 1:
        more = f", {number(rest)} of them not shown" if rest else ""
        yield (
            f"  {number(lost['publishers'])} publishers{more} sent {number(lost['sent'])} events, "
            f"{between(lost['at_least'], lost['at_most'])} never drew a ticket"
            + ("" if lost["settled"] else " so far")
        )
    if lost.get("repaired") or lost.get("given_up"):
        yield (
            f"  missed before the broker: {number(lost['repaired'])} datagrams repaired by their publishers, "
            f"{number(lost['given_up'])} events given up"
        )
    if lost["unfollowed"]:
        yield f"  {number(lost['unfollowed'])} publishers or more found no room and are not followed"


def _publisher(row: Mapping[str, Any]) -> tuple[str, ...]:
    name = f"{row['publisher']} ({row['ip'] or 'tells nothing'})"
    sent = number(row["sent"]) if row["tells"] else f"{number(row['sent'])} or more"
    counts = set(row["received"].values())
    if len(counts) == 1:
        received = number(counts.pop())
    else:
        received = (
            ", ".join(f"{number(count)} {group}" for group, count in row["received"].items()) or "unknown"
        )
    lost = between(row["at_least"], row["at_most"])
    if row["at_most"] is not None:
        lost += ("" if row["whole"] else " since first heard") + ("" if row["settled"] else " so far")
    return name, sent, received, lost


def _row(name: str, of: Mapping[str, Any], tickets: int, delivered: int, unknown: int) -> tuple[str, ...]:
    told = (tickets, delivered, of.get("dropped") or 0, of["unconfirmed"], of["lost"], unknown)
    return (name, *map(number, told))

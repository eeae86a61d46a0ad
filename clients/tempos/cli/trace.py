"""``tempos trace``: the way of one event, hop by hop, as those say who had it."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tempos.cli import options as opt
from tempos.cli.answer import understood
from tempos.cli.api import Api, add_api
from tempos.cli.completion import with_topics
from tempos.errors import RemoteError
from tempos.model import NOBODY

if TYPE_CHECKING:
    from tempos import Report, Trace
    from tempos.cli.extensions import Subparsers

_EXAMPLES = """\
examples:
  tempos trace temperature
  tempos trace -b 10.0.1.1 temperature --count 10
  tempos trace temperature --json | jq '.groups[] | {name, member, ticket, path}'

A probe is sent as an event of the topic: it takes the path and draws the tickets that an event would, is
counted like one, and goes to one member of each group. Clients of members answer it; no program is handed it.
Static members cannot answer, nor can clients of older versions, which hand it out as a request whose body is
nearly all zeros. Which member had it, and why not the fast path, is asked of the control API; without it less
is known. Times one way are shown only where both ends have one clock; all others are there and back.
Exit codes: 0 every group answered whose member can; 1 one did not, there is no member, or nothing was sent.
"""


def register(subparsers: Subparsers) -> None:
    """Add ``tempos trace``."""
    parser = subparsers.add_parser(
        "trace",
        help="send a probe and show its way, hop by hop",
        description="Send a probe as an event of a topic, and show where it went and how long that took.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    opt.add_publisher(parser)
    add_api(parser)
    with_topics(parser.add_argument("topic", metavar="TOPIC", help="the topic's name"))
    parser.add_argument(
        "-n", "--count", metavar="N", type=opt.count, default=1, help="so many probes (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout", metavar="S", type=opt.positive, default=1.0,
        help="wait so long for reports of each (default: %(default)g s)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="an object a line, one for each probe")
    parser.set_defaults(run=run, fail=parser.error)


def run(options: argparse.Namespace) -> int:
    """Send probes and print what became of them; what goes wrong is raised."""
    from tempos.blocking import Publisher

    api = Api.of(options)
    whole = True
    with Publisher(
        options.broker.host,
        data_port=opt.data_port(options),
        control_port=opt.control_port(options),
        auth=opt.key(options),
        keys=opt.topic_keys(options),
        wait=options.wait,
    ) as publisher:
        for number in range(options.count):
            before, trouble = _ask(api, options.topic)
            wanted = _reporting(before)

            def enough(reports: Sequence[Report], wanted: frozenset[str] = wanted) -> bool:
                return bool(wanted) and wanted <= {each.group for each in reports}

            trace = publisher.trace(options.topic, options.timeout, enough)
            after = _ask(api, options.topic)[0] if before else None
            with understood(options.api):
                shown = joined(trace, before, after, trouble)
                text = json.dumps(shown, ensure_ascii=False) if options.json else "\n".join(render(shown))
            print(("\n" if number and not options.json else "") + text, flush=True)
            whole &= shown["whole"]
    return 0 if whole else 1


def _ask(api: Api, topic: str) -> tuple[Mapping[str, Any] | None, str]:
    """The topic as the control API has it, with its route; None, and why, where that does not tell."""
    at = f"/v1/topics/{quote(topic, safe='')}"
    try:
        document = api.get(at)
        document["route"] = api.get(f"{at}/route")
    except RemoteError as error:
        return None, str(error)
    return document, ""


def _reporting(document: Mapping[str, Any] | None) -> frozenset[str]:
    """The groups to wait for: those with clients in them; none where it is not known."""
    return frozenset(
        group["name"]
        for group in (document["groups"] if document else ())
        if any(not each["static"] and not each["ip"].startswith(NOBODY) for each in group["members"])
    )


def joined(
    trace: Trace, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, trouble: str
) -> dict[str, Any]:
    """What members and broker say of a probe, put together. ``trouble``: why the API does not tell."""
    from tempos.requests.tracing import as_fields

    fields = as_fields(trace)
    reports = {each["group"]: each for each in fields.pop("reports")}
    present = {group["name"] for group in (after or {}).get("groups", ()) if group["members"]}
    groups = [
        {"name": name, **_group(name, reports.get(name), before, after)}
        for name in sorted({*reports, *present})
    ]
    events = raised(before, after, "received")
    slow = any(each["path"] == "slow" for each in groups)
    return {
        "at": time.time(),
        **fields,
        "path": next((each["path"] for each in groups if each["path"]), None),
        "reason": after["reason"] if after else None,
        "topic_path": after["path"] if after else None,
        "passed": _grown(before, after, "passed"),
        "refused": _grown(before, after, "refused"),
        "others": None if events is None else max(0, events - 1),
        "alike": not (slow and any(each["path"] == "fast" for each in groups)),
        "groups": groups,
        "api": trouble,
        "whole": not trace.no_member
        and all(each["why"] in ("", "static") for each in groups)
        and bool(groups),
    }


def raised(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, key: str) -> int | None:
    """By how much a count of the broker grew meanwhile."""
    return None if before is None or after is None else after[key] - before[key]


def _grown(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, key: str
) -> dict[str, int] | None:
    if before is None or after is None:
        return None
    grown = {why: count - before[key].get(why, 0) for why, count in after[key].items()}
    return {why: count for why, count in grown.items() if count > 0}


def _group(
    name: str,
    report: Mapping[str, Any] | None,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """One group: the member that had the probe, and its ticket. ``why``: there is no report of it."""
    keys = ("path", "epoch", "delivery_sequence", "round_trip", "inside", "one_way", "to_broker", "in_broker",
            "from_broker")  # fmt: skip
    found = _members(name, after)
    if report is not None:
        place = f"{report['ip']}:{report['port']}"
        # Behind a NAT a member knows another address of itself.
        route = _route(name, after)
        here = place if place in route else next(
            (each for each in route if each.endswith(f":{report['port']}")), place)  # fmt: skip
        ticket = None
        if here in route and after is not None and after["route"]["epoch"] & 0xFF == report["epoch"]:
            ticket = report["delivery_sequence"] * len(route) + route.index(here)
        return {
            "member": here, "members": len(found) or None, "ticket": ticket, "why": "",
            **{key: report[key] for key in keys},
        }  # fmt: skip
    drew = _drew(name, before, after)
    statics = {f"{each['ip']}:{each['port']}" for each in found if each["static"]}
    suspects = drew or {f"{each['ip']}:{each['port']}" for each in found}
    why = "static" if suspects and suspects <= statics else "silent"
    if found and all(each["ip"].startswith(NOBODY) for each in found):
        drew, why = set(), "waits"
    return {
        "member": next(iter(drew)) if len(drew) == 1 else None,
        "members": len(found) or None,
        "ticket": None,
        "why": why,
        **dict.fromkeys(keys),
    }


def _members(name: str, document: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    groups = document["groups"] if document else ()
    return next((list(group["members"]) for group in groups if group["name"] == name), [])


def _route(name: str, document: Mapping[str, Any] | None) -> list[str]:
    groups = document["route"]["groups"] if document else ()
    return next((list(group["members"]) for group in groups if group["name"] == name), [])


def _drew(name: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> set[str]:
    """Whose tickets are more than they were."""
    had = {(each["ip"], each["port"]): each["ticketed"] for each in _members(name, before)}
    return {
        f"{each['ip']}:{each['port']}"
        for each in _members(name, after)
        if each["ticketed"] > had.get((each["ip"], each["port"]), 0)
    }


def took(seconds: float | None) -> str:
    """A time as people read it."""
    if seconds is None:
        return "?"
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    if seconds < 0.01:
        return f"{sign}{seconds * 1e6:,.0f} us"
    return f"{sign}{seconds * 1e3:,.1f} ms" if seconds < 10 else f"{sign}{seconds:,.1f} s"


def render(shown: Mapping[str, Any]) -> Iterator[str]:
    """Lines for people."""
    topic = shown["topic"]
    yield (
        f"probe of {topic['name']} ({topic['id']}): {shown['size']} bytes, "
        f"publisher {shown['publisher']:08x}, sequence {shown['sequence']}"
    )
    yield f"  publisher to broker and back: {took(shown['round_trip'])}, by its control port"
    if shown["no_member"]:
        yield "  the topic has no member: the broker says so"
    for group in shown["groups"]:
        yield from _of_group(group)
    if not shown["groups"] and not shown["no_member"]:
        yield "  nobody reports: no client of its members can, or nothing came there (tempos ledger tells)"
    if shown["unread"]:
        yield f"  {shown['unread']} reports cannot be read: is the topic encrypted, with another key?"
    yield from _path(shown)
    if shown["api"]:
        yield f"  the control API does not tell more: {shown['api']}"


def _of_group(group: Mapping[str, Any]) -> Iterator[str]:
    of = f" of {group['members']}" if group["members"] else ""
    ticket = "" if group["ticket"] is None else f"ticket {group['ticket']}, "
    if group["why"]:
        where = f"it went to {group['member']}" if group["member"] else f"one{of} had it"
        told = {
            "static": f"{where}: static, which cannot answer",
            "waits": "nobody is there; it waits for the next member",
        }.get(group["why"], f"{where}: no report came: lost, static, or an older client")
        yield f"  group {group['name']}: {told}"
        return
    yield (
        f"  group {group['name']}: {ticket}member {group['member']}{of}, epoch {group['epoch']}, "
        f"delivery {group['delivery_sequence']}, {group['path'] or 'unknown'} path"
    )
    hops = [("to the broker", "to_broker"), ("inside it", "in_broker"), ("on to the member", "from_broker")]
    timed = [f"{took(group[key])} {what}" for what, key in hops if group[key] is not None]
    if group["one_way"] is not None:
        yield f"    one way {took(group['one_way'])}" + (f": {', '.join(timed)}" if timed else "")
    elif timed:
        yield f"    {', '.join(timed)}; one way is not known: the clocks are two"
    else:
        yield "    one way is not known: the clocks are two"
    yield f"    there and back {took(group['round_trip'])}, of it {took(group['inside'])} in the member"


def _path(shown: Mapping[str, Any]) -> Iterator[str]:
    if not shown["alike"]:
        yield "  its groups were served by both paths"
    if shown["topic_path"] is None:
        return
    why = f": {shown['reason']}" if shown["reason"] else ""
    yield f"  the topic takes the {shown['topic_path']} path{why}"
    for key, what in (("passed", "handed up by the fast path"), ("refused", "refused")):
        if shown[key]:
            counted = ", ".join(f"{count:,} {reason}" for reason, count in shown[key].items())
            others = shown["others"]
            mixed = f" (with {others:,} other events meanwhile)" if others else ""
            yield f"  {what}: {counted}{mixed}"

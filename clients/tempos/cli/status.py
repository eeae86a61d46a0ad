"""``tempos status``: what the broker's control API says of paths, topics, routes and counters."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tempos.cli.answer import understood
from tempos.cli.api import Api, add_api
from tempos.cli.words import between, group_name, member_name

if TYPE_CHECKING:
    from tempos.cli.extensions import Subparsers

_EXAMPLES = """\
examples:
  tempos status
  tempos status --json | jq '.topics[] | {name, path, received}'
  tempos status --api http://127.0.0.1:8080
"""


def register(subparsers: Subparsers) -> None:
    """Add ``tempos status``."""
    parser = subparsers.add_parser(
        "status",
        help="show paths, topics, routes and counters of a broker",
        description="Show what a broker does: its paths and why, topics, routes and counters.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="the document as the broker gives it")
    add_api(parser)
    parser.set_defaults(run=run, fail=parser.error)


def run(options: argparse.Namespace) -> int:
    """Fetch the status document and print it."""
    api = Api.of(options)
    document = api.get("/v1/status")
    if options.json:
        print(json.dumps(document, indent=2, ensure_ascii=False))
        return 0
    with understood(api.url):
        lines = list(render(document))
    print("\n".join(lines))
    return 0


def render(document: Mapping[str, Any]) -> Iterator[str]:
    """The document as lines for people."""
    broker, slow, fast = document["broker"], document["paths"]["slow"], document["paths"]["fast"]
    ready = "ready" if broker["ready"] else "not ready yet"
    yield (
        f"broker {broker['version']}, {ready}, pid {broker['pid']}, up {duration(broker['uptime_s'])}, "
        f"instance {broker['instance']}"
    )
    if "privileges" in broker:
        yield f"privileges: {broker['privileges']['reason']}"
    for each in broker.get("awaited", ()):
        yield f"waits for {each['what']} since {each['since']} ({duration(each['seconds'])})"
    yield ""
    yield "paths"
    yield f"  fast  {fast['mode']}: {fast['reason']}"
    width = max((len(entry["name"]) for entry in fast["interfaces"]), default=0)
    for entry in fast["interfaces"]:
        yield f"        {entry['name']:<{width}}  {entry['mode']}: {entry['reason']}"
    kernel = fast.get("kernel")
    for lack in kernel["lacks"] if kernel else ():
        yield f"        kernel {kernel['release']}: {lack}"
    for each in fast.get("bypassed", ()):
        yield f"        passes the host's firewall by: datagrams to the data port are {each}"
    if fast.get("following"):
        yield "        the network has just changed: until programs go by it, what that is about may go slow"
    if fast.get("passed"):
        yield f"        passed up before a topic was read: {counts(fast['passed'])}"
    for interface, errors in fast.get("drops", {}).items():
        yield f"        lost behind the redirect to {interface}: {counts(errors)}"
    yield f"  slow  {slow['io']}: {slow['reason']}"
    yield (
        f"        listens on {', '.join(map(str, slow['listen'])) or 'nothing'}; "
        f"receive buffer {number(slow['receive_buffer'])} bytes; {number(slow['queued'])} queued"
    )
    if "quality" in document:
        yield ""
        yield from _quality(document["quality"])
    yield ""
    yield "topics"
    yield from table(
        (
            "id",
            "name",
            "made",
            "class",
            "priority",
            "framing",
            "path",
            "epoch",
            "received",
            "fast",
            "slow",
            "refused",
        ),
        [
            (
                str(topic["id"]),
                topic["name"],
                topic.get("origin", "-"),
                topic["class"],
                str(topic["priority"]),
                " ".join((topic["framing"], ",".join(map(str, topic.get("ports", ()))))).strip(),
                topic["path"] or "-",
                str(topic["epoch"]),
                number(topic["received"]),
                number(topic["fast"]),
                number(topic["slow"]),
                number(sum(topic["refused"].values())),
            )
            for topic in document["topics"]
        ],
    )
    yield ""
    yield from _slow_consumers(document.get("slow_consumers", ()))
    yield from _kept_out(document.get("kept_out", ()))
    yield "routes"
    for topic in document["topics"]:
        yield from _route(topic)
    if document.get("unattributed"):
        yield ""
        yield f"of no topic: {counts(document['unattributed'])}"


def _slow_consumers(members: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not members:
        return
    yield "slow consumers"
    for member in members:
        where = ", ".join(f"{each['topic']} group {each['group']}" for each in member["groups"])
        yield f"  {member['ip']}:{member['port']}: {member['reason']} ({where})"
    yield ""


def _kept_out(places: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not places:
        return
    yield "kept out"
    for place in places:
        why = "by an operator" if place.get("why", "kept out") == "kept out" else "no event reached it"
        where = f"{place['ip']}:{place['port']}: of {place['topic']} group {place['group']}"
        yield f"  {where}, {why}, {place['until']}"
    yield ""


def _quality(quality: Mapping[str, Any]) -> Iterator[str]:
    yield "quality"
    yield f"  sockets {quality['sockets']}: {quality['reason']}"
    for name, each in quality["classes"].items():
        yield (
            f"  {name}  {number(each['queued'])} of {number(each['queue'])} queued, "
            f"{number(each['overruns'])} lost unread; DSCP {each['dscp']}, priority {each['so_priority']}"
        )
        if each["reason"]:
            yield f"      not as it was asked for: {each['reason']}"
    if quality["share_bq"]:
        yield f"  BQ gets {quality['share_bq']} % of what is sent, also while SQ waits"
    yield from _worker(quality["worker"])


def _worker(worker: Mapping[str, Any]) -> Iterator[str]:
    yield f"  worker {worker['state']}: {worker['reason']}"
    if worker["pid"] is not None and "policy" in worker:
        how = f"priority {worker['priority']}" if worker["priority"] else f"nice {worker['nice']}"
        yield (
            f"      pid {worker['pid']}: {worker['policy']}, {how}, on CPUs {cpus(worker['cpus'])}; "
            f"the broker on {cpus(worker['broker_cpus'])}; {worker['io']}, {worker['loop']}"
        )
    if worker.get("started", 0) > 1:
        lost = number(worker["lost"])
        unsent = number(worker.get("unsent", 0))
        sending = f", at most {unsent} copies while they were sent" if unsent else ""
        yield f"      {worker['started']} were started; {lost} events were lost with those that died{sending}"


def cpus(numbers: Sequence[int]) -> str:
    """CPU numbers, runs of them shortened: 0-3, 8."""
    runs: list[tuple[int, int]] = []
    for each in numbers:
        if runs and each == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], each)
        else:
            runs.append((each, each))
    return ", ".join(f"{a}-{b}" if a < b else f"{a}" for a, b in runs) or "unknown"


def _route(topic: Mapping[str, Any]) -> Iterator[str]:
    yield f"  {topic['name']}  (policy {topic['policy']}: {topic['path'] or 'no path'}, {topic['reason']})"
    if topic.get("rate"):
        beyond = "dropped" if topic["overflow"] == "drop" else "left to the slow path's queue"
        yield (
            f"    at most {number(topic['rate'])} datagrams/s, {number(topic['burst'])} at once; "
            f"what is beyond is {beyond}"
        )
    if journal := topic.get("journal"):
        size = f"{number(journal['events'])} events of up to {number(journal['bytes'])} bytes of payload"
        size += f", {number(journal['memory'])} bytes of memory"
        repaired = ", what members miss is sent again" if topic.get("repair") else ""
        yield f"    journal: {journal['reason'] or size + repaired}"
    for group, members in topic.get("passed_over", {}).items():
        yield f"    group {group_name(group)}: {number(members)} members of other zones are passed over"
    for name in ("refused", "lost", "passed"):
        if topic.get(name):
            word = "passed up to the slow path" if name == "passed" else name
            yield f"    {word}: {counts(topic[name])}"
    if topic.get("replies"):
        yield f"    replies to requests sent on: {number(topic['replies'])}"
    lost = topic.get("lost_before")
    if lost and (lost["at_least"] or lost["at_most"]):
        told = between(lost["at_least"], lost["at_most"])
        sent, far = number(lost["sent"]), "" if lost["settled"] else " so far"
        yield f"    of {sent} events sent {told} never drew a ticket{far}: tempos ledger says whose"
    yield from _latency(topic.get("latency"))
    for problem in topic["problems"]:
        yield f"    does not add up: {problem}"
    if not any(group["members"] for group in topic["groups"]):
        yield "    no member"
    for group in topic["groups"]:
        yield f"    group {group_name(group['name'])}: {account(group)}"
        for member in group["members"]:
            lease = member["lease_s"]
            kind = "static" if member["static"] else "lease over" if lease is None else f"lease {lease:.1f} s"
            delivered = member["delivered"]
            told = "unknown" if delivered is None else number(delivered)
            by = f" from {member['from']}" if member.get("from") else ""
            told += "".join(
                f", {words} {number(member[key])}"
                for key, words in (("dropped", "dropped"), ("overruns", "lost at its socket"))
                if member.get(key)
            )
            yield f"      {member_name(member)}{by}  {kind}, delivered {told}"
            if lost := member.get("unheard"):
                yield f"        unheard: it tells of none of {number(lost)} events; a firewall or a NAT?"
            if why := member.get("left_out"):
                yield f"        left out: {why}"


def _latency(latency: Mapping[str, Any] | None) -> Iterator[str]:
    if not latency:
        return
    for name, words in (
        ("program", "in the kernel's program"),
        ("since_sent", "from sent to forwarded"),
        ("slow", "inside the slow path"),
        ("slow_since_sent", "from sent to forwarded by the slow path"),
    ):
        # A broker of before measures less.
        times = latency.get(name)
        if times is None:
            continue
        line = f"    {words}: {number(times['count'])} events"
        if times["max_ns"] is not None:
            figures = (("p50", times["p50_ns"]), ("p99", times["p99_ns"]), ("max", times["max_ns"]))
            line += "".join(f", {figure} {nanoseconds(value)}" for figure, value in figures)
        if times["ahead"]:
            line += f"; {number(times['ahead'])} sent later than they came: the clocks disagree"
        if times["beyond"]:
            line += f"; {number(times['beyond'])} sent absurdly long ago"
        yield line


def nanoseconds(value: int) -> str:
    """A time in the unit that leaves its first three digits to be seen."""
    for unit, size in (("s", 10**9), ("ms", 10**6), ("µs", 10**3)):
        if value >= size:
            return f"{value / size:.{max(0, 3 - len(str(value // size)))}f} {unit}"
    return f"{value} ns"


def account(group: Mapping[str, Any]) -> str:
    """Where the tickets of a group went, in words."""
    told = [f"{number(group['tickets'])} tickets", f"{number(group['delivered'])} delivered"]
    told += [
        f"{number(group[key])} {key}"
        for key in ("dropped", "unconfirmed", "lost", "unknown", "filtered", "sampled")
        if group.get(key)
    ]
    if group.get("unsent"):
        told.append(f"{number(group['unsent'])} of these could not be sent")
    return ", ".join(told)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Columns as wide as they must be; what looks like a number stands right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    right = [all(row[i].replace(",", "").isdigit() for row in rows) and bool(rows) for i in range(len(head))]
    for row in (head, *rows):
        cells = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ]
        yield ("  " + "  ".join(cells)).rstrip()


def counts(by_reason: Mapping[str, int]) -> str:
    """Counts by reason, the largest first."""
    ordered = sorted(by_reason.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{number(count)} {reason}" for reason, count in ordered)


def number(value: int) -> str:
    """A count with its thousands apart."""
    return f"{value:,}"


def clock(seconds: float) -> str:
    """When something was, by this machine's clock, to the millisecond; ``seconds``: since 1970."""
    moment = time.localtime(seconds)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', moment)}.{int(seconds % 1 * 1000):03d}"


def duration(seconds: float) -> str:
    """A time span in the two units that matter."""
    whole = int(seconds)
    for unit, size, lesser, lesser_size in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // lesser_size} {lesser}"
    return f"{seconds:.1f} s"

"""What a running broker says of itself, judged: drift, losses, members left out, slow topics, who is refused.

The broker is asked for its status once, by its API; all else is arithmetic over that document. Where nobody
said that there is a broker, and none answers at the usual address, there is nothing to say.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from tempos.cli.api import Api
from tempos.cli.words import group_name
from tempos.doctor.findings import BAD, Area, Asked, Check, Severity, Tried
from tempos.errors import LocalError, RemoteError, one_line
from tempos.model import NOBODY
from tempos.session.place import api_at, usual_api

#: Of what a group or a member was given, the part that may be lost before it is told.
LOST = 0.001
#: Members are compared once each was given so many; uneven: one took less than this part of the best one's.
COMPARED, UNEVEN = 100, 0.9
#: What a topic refuses because of how it is configured; the rest nobody subscribed to, or is no event.
BY_RULE = ("over_rate", "foreign_source")
#: Seconds after which what was counted is past, if nothing was since; so is what a group lost that nobody has
#: been in for as long.
PAST = 3600.0
#: Of one kind of fault so many are told, and how many more there are.
MANY = 20
#: Seconds.
_PATIENCE = 5.0

Document = Mapping[str, Any]


def gather(asked: Asked) -> Iterator[Tried]:
    """Ask the broker, if there is one."""
    url = asked.api
    try:
        url = url_of(asked)
        token = token_of(asked)
        api = Api(url, token, _PATIENCE)
        status = api.get("/v1/status")
    except (LocalError, RemoteError) as error:
        if asked.api or getattr(error, "status", None) is not None:
            yield Tried("TD401", False, one_line(error), url)
        return
    try:
        when = moments(api)
        found = [timed(each, when) for each in look(status)]
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, OSError) as error:
        yield Tried("TD401", False, f"its status is not of this version: {error!r}", url)
        return
    yield _broker(status, url)
    kept, more = few(found)
    yield from kept
    for check, count in more.items():
        yield Tried(check, False, f"{count:,} more like the {MANY} before", "and more")


def few(found: Iterable[Tried]) -> tuple[list[Tried], Counter[str]]:
    """The first of each kind, so that thousands of one hide no other; and how many more there are of each."""
    number: Counter[str] = Counter()
    kept = []
    for each in found:
        number[each.check] += 1
        if number[each.check] <= MANY:
            kept.append(each)
    return kept, Counter({check: count - MANY for check, count in number.items() if count > MANY})


class Moment(NamedTuple):
    """Since when something is so, or when it was last, in words; whether that is long ago."""

    words: str
    past: bool = False


def moments(api: Api) -> dict[tuple[str, str], Moment]:
    """By code and subject, as far as the broker says. Raises what a document of another kind raises."""
    try:
        told = api.get("/v1/wrong")
    except (LocalError, RemoteError):
        # An earlier one does not.
        return {}
    when = {}
    for each in told.get("wrong", ()):
        last = not each["now"] and (not each["before"] or each["changed"] > each["since"])
        latest = max(each["changed"], each["since"])
        at = datetime.fromtimestamp(latest if last else each["since"])
        how = "last at" if last else "since before" if each["before"] else "since"
        past = not each["now"] and told["at"] - latest >= PAST
        when[each["code"], each["subject"]] = Moment(f"{how} {at:%Y-%m-%d %H:%M:%S}", past)
    return when


def timed(tried: Tried, when: Mapping[tuple[str, str], Moment]) -> Tried:
    """The same, saying since when; what would be bad, but is past, as that."""
    if tried.check == "TD420" or (moment := when.get((tried.check, tried.subject))) is None:
        return tried
    cause = f"{tried.cause} ({moment.words})"
    (check,) = (each for each in SERVING.checks if each.code == tried.check)
    if moment.past and check.lacking in BAD:
        past = f"{check.code} {check.name}: {cause}"
        return replace(tried, check="TD420", cause=past, means="", fix=tried.fix or check.fix)
    return replace(tried, cause=cause)


def look(status: Document) -> Iterator[Tried]:
    """What is wrong by this status. Raises what a document of another kind raises."""
    if trouble := status["broker"].get("state_trouble"):
        place = str(status["broker"]["state"])
        is_full = "full" in trouble or "No space" in trouble
        fix = f"df -h {place.rpartition('/')[0] or '/'}" if is_full else f"ls -l {place}"
        yield Tried("TD426", False, f"{place} cannot be written: {trouble}", "state file", fix=fix)
    for topic in status["topics"]:
        yield from of_topic(topic)
    for each in status["slow_consumers"]:
        place, where = each["groups"][0], f"{each['ip']}:{each['port']}"
        yield Tried("TD406", False, each["reason"], where, fix=_out(place["topic"], place["group"], where))
    for each in status.get("kept_out", ()):
        if each.get("why") == "unheard":
            subject = f"{each['topic']} {each['group']} {each['ip']}:{each['port']}"
            cause = f"none of the events that it was sent reached it; it is kept out {each['until']}"
            yield Tried("TD405", False, cause, subject, fix="tempos ctl kept-out")
    for name, each in status["quality"]["classes"].items():
        if each["overruns"]:
            cause = f"{each['overruns']:,} datagrams found its socket full"
            yield Tried("TD411", False, cause, name)
    if refused := status["control"]["refused"]:
        yield Tried("TD410", False, _counts(refused), "requests of clients")
    if drops := status["paths"]["fast"]["drops"]:
        yield Tried("TD412", False, "; ".join(f"{name}: {_counts(why)}" for name, why in drops.items()))
    for each in status["paths"]["fast"].get("bypassed", ()):
        yield Tried("TD416", False, f"datagrams to the data port are {each}", "fast path")
    if (fleet := status.get("fleet")) is not None:
        yield from of_fleet(fleet)
    worker = status["quality"]["worker"]
    if worker["state"] not in ("off", "serving"):
        yield Tried("TD413", False, f"{worker['state']}: {worker['reason']}")


def of_fleet(fleet: Document) -> Iterator[Tried]:
    """In what the brokers of a fleet are not as one, as far as one of them knows."""
    here, brokers = fleet["broker"], fleet["brokers"]
    if fleet["registry"] == "away":
        cause = f"away for {fleet['since_s']:.0f} s: {fleet['why']}"
        yield Tried("TD421", False, cause, fleet["name"])
    for check, kind in (("TD422", "topic"), ("TD423", "client")):
        for each in fleet[f"lacks_{kind}s"]:
            yield Tried(check, False, each["reason"], f"{here} {each['name']}")
    if fleet["clients"] and not fleet.get("shares_keys", True):
        cause = (
            f"fleet.share has no keys here, and the fleet has {_many(fleet['clients'], 'client')} together"
        )
        yield Tried("TD423", False, f"{cause}: say the same at all brokers", here)
    newest = max((each["in_force"] for each in brokers), default=0)
    for each in brokers:
        name, there = each["name"], f"tempos fleet status --api http://{each['api']}" if each["api"] else ""
        if name != here:
            for check, kind in (("TD422", "topic"), ("TD423", "client")):
                if number := each[f"lacks_{kind}s"]:
                    cause = f"it has {_many(number, kind)} not as the rest of the fleet"
                    yield Tried(check, False, cause, name, fix=there)
        behind = newest - each["in_force"]
        if behind:
            yield Tried(
                "TD425", False, f"{_many(behind, 'revision')} are not in force there", name, fix=there
            )
        elif each["lacks"]:
            cause = f"it does not send to {_many(each['lacks'], 'member')} of others"
            yield Tried("TD424", False, cause, name, fix=there)
    if fleet["untold"]:
        cause = f"{_many(fleet['untold'], 'member')} at home here: the others do not know yet"
        yield Tried("TD425", False, cause, f"{here} members")


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' if number != 1 else ''}"


def _broker(status: Document, url: str) -> Tried:
    broker = status["broker"]
    cause = f"{broker['name']!r}, tempos {broker['version']}, process {broker['pid']}, {broker['uptime_s']} s"
    awaited = [str(each) for each in broker.get("awaited", ())]
    if not broker["ready"] or awaited:
        waits = f", waits for {'; '.join(awaited)}" if awaited else ", not ready"
        return Tried(
            "TD401", False, cause + waits, url, means="what it waits for is not served", fix="tempos status"
        )
    return Tried("TD401", True, cause, url)


def of_topic(topic: Document) -> Iterator[Tried]:
    """What is wrong with one topic of a status. Raises what a document of another kind raises."""
    name = topic["name"]
    ledger = f"tempos ledger {_quoted(name)}"
    if not topic["balanced"]:
        yield Tried("TD402", False, "; ".join(topic["problems"]), name, fix=ledger)
    members = [member for group in topic["groups"] for member in group["members"]]
    # Where nobody is a member there is nothing to be fast; a member that is left out is why, and told below.
    is_slow = topic["policy"] == "fast" and topic["path"] != "fast"
    if is_slow and members and not any(member["left_out"] for member in members):
        fix = f"tempos ctl path {_quoted(name)} auto"
        yield Tried("TD403", False, topic["reason"], name, fix=fix)
    refused = {reason: count for reason, count in topic["refused"].items() if reason in BY_RULE}
    if refused:
        yield Tried("TD409", False, f"{_counts(refused)}, of {topic['received']:,}", name, fix=ledger)
    if others := {why: count for why, count in topic["refused"].items() if why not in BY_RULE}:
        yield Tried("TD415", False, f"{_counts(others)}, of {topic['received']:,}", name, fix=ledger)
    # What is over a topic's rate draws no ticket either, and is told.
    if (before := topic["lost_before"]["at_least"]) > sum(refused.values()):
        cause = f"at least {before:,} of {topic['lost_before']['sent']:,} events that publishers sent"
        yield Tried("TD414", False, cause, name, fix=ledger)
    if (journal := topic.get("journal")) and journal["reason"]:
        yield Tried("TD417", False, journal["reason"], name, fix="tempos doctor")
    for group in topic["groups"]:
        yield from _group(name, group, ledger)


def _group(topic: str, group: Document, ledger: str) -> Iterator[Tried]:
    subject = f"{topic} {group_name(group['name']).strip('()')}"
    gone = group["lost"] + group["dropped"]
    if gone > LOST * group["tickets"]:
        cause = f"{group['lost']:,} lost and {group['dropped']:,} dropped, of {group['tickets']:,}"
        if over := _over(group):
            means = "nobody is in the group any more; the ledger keeps count"
            yield Tried("TD420", False, f"TD407 losses: {cause}{over}", subject, means=means, fix=ledger)
        else:
            yield Tried("TD407", False, cause, subject, fix=ledger)
    waiting, members = group.get("pending", 0), group["members"]
    nobody = all(member["ip"].startswith(NOBODY) for member in members)
    if nobody and (waiting or members):
        waiting += sum(member["ticketed"] for member in members)
        yield Tried("TD418", False, f"{waiting:,} events wait, and it has no member", subject, fix=ledger)
    if lapsed := group.get("lapsed", 0):
        cause = (
            f"{lapsed:,} of {group['orphaned']:,} that members left behind were overwritten in the journal"
        )
        yield Tried("TD419", False, cause, subject, fix=ledger)
    shares = []
    for member in members if not nobody else ():
        where = f"{member['ip']}:{member['port']}"
        if member["left_out"]:
            fix = f"ping -c 3 {member['ip']}" if member["static"] else _out(topic, group["name"], where)
            means = "" if member.get("in_route", True) else "others of its group get its share meanwhile"
            yield Tried("TD404", False, member["left_out"], f"{subject} {where}", means=means, fix=fix)
        if member["unheard"]:
            cause = f"{member['unheard']:,} events went to it, and it told of none"
            fix = f"iptables -I INPUT -p udp -s {member['from']} --dport {member['port']} -j ACCEPT"
            yield Tried("TD405", False, cause, f"{subject} {where}", fix=fix)
        if member["delivered"] is not None and member["ticketed"] >= COMPARED:
            shares.append((member["delivered"] / member["ticketed"], where))
    if shares and min(shares)[0] < UNEVEN * max(shares)[0]:
        cause = ", ".join(f"{where} took {share:.0%}" for share, where in sorted(shares)[:3])
        fix = _out(topic, group["name"], min(shares)[1])
        yield Tried(
            "TD408", False, f"{cause}; the best {max(shares)[0]:.0%} of what it was given", subject, fix=fix
        )


def _over(group: Document) -> str:
    """Where what a group lost is past: since when, in words."""
    if group.get("pending", 0) or not (last := group.get("lost_at")):
        return ""
    at = datetime.fromisoformat(last)
    if time.time() - at.timestamp() < PAST:
        return ""
    return f"; over since {at.astimezone():%Y-%m-%d %H:%M:%S}"


def _out(topic: str, group: str, where: str) -> str:
    return f"tempos ctl drain {_quoted(topic)} {_quoted(group)} {where}"


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


def _counts(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counted.items())


def url_of(asked: Asked) -> str:
    """Where the broker is asked; raises :class:`LocalError` for what is no place."""
    return api_at(asked.api) if asked.api else usual_api()


def token_of(asked: Asked) -> str:
    """The API's token; never part of anything that is printed."""
    if not asked.token_file:
        return os.environ.get("TEMPOS_TOKEN", "")
    from pathlib import Path

    try:
        return Path(asked.token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LocalError(f"the token in {asked.token_file} cannot be read: {one_line(error)}") from error


#: What a fleet is not as one in: it holds, or does not.
FLEET = ("TD421", "TD422", "TD423", "TD424", "TD425")
_WARN, _NOTE = Severity.WARNING, Severity.NOTE
SERVING = Area(
    "broker",
    (
        Check("TD401", "broker", _WARN, means="what it does is not looked at", fix="tempos status"),
        Check("TD402", "ledger", Severity.FAULT, means="events are in no account: tell its makers"),
        Check("TD403", "slow topic", _WARN, means="the slow path serves it: mend the cause, or have it so"),
        Check("TD404", "left out", _WARN, means="what it is ticketed is lost to it, and counted"),
        Check("TD405", "unheard", _WARN, means="a firewall may keep events from it, or it has another key"),
        Check("TD406", "slow consumer", _WARN, means="it loses events, and no other member does"),
        Check("TD407", "losses", _WARN, means="members did not get what they were ticketed"),
        Check("TD408", "uneven", _WARN, means="a member takes less of what it is given than the others"),
        Check("TD409", "refused publishers", _WARN, means="those events go to nobody"),
        Check("TD410", "refused", _NOTE, means="clients asked for what is not theirs, or not there",
              fix="tempos status"),
        Check("TD411", "socket overruns", _WARN, means="events are lost before the broker has them",
              fix="sysctl -w net.core.rmem_max=8388608"),
        Check("TD412", "lost behind the redirect", _WARN, means="interfaces did not take what was sent there",
              fix="tempos observe xdpwhy"),
        Check("TD413", "SQ worker", _WARN, means="the broker itself serves SQ", fix="tempos status"),
        Check("TD414", "lost before", _WARN, means="the way from publishers to the broker loses events"),
        Check("TD416", "firewall passed by", _WARN, means="the fast path takes what the host would drop",
              fix="nft list ruleset"),
        Check("TD417", "journal", _WARN, means="its events are not kept, as they were to be"),
        Check("TD418", "queue without members", _WARN, means="they wait for the next member of the group"),
        Check("TD419", "lapsed", _WARN, means="nobody processes those: give its journal more room"),
        Check("TD420", "past", _NOTE, means="it is over; the account keeps count"),
        Check("TD415", "refused events", _NOTE, means="those events go to nobody"),
        Check("TD421", "fleet's registry", _WARN, means="who joins is a member of its home alone meanwhile",
              fix="tempos fleet status"),
        Check("TD422", "fleet: topic", _WARN, means="a broker has not the topics of the others",
              fix="tempos fleet status"),
        Check("TD423", "fleet: client", _WARN, means="a broker refuses whom the others take, or the reverse",
              fix="tempos fleet status"),
        Check("TD424", "fleet: member", _WARN, means="they get nothing of what is published there",
              fix="tempos fleet status"),
        Check("TD426", "state", _WARN, means="what members and accounts are now does not survive it"),
        Check("TD425", "fleet: behind", _NOTE, means="it is catching up, or cannot be reached",
              fix="tempos fleet status"),
    ),
    lambda asked: tuple(gather(asked)),
)  # fmt: skip

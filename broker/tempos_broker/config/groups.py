"""Options of single groups (`[[topic.group]]`); what must hold of them, and of how members are picked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from tempos import Framing, GroupOptions, Pick
from tempos._abi import MAX_GROUPS, SPREAD_GROUPS, SPREAD_MEMBERS
from tempos._senders import MOST_NETWORKS
from tempos_broker.config.model import OWN_GROUP
from tempos_daemon import kinds
from tempos_daemon.schema import Faults, Key, Keys, Table, show

#: One in so many at most.
MOST_EVERY = 1_000_000
_DEFAULTS = GroupOptions("")
#: Whose address and port a group's datagrams come from: the broker's, or the sender's.
OWN, KEEP = "own", "keep"

GROUP: Keys = {
    "name": Key(kinds.name(reserved=OWN_GROUP)),
    "sources": Key(kinds.NETWORK, _DEFAULTS.sources, many=True, most=MOST_NETWORKS),
    "every": Key(kinds.whole(1, MOST_EVERY), _DEFAULTS.every),
    "source": Key(kinds.choice(OWN, KEEP), OWN),
    "down_after": Key(kinds.seconds(0, 3600), _DEFAULTS.down_after),
    "probe": Key(kinds.choice("none", "udp", "tcp"), _DEFAULTS.probe),
    "probe_port": Key(kinds.whole(0, 65535, note=" (0: the member's own port)"), _DEFAULTS.probe_port),
}


def rule_groups(root: Table, faults: Faults) -> None:
    """Groups are named once, have members, and are few enough for what counts what they take."""
    for topic in _tables(root, "topic"):
        groups = list(_tables(topic, "group"))
        if not groups:
            continue
        members = list(_tables(topic, "member"))
        framing = topic.get("framing")
        if framing is not None and framing is not Framing.FOREIGN:
            wanted = f'none, or {topic.at("framing")} = "foreign" besides'
            faults.add(topic.at("group"), f"stands at a topic that is not foreign; allowed: {wanted}")
            continue
        _check_names(topic, groups, {member.get("group") for member in members}, faults)
        _check_sizes(topic, groups, members, faults)


def rule_pick(root: Table, faults: Faults) -> None:
    """Who picks by the source has few members, and weights mean something there alone."""
    for topic in _tables(root, "topic"):
        pick, members = topic.get("pick"), list(_tables(topic, "member"))
        if pick is Pick.TURN:
            for member in members:
                if member.says("weight") and (weight := member.get("weight")) not in (None, 1):
                    wanted = f'1, or {topic.at("pick")} = "source" or "source-port" besides'
                    faults.refuse(member.at("weight"), weight, wanted, "where members have their turns")
        elif pick is not None and topic.get("framing") in (Framing.RAW, Framing.EVENT):
            wanted = f'"turn", or {topic.at("framing")} = "foreign" besides'
            faults.refuse(topic.at("pick"), pick.value, wanted, "of a topic that is not foreign")
        elif pick is not None:
            sizes = Counter(member.get("group") for member in members if member.get("group"))
            several = sum(size > 1 for size in sizes.values())
            for has, most, what in (
                (len(members), SPREAD_MEMBERS, "members"),
                (several, SPREAD_GROUPS, "groups of several members"),
                (len(sizes) + sum(not member.get("group") for member in members), MAX_GROUPS, "groups"),
            ):
                if has > most:
                    faults.add(topic.at("member"), f"makes {has} {what}; allowed: at most {most} "
                               f"where {topic.at('pick')} is {show(pick.value)}")  # fmt: skip


def _check_names(topic: Table, groups: list[Table], known: set[Any], faults: Faults) -> None:
    first: dict[str, Table] = {}
    for group in groups:
        name = group.get("name")
        if name is None:
            continue
        if first.setdefault(name, group) is not group:
            faults.refuse(group.at("name"), name, "each once", f"as {first[name].at('name')} is")
        elif name not in known:
            faults.refuse(group.at("name"), name, f"the group of a {topic.at('member')}")


def _check_sizes(topic: Table, groups: list[Table], members: list[Table], faults: Faults) -> None:
    fenced = sum(bool(group.get("sources")) for group in groups)
    networks = sum(len(group.get("sources") or ()) for group in groups)
    if networks > MOST_NETWORKS:
        faults.add(
            topic.at("group"),
            f"names {networks} sources; allowed: at most {MOST_NETWORKS} of all groups of a topic",
        )
    sizes = Counter(member.get("group") or member.path for member in members)
    if len(sizes) > MAX_GROUPS:
        faults.add(
            topic.at("member"),
            f"makes {len(sizes)} groups; allowed: at most {MAX_GROUPS} where any has options",
        )
    pick, room = topic.get("pick"), SPREAD_MEMBERS - fenced
    if fenced and pick not in (None, Pick.TURN) and len(members) > room:
        why = f"where {topic.at('pick')} is {show(pick.value)} and {fenced} of its groups have sources"
        faults.add(topic.at("member"), f"makes {len(members)} members; allowed: at most {room} {why}")


def build_group(table: Table) -> GroupOptions:
    """The options of one."""
    values = table.values
    return GroupOptions(
        values["name"], values["sources"], values["every"], values["source"] == KEEP,
        values["down_after"], values["probe"], values["probe_port"],
    )  # fmt: skip


def group_fields(group: GroupOptions) -> dict[str, Any]:
    """By their keys; None: it is left out."""
    return {
        "name": group.name,
        "sources": group.sources or None,
        "every": group.every if group.every > 1 else None,
        "source": KEEP if group.keep else None,
        "down_after": group.down_after if group.down_after != _DEFAULTS.down_after else None,
        "probe": group.probe if group.probe != _DEFAULTS.probe else None,
        "probe_port": group.probe_port or None,
    }


def _tables(table: Table, key: str) -> Iterable[Table]:
    tables: tuple[Table, ...] = table.get(key) or ()
    return tables

"""The difference between two configurations: what changes, in words, and what cannot without a restart.

Values in, values out. A topic is the same one as before if id, name and framing are; anything else about
it may change while it is served. One whose name or framing changed is another topic: its members leave.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from tempos import ConfigError, Topic
from tempos_broker.config.model import BrokerConfig, ControlConfig, StaticMember, TopicConfig

#: What does not show its value.
_SECRET = frozenset({"api_token", "password"})
#: Of the limits, those that nothing was sized by at the start.
_FREE_LIMITS = ("members_per_group", "groups_per_topic", "groups_per_client", "unheard", "vacant")
#: Of the fast path, what it is asked for only at the end.
_FREE_FAST_PATH = ("on_stop",)


@dataclass(frozen=True, slots=True)
class Difference:
    """What changes, a line of ``words`` each.

    ``gone``: ids of topics that end; ``touched``: of those that begin, or go on with another route.
    """

    words: tuple[str, ...]
    gone: frozenset[int]
    touched: frozenset[int]

    @property
    def concerned(self) -> frozenset[int]:
        """All of them."""
        return self.gone | self.touched


def difference(old: BrokerConfig, new: BrokerConfig) -> Difference:
    """What a reload changes; raises :class:`ConfigError` if it would change what needs a restart."""
    fixed = list(_fixed(old, new))
    if fixed:
        raise ConfigError(
            [
                f"{text}: cannot change while the broker runs; restart it. Nothing was changed"
                for text in fixed
            ]
        )
    before = {entry.topic.id: entry for entry in old.topics}
    after = {entry.topic.id: entry for entry in new.topics}
    gone = {id_ for id_, entry in before.items() if id_ not in after or not _same(entry, after[id_])}
    begun = {id_ for id_ in after if id_ not in before or id_ in gone}
    words = [f"topic {before[id_].topic.name} ({id_}) removed" for id_ in sorted(gone)]
    words += [f"topic {after[id_].topic.name} ({id_}) added" for id_ in sorted(begun)]
    touched = set(begun)
    for id_ in sorted(after.keys() & before.keys() - gone):
        if before[id_] == after[id_]:
            continue
        changes = list(topic_changes(before[id_], after[id_]))
        if changes:
            touched.add(id_)
            words += [f"topic {after[id_].topic.name}: {change}" for change in changes]
    words += _values("fastpath", old.fastpath, new.fastpath)
    words += _values("limits", old.limits, new.limits)
    words += _values("control", replace(old.control, clients=()), replace(new.control, clients=()))
    words += _clients(old.control, new.control)
    return Difference(tuple(words), frozenset(gone), frozenset(touched))


def topic_changes(old: TopicConfig, new: TopicConfig) -> Iterator[str]:
    """What changes of a topic that stays the same one, in words."""
    yield from _topic(old.topic, new.topic)
    yield from _members(old, new)


def _same(old: TopicConfig, new: TopicConfig) -> bool:
    return (old.topic.name, old.topic.framing) == (new.topic.name, new.topic.framing)


def _fixed(old: BrokerConfig, new: BrokerConfig) -> Iterator[str]:
    for field in fields(BrokerConfig):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if field.name in ("topics", "control"):
            continue
        free = {"limits": _FREE_LIMITS, "fastpath": _FREE_FAST_PATH}.get(field.name, ())
        if free:
            before = replace(before, **{name: getattr(after, name) for name in free})
        if before == after:
            continue
        if hasattr(before, "__dataclass_fields__"):
            yield from _values(field.name, before, after)
        elif field.name in _SECRET:
            yield f"broker.{field.name}"
        else:
            yield f"broker.{field.name} ({_show(before)} -> {_show(after)})"


def _values(section: str, old: Any, new: Any) -> list[str]:
    changes = [
        (field.name, getattr(old, field.name), getattr(new, field.name))
        for field in fields(old)
        if getattr(old, field.name) != getattr(new, field.name)
    ]
    return [
        f"{section}.{name}" if name in _SECRET else f"{section}.{name} ({_show(before)} -> {_show(after)})"
        for name, before, after in changes
    ]


def _topic(old: Topic, new: Topic) -> Iterator[str]:
    for name, word in (
        ("quality", "class"),
        ("priority", "priority"),
        ("policy", "path"),
        ("sources", "sources"),
        ("rate", "rate"),
        ("burst", "burst"),
        ("overflow", "overflow"),
        ("fanout", "fanout"),
        ("unheard", "unheard"),
        ("journal", "journal"),
        ("journal_bytes", "journal_bytes"),
        ("retain", "retain"),
        ("repair", "repair"),
        ("ports", "ports"),
        ("redeliver", "redeliver"),
        ("pick", "pick"),
        ("prefer", "prefer"),
    ):
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            yield f"{word} {_show(before)} -> {_show(after)}"
    groups = [{each.name: each for each in topic.groups} for topic in (old, new)]
    for name in dict.fromkeys((*groups[0], *groups[1])):
        if groups[0].get(name) != groups[1].get(name):
            yield f"options of group {name} changed"


def _members(old: TopicConfig, new: TopicConfig) -> Iterator[str]:
    before, after = _by_endpoint(old), _by_endpoint(new)
    for endpoint, member in before.items():
        if endpoint not in after:
            yield f"static member {member.ip}:{member.port} removed"
    for endpoint, member in after.items():
        if endpoint not in before:
            yield f"static member {member.ip}:{member.port} added"
        elif before[endpoint] != member:
            yield f"static member {member.ip}:{member.port} changed"


def _by_endpoint(entry: TopicConfig) -> Mapping[tuple[str, int], StaticMember]:
    return {(member.ip, member.port): member for member in entry.members}


def _clients(old: ControlConfig, new: ControlConfig) -> list[str]:
    before, after = ({client.id: client for client in each.clients} for each in (old, new))
    words = [f"client {id_} removed" for id_ in before if id_ not in after]
    words += [f"client {id_} added" for id_ in after if id_ not in before]
    words += [f"client {id_} changed" for id_ in after if id_ in before and before[id_] != after[id_]]
    return words


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(getattr(value, "value", value))

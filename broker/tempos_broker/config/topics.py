"""One topic as a document, outside of a file: what the control API is given, and what is kept of it.

The same tables and rules as for the file judge it, so its options, checks and words are the same; all faults
are told at once. A value of null means that its option is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from tempos import GroupOptions
from tempos._abi import MAX_MEMBERS
from tempos._slots import MOST_GROUPS
from tempos_broker.config import layout
from tempos_broker.config.bad import BadDocument
from tempos_broker.config.completing import framed
from tempos_broker.config.dump import fields_of
from tempos_broker.config.groups import group_fields
from tempos_broker.config.model import BrokerConfig, Limits, TopicConfig
from tempos_daemon.schema import Faults, Key, Keys, Table, read_table

#: The keys of a topic; the id may be left to the broker.
TOPIC: Keys = {**layout.TOPIC, "id": Key(layout.TOPIC["id"].holds, None)}


#: What judges a topic by itself, wherever it is to be served.
ANYWHERE = BrokerConfig(
    topics=(), listen=(), limits=Limits(members_per_group=MAX_MEMBERS, groups_per_topic=MOST_GROUPS)
)


class BadTopic(BadDocument):
    """A topic is not as it must be."""

    what = "topic"


def read_topic(document: object, config: BrokerConfig, free: int | None = None) -> TopicConfig:
    """Check a topic beside what else holds of a broker; ``free``: the id of one that names none.

    Raises :class:`BadTopic`.
    """
    faults = Faults("topic")
    if not isinstance(document, dict):
        raise BadTopic([f"topic: is no object; allowed: an object with the keys {', '.join(TOPIC)}"])
    # Null is an option's default; of what is no option there is none.
    given = {key: value for key, value in document.items() if value is not None or key not in TOPIC}
    table = read_table(framed(given), "", TOPIC, faults)
    sections = {"limits": config.limits, "fleet": config.fleet}
    known = {name: _known(section, name) for name, section in sections.items()}
    root = Table("", {"broker": _known(config, "broker"), **known, "topic": (table,)})
    for rule in layout.TOPIC_RULES:
        rule(root, faults)
    if "id" in table.values and table.values["id"] is None:
        if free is None:
            faults.add("id", f"is missing; allowed: {layout.TOPIC_ID.allowed}")
        table.values["id"] = free
    if faults.problems:
        raise BadTopic(faults.problems)
    return layout.build_topic(table)


def document_of(entry: TopicConfig) -> dict[str, Any]:
    """A topic as :func:`read_topic` takes it, as JSON values: every option that is not left out."""
    document = {key: _plain(value) for key, value in fields_of(entry).items() if value is not None}
    if entry.topic.groups:
        document["group"] = [group_document(group) for group in entry.topic.groups]
    if entry.members:
        document["member"] = [_member(member) for member in entry.members]
    return document


def group_document(group: GroupOptions) -> dict[str, Any]:
    """The options of one group, as JSON values."""
    return {key: _plain(value) for key, value in group_fields(group).items() if value is not None}


def _known(values: Any, path: str) -> Table:
    return Table(path, {field.name: getattr(values, field.name) for field in fields(values)})


def _member(member: Any) -> Mapping[str, Any]:
    left_out = {"weight": 1}
    values = _known(member, "").values.items()
    return {key: value for key, value in values if value is not None and left_out.get(key) != value}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else getattr(value, "value", value)

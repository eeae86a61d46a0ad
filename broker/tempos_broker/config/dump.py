"""Writes a configuration in the broker's own format.

Rule kept here: ``parse(dump(config)) == config`` for every checked configuration. Topics are written
in full; of the rest only what differs from the defaults, so that a file does not pin what its author
never chose.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

from tempos import Prefer
from tempos_broker.config import layout
from tempos_broker.config.groups import group_fields
from tempos_broker.config.model import BrokerConfig, ClientConfig, Origin, StaticMember, TopicConfig
from tempos_daemon.schema import Keys, Kind


def dump(config: BrokerConfig) -> str:
    """The text of a TOML file that :func:`~tempos_broker.config.load.load` reads as ``config``."""
    blocks = [_section(name, values) for name, values in _sections(config).items()]
    blocks += [_block("[[client]]", client_document(client)) for client in config.control.clients]
    blocks += [dump_topic(topic) for topic in config.topics]
    return "\n".join(block for block in blocks if block)


def dump_topic(entry: TopicConfig) -> str:
    """One topic with its static members, as it stands in a file; one that was made at run time is marked."""
    topic = entry.topic
    text = dump_tables(fields_of(entry), map(group_fields, topic.groups), map(_member, entry.members))
    return ("# made at run time\n" if entry.origin is Origin.RUN_TIME else "") + text


def dump_tables(
    topic: dict[str, Any], groups: Iterable[dict[str, Any]], members: Iterable[dict[str, Any]]
) -> str:
    """A topic by its keys, with its groups and members by theirs; None: it is left out."""
    blocks = [_block("[[topic]]", topic)]
    blocks += [_block("[[topic.group]]", group, "  ") for group in groups]
    blocks += [_block("[[topic.member]]", member, "  ") for member in members]
    return "\n".join(blocks)


def _sections(config: BrokerConfig) -> dict[str, dict[str, Any]]:
    return {
        "broker": {
            "listen": config.listen,
            "data_port": config.data_port,
            "control_port": config.control_port,
            "api": (config.api_host, config.api_port),
            "user": config.user,
            "name": config.name,
            "api_token": config.api_token,
            "api_token_file": config.api_token_file,
            "api_expose": config.api_expose,
            "adapter": config.adapter,
        },
        "state": _fields(config.state),
        "fastpath": _fields(config.fastpath),
        "quality": _fields(config.quality),
        "limits": _fields(config.limits),
        "control": _fields(config.control),
        "fleet": _fields(config.fleet),
    }


def _section(name: str, values: dict[str, Any]) -> str:
    keys = layout.FILE[name].holds
    assert not isinstance(keys, Kind)
    changed = dict(_changed(values, keys))
    if "api" in changed:
        host, port = changed["api"]
        changed["api"] = f"{host}:{port}" if port else "off"
    return _block(f"[{name}]", changed) if changed else ""


def _changed(values: dict[str, Any], keys: Keys) -> Iterator[tuple[str, Any]]:
    return ((key, value) for key, value in values.items() if key in keys and value != keys[key].default)


def fields_of(config: TopicConfig) -> dict[str, Any]:
    """The options of a topic by their keys; None: it is left out."""
    topic = config.topic
    return {
        "id": topic.id,
        "name": topic.name,
        "class": topic.quality,
        "priority": topic.priority,
        "framing": topic.framing,
        "path": topic.policy,
        "sources": topic.sources or None,
        "rate": topic.rate or None,
        "burst": topic.burst or None,
        "overflow": topic.overflow if topic.rate else None,
        "fanout": topic.fanout,
        "unheard": topic.unheard,
        "journal": topic.journal or None,
        "journal_bytes": topic.journal_bytes or None,
        "retain": topic.retain or None,
        "repair": topic.repair,
        "ports": topic.ports or None,
        "redeliver": topic.redeliver or None,
        "pick": topic.pick if topic.ports else None,
        "prefer": topic.prefer if topic.prefer is not Prefer.ANY else None,
    }


def _member(member: StaticMember) -> dict[str, Any]:
    return {**_fields(member), "weight": member.weight if member.weight > 1 else None}


def client_document(client: ClientConfig) -> dict[str, Any]:
    """A client as it stands in a file, with its key in clear."""
    return {**_rights(client), "key": client.key.hex()}


def dump_rights(clients: Iterable[ClientConfig]) -> str:
    """Clients that were made at run time, as remarks: who tells of them does not tell their keys."""
    blocks = [_block("[[client]]", {**_rights(each), "key": "..."}, "#") for each in clients]
    head = (
        "# clients made at run time; to have one in the file, write its key there, and take away the signs\n"
    )
    return head + "\n".join(blocks) if blocks else ""


def _rights(client: ClientConfig) -> dict[str, Any]:
    """All of it but its key, in whose place there is nothing."""
    return {key: None if key == "key" else getattr(client, key) for key in layout.CLIENT}


def _fields(values: Any) -> dict[str, Any]:
    return {field.name: getattr(values, field.name) for field in fields(values)}


def _block(header: str, values: dict[str, Any], indent: str = "") -> str:
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
    return "".join(f"{indent}{line}\n" for line in (header, *lines))


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, bool):
        return "true" if value else "false"
    # JSON's escapes are TOML's too, as long as characters beyond ASCII stand for themselves.
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)

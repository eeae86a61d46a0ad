"""The configuration format of the thesis that tempos implements (its listing 4.5).

A list of topics by number, each with the IP and MAC addresses of its subscribers, filled up with
zeros to a fixed length::

    [[topic]]
    topic_value = 2

        [[topic.address]]
        ip = "10.0.0.212"
        mac = "40:a6:b7:66:39:ba"

        [[topic.address]]
        ip = "0.0.0.0"
        mac = "0:0:0:0:0:0"

Its senders put the topic byte before any payload, and its subscribers are bare sockets on port 9998.
So a topic becomes ``topic-<n>`` with framing raw, class BQ and one group that holds all addresses.
The rules of the broker's own format then judge the result, in the words of this file.
"""

from __future__ import annotations

from typing import Any

from tempos import DATA_PORT, Fanout, Framing, Overflow, PathPolicy, Pick, Prefer, Quality, Unheard
from tempos_broker.config import layout, own_kinds
from tempos_daemon import kinds
from tempos_daemon.schema import Faults, Key, Keys, NotAllowed, Table, read_table

GROUP = "members"

ADDRESS: Keys = {"ip": Key(own_kinds.THESIS_IP), "mac": Key(own_kinds.THESIS_MAC)}
TOPIC: Keys = {"topic_value": Key(layout.TOPIC_ID), "address": Key(ADDRESS, (), many=True)}
FILE: Keys = {"topic": Key(TOPIC, many=True, least=1)}

#: Keys that only one of the two formats has in a topic.
_ONLY_HERE = TOPIC.keys() - layout.TOPIC.keys()
_ONLY_OWN = layout.TOPIC.keys() - TOPIC.keys()


def marks(document: dict[str, Any]) -> tuple[str, str]:
    """Key paths that show a document to be of this format, and of our own; empty where none does."""
    here = theirs = ""
    topics = document.get("topic")
    for index, topic in enumerate(topics if isinstance(topics, list) else ()):
        for key in topic if isinstance(topic, dict) else ():
            if key in _ONLY_HERE:
                here = here or f"topic[{index}].{key}"
            elif key in _ONLY_OWN:
                theirs = theirs or f"topic[{index}].{key}"
    for key in document:
        if key in layout.FILE and key not in FILE:
            theirs = theirs or key
    return here, theirs


def read(document: dict[str, Any], faults: Faults) -> Table:
    """Check a document of this format and give it as one of the broker's own format, for its rules."""
    topics = read_table(document, "", FILE, faults).get("topic") or ()
    # What the format does not have, limits and ports, has the defaults of the broker's own.
    root = read_table({"topic": []}, "", layout.FILE, Faults(faults.name))
    root.values["topic"] = tuple(_topic(topic, faults) for topic in topics)
    # Named last and each name once: a number given twice is one fault, not two.
    for number, topic in {topic.get("id"): topic for topic in root.values["topic"]}.items():
        topic.values["name"] = f"topic-{number}"
    return root


def _topic(theirs: Table, faults: Faults) -> Table:
    values: dict[str, Any] = {
        "class": Quality.BQ,
        "priority": 0,
        "framing": Framing.RAW,
        "path": PathPolicy.AUTO,
        "sources": (),
        "rate": 0,
        "burst": 0,
        "overflow": Overflow.DROP,
        "fanout": Fanout.AUTO,
        "unheard": Unheard.AUTO,
        "journal": 0,
        "journal_bytes": 0,
        "retain": False,
        "repair": None,
        "ports": (),
        "redeliver": False,
        "pick": Pick.TURN,
        "prefer": Prefer.ANY,
        "group": (),
    }
    if "topic_value" in theirs.values:
        values["id"] = theirs.get("topic_value")
    values["member"] = tuple(
        _member(entry, faults)
        for entry in theirs.get("address") or ()
        if not own_kinds.is_padding(entry.get("ip"), entry.get("mac"))
    )
    return Table(theirs.path, values, {"id": "topic_value", "member": "address"})


def _member(theirs: Table, faults: Faults) -> Table:
    values: dict[str, Any] = {"port": DATA_PORT, "group": GROUP}
    for key, kind in (("ip", kinds.UNICAST), ("mac", kinds.MAC)):
        value = theirs.get(key)
        if value is None:
            continue
        try:
            values[key] = kind.parse(value)
        except NotAllowed as error:
            faults.refuse(theirs.at(key), value, f"{kind.allowed}, or zero in both (padding)", str(error))
    return Table(theirs.path, values)

"""What a foreign topic need not say itself: that it is one, and in a file its id.

Its id is on no wire. So it follows from the name, that the topic is the same one after a restart and a
reload, whatever else the file comes to hold.
"""

from __future__ import annotations

import zlib
from typing import Any

from tempos import Framing
from tempos._abi import NARROW, TOPIC_MAX

_IDS = TOPIC_MAX - NARROW + 1


def framed(topic: Any) -> Any:
    """A topic as it stands in a document; ports make it a foreign one."""
    if isinstance(topic, dict) and topic.get("ports") and topic.get("framing") is None:
        return {**topic, "framing": Framing.FOREIGN.value}
    return topic


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """The document of a file; what is not sound in it is left as it is."""
    topics = document.get("topic")
    if not isinstance(topics, list):
        return document
    topics = [framed(topic) for topic in topics]
    taken = {topic.get("id") for topic in topics if isinstance(topic, dict) and type(topic.get("id")) is int}
    lacking = [topic for topic in topics if _lacks_id(topic)]
    given = {}
    # In an order of their own: two names that come to the same id have theirs wherever they stand.
    for topic in sorted(lacking, key=lambda topic: str(topic["name"])):
        at = zlib.crc32(topic["name"].encode("utf-8", "replace")) % _IDS
        while NARROW + at in taken and len(taken) < _IDS:
            at = (at + 1) % _IDS
        given[id(topic)] = NARROW + at
        taken.add(NARROW + at)
    return {
        **document,
        "topic": [{"id": given[id(topic)], **topic} if id(topic) in given else topic for topic in topics],
    }


def _lacks_id(topic: object) -> bool:
    return (
        isinstance(topic, dict)
        and topic.get("framing") == Framing.FOREIGN.value
        and "id" not in topic
        and isinstance(topic.get("name"), str)
    )

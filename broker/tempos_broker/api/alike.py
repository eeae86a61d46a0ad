"""JSON of topics that differ in id, name and epoch alone: made of one of them, written for all others.

Most topics of many are so for long: the same options, nobody or the same endpoint in them, and nothing
counted. To tell of one then takes a tenth of what it takes to tell of it in full, and nothing of it is kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

from tempos_broker.documents import Documents
from tempos_broker.state import TopicState

#: Of so many that are not alike the JSON is remembered.
REMEMBERED = 64

_OWN = ("id", "name", "epoch")
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class _Pattern(NamedTuple):
    """JSON around id, name and epoch of a topic, in this order."""

    head: bytes
    id_to_name: bytes
    name_to_epoch: bytes
    tail: bytes

    def of(self, state: TopicState) -> bytes:
        topic, name = state.route.topic.id, _encode(state.route.topic.name).encode()
        own = b"%d%b%b%b%d" % (topic, self.id_to_name, name, self.name_to_epoch, state.route.epoch)
        return self.head + own + self.tail


class Alike:
    """``tell`` tells of one topic in full, as a document with the fields ``id``, ``name`` and ``epoch``."""

    def __init__(self, told: Documents, tell: Callable[[TopicState], Mapping[str, Any]]) -> None:
        self._told = told
        self._tell = tell
        self._patterns: dict[Hashable, _Pattern] = {}
        #: How often one was told in full.
        self.full = 0

    def of(self, state: TopicState) -> bytes | None:
        """The JSON of a topic of which nothing was counted; None: it has to be told by itself."""
        like = self._told.likeness(state)
        if like is None:
            return None
        pattern = self._patterns.get(like)
        if pattern is None:
            if len(self._patterns) >= REMEMBERED:
                self._patterns.clear()
            self.full += 1
            pattern = self._patterns[like] = _pattern(self._tell(state))
        return pattern.of(state)

    def forget(self) -> None:
        """Keep nothing."""
        self._patterns.clear()


def _pattern(document: Mapping[str, Any]) -> _Pattern:
    assert tuple(key for key in document if key in _OWN) == _OWN, "they stand in this order"
    parts = [b""]
    for number, (key, value) in enumerate(document.items()):
        parts[-1] += b"%b%b:" % (b"," if number else b"{", _encode(key).encode())
        if key in _OWN:
            parts.append(b"")
        else:
            parts[-1] += _encode(value).encode()
    parts[-1] += b"}"
    return _Pattern(*parts)

"""Documents of topics that are alike but for name and row, as most of thousands are: told and read once.

The text of a document (:mod:`.memory`) begins with the topic's name and ends with its row. What stands
between them is made into text once for all topics that are alike, and something is made of that text once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import replace
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from tempos._abi import TOPIC_MAX
from tempos_broker.lives.checks import name_of, whole
from tempos_broker.lives.memory import Remembered, read

#: Texts of which it is kept in mind what they say.
_KEPT = 64
#: How a row is written, and how documents end that have it last; it is the topic's, whatever stands before.
_ROW = rb"(0|[1-9][0-9]{0,4})"
_ROW_LAST = re.compile(rb'"row": ' + _ROW + rb"\}\Z")
#: Name, what may be alike, and row.
_PARTS = re.compile(rb'\{"name": ("(?:[^"\\]|\\.)*"), (.+), "row": ' + _ROW + rb"\}", re.DOTALL)
#: Without looking for what else than UTF-8 it may be in.
_DECODE = json.JSONDecoder().decode


class Texts:
    """Documents as they are written at one time."""

    def __init__(self) -> None:
        self._between: dict[Hashable, str] = {}

    def of(self, memory: Remembered, account: Hashable, document: Callable[[], dict[str, Any]]) -> str:
        """Of a topic in which nothing was counted and nobody has a lease; ``account`` says all of its ledger.

        ``document``: has its values made, where none was like it yet.
        """
        like = memory.framing, memory.steps, account
        between = self._between.get(like)
        if between is None:
            values = document()
            del values["name"], values["row"]
            between = self._between[like] = json.dumps(values)[1:-1]
        row = "null" if memory.row is None else memory.row
        return f'{{"name": {quoted(memory.name)}, {between}, "row": {row}}}'


class Documents(Mapping[int, Any]):
    """JSON values by topic, made when they are asked for: of thousands all at once would be a lot."""

    def __init__(self, texts: Mapping[int, bytes]) -> None:
        self._texts = texts
        #: What texts between name and row say, in the document of the topic that was the first to have it.
        self._read: dict[bytes, Remembered] = {}

    def __getitem__(self, topic: int) -> Any:
        return value_of(self._texts[topic])

    def __iter__(self) -> Iterator[int]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def row(self, topic: int) -> int | None:
        """Where the topic stands, if that can be known without reading all of its document."""
        text = self._texts.get(topic, b"")
        last = _ROW_LAST.search(text, max(0, len(text) - 16))
        return None if last is None else int(last[1])

    def remembered(self, topic: int) -> Remembered | None:
        """What a document says; None: nothing. Raises one of :data:`.memory.UNREADABLE`.

        What is no member's of two topics may be the same objects.
        """
        text = self._texts.get(topic, b"")
        between = None
        if (parts := _PARTS.fullmatch(text)) is not None:
            name, between, row = parts.groups()
            if (known := self._read.get(between)) is not None and (said := value_of(name)):
                return replace(known, name=name_of(said), row=whole(int(row), 0, TOPIC_MAX))
        document = value_of(text)
        if not document:
            return None
        memory = read(document)
        # A name or a row in between, too, would be the one that counts.
        if between is not None and not {"name", "row"} & value_of(b"{%b}" % between).keys():
            if len(self._read) >= _KEPT:
                self._read.clear()
            self._read[between] = memory
        return memory


def value_of(text: bytes) -> Any:
    """A JSON value, or None for what is none."""
    try:
        return _DECODE(text.decode(errors="surrogatepass"))
    except (ValueError, RecursionError):
        return None

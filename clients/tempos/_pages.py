"""Rows that are told, on as many pages as it takes.

Each page is the fields of one request that fits a control datagram, with its answer.
"""

from __future__ import annotations

from typing import Any

import msgpack

from tempos import auth, control

#: What a request leaves for rows: its map, version, id, operation, client, port, instance, what it knows, its
#: patience, and the signature around it.
ROOM = control.MAX_DATAGRAM - 136 - auth.OVERHEAD
#: Topics asked about on one page, so that there is room for what is to be said of them.
TOPICS = 48


class Pages:
    """Collects rows under the names of fields: ``first`` is there in any case, ``always`` on every page."""

    def __init__(self, first: str, **always: Any) -> None:
        self._first = first
        self._always = always
        self._pages: list[dict[str, Any]] = []
        self._left = 0

    def add(self, name: str, row: Any) -> None:
        """Put a row into the list ``name``."""
        size = _size(row)
        if not self._pages or size + self._size_of_name(name) > self._left or self._asks_enough(name):
            self._begin()
        self._left -= size + self._size_of_name(name)
        self._pages[-1].setdefault(name, []).append(row)

    def _size_of_name(self, name: str) -> int:
        """Bytes of the name and the head of its list, where they are not on the page already."""
        return 0 if name in self._pages[-1] else _size(name) + 3

    def _asks_enough(self, name: str) -> bool:
        return name == "topics" and len(self._pages[-1].get(name, ())) >= TOPICS

    def _begin(self) -> None:
        self._pages.append({self._first: [], **self._always})
        self._left = ROOM - _size(self._pages[-1])

    def done(self) -> list[dict[str, Any]]:
        """The pages, at least one."""
        if not self._pages:
            self._begin()
        return self._pages


def _size(value: Any) -> int:
    return len(msgpack.packb(value))

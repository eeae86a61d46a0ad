"""Answers that tell of every topic, made while they are sent: the event loop serves between two pieces.

However many topics there are, nothing waits for such an answer longer than a piece takes. One that cannot be
made to its end breaks off, which who reads it notices: it is no whole JSON then.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

from tempos_daemon.operations import Streamed
from tempos_daemon.slices import Slices

#: Bytes that are handed on together at least, for that takes as long as a piece.
SENT_AT_ONCE = 1 << 15

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def listed(documents: Iterator[Any]) -> Streamed:
    """A JSON array of these."""
    return Streamed(_array(documents), media_type="application/json")


async def _array(documents: Iterator[Any]) -> AsyncIterator[bytes]:
    made, size = [b"["], 1
    slices = Slices()
    for part in _elements(documents):
        made.append(part)
        size += len(part)
        if slices.over:
            if size >= SENT_AT_ONCE:
                yield b"".join(made)
                made, size = [], 0
            await slices.rest()
    yield b"".join((*made, b"]"))


def _elements(values: Iterator[Any]) -> Iterator[bytes]:
    """What stands in a JSON array of these, in parts of a few microseconds each."""
    first = True
    for value in values:
        if not first:
            yield b","
        first = False
        yield from parts(value)


def parts(value: Any) -> Iterator[bytes]:
    """A JSON value; iterators, among its values if it is an object, are told one by one."""
    later = (
        [key for key, each in value.items() if hasattr(each, "__next__")] if isinstance(value, dict) else ()
    )
    if not later:
        yield _encoded(value)
        return
    at_once = {key: each for key, each in value.items() if key not in later}
    before = _encoded(at_once)[:-1] + b"," if at_once else b"{"
    for key in later:
        yield before + _encoded(key) + b":["
        yield from _elements(value[key])
        before = b"],"
    yield b"]}"


class Made(bytes):
    """JSON that is made already."""


def field(key: str, value: Any) -> bytes:
    """A field of a JSON object."""
    return _encoded(key) + b":" + (value if isinstance(value, Made) else _encoded(value))


def _encoded(value: Any) -> bytes:
    return _encode(value).encode()

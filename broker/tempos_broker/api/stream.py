"""Answers that tell of every topic, made while they are sent: the event loop serves between two pieces.

However many topics there are, nothing waits for such an answer longer than a piece takes. One that cannot be
made to its end breaks off, which who reads it notices: it is no whole JSON then.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from fastapi.responses import StreamingResponse

#: Seconds of work between two looks at what else there is to do, and seconds left to that.
PIECE, PAUSE = 0.00025, 0.001


def listed(documents: Iterator[Any]) -> StreamingResponse:
    """A JSON array of these."""
    return StreamingResponse(_array(documents), media_type="application/json")


def with_topics(
    head: Mapping[str, Any], topics: Iterator[Any], tail: Callable[[], Mapping[str, Any]] = dict
) -> StreamingResponse:
    """A JSON object: what is in ``head``, then ``topics``, then what is in ``tail`` when that is told."""
    return StreamingResponse(_object(head, topics, tail), media_type="application/json")


async def _object(
    head: Mapping[str, Any], topics: Iterator[Any], tail: Callable[[], Mapping[str, Any]]
) -> AsyncIterator[bytes]:
    yield b"{" + b"".join(_field(key, value) + b"," for key, value in head.items()) + b'"topics":'
    async for piece in _array(topics):
        yield piece
    yield b"".join(b"," + _field(key, value) for key, value in tail().items()) + b"}"


async def _array(documents: Iterator[Any]) -> AsyncIterator[bytes]:
    piece: list[bytes] = []
    before, until = b"[", time.perf_counter() + PIECE
    for document in documents:
        piece += (before, _encoded(document))
        before = b","
        if time.perf_counter() >= until:
            yield b"".join(piece)
            piece.clear()
            await asyncio.sleep(PAUSE)
            until = time.perf_counter() + PIECE
    yield b"".join(piece) + (b"[]" if before == b"[" else b"]")


def _field(key: str, value: Any) -> bytes:
    return _encoded(key) + b":" + _encoded(value)


def _encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()

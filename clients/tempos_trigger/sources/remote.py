"""What kinds share that connect to a server elsewhere, and signals that bring more than their bytes."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

from tempos._awaitables import in_time
from tempos_daemon import kinds
from tempos_daemon.schema import Key, Keys, Kind, NotAllowed
from tempos_trigger.sources import tls

_T = TypeVar("_T")

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?")


def _text(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 256 or not value.isprintable():
        raise NotAllowed
    return value


HOST = kinds.matching(_HOST, 'the name or the IPv4 address of a server, such as "10.0.0.7"')
#: Something that a server knows somebody by; a password never shows.
USER = Kind("text of 1 to 256 printable characters", _text)
PASSWORD = Kind("text of 1 to 256 printable characters", _text, secret=True)
#: What is published: the bytes alone, or a JSON document with where they came from.
BODY = Key(kinds.choice("data", "whole"), "data")


def server(port: int) -> Keys:
    """The keys by which a server is reached."""
    return {
        "server": Key(HOST),
        "port": Key(kinds.PORT, port),
        "username": Key(USER, None),
        "password": Key(PASSWORD, None),
        **tls.CLIENT,
    }


async def within(seconds: float, what: str, answer: Awaitable[_T]) -> _T:
    """The answer, or an error that says what there was none to."""
    try:
        return await in_time(answer, seconds)
    except asyncio.TimeoutError:
        raise ConnectionError(f"no answer within {seconds:g} s to: {what}") from None


def whole(attributes: Mapping[str, Any], data: bytes) -> bytes:
    """A JSON document: attributes, and ``data`` as text if it is UTF-8, else ``data_base64``."""
    try:
        held = {"data": data.decode()}
    except UnicodeDecodeError:
        held = {"data_base64": base64.b64encode(data).decode()}
    return json.dumps({**attributes, **held}, separators=(",", ":")).encode()

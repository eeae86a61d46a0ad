"""Bodies of events for people: nothing on the wire says what a body is, so it is told by its bytes."""

from __future__ import annotations

import json
from typing import Any

from tempos import wire
from tempos.control import is_deeper
from tempos.errors import WireError

#: Lists and maps in each other that are shown as such: fewer than Python's own recursion can follow, whatever
#: stands around them.
MAX_DEPTH = 200


def describe(body: bytes) -> tuple[str, Any]:
    """What a body looks like, and its value: ``text``, ``msgpack`` (as JSON has it) or ``hex``.

    Bytes that are readable text are text; what else is whole msgpack is that.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        pass
    else:
        if all(character.isprintable() or character in "\t\r\n" for character in text):
            return "text", text
    try:
        value = wire.decode_body(body)
        if is_deeper(value, MAX_DEPTH):
            return "hex", body.hex()
        # What JSON cannot say, NaN for one, is shown as it came.
        json.dumps(value, allow_nan=False)
    except (WireError, TypeError, ValueError):
        return "hex", body.hex()
    return "msgpack", value


def show(body: bytes) -> str:
    """A body as one line."""
    encoding, value = describe(body)
    if encoding == "msgpack":
        return json.dumps(value, ensure_ascii=False)
    return str(value)

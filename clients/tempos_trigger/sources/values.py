"""Values of field devices as JSON: what JSON has no word for becomes text, never an error."""

from __future__ import annotations

import base64
import json
import math
from datetime import datetime, timezone
from typing import Any

#: How deep lists and tables inside a value are followed.
_DEEPEST = 16


def dumped(value: Any) -> bytes:
    """A JSON document."""
    return json.dumps(_plain(value, 0), separators=(",", ":"), allow_nan=False).encode()


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        # Of an enumeration, too: what it is on the wire.
        return int(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
        return moment.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
    if depth < _DEEPEST:
        if isinstance(value, list | tuple):
            return [_plain(each, depth + 1) for each in value]
        if isinstance(value, dict):
            return {str(key): _plain(each, depth + 1) for key, each in value.items()}
    return str(value)

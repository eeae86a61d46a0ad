"""The function of the source's measurements (its Algorithm 1), the same for whoever calls it.

Event: JSON, {"message": "...", "pattern": "..."}. Result: a double, little-endian: over the occurrences of
the pattern in the message, powers and square roots in turn.
"""

from __future__ import annotations

import json
import math
import struct

_RESULT = struct.Struct("<d")


def count(body: bytes) -> bytes:
    """Call it once."""
    event = json.loads(body)
    result = 0.0
    for number in range(event["message"].count(event["pattern"])):
        result += math.pow(number, 2) if number % 2 == 0 else math.sqrt(number)
    return _RESULT.pack(result)

"""The function of the source's measurements, as a function of tempos and as a program."""

import json
import math
import struct
import sys


def count(body: bytes) -> bytes:
    """The function: JSON in, a double out."""
    event = json.loads(body)
    result = 0.0
    for i in range(event["message"].count(event["pattern"])):
        result += math.pow(i, 2) if i % 2 == 0 else math.sqrt(i)
    return struct.pack("<d", result)


if __name__ == "__main__":
    sys.stdout.buffer.write(count(sys.stdin.buffer.read()))

"""Commands on a program's input, one a line, where the next line is to end what the program is doing."""

from __future__ import annotations

import os

#: What a loop watches to see that the next command has come.
INPUT = 0


def next_line() -> bytes:
    """The next line, and not a byte more, so that what there is to read then is the one behind it."""
    line = bytearray()
    while (byte := os.read(INPUT, 1)) and byte != b"\n":
        line += byte
    return bytes(line)

"""The event that the function is called with: JSON of 351 bytes, the pattern twenty times in its message.

The mark of a measurement is in the message, in decimal digits, and so at the same place in every body.
"""

from __future__ import annotations

from tempos_bench.peers.talk import Form

#: Bytes of an event, and how often the pattern occurs in it.
SIZE, OCCURRENCES = 351, 20

_HEAD, _TAIL = b'{"message": "', b'", "pattern": "abc"}'
#: Send time, sequence, run.
_DIGITS = (20, 10, 10)
_MARK = _HEAD + b"%020d%010d%010d"
_LEN = len(_HEAD) + sum(_DIGITS)
_EVERY = b"abc, of which "


def _pack(sent_ns: int, sequence: int, run: int) -> bytes:
    return _MARK % (sent_ns, sequence, run)


def _unpack_from(buffer: bytes | bytearray, offset: int) -> tuple[int, int, int]:
    return numbers(buffer, offset + len(_HEAD))


def numbers(buffer: bytes | bytearray, at: int) -> tuple[int, int, int]:
    """Send time, sequence and run out of the digits that begin there."""
    sequence, run = at + _DIGITS[0], at + _DIGITS[0] + _DIGITS[1]
    return int(buffer[at:sequence]), int(buffer[sequence:run]), int(buffer[run : run + _DIGITS[2]])


def _filler(size: int) -> bytes:
    """What follows the mark; raises :class:`ValueError` for a size that has no room for it all."""
    room = size - _LEN - len(_TAIL)
    text = _EVERY[: max(room // OCCURRENCES, 0)] * OCCURRENCES
    if text.count(b"abc") != OCCURRENCES:
        raise ValueError(f"an event of {size} bytes has no room for the pattern {OCCURRENCES} times")
    return text.ljust(room) + _TAIL


FORM = Form(_pack, _unpack_from, _filler)

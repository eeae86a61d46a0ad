"""Datagrams over the layout of wide ids, and what the wire module alone says of each."""

from __future__ import annotations

import random

from support.packets import WIDE_EVENT, WIDE_RAW
from tempos import Reason
from tempos.wire import check_payload, topic_in

_FRAMINGS = {topic.id: topic.framing for topic in (WIDE_RAW, WIDE_EVENT)}


def wide_payload(random_: random.Random) -> bytes:
    """A datagram with a wide id, or what resembles one: cut anywhere, any id, any bits."""
    known = (WIDE_RAW.id, WIDE_EVENT.id, WIDE_EVENT.id)
    id_ = random_.choice((*known, 0, 1, 255, 65535, random_.randrange(65536)))
    out = bytearray(b"\xff" + id_.to_bytes(2, "big") + random_.randbytes(21) + b"\x10\0\0\0")
    if random_.random() < 0.6:
        out[24] = random_.choice((0x10, 0x11, 0x14, 0x18, 0x19, random_.randrange(256)))
    if random_.random() < 0.2:
        out[random_.randrange(25, 28)] = 1 << random_.randrange(8)
    out += random_.choice((b"\x11", b"\x12", b"\x13", b"\x14"))
    out += random_.randbytes(random_.choice((0, 30, 31, 40)))
    return bytes(out[: random_.randrange(len(out) + 1)] if random_.random() < 0.4 else out)


def judged(payload: bytes) -> tuple[int, Reason]:
    """Where the fast path must count it, and as what, if only these two topics have routes."""
    if len(payload) < 3:
        return (255, Reason.SHORT_HEADER) if payload else (0, Reason.EMPTY)
    topic = topic_in(payload)
    if topic not in _FRAMINGS:
        return 255, Reason.NO_ROUTE
    return topic, check_payload(payload, _FRAMINGS[topic])

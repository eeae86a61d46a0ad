"""Datagrams that the kernel handed over as one buffer (UDP_GRO): those of a crowd, all of one size.

Rules: what is decided of them is what would be decided of each; those of one publisher that are just the next
are taken together, with as many calls as for one, and of all others each is taken by itself.
"""

from __future__ import annotations

import struct
import time
from functools import lru_cache
from typing import Any, Protocol

from tempos import _abi
from tempos.receiving.feeds import Feed, Feeds
from tempos.receiving.inbox import Inbox

_PLAIN = bytes((_abi.WIRE_VERSION << 4, 0))
_HEADER_LEN = _abi.EVENT_HEADER_LEN
_U32 = 0xFFFFFFFF


class Intake(Protocol):
    """What each datagram is handed to."""

    feeds: Feeds

    @property
    def inbox(self) -> Inbox: ...

    @property
    def is_opening(self) -> bool: ...

    def receive(self, datagram: bytes, at: int = 0) -> None: ...

    def took(
        self, feed: Feed, count: int, size: int, fields: tuple[Any, ...], bodies: tuple[bytes, ...]
    ) -> None: ...


@lru_cache(maxsize=256)
def _layout(size: int) -> struct.Struct:
    """One datagram: all that is alike in those of one publisher and epoch, numbers, its time, its body."""
    return struct.Struct(f"!8sIIQ{size - _HEADER_LEN}s")


def receive(intake: Intake, buffer: bytes, size: int) -> None:
    """Take datagrams of ``size`` bytes, of which the last may be shorter; never raises."""
    whole = len(buffer) // size * size
    if not _taken(intake, buffer[:whole] if whole < len(buffer) else buffer, size):
        for at in range(0, whole, size):
            intake.receive(buffer[at : at + size])
    if whole < len(buffer):
        intake.receive(buffer[whole:])


def _taken(intake: Intake, buffer: bytes, size: int) -> bool:
    """Take them together, if they are plain events of a narrow topic, each the next of its publisher."""
    feed = intake.feeds.narrow[buffer[0]] if size >= _HEADER_LEN and not intake.is_opening else None
    if feed is None or not feed.is_event or buffer[1:3] != _PLAIN:
        return False
    alike, sequences, deliveries, sent, bodies = zip(*_layout(size).iter_unpack(buffer), strict=True)
    count, head, sequence, delivery = len(alike), alike[0], sequences[0], deliveries[0]
    source = feed.source_of(int.from_bytes(head[4:], "big"))
    if (
        source is None
        or sequence != source.expected
        or max(sequence, delivery) + count > _U32
        or alike.count(head) != count
        or sequences != tuple(range(sequence, sequence + count))
        or deliveries != tuple(range(delivery, delivery + count))
        or intake.inbox.processed is not None
        or intake.inbox.annexed is not None
        or not intake.inbox.has_room(count)
        or not feed.tracker.see_run(head[3], delivery, count)
    ):
        return False
    source.expected = sequence + count
    intake.took(
        feed, count, len(buffer),
        (feed.name, feed.id, bodies, source.publisher, sequence, delivery, head[3], sent, time.time_ns(),
         feed.missed), bodies,
    )  # fmt: skip
    return True

"""What goes over one connection, in bytes: the same for every protocol, so that one C loop serves all.

Every body begins with a mark: its send time (CLOCK_REALTIME, ns), its sequence, and the run it belongs
to; events left over from an earlier run are told apart by it. Behind the mark a body is filler.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from tempos import TemposError

#: Send time, sequence, run: TEMPOS_MARK_LEN bytes of the C side.
MARK = struct.Struct("!QII")


class Mark(NamedTuple):
    """What a body begins with; ``sent_ns`` is CLOCK_REALTIME."""

    sent_ns: int
    sequence: int
    run: int


def filler(size: int) -> bytes:
    """What follows the mark in a body of ``size`` bytes; raises :class:`ValueError` for one too small."""
    if size < MARK.size:
        raise ValueError(f"a body of {size} bytes has no room for the mark of {MARK.size}")
    return bytes(at & 0xFF for at in range(MARK.size, size))


class Form(NamedTuple):
    """What bodies look like: ``pack(sent_ns, sequence, run) + filler(size)`` is one of ``size`` bytes.

    ``unpack_from(buffer, offset)`` gives the mark back.
    """

    pack: Callable[[int, int, int], bytes]
    unpack_from: Callable[[bytes | bytearray, int], tuple[int, int, int]]
    filler: Callable[[int], bytes]


#: The mark in binary, and filler.
MARKED = Form(MARK.pack, MARK.unpack_from, filler)


class PeerRefused(TemposError):
    """A server answered something else than its protocol has for us to go on."""


@dataclass(frozen=True, slots=True)
class Aside:
    """What may stand between frames: ``length`` bytes that begin with ``head``, answered with ``answer``."""

    head: bytes
    length: int
    answer: bytes = b""
    acknowledges: int = 0


@dataclass(frozen=True, slots=True)
class Talk:
    """How bodies of ``body`` bytes follow each other in one direction.

    ``id_at``: where in the head a packet id (u16) is, 0 for none; ``receipt``: what is sent back for
    each event, its id at ``receipt_id_at``. ``datagrams``: tempos' own, behind an event header for ``topic``.
    """

    head: bytes
    tail: bytes
    body: int
    id_at: int = 0
    asides: tuple[Aside, ...] = ()
    receipt: bytes = b""
    receipt_id_at: int = 0
    datagrams: bool = False
    topic: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One exchange of a handshake. ``answered`` says whether the bytes so far are the whole answer.

    It raises :class:`PeerRefused` for an answer that ends the matter.
    """

    send: bytes
    answered: Callable[[bytes], bool]


class Wire(Protocol):
    """A protocol over TCP, as far as publishing and subscribing needs it."""

    @property
    def window(self) -> int:
        """Events that may be unacknowledged; 0 where publishers hear nothing back."""

    def publisher(self) -> tuple[Step, ...]:
        """How a publisher's connection begins."""

    def subscriber(self, topic: str, group: str | None) -> tuple[Step, ...]:
        """How a subscriber's begins; ``group`` for those protocols that have groups."""

    def publish(self, topic: str, size: int) -> Talk:
        """What a publisher sends, and hears back."""

    def deliver(self, topic: str, size: int) -> Talk:
        """What a subscriber hears, and sends back."""


def exactly(expected: bytes) -> Callable[[bytes], bool]:
    """The answer that is these bytes."""

    def answered(data: bytes) -> bool:
        if not expected.startswith(data):
            raise PeerRefused(f"expected {expected!r}, the server answered {data!r}")
        return data == expected

    return answered

"""One topic of one publisher: its sequence, and the batch being filled.

Rules: an event that goes into an open batch costs one comparison and one append, everything else is done
once for a batch; sequence numbers are given out in the order of publishing, also where a batch is still
waiting to be sent.
"""

from __future__ import annotations

from tempos import _abi, wire
from tempos.errors import LocalError
from tempos.model import Framing, Topic

VERSION = _abi.WIRE_VERSION << 4
_VERSION_BATCH = VERSION | _abi.FLAG_BATCH
_pack_header = _abi.EVENT_HEADER.pack
_U32 = 0xFFFFFFFF
#: Bytes in front of each body of a batch.
PREFIX = _abi.BATCH_LENGTH_LEN


class Outlet:
    """One topic of one publisher.

    Who has a body for it takes its length and :data:`PREFIX` from ``left``; if that leaves no less than 0,
    the body goes to the end of ``bodies``. Where there is no open batch, nothing fits.
    """

    __slots__ = ("_first", "_room", "bodies", "id", "is_event", "left", "sequence", "since", "topic")

    def __init__(self, topic: Topic) -> None:
        if not _abi.TOPIC_MIN <= topic.id <= _abi.TOPIC_MAX:
            raise LocalError(
                f"topic {topic.name!r} has id {topic.id}, allowed are {_abi.TOPIC_MIN}-{_abi.TOPIC_MAX}"
            )
        self.topic = topic
        self.id = topic.id
        self.is_event = topic.framing is Framing.EVENT
        #: The number of the next event; while a batch is open, of the first one in it.
        self.sequence = 0
        self._first = 0
        self._empty()

    def _empty(self) -> None:
        self.bodies: list[bytes] = []
        #: Bytes that still go into the batch.
        self.left = -1
        self._room = 0
        self.since = 0

    def open(self, room: int, now_ns: int) -> None:
        """Begin a batch of at most ``room`` bytes of UDP payload; there must be none."""
        self._room = room
        self.left = room - wire.HEADER_LEN
        self.since = now_ns

    def narrow(self, room: int) -> None:
        """The path carries no more than ``room`` bytes of UDP payload now."""
        if self._room > room:
            self.left -= self._room - room
            self._room = room

    def seal(self) -> None:
        """Nothing more goes into the batch; its events have their numbers now."""
        if self._room:
            self._room = 0
            self.left = -1
            self._first = self.sequence
            self.sequence = (self.sequence + len(self.bodies)) & _U32

    def take(self, publisher: int) -> tuple[bytes, int]:
        """The batch, which is not empty, as a datagram, and how many events it holds; there is none now."""
        self.seal()
        bodies = self.bodies
        count = len(bodies)
        # One body alone needs no batch around it.
        version, run = (VERSION, bodies[0]) if count == 1 else (_VERSION_BATCH, wire.join_batch(bodies))
        header = _pack_header(self.id, version, 0, 0, publisher, self._first, 0, self.since)
        self._empty()
        return header + run, count

    def single(self, publisher: int, now_ns: int, body: bytes) -> bytes:
        """One event as a datagram of its own; a batch must be sealed."""
        sequence = self.sequence
        self.sequence = (sequence + 1) & _U32
        return _pack_header(self.id, VERSION, 0, 0, publisher, sequence, 0, now_ns) + body

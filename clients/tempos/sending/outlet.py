"""One topic of one publisher: its sequence, and the batch being filled.

Rules: an event that goes into an open batch costs one comparison and one append, everything else is done
once for a batch; sequence numbers are given out in the order of publishing, also where a batch is still
waiting to be sent; what has a number and has not left is known at any time.
"""

from __future__ import annotations

from collections.abc import Iterable

from tempos import _abi, wire
from tempos._rows import IDS, is_topic
from tempos.control import Sent
from tempos.encryption import Decryptor
from tempos.errors import BodyError, EventTooBig, LocalError
from tempos.model import Framing, Topic
from tempos.requests import envelope
from tempos.sending.window import Kept

VERSION = _abi.WIRE_VERSION << 4
_VERSION_BATCH, _VERSION_ENVELOPE = VERSION | _abi.FLAG_BATCH, VERSION | _abi.FLAG_ENVELOPE
_pack_header = _abi.EVENT_HEADER.pack
_pack_wide = wire.WIDE_HEADER.pack
_U32 = 0xFFFFFFFF
#: The largest UDP payload IPv4 has, bytes.
MAX_PAYLOAD = 0xFFFF - wire.IP_UDP_OVERHEAD
#: Bytes in front of each body of a batch.
PREFIX = _abi.BATCH_LENGTH_LEN


class Outlet:
    """One topic of one publisher.

    Who has a body for it takes its length and :data:`PREFIX` from ``left``; if that leaves no less than 0,
    the body goes to the end of ``bodies``. Where there is no open batch, nothing fits.
    """

    #: Of answers to requests, where they are encrypted.
    decryptor: Decryptor | None = None

    __slots__ = (
        "_first",
        "_room",
        "began",
        "bodies",
        "events",
        "gathered",
        "header_len",
        "id",
        "is_event",
        "kept",
        "largest",
        "left",
        "limit",
        "sequence",
        "since",
        "topic",
        "wide",
    )

    def __init__(self, topic: Topic, began: int | None = None) -> None:
        """``began``: the broker's clock when it was asked for the topic; None: it was not."""
        if not is_topic(topic.id):
            raise LocalError(f"topic {topic.name!r} has id {topic.id}, allowed are {IDS}")
        if topic.framing is Framing.FOREIGN:
            raise LocalError(
                f"topic {topic.name!r} is foreign: its events are datagrams as they are, that a plain socket "
                "sends to a port of its own"
            )
        self.topic = topic
        self.id = topic.id
        self.wide = topic.id >= _abi.NARROW
        #: Bytes in front of a body.
        self.header_len = wire.header_len(topic.id, topic.framing)
        self.is_event = topic.framing is Framing.EVENT
        self.began = began
        #: What is kept of it until the broker confirms that it came; None: nothing.
        self.kept: Kept | None = None
        #: Bytes of UDP payload that all its members get, as the broker says; and what the way to it takes.
        self.largest = self.limit = MAX_PAYLOAD
        #: The number of the next event, not wrapped; while a batch is open, of the first one in it.
        self.sequence = 0
        #: Events that have left, and how many more they were than datagrams.
        self.events = self.gathered = 0
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
        self.left = room - self.header_len
        self.since = now_ns

    def narrow(self, path: int) -> None:
        """The path to the broker carries no more than ``path`` bytes of UDP payload now."""
        self.limit = room = min(path, self.largest)
        if self._room > room:
            self.left -= self._room - room
            self._room = room

    def too_big(self, size: int, path: int, most: int) -> EventTooBig:
        """The error of a datagram of more bytes than :attr:`limit`; ``path``, ``most``: what made it that."""
        why = ""
        if self.limit < path:
            why = (
                f"all members of topic {self.topic.name!r} get {{limit}} at the most: send a smaller body, "
                "or raise limits.datagram of the broker, or the MTU towards the narrowest member"
            )
        elif path == most:
            why = "max_datagram allows {limit}: send a smaller body"
        return EventTooBig(size + wire.IP_UDP_OVERHEAD, self.limit + wire.IP_UDP_OVERHEAD, why=why)

    def seal(self) -> None:
        """Nothing more goes into the batch; its events have their numbers now."""
        if self._room:
            self._room = 0
            self.left = -1
            self._first = self.sequence
            self.sequence += len(self.bodies)

    def take(self, publisher: int) -> tuple[bytes, int]:
        """The batch, which is not empty, as a datagram, and how many events it holds; there is none now."""
        self.seal()
        bodies = self.bodies
        count = len(bodies)
        # One body alone needs no batch around it.
        version, run = (VERSION, bodies[0]) if count == 1 else (_VERSION_BATCH, wire.join_batch(bodies))
        header = self._header(version, publisher, self._first & _U32, self.since)
        self._empty()
        return self._whole(header, run), count

    def single(self, publisher: int, now_ns: int, body: bytes) -> bytes:
        """One event as a datagram of its own; a batch must be sealed."""
        sequence = self.sequence
        self.sequence = sequence + 1
        # As in _header, but for the call.
        if self.wide:
            return _pack_wide(_abi.WIDE, self.id, 0, publisher, sequence & _U32, 0, now_ns, VERSION) + body
        return _pack_header(self.id, VERSION, 0, 0, publisher, sequence & _U32, 0, now_ns) + body

    def request(self, publisher: int, now_ns: int, body: bytes) -> bytes:
        """The same for a request; ``body`` begins with its envelope."""
        sequence = self.sequence
        self.sequence = sequence + 1
        header = self._header(_VERSION_ENVELOPE, publisher, sequence & _U32, now_ns)
        return self._whole(header + body[: envelope.LENGTH], body[envelope.LENGTH :])

    def halves(self, batch: bytes) -> list[tuple[bytes, int]]:
        """A batch that :meth:`take` gave as two datagrams, each with the number of its events."""
        return halves(batch)

    def _whole(self, head: bytes, body: bytes) -> bytes:
        """A datagram, of its header (with the envelope, if any) and its body."""
        return head + body

    def _header(self, version: int, publisher: int, sequence: int, sent_ns: int) -> bytes:
        if self.wide:
            return _pack_wide(_abi.WIDE, self.id, 0, publisher, sequence, 0, sent_ns, version)
        return _pack_header(self.id, version, 0, 0, publisher, sequence, 0, sent_ns)

    def raw(self, body: bytes) -> bytes:
        """One event of a topic without a header, which is counted all the same."""
        self.sequence += 1
        return wire.encode_raw(self.id, body)

    @property
    def is_told(self) -> bool:
        """Whether the broker was asked for the topic, and is told what was sent of it."""
        return self.began is not None

    def word(self) -> Sent | None:
        """What has been sent, for the broker; None if it was not asked for the topic, or there is nothing."""
        if self.began is None or not self.sequence:
            return None
        unsent = self.sequence - self.events
        return Sent(self.id, self.sequence, unsent, self.events - self.gathered, self.began)


def halves(batch: bytes) -> list[tuple[bytes, int]]:
    """A batch as two datagrams, each with the number of its events."""
    whole = wire.decode_event(batch)
    bodies = [bytes(body) for body in whole.bodies]
    middle = len(bodies) // 2
    return [
        (wire.encode_batch(whole.topic, whole.publisher, sequence, whole.sent_ns, part), len(part))
        for sequence, part in (
            (whole.sequence, bodies[:middle]),
            (whole.sequence + middle, bodies[middle:]),
        )
    ]


def identity(topic: Topic) -> tuple[str, int, Framing]:
    """What makes datagrams of a publisher those of this topic, with a sequence of its own."""
    return topic.name, topic.id, topic.framing


def are_one(one: Topic, other: Topic) -> bool:
    """Whether datagrams for one are datagrams for the other."""
    return (one.id, one.framing) == (other.id, other.framing)


def hear_sizes(told: object, outlets: Iterable[Outlet], path: int) -> None:
    """What the broker says of the size of datagrams that all members get: [topic, bytes] each.

    ``path``: what the way to the broker takes.
    """
    sizes: dict[int, int] = {}
    for row in told if isinstance(told, list) else ():
        if isinstance(row, list) and len(row) == 2 and all(type(each) is int for each in row):
            sizes[row[0]] = row[1]
    for outlet in outlets:
        if sizes.get(outlet.id, 0) > 0:
            outlet.largest = sizes[outlet.id]
            outlet.narrow(path)


def encode(topic: Topic, body: object) -> bytes:
    """A body as it travels; raises :class:`BodyError`."""
    if topic.framing is Framing.EVENT or isinstance(body, (bytes, bytearray, memoryview)):
        return wire.encode_body(body)
    raise BodyError(
        f"topic {topic.name!r} is raw and takes bytes, not {type(body).__name__}: encode it first"
    )

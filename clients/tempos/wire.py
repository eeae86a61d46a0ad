"""The wire format of data datagrams: pure functions over bytes, immutable values.

Two framings exist, chosen per topic and never guessed. ``raw`` is the topic byte and then anything.
``event`` is a fixed header of 24 bytes in network byte order (`fastpath/bpf/abi.h` is its source),
then the body; with the BATCH flag the body is a run of (u16 length, bytes) bodies of one topic, with the flag
ENVELOPE an envelope stands before it (:mod:`tempos.requests.envelope`).

Ids 1 to 254 are *narrow*: they are the first byte. Others, to 65534, are *wide*: the first byte is 255, and
the id follows in two more. A wide ``event`` has version and flags behind the header, 28 bytes in all; all
else lies where it lies in a narrow one.

Nothing here does I/O or reads a clock. Decoding raises :class:`WireError` and nothing else, whatever
the bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, TypeVar, cast

import msgpack

from tempos import _abi
from tempos._abi import NARROW, WIDE, Reason
from tempos._rows import IDS, is_topic
from tempos.errors import BodyError, LocalError, WireError
from tempos.model import Framing

HEADER_LEN = _abi.EVENT_HEADER_LEN
WIDE_HEADER_LEN = _abi.WIDE_HEADER_LEN
#: WIDE, topic, epoch, publisher, sequence, delivery sequence, sent_ns, version and flags; then zeros.
WIDE_HEADER = struct.Struct("!BHBIIIQB3x")
#: Bytes of IPv4 and UDP headers in front of every payload.
IP_UDP_OVERHEAD = 28
#: What a member sends to the broker's data port: firewalls and NATs let through what comes from there, then.
KEEP_ALIVE = bytes((_abi.SERVICE, _abi.SERVICE_KEEP_ALIVE))
#: What an event begins with that is sent again to the control port.
AGAIN = bytes((_abi.SERVICE, _abi.SERVICE_AGAIN, 0, 0))
_NAME = struct.Struct("!II")
#: The largest body inside a batch: its length is a u16.
MAX_BATCHED_BODY = 0xFFFF

_LENGTH = struct.Struct("!H")
#: The prefixes of bodies that fit into an Ethernet frame, which nearly all do.
_PREFIXES = tuple(map(_LENGTH.pack, range(1500)))
#: Bodies of one length in one run up to which a layout for them is kept, and how many layouts are.
_EVEN_BODIES, _EVEN_LAYOUTS = 1024, 64
_Run = TypeVar("_Run", bytes, memoryview)
_STAMP = struct.Struct("!I")
#: What becomes of a datagram with an envelope, by its version and kind.
_ENVELOPES = {
    _abi.ENVELOPE_VERSION << 4 | kind: reason
    for kind, reason in (
        (_abi.KIND_REQUEST, Reason.FORWARDED),
        (_abi.KIND_REPLY, Reason.REPLY),
        (_abi.KIND_ERROR, Reason.REPLY),
    )
}
_WIDE_ID = struct.Struct("!xH")
_RESERVED = slice(_abi.WIDE_FLAGS_AT + 1, WIDE_HEADER_LEN)


@dataclass(frozen=True, slots=True)
class EventDatagram:
    """A decoded ``event`` datagram.

    ``bodies`` holds one element, or those of the batch; each is a ``memoryview`` into the datagram.
    ``sent_ns`` is the publisher's wall clock in nanoseconds since the epoch of Unix. ``envelope``: what
    stands before the body with that flag, for :func:`tempos.requests.envelope.read`.
    """

    topic: int
    flags: int
    epoch: int
    publisher: int
    sequence: int
    delivery_sequence: int
    sent_ns: int
    bodies: tuple[memoryview, ...]
    envelope: memoryview | None = None

    @property
    def is_batch(self) -> bool:
        return bool(self.flags & _abi.FLAG_BATCH)


def topic_in(payload: bytes | bytearray | memoryview) -> int:
    """The topic that a datagram is of; 0 where it has none.

    WIDE, which is no topic's id, where its id is cut off, or is a narrow one in wide form.
    """
    if not payload:
        return 0
    topic = payload[0]
    if topic != WIDE:
        return topic
    if len(payload) < _abi.WIDE_ID_LEN:
        return WIDE
    id_: int = _WIDE_ID.unpack_from(payload)[0]
    return id_ if id_ >= NARROW else WIDE


def header_len(topic: int, framing: Framing) -> int:
    """Bytes of a datagram in front of its body."""
    if framing is Framing.EVENT:
        return HEADER_LEN if topic < NARROW else WIDE_HEADER_LEN
    if framing is Framing.FOREIGN:
        return 0
    return 1 if topic < NARROW else _abi.WIDE_ID_LEN


def check_payload(payload: bytes | bytearray | memoryview, framing: Framing) -> Reason:
    """Whether a data path may forward this payload to the members: ``FORWARDED``, or the reason why not.

    ``REPLY``: it is a good one, but for who asked, and the slow path sends it on.
    ``KEEP_ALIVE``: it is :data:`KEEP_ALIVE`. The portable twin of what stands in `fastpath/bpf/frame.h`.
    """
    if not payload:
        return Reason.EMPTY
    if payload[0] == _abi.SERVICE and payload == KEEP_ALIVE:
        return Reason.KEEP_ALIVE
    wide = payload[0] == WIDE
    if wide and len(payload) < _abi.WIDE_ID_LEN:
        return Reason.SHORT_HEADER
    if framing is Framing.FOREIGN:
        # Its events come to its own ports.
        return Reason.UNKNOWN_TOPIC
    if framing is Framing.RAW:
        return Reason.FORWARDED
    header = WIDE_HEADER_LEN if wide else HEADER_LEN
    if len(payload) < header:
        return Reason.SHORT_HEADER
    version_flags = payload[_abi.WIDE_FLAGS_AT if wide else _abi.OFFSET_VERSION_FLAGS]
    if version_flags >> 4 != _abi.WIRE_VERSION:
        return Reason.BAD_VERSION
    if any(payload[_RESERVED]) if wide else payload[_abi.OFFSET_RESERVED]:
        return Reason.RESERVED_BITS
    if version_flags & _abi.FLAG_ENVELOPE:
        return _check_envelope(payload[header:], version_flags)
    return Reason.FORWARDED


def _check_envelope(rest: bytes | bytearray | memoryview, flags: int) -> Reason:
    if flags & _abi.FLAG_BATCH or len(rest) < _abi.ENVELOPE_LEN:
        return Reason.BAD_ENVELOPE
    return _ENVELOPES.get(rest[0], Reason.BAD_ENVELOPE)


def is_request(payload: bytes) -> bool:
    """Whether an ``event`` datagram that may be forwarded is a request: no reply is."""
    return bool(flags_of(payload) & _abi.FLAG_ENVELOPE)


def flags_of(datagram: bytes) -> int:
    """The byte of version and flags of an ``event`` datagram whose header is there."""
    return datagram[_abi.WIDE_FLAGS_AT if datagram[0] == WIDE else _abi.OFFSET_VERSION_FLAGS]


def named(datagram: bytes | bytearray | memoryview) -> tuple[int, int]:
    """Publisher and sequence of an ``event`` datagram whose header is there."""
    publisher, sequence = _NAME.unpack_from(datagram, _abi.OFFSET_PUBLISHER)
    return publisher, sequence


def as_again(datagram: bytes) -> bytes:
    """An ``event`` datagram as its publisher sends it to the control port when it was asked for again.

    As long as it is: what stands in front gives way to what says so, and stands where brokers stamp.
    """
    at, end = _abi.OFFSET_DELIVERY_SEQUENCE, _abi.OFFSET_DELIVERY_SEQUENCE + len(AGAIN)
    return AGAIN + datagram[len(AGAIN) : at] + datagram[: len(AGAIN)] + datagram[end:]


def from_again(datagram: bytes) -> bytes:
    """The event that was made into this; empty: it is too short to be one."""
    at, end = _abi.OFFSET_DELIVERY_SEQUENCE, _abi.OFFSET_DELIVERY_SEQUENCE + len(AGAIN)
    if len(datagram) < HEADER_LEN:
        return b""
    return datagram[at:end] + datagram[len(AGAIN) : at] + bytes(len(AGAIN)) + datagram[end:]


def body_at(datagram: bytes) -> int:
    """Where behind the header of an ``event`` datagram, which is not empty, an envelope or a body begins."""
    return WIDE_HEADER_LEN if datagram[0] == WIDE else HEADER_LEN


def encode_event(
    topic: int, publisher: int, sequence: int, sent_ns: int, body: bytes | memoryview, flags: int = 0
) -> bytes:
    """One ``event`` datagram. Epoch and delivery sequence are the broker's to stamp and leave as 0.

    ``topic`` narrow or wide, ``publisher`` and ``sequence`` u32, ``sent_ns`` u64 nanoseconds.
    """
    _check_topic(topic)
    version_flags = _abi.WIRE_VERSION << 4 | flags
    publisher, sequence = publisher & 0xFFFFFFFF, sequence & 0xFFFFFFFF
    if topic < NARROW:
        header = _abi.EVENT_HEADER.pack(topic, version_flags, 0, 0, publisher, sequence, 0, sent_ns)
    else:
        header = WIDE_HEADER.pack(WIDE, topic, 0, publisher, sequence, 0, sent_ns, version_flags)
    return header + body


def encode_batch(
    topic: int, publisher: int, sequence: int, sent_ns: int, bodies: Iterable[bytes], flags: int = 0
) -> bytes:
    """One ``event`` datagram with the BATCH flag; ``sequence`` is the first body's, they count on from it."""
    run = join_batch(list(bodies))
    return encode_event(topic, publisher, sequence, sent_ns, run, flags | _abi.FLAG_BATCH)


def encode_raw(topic: int, body: bytes | memoryview) -> bytes:
    """One ``raw`` datagram: the id and the body."""
    _check_topic(topic)
    return raw_header(topic) + body


def raw_header(topic: int) -> bytes:
    """What stands before the body of a ``raw`` datagram."""
    return bytes((topic,)) if topic < NARROW else bytes((WIDE, topic >> 8, topic & 0xFF))


def decode_event(datagram: bytes | bytearray | memoryview) -> EventDatagram:
    """Decode an ``event`` datagram; raises :class:`WireError` with the reason a broker would count."""
    reason = check_payload(datagram, Framing.EVENT)
    if reason not in (Reason.FORWARDED, Reason.REPLY):
        raise WireError(f"not an event datagram: {_abi.REASON_TEXTS[reason]}", reason)
    if datagram[0] != WIDE:
        topic, version_flags, _, epoch, publisher, sequence, delivery_sequence, sent_ns = (
            _abi.EVENT_HEADER.unpack_from(datagram)
        )
        body = memoryview(datagram)[HEADER_LEN:]
        reserved = not topic
    else:
        _, topic, epoch, publisher, sequence, delivery_sequence, sent_ns, version_flags = (
            WIDE_HEADER.unpack_from(datagram)
        )
        body = memoryview(datagram)[WIDE_HEADER_LEN:]
        reserved = topic < NARROW or not is_topic(topic)
    if reserved:
        reason = Reason.RESERVED_TOPIC
        raise WireError(f"not an event datagram: {_abi.REASON_TEXTS[reason]}", reason)
    flags = version_flags & 0x0F
    envelope = None
    if flags & _abi.FLAG_ENVELOPE:
        envelope, body = body[: _abi.ENVELOPE_LEN], body[_abi.ENVELOPE_LEN :]
    bodies = split_batch(body) if flags & _abi.FLAG_BATCH else (body,)
    return EventDatagram(
        topic, flags, epoch, publisher, sequence, delivery_sequence, sent_ns, bodies, envelope
    )


def join_batch(bodies: Sequence[bytes]) -> bytes:
    """The run of a batch: each of ``bodies`` behind its length. One too long is a :class:`BodyError`."""
    if not bodies:
        return b""
    # No bytecode for each event: there are hundreds of thousands of them in a second.
    lengths = [*map(len, bodies)]
    length = lengths[0]
    even = lengths.count(length) == len(lengths)
    longest = length if even else max(lengths)
    if longest > MAX_BATCHED_BODY:
        raise BodyError(f"a batched body has {longest} bytes, {MAX_BATCHED_BODY} are allowed")
    if even:
        prefix = _LENGTH.pack(length)
        return prefix + prefix.join(bodies)
    prefix_of = _PREFIXES.__getitem__ if longest < len(_PREFIXES) else _LENGTH.pack
    return b"".join(chain.from_iterable(zip(map(prefix_of, lengths), bodies, strict=True)))


def as_narrow(datagram: bytes) -> bytes:
    """A wide ``event`` datagram, whose header is there, laid out as a narrow one; its first byte is none."""
    return b"".join(
        (
            b"\0",
            datagram[_abi.WIDE_FLAGS_AT : _abi.WIDE_FLAGS_AT + 1],
            b"\1" if any(datagram[_RESERVED]) else b"\0",
            datagram[_abi.OFFSET_EPOCH : _abi.WIDE_FLAGS_AT],
            datagram[WIDE_HEADER_LEN:],
        )
    )


def split_batch(body: _Run) -> tuple[_Run, ...]:
    """The bodies of a batch, copies of ``bytes`` or views into a ``memoryview``.

    An empty run, a cut length or a cut body is a :class:`WireError`.
    """
    if body.__class__ is bytes and (even := _split_even(body)):
        return even
    bodies: list[_Run] = []
    append = bodies.append
    at, end = 0, len(body)
    while at < end:
        start = at + _abi.BATCH_LENGTH_LEN
        if start > end:
            raise WireError(f"a batch ends inside a length, at byte {at} of {end}")
        # By hand, because there is one for each event and struct takes twice as long.
        length = body[at] << 8 | body[at + 1]
        at = start + length
        if at > end:
            raise WireError(f"a batch announces {length} bytes at byte {start}, but ends at {end}")
        append(body[start:at])
    if not bodies:
        raise WireError("a batch without a body")
    return tuple(bodies)


def _split_even(body: bytes) -> tuple[bytes, ...]:
    """The bodies of a batch if all have one length, as those of a sensor do; else nothing.

    All of it at once: where every length prefix is the first one's, the first one's length is the way
    from each to the next, and so they are the prefixes.
    """
    end = len(body)
    if end < _abi.BATCH_LENGTH_LEN:
        return ()
    high, low = body[0], body[1]
    length = high << 8 | low
    step = length + _abi.BATCH_LENGTH_LEN
    count, rest = divmod(end, step)
    if rest or not 1 < count <= _EVEN_BODIES:
        return ()
    if body[::step].count(high) != count or body[1::step].count(low) != count:
        return ()
    return cast("tuple[bytes, ...]", _even_layout(length, count).unpack(body))


@lru_cache(_EVEN_LAYOUTS)
def _even_layout(length: int, count: int) -> struct.Struct:
    return struct.Struct(f"{_abi.BATCH_LENGTH_LEN}x{length}s" * count)


def stamp(datagram: bytearray | memoryview, epoch: int, delivery_sequence: int) -> None:
    """Write the broker's fields into an ``event`` datagram in place (epoch as u8, sequence as u32)."""
    datagram[_abi.OFFSET_EPOCH] = epoch & 0xFF
    _STAMP.pack_into(datagram, _abi.OFFSET_DELIVERY_SEQUENCE, delivery_sequence & 0xFFFFFFFF)


def encode_body(body: object) -> bytes:
    """The body of an event as bytes: bytes-like objects as they are, anything else as msgpack."""
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    try:
        return bytes(msgpack.packb(body))
    except (TypeError, ValueError, OverflowError) as error:
        raise BodyError(f"this body cannot be written as msgpack: {error}") from error


def decode_body(body: bytes | memoryview) -> Any:
    """A msgpack body as Python values; raises :class:`WireError` for anything that is none."""
    try:
        return msgpack.unpackb(body, strict_map_key=False)
    except Exception as error:
        # msgpack raises a dozen unrelated types for foreign bytes; all mean the same here.
        raise WireError(f"the body is not msgpack: {error}") from error


def batch_size(bodies: Sequence[bytes], topic: int = _abi.TOPIC_MIN) -> int:
    """Bytes of the datagram that :func:`encode_batch` makes of these bodies."""
    return header_len(topic, Framing.EVENT) + sum(map(len, bodies)) + _abi.BATCH_LENGTH_LEN * len(bodies)


def _check_topic(topic: int) -> None:
    if not is_topic(topic):
        raise LocalError(f"topic id {topic} is not in {IDS}")

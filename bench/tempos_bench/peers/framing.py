"""The wire protocols of the peers, as far as a publisher and a subscriber of one topic need them.

Each is the smallest conversation that its specification allows, so that nothing but the server is
measured: NATS client protocol; MQTT 5.0 (OASIS), chapters 3.1 to 3.9; RESP2 with Redis' pub/sub replies;
ZMTP 3.0 (RFC 23 of the ZeroMQ project) with the NULL mechanism.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass

from tempos_bench.peers.talk import Aside, PeerRefused, Step, Talk, exactly

#: Unacknowledged events that a publisher has at the most, where there are acknowledgements at all.
WINDOW = 1000
_CRLF = b"\r\n"


@dataclass(frozen=True, slots=True)
class Nats:
    """NATS core: nothing is acknowledged; the server pings now and then."""

    window: int = 0

    def publisher(self) -> tuple[Step, ...]:
        options = json.dumps({"verbose": False, "pedantic": False, "headers": False, "lang": "c"}).encode()
        return (
            Step(b"", _info),
            Step(b"CONNECT " + options + b"\r\nPING\r\n", exactly(b"PONG\r\n")),
        )

    def subscriber(self, topic: str, group: str | None) -> tuple[Step, ...]:
        queue = f"{group} " if group else ""
        subscribe = f"SUB {topic} {queue}1\r\nPING\r\n".encode()
        return (*self.publisher(), Step(subscribe, exactly(b"PONG\r\n")))

    def publish(self, topic: str, size: int) -> Talk:
        return Talk(f"PUB {topic} {size}\r\n".encode(), _CRLF, size, asides=_NATS_ASIDES)

    def deliver(self, topic: str, size: int) -> Talk:
        return Talk(f"MSG {topic} 1 {size}\r\n".encode(), _CRLF, size, asides=_NATS_ASIDES)


_NATS_ASIDES = (Aside(b"PING\r\n", 6, b"PONG\r\n"),)


def _info(data: bytes) -> bool:
    if not b"INFO ".startswith(data[:5]):
        raise PeerRefused(f"no NATS server: {data!r}")
    return data.endswith(_CRLF)


@dataclass(frozen=True, slots=True)
class Mqtt:
    """MQTT 5 with ``qos`` 0 or 1."""

    qos: int = 0

    @property
    def window(self) -> int:
        return WINDOW if self.qos else 0

    def publisher(self) -> tuple[Step, ...]:
        # Clean start, no keep-alive, no properties, an id of the server's choice.
        connect = b"\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x00"
        return (Step(_packet(0x10, connect), _connack),)

    def subscriber(self, topic: str, group: str | None) -> tuple[Step, ...]:
        name = f"$share/{group}/{topic}" if group else topic
        subscribe = b"\x00\x01\x00" + _text(name) + bytes((self.qos,))
        return (*self.publisher(), Step(_packet(0x82, subscribe), _suback))

    def publish(self, topic: str, size: int) -> Talk:
        asides = (Aside(b"\x40\x02", 4, acknowledges=1),) if self.qos else ()
        head, id_at = self._head(topic, size)
        return Talk(head, b"", size, id_at, asides)

    def deliver(self, topic: str, size: int) -> Talk:
        head, id_at = self._head(topic, size)
        if self.qos:
            return Talk(head, b"", size, id_at, receipt=b"\x40\x02\x00\x00", receipt_id_at=2)
        return Talk(head, b"", size)

    def _head(self, topic: str, size: int) -> tuple[bytes, int]:
        """Everything before the body, and where in it the packet id is."""
        identifier = b"\x00\x00" if self.qos else b""
        variable = _text(topic) + identifier + b"\x00"
        fixed = bytes((0x30 | self.qos << 1,)) + _variable_length(len(variable) + size)
        return fixed + variable, len(fixed) + len(_text(topic)) if self.qos else 0


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("!H", len(data)) + data


def _variable_length(value: int) -> bytes:
    """Section 1.5.5: seven bits a byte, the lowest first."""
    out = bytearray()
    while True:
        value, low = divmod(value, 128)
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _packet(kind: int, content: bytes) -> bytes:
    return bytes((kind,)) + _variable_length(len(content)) + content


def _is_mqtt(data: bytes, kind: int) -> bool:
    """Whether this is a whole packet of ``kind``; the answers here are below 128 bytes."""
    if data[:1] not in (b"", bytes((kind,))) or (len(data) > 1 and data[1] & 0x80):
        raise PeerRefused(f"no MQTT 5 server, or it refused: {data!r}")
    return len(data) > 1 and len(data) == 2 + data[1]


def _connack(data: bytes) -> bool:
    whole = _is_mqtt(data, 0x20)
    if whole and data[3]:
        raise PeerRefused(f"the MQTT server refused to connect, reason code {data[3]:#x}")
    return whole


def _suback(data: bytes) -> bool:
    whole = _is_mqtt(data, 0x90)
    if whole and data[-1] > 1:
        raise PeerRefused(f"the MQTT server refused to subscribe, reason code {data[-1]:#x}")
    return whole


@dataclass(frozen=True, slots=True)
class Resp:
    """Redis pub/sub. Each PUBLISH is answered with how many got it; no groups."""

    window: int = 100 * WINDOW

    def publisher(self) -> tuple[Step, ...]:
        return (Step(_resp("PING"), exactly(b"+PONG\r\n")),)

    def subscriber(self, topic: str, group: str | None) -> tuple[Step, ...]:
        if group:
            raise PeerRefused("Redis pub/sub has no groups")
        answer = b"*3\r\n" + _bulk("subscribe") + _bulk(topic) + b":1\r\n"
        return (Step(_resp("SUBSCRIBE", topic), exactly(answer)),)

    def publish(self, topic: str, size: int) -> Talk:
        head = b"*3\r\n" + _bulk("PUBLISH") + _bulk(topic) + b"$%d\r\n" % size
        return Talk(head, _CRLF, size, asides=(Aside(b":", 4, acknowledges=1),))

    def deliver(self, topic: str, size: int) -> Talk:
        return Talk(b"*3\r\n" + _bulk("message") + _bulk(topic) + b"$%d\r\n" % size, _CRLF, size)


def _bulk(text: str) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text.encode())


def _resp(*words: str) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(map(_bulk, words))


_ZMTP_GREETING = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_ZMTP_COMMAND, _ZMTP_LONG = 0x04, 0x02
_ZMTP_READY = b"\x05READY"


@dataclass(frozen=True, slots=True)
class Zmtp:
    """ZeroMQ's PUB and SUB, to a proxy of XSUB and XPUB; a message is one frame, the topic and then the body.

    Topics have one character: what a proxy tells its publishers of subscriptions has one length then.
    """

    window: int = 0

    def publisher(self) -> tuple[Step, ...]:
        return self._open("PUB")

    def subscriber(self, topic: str, group: str | None) -> tuple[Step, ...]:
        if group:
            raise PeerRefused("ZeroMQ's PUB and SUB have no groups")
        # Nothing answers a subscription: whether it holds is seen by the first event.
        return (*self._open("SUB"), Step(_zmtp_frame(b"\x01" + topic.encode()), lambda _: True))

    def publish(self, topic: str, size: int) -> Talk:
        asides = tuple(Aside(b"\x00\x02" + kind, 4) for kind in (b"\x01", b"\x00"))
        return Talk(self._head(topic, size), b"", size, asides=asides)

    def deliver(self, topic: str, size: int) -> Talk:
        return Talk(self._head(topic, size), b"", size)

    def _open(self, kind: str) -> tuple[Step, ...]:
        socket_type = b"\x0bSocket-Type" + struct.pack("!I", len(kind)) + kind.encode()
        ready = _zmtp_frame(_ZMTP_READY + socket_type, _ZMTP_COMMAND)
        return (Step(_ZMTP_GREETING, _zmtp_greeting), Step(ready, _zmtp_ready))

    def _head(self, topic: str, size: int) -> bytes:
        if len(topic) != 1:
            raise ValueError(f"the topic {topic!r} has not one character")
        return _zmtp_frame(topic.encode(), room=size)


def _zmtp_frame(content: bytes, flags: int = 0, room: int = 0) -> bytes:
    """A frame that begins with ``content``, with ``room`` bytes more to follow."""
    length = len(content) + room
    if length > 0xFF:
        return bytes((flags | _ZMTP_LONG,)) + struct.pack("!Q", length) + content
    return bytes((flags, length)) + content


def _zmtp_greeting(data: bytes) -> bool:
    if not b"\xff".startswith(data[:1]) or (len(data) > 10 and data[10] < 3):
        raise PeerRefused(f"no ZMTP 3 peer: {data!r}")
    return len(data) == len(_ZMTP_GREETING)


def _zmtp_ready(data: bytes) -> bool:
    if len(data) < 2 or len(data) < 2 + data[1]:
        return False
    if data[0] != _ZMTP_COMMAND or not data[2:].startswith(_ZMTP_READY):
        raise PeerRefused(f"the ZeroMQ peer refused: {data!r}")
    return True


@dataclass(frozen=True, slots=True)
class Datagrams:
    """Tempos' own: no conversation. ``batch``: bodies of a BATCH, as many as fit into a frame."""

    batch: bool = False

    def talk(self, topic: int, size: int) -> Talk:
        """Both what is sent and what arrives."""
        head = struct.pack("!H", size) if self.batch else b""
        return Talk(head, b"", size, datagrams=True, topic=topic)

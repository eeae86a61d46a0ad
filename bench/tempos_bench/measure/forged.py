"""Frames that strangers send: whose names they take, and what they put in. Drawn from a seed.

None of them is sent in the name of who may publish, nor of the broker's own data port: against those only
encryption helps, which is not what is looked at here.
"""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack

from tempos import API_PORT, CONTROL_PORT, DATA_PORT, Topic
from tempos.control import PROOF_BYTES, VERSION, Received, Sent, encode_request
from tempos.session import proof
from tempos.wire import KEEP_ALIVE, encode_event

_ETHERNET_IPV4 = 0x0800
_UDP, _TCP = 17, 6
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
#: Sources that no host can have, and that a stack refuses.
_MARTIANS = ("0.0.0.1", "127.0.0.1", "224.0.0.1", "255.255.255.255", "240.1.2.3")
_PUBLISHER = 0x5EED


@dataclass(frozen=True, slots=True)
class Scene:
    """Who is there: the broker's addresses, the segments by three numbers, members' endpoints, a topic."""

    broker: tuple[str, ...]
    segments: tuple[str, ...]
    members: tuple[tuple[str, int], ...]
    topic: Topic


@dataclass(frozen=True, slots=True)
class Forged:
    """A datagram as it is to be on the wire, by whom it claims to be sent, and which kind it is."""

    kind: str
    source: tuple[str, int]
    to: tuple[str, int]
    payload: bytes
    protocol: int = _UDP

    def frame(self, to: bytes, by: bytes) -> bytes:
        """With an Ethernet header from one MAC to another."""
        source, target = map(socket.inet_aton, (self.source[0], self.to[0]))
        if self.protocol == _UDP:
            length = 8 + len(self.payload)
            head = struct.pack("!HHHH", self.source[1], self.to[1], length, 0)
        else:
            # A SYN, with nothing behind it.
            length = 20
            head = struct.pack("!HHIIBBHHH", self.source[1], self.to[1], 1, 0, 0x50, 2, 1024, 0, 0)
        pseudo = source + target + struct.pack("!BBH", 0, self.protocol, length)
        full = checksum(pseudo + head + self.payload) or 0xFFFF
        at = 6 if self.protocol == _UDP else 16
        segment = head[:at] + struct.pack("!H", full) + head[at + 2 :] + self.payload
        plain = _IPV4.pack(0x45, 0, 20 + length, 0, 0, 64, self.protocol, 0, source, target)
        header = plain[:10] + struct.pack("!H", checksum(plain)) + plain[12:]
        return to + by + struct.pack("!H", _ETHERNET_IPV4) + header + segment


def checksum(data: bytes) -> int:
    """As in RFC 1071."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Strangers:
    """Draws what strangers send."""

    def __init__(self, scene: Scene, rng: random.Random) -> None:
        self._scene = scene
        self._rng = rng
        self._kinds: tuple[Callable[[], tuple[str, int, bytes]], ...] = (
            self._event, self._event, self._reply, self._service, self._data_noise,
            self._subscribe, self._subscribe_with_proof, self._former, self._in_a_members_name, self._ask,
            self._tell, self._control_noise,
        )  # fmt: skip

    def next(self) -> Forged:
        """One more."""
        rng, scene = self._rng, self._scene
        to = rng.choice(scene.broker)
        place = rng.randrange(16)
        if place == 0:
            protocol = rng.choice((_UDP, _TCP))
            noise = b"" if protocol == _TCP else rng.randbytes(rng.randrange(64))
            return Forged("at the API", self._somebody(), (to, API_PORT), noise, protocol)
        if place <= 4:
            kind, payload = rng.choice((
                ("an event at a member", self._any_event()),
                ("a proof at a member", proof.encode(rng.getrandbits(64), rng.randbytes(PROOF_BYTES))),
                ("a keep-alive at a member", KEEP_ALIVE),
                ("noise at a member", rng.randbytes(rng.randrange(200))),
            ))  # fmt: skip
            return Forged(kind, self._nobody_of_ours(), rng.choice(scene.members), payload)
        make = rng.choice(self._kinds)
        kind, port, payload = make()
        member = make in (self._former, self._in_a_members_name) and rng.random() < 0.7
        source = rng.choice(scene.members) if member else self._somebody()
        return Forged(kind, source, (to, port), payload)

    # --- whose names ------------------------------------------------------------------------

    def _somebody(self) -> tuple[str, int]:
        rng, scene = self._rng, self._scene
        port = rng.choice((DATA_PORT, CONTROL_PORT, 53, rng.randrange(1, 65536)))
        kind = rng.randrange(8)
        if kind == 0:
            return rng.choice(_MARTIANS), port
        if kind == 1:
            return rng.choice(scene.broker), port
        if kind == 2:
            return rng.choice(scene.members)[0], port
        if kind <= 4:
            # On the link, and most of them nobody's: who answers them waits for ARP.
            return f"{rng.choice(scene.segments)}.{rng.randrange(100, 200)}", port
        return (
            f"{rng.randrange(11, 120)}.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 255)}",
            port,
        )

    def _nobody_of_ours(self) -> tuple[str, int]:
        while (source := self._somebody())[0] in self._scene.broker:
            pass
        return source

    # --- what -------------------------------------------------------------------------------

    def _any_event(self) -> bytes:
        rng = self._rng
        return encode_event(
            self._scene.topic.id, _PUBLISHER, rng.getrandbits(32), rng.getrandbits(63), b"forged"
        )

    def _event(self) -> tuple[str, int, bytes]:
        return "an event", DATA_PORT, self._any_event()

    def _reply(self) -> tuple[str, int, bytes]:
        event = bytearray(self._any_event())
        event[1] |= 8
        return "a reply", DATA_PORT, bytes(event) + self._rng.randbytes(80)

    def _service(self) -> tuple[str, int, bytes]:
        kind = self._rng.choice((KEEP_ALIVE, proof.encode(1, self._rng.randbytes(PROOF_BYTES)), bytes(30)))
        return "a service datagram", DATA_PORT, kind

    def _data_noise(self) -> tuple[str, int, bytes]:
        return "noise at the data port", DATA_PORT, self._rng.randbytes(self._rng.randrange(200))

    def _request(self, op: str, **fields: Any) -> bytes:
        number, client = self._rng.getrandbits(32), self._rng.getrandbits(64)
        if self._rng.random() < 0.3:
            # Without room for an answer.
            bare: bytes = msgpack.packb({"v": VERSION, "id": number, "op": op, "client": client, **fields})
            return bare
        return encode_request(op, number, client, **fields)

    def _subscribe(self) -> tuple[str, int, bytes]:
        port = self._rng.randrange(1, 65536)
        return "subscribe", CONTROL_PORT, self._request("subscribe", topic=self._scene.topic.name, port=port)

    def _subscribe_with_proof(self) -> tuple[str, int, bytes]:
        made = self._request(
            "subscribe", topic=self._scene.topic.name, port=self._rng.randrange(1, 65536),
            proof=self._rng.randbytes(PROOF_BYTES),
        )  # fmt: skip
        return "subscribe with a proof", CONTROL_PORT, made

    def _former(self) -> tuple[str, int, bytes]:
        ip, port = self._rng.choice(self._scene.members)
        made = self._request("subscribe", topic=self._scene.topic.name, port=port, former=[ip, port])
        return "subscribe instead of a member", CONTROL_PORT, made

    def _in_a_members_name(self) -> tuple[str, int, bytes]:
        rng = self._rng
        _, port = rng.choice(self._scene.members)
        op = rng.choice(("unsubscribe", "goodbye", "drain", "heartbeat"))
        received = [Received(self._scene.topic.id, "group", 1, rng.getrandbits(31))]
        more = {"topic": self._scene.topic.name} if op == "unsubscribe" else {"received": received}
        return f"{op} in a member's name", CONTROL_PORT, self._request(op, port=port, **more)

    def _ask(self) -> tuple[str, int, bytes]:
        op = self._rng.choice(("hello", "resolve", "return_address"))
        more: dict[str, object] = {}
        if op != "hello":
            more["topic"] = self._scene.topic.name
        if op == "return_address":
            more["port"] = 9
        return op, CONTROL_PORT, self._request(op, **more)

    def _tell(self) -> tuple[str, int, bytes]:
        sent = [Sent(self._scene.topic.id, self._rng.getrandbits(31), 0, 1, time.time_ns())]
        return "sent", CONTROL_PORT, self._request("sent", publisher=_PUBLISHER, sent=sent)

    def _control_noise(self) -> tuple[str, int, bytes]:
        return "noise at the control port", CONTROL_PORT, self._rng.randbytes(self._rng.randrange(1400))

"""A member that takes events from one address alone: the one it asked, at the data port.

Its data socket is connected there, so the kernel drops whatever comes from elsewhere, as a stateful firewall,
NAT or a VPN would do on the way. It speaks the control protocol by hand, with heartbeats when it is told to.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import struct
import time
from collections import Counter
from types import TracebackType
from typing import Any

from support.nodes import LIMIT
from support.proving import subscribe
from tempos import CONTROL_PORT, DATA_PORT
from tempos._abi import EVENT_HEADER_LEN, OFFSET_DELIVERY_SEQUENCE
from tempos.control import Received, decode_reply, encode_request
from tempos_bench.nodes.node import Node

SO_RCVBUFFORCE = 33
#: How often an answer is waited for, each a second.
_TRIES = 10


class StrictMember:
    """Joined to ``topic`` at the broker's address ``asked``; ``endpoint`` is where it gets its events."""

    def __init__(self, node: Node, asked: str, topic: str, group: str | None = None) -> None:
        self.asked = asked
        self._ids = itertools.count(1)
        self._client = random.getrandbits(63)
        self._data, self._control = node.call(self._open)
        self.endpoint: tuple[str, int] = self._data.getsockname()
        told = self.ask("subscribe", topic=topic, group=group, port=self.endpoint[1])
        self._topic, self._group = told["topic"]["id"], told["group"]
        #: Of what it got, by epoch as it is on the wire; and by body.
        self.epochs: Counter[int] = Counter()
        self.bodies: Counter[bytes] = Counter()
        self.sequences: dict[int, list[int]] = {}

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Ask until there is an answer, which must be a yes."""
        number = next(self._ids)
        request = encode_request(op, number, self._client, **fields)
        for _ in range(_TRIES):
            # Refused, while no broker is there.
            with contextlib.suppress(TimeoutError, ConnectionRefusedError):
                if op == "subscribe":
                    self._data.settimeout(1)
                    reply = subscribe(self._control, self._data, number, self._client, **fields)
                    assert reply.ok is not None, reply.error
                    return dict(reply.ok)
                self._control.send(request)
                while (reply := decode_reply(self._control.recv(2048))).id != number:
                    pass
                assert reply.ok is not None, reply.error
                return dict(reply.ok)
        raise TimeoutError(f"{self.asked} does not answer {op}")

    def move(self, asked: str, topic: str, group: str | None = None) -> None:
        """Ask another address, and take events from that one alone from now on."""
        self.asked = asked
        self._control.connect((asked, CONTROL_PORT))
        # Before: what is on its way from the other address is lost.
        self._data.connect((asked, DATA_PORT))
        self.ask("subscribe", topic=topic, group=group, port=self.endpoint[1])

    def take(self, count: int, limit: float = LIMIT) -> None:
        """Wait until so many events have come altogether; more than that are a fault."""
        end = time.monotonic() + limit
        while self.epochs.total() < count:
            self._data.settimeout(max(0.01, end - time.monotonic()))
            try:
                self._take(self._data.recv(2048))
            except TimeoutError:
                break
        self._data.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._take(self._data.recv(2048))
        got = self.epochs.total()
        assert got == count, f"{got} of {count} events came to {self.endpoint} from {self.asked}"

    def tell(self, at: str | None = None) -> None:
        """Tell the broker what came, and stay; ``at`` another of its addresses, this once."""
        self._control.connect((at or self.asked, CONTROL_PORT))
        rows = [Received(self._topic, self._group, epoch, count) for epoch, count in self.epochs.items()]
        self.ask("heartbeat", port=self.endpoint[1], received=rows)
        self._control.connect((self.asked, CONTROL_PORT))

    def __enter__(self) -> StrictMember:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._data.close()
        self._control.close()

    def _take(self, datagram: bytes) -> None:
        epoch = datagram[3]
        (sequence,) = struct.unpack_from("!I", datagram, OFFSET_DELIVERY_SEQUENCE)
        self.epochs[epoch] += 1
        self.bodies[datagram[EVENT_HEADER_LEN:]] += 1
        self.sequences.setdefault(epoch, []).append(sequence)

    def _open(self) -> tuple[socket.socket, socket.socket]:
        data, control = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        data.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        control.settimeout(1)
        data.connect((self.asked, DATA_PORT))
        control.connect((self.asked, CONTROL_PORT))
        return data, control

"""How long strict events take, beside a bare relay in the broker's node.

Probes go in turn through the broker and through a program that does nothing but send them on, by the same
links between the same nodes. Whatever else the machine does makes both wait: so of each minute the median (or
another percentile) that the broker's took is told *beside* what those of the relay took. What is left moves
where the broker takes longer, and not where the machine is busy.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tempos import DATA_PORT
from tempos_bench.measure.growth import Sample
from tempos_bench.measure.stats import percentile
from tempos_bench.nodes.node import PYTHON
from tempos_bench.nodes.stamps import SO_TIMESTAMPNS
from tempos_bench.nodes.topology import Topology

#: Where the subscriber gets what came by the broker, and by the relay; and where that listens.
BROKER_PORT, BARE_PORT, RELAY_PORT = 9100, 9101, 9102
_STAMP = struct.Struct("=qq")
_NS = 1_000_000_000
_WAIT, _LIMIT = 0.2, 30.0


@dataclass(frozen=True, slots=True)
class Beside:
    """What probes took at about the same time, ``at`` so many seconds of the run in a life of the broker."""

    at: float
    life: int
    broker: float
    bare: float


def corrected(found: Sequence[Beside]) -> list[Sample]:
    """What the broker would have taken, had the relay always taken what it takes at its median."""
    usual = percentile([each.bare for each in found], 50) if found else 0.0
    return [Sample(each.at, each.life, each.broker - each.bare + usual) for each in found]


@dataclass(frozen=True, slots=True)
class Took:
    """Nanoseconds that probes took."""

    broker: list[int] = field(default_factory=list)
    bare: list[int] = field(default_factory=list)

    def add(self, more: Took) -> None:
        """These, too."""
        self.broker.extend(more.broker)
        self.bare.extend(more.bare)

    def beside(self, share: float, at: float, life: int) -> Beside | None:
        """A percentile of both; None where nothing came by one of them."""
        if not (self.broker and self.bare):
            return None
        return Beside(at, life, percentile(self.broker, share), percentile(self.bare, share))


class Probes:
    """``topic``: a raw one, whose static member is :data:`BROKER_PORT` of the subscriber's node.

    ``long``: probes that take the broker more seconds are noted one by one in ``delays``: when they came
    (Unix time), and the seconds.
    """

    def __init__(self, topology: Topology, topic: int, long: float) -> None:
        self._head = bytes([topic])
        self._long = long
        self._topology = topology
        subscriber = topology.subscriber.address
        self._sending = topology.publisher.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._places = (topology.broker.address, DATA_PORT), (topology.broker.address, RELAY_PORT)
        self._turn = 0
        self._relay = topology.broker.start(
            (PYTHON, "-m", "tempos_bench.programs.plain", "--bind", f"{topology.broker.address}:{RELAY_PORT}",
             "--member", f"{subscriber}:{BARE_PORT}"),
            ready="ready", limit=_LIMIT,
        )  # fmt: skip
        self.delays: deque[tuple[float, float]] = deque(maxlen=10_000)
        self._took = Took()
        self._over = threading.Event()
        self._reading = [
            threading.Thread(target=self._read, args=(self._socket(port), port == BROKER_PORT))
            for port in (BROKER_PORT, BARE_PORT)
        ]
        for each in self._reading:
            each.start()

    def send(self) -> None:
        """One more, by either of them in turn."""
        with suppress(ConnectionRefusedError):
            self._sending.sendto(self._head + b"%d" % time.time_ns(), self._places[self._turn])
        self._turn = 1 - self._turn

    def take(self) -> Took:
        """What has come since the last call."""
        found, self._took = self._took, Took()
        return found

    def close(self) -> None:
        """No more."""
        self._over.set()
        for each in self._reading:
            each.join()
        self._sending.close()
        self._relay.stop()

    def _read(self, sock: socket.socket, by_broker: bool) -> None:
        """How long each took until the kernel of the subscriber's node had it."""
        with sock:
            while not self._over.is_set():
                # Something else may have been sent to the topic, by who is hostile.
                with suppress(TimeoutError, ValueError):
                    data, ancillary, *_ = sock.recvmsg(64, 64)
                    seconds, nanoseconds = _STAMP.unpack(ancillary[0][2])
                    took = seconds * _NS + nanoseconds - int(data[1:])
                    (self._took.broker if by_broker else self._took.bare).append(took)
                    if by_broker and took > self._long * _NS:
                        self.delays.append((seconds + nanoseconds / _NS, took / _NS))

    def _socket(self, port: int) -> socket.socket:
        def make() -> socket.socket:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.settimeout(_WAIT)
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            sock.bind((self._topology.subscriber.address, port))
            return sock

        return self._topology.subscriber.call(make)

"""What becomes of datagrams and their senders' addresses on their way through whoever hands them on."""

from __future__ import annotations

import random
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tempos_bench.measure.directing import Stand

#: Where the collectors of a look listen.
FIRST_PORT = 7101
#: Of each size; seconds without an arrival after which what has not come is lost, and between two datagrams.
_EACH, _IDLE, _PAUSE = 20, 0.5, 0.002
_BUFFER, _ROOM = 16 << 20, 65_536
_SO_RCVBUFFORCE = 33


@dataclass(frozen=True, slots=True)
class Seen:
    """``whole``: by size, the copies that came as they were sent, of ``sent`` each.

    ``kept``: those of them that came from the sender's address and port.
    """

    sent: int
    whole: Mapping[int, int]
    kept: int

    @property
    def missing(self) -> int:
        """Copies that did not come, or not whole."""
        return sum(self.sent - count for count in self.whole.values())

    @property
    def not_kept(self) -> int:
        """Copies of those that came whole that had another source than the sender's address and port."""
        return sum(self.whole.values()) - self.kept


def look(stand: Stand, sizes: Sequence[int], copies: int) -> Seen:
    """Send some datagrams of each size, to be copied to so many collectors, and look at what comes."""
    a, c = stand.site.topology.publisher, stand.site.topology.subscriber
    rng = random.Random(1)
    head = bytes([stand.byte]) + stand.number.to_bytes(4, "big")
    with a.call(lambda: _socket(a.address, 0)) as sender:
        sinks = c.call(lambda: [_socket(c.address, FIRST_PORT + number) for number in range(copies)])
        try:
            _come_through(sender, stand, head, sinks)
            whole, kept = {}, 0
            for size in sizes:
                bodies = Counter(head + rng.randbytes(size - len(head)) for _ in range(_EACH))
                for body in bodies:
                    sender.sendto(body, (stand.site.topology.broker.address, stand.port))
                    time.sleep(_PAUSE)
                whole[size] = 0
                for sink in sinks:
                    got = _take(sink, _EACH)
                    same = Counter(body for body, _ in got) & bodies
                    whole[size] += same.total()
                    kept += sum(body in bodies and source == sender.getsockname() for body, source in got)
        finally:
            for sink in sinks:
                sink.close()
    return Seen(_EACH * copies, whole, kept)


def _come_through(sender: socket.socket, stand: Stand, head: bytes, sinks: Sequence[socket.socket]) -> None:
    """Until one has come to each: some take a while until all of them is there. Nothing is under way then."""
    waiting, end = set(sinks), time.monotonic() + 15.0
    while waiting and time.monotonic() < end:
        sender.sendto(head + bytes(60), (stand.site.topology.broker.address, stand.port))
        waiting -= {sink for sink in waiting if _take(sink, 1, 0.1)}
    for sink in sinks:
        while _take(sink, 1, _IDLE / len(sinks)):
            pass


def _take(sink: socket.socket, count: int, idle: float = _IDLE) -> list[tuple[bytes, tuple[str, int]]]:
    """Up to ``count`` datagrams."""
    sink.settimeout(idle)
    got: list[tuple[bytes, tuple[str, int]]] = []
    try:
        while len(got) < count:
            got.append(sink.recvfrom(_ROOM))
    except TimeoutError:
        pass
    return got


def _socket(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    sock.bind((address, port))
    return sock

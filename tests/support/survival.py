"""A fast path that outlives its process: events for it all the while, and what it leaves pinned."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress

from support.waiting import LIMIT
from tempos.wire import encode_event
from tempos_bench.nodes.patience import patience
from tempos_bench.nodes.topology import Topology
from tempos_fastpath.survival import ownership
from tempos_fastpath.survival.pins import Pins

TOPIC, EPOCH = 7, 3
BROKER = ("10.0.1.1", 9998)
#: Seconds that a burst of events is waited for before the next one goes out all the same.
_MOMENT = patience(0.1)


def set_of(topology: Topology, name: str = "default") -> Pins:
    """What a broker of the topology pins."""
    return Pins(ownership.Identity(name, topology.broker.call(ownership.current_namespace)))


class Traffic:
    """Sends ``burst`` events some 100 times a second from a thread until told to stop; takes what arrives.

    ``taken``: that of each of ``sinks``, as it came; an event comes to so many of them as ``copies`` says.
    The next burst waits for those of the one before, a moment at most: where machine and kernel are slow, a
    queue on the way that ran full would drop what nobody then could tell from events that the fast path lost.
    At the end what is still on its way is waited for.
    """

    def __init__(
        self, sock: socket.socket, burst: int, sinks: Sequence[socket.socket], copies: int = 1
    ) -> None:
        self.sent = 0
        self.taken: list[list[bytes]] = [[] for _ in sinks]
        # Always the same, for one in 65,536 has a checksum that generic mode hands up.
        self._event = encode_event(TOPIC, 1, 0, 0, b"body")
        self._socket, self._burst = sock, burst
        self._sinks, self._copies = sinks, copies
        for sink in sinks:
            sink.setblocking(False)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._reached = threading.Condition()

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._take(LIMIT)

    def wait(self, more: int) -> None:
        """Until ``more`` events went out from now on."""
        with self._reached:
            goal = self.sent + more
            assert self._reached.wait_for(lambda: self.sent >= goal, LIMIT)

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            for _ in range(self._burst):
                self._socket.sendto(self._event, BROKER)
                self.sent += 1
            with self._reached:
                self._reached.notify_all()
            self._take(_MOMENT)

    def _take(self, limit: float) -> None:
        """What has arrived, until all has, or until nothing more comes within ``limit`` seconds."""
        while sum(map(len, self.taken)) < self.sent * self._copies:
            ready, _, _ = select.select(self._sinks, [], [], limit)
            if not ready:
                return
            for sink, taken in zip(self._sinks, self.taken, strict=True):
                with suppress(BlockingIOError):
                    while True:
                        taken.append(sink.recv(2000))

"""A fast path that outlives its process: events for it all the while, and what it leaves pinned."""

from __future__ import annotations

import socket
import threading

from tempos.wire import encode_event
from tempos_bench.nodes.patience import patience
from tempos_bench.nodes.topology import Topology
from tempos_fastpath.survival import ownership
from tempos_fastpath.survival.pins import Pins

TOPIC, EPOCH = 7, 3
BROKER = ("10.0.1.1", 9998)
LIMIT = patience(15.0)


def set_of(topology: Topology, name: str = "default") -> Pins:
    """What a broker of the topology pins."""
    return Pins(ownership.Identity(name, topology.broker.call(ownership.current_namespace)))


class Traffic:
    """Sends ``burst`` events some 100 times a second from a thread until told to stop; knows how many."""

    def __init__(self, sock: socket.socket, burst: int) -> None:
        self.sent = 0
        # Always the same, for one in 65,536 has a checksum that generic mode hands up.
        self._event = encode_event(TOPIC, 1, 0, 0, b"body")
        self._socket, self._burst = sock, burst
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._reached = threading.Condition()

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

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

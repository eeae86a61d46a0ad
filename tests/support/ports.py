"""Ports of this machine that are free now, for UDP and TCP alike."""

from __future__ import annotations

import random
import socket
from collections import deque

#: Below what the kernel gives to clients: neither a client that comes by nor the TIME_WAIT of one that was
#: there can take a port away between the asking and the binding.
RANGE = range(20_000, 32_000)
#: Given lately: whoever asks twice does not get one twice before it is in use.
_given: deque[int] = deque(maxlen=1000)


def free_ports(count: int) -> list[int]:
    """Loopback ports, all free when asked, and others than those of the times before."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.choice(RANGE)
        if port not in _given and _is_free(port):
            _given.append(port)
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True

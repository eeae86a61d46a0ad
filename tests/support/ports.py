"""Ports of this machine that are free now, for UDP and TCP alike."""

from __future__ import annotations

import random
import socket

#: Below what the kernel gives to clients: neither a client that comes by nor the TIME_WAIT of one that was
#: there can take a port away between the asking and the binding.
RANGE = range(20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Different loopback ports, all free when asked."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.choice(RANGE)
        if port not in ports and _is_free(port):
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

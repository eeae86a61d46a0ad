"""Descriptors from the broker to its worker, over a socket that is for nothing else.

They are in it before the request that is about them is in its own stream: who reads that finds them.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

#: SCM_MAX_FD: more the kernel does not take with one message.
_AT_ONCE = 253


def send(to: socket.socket, descriptors: Sequence[int]) -> None:
    """Hand these over; raises :class:`OSError`."""
    for first in range(0, len(descriptors), _AT_ONCE):
        socket.send_fds(to, [b"."], descriptors[first : first + _AT_ONCE])


def receive(source: socket.socket, count: int) -> list[int]:
    """As many as that, which were handed over; the caller closes them. Raises :class:`OSError`."""
    received: list[int] = []
    while len(received) < count:
        _, descriptors, _, _ = socket.recv_fds(source, 1, _AT_ONCE)
        if not descriptors:
            raise OSError("the broker has handed over fewer descriptors than it told of")
        received += descriptors
    return received

"""Raw frames into and out of a node: AF_PACKET sockets opened inside another network namespace."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable

from tempos_bench.nodes.node import Node

SOL_PACKET, PACKET_VNET_HDR = 263, 15
NEEDS_CSUM = 1
SO_RCVBUFFORCE, SO_MARK = 33, 36
ETH_P_IP = 0x0800


class Injector:
    """Sends frames out of an interface of a node as they are."""

    def __init__(self, node: Node, interface: str) -> None:
        def build() -> socket.socket:
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            raw.bind((interface, 0))
            return raw

        self._socket = node.call(build)

    def send(self, frame: bytes, *, partial: bool = False, mark: int = 0) -> None:
        """``partial``: tell the kernel that the UDP checksum is still to be filled in. ``mark``: SO_MARK."""
        self._socket.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
        vnet = struct.pack("=BBHHHH", NEEDS_CSUM, 0, 0, 0, 34, 6) if partial else bytes(10)
        self._socket.send(vnet + frame)

    def close(self) -> None:
        self._socket.close()


class Capture:
    """Receives the IPv4 frames that arrive at an interface of a node."""

    def __init__(self, node: Node, interface: str) -> None:
        def build() -> socket.socket:
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
            # A frame that XDP copied takes a page of it, however short it is.
            raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
            raw.bind((interface, ETH_P_IP))
            return raw

        self._socket = node.call(build)

    def fileno(self) -> int:
        return self._socket.fileno()

    def at_hand(self) -> list[bytes]:
        """The frames that have arrived so far."""
        frames = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frames.append(self._socket.recv(65536, socket.MSG_DONTWAIT))
        return frames

    def until(self, is_last: Callable[[bytes], bool], limit: float) -> list[bytes]:
        """The frames that arrive before the one that is the last; :class:`TimeoutError` after ``limit`` s."""
        self._socket.settimeout(limit)
        frames: list[bytes] = []
        while True:
            frame = self._socket.recv(65536)
            if is_last(frame):
                return frames
            frames.append(frame)

    def close(self) -> None:
        self._socket.close()

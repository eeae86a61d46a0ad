"""Inside the nodes of a topology: sockets, and changes to the network."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
import subprocess
from collections.abc import Callable
from typing import TypeVar

from pyroute2 import IPRoute

from support.inject import SO_RCVBUFFORCE
from support.waiting import LIMIT
from tempos_bench.nodes.node import Node

T = TypeVar("T")


def udp(node: Node, address: tuple[str, int] = ("", 0)) -> socket.socket:
    """A bound socket with room for all that a test sends."""

    def make() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        sock.bind(address)
        sock.settimeout(LIMIT)
        return sock

    return node.call(make)


def configure(node: Node, work: Callable[[IPRoute], T]) -> T:
    """Change the node's network; gives what ``work`` gives."""

    def inside() -> T:
        with IPRoute() as netlink:
            return work(netlink)

    return node.call(inside)


def ip(node: Node, *orders: str) -> None:
    """Run ``ip`` in a node, once for each of these orders."""

    def run() -> None:
        for words in orders:
            subprocess.run(["ip", *words.split()], check=True, capture_output=True)

    node.call(run)


def loopback_up() -> None:
    """In the calling thread's namespace."""
    with IPRoute() as netlink:
        netlink.link("set", index=socket.if_nametoindex("lo"), state="up")


def set_gro(interface: str, on: bool) -> None:
    """Of an interface of the calling thread's namespace. A veth without it takes no redirected frames."""
    value = ctypes.create_string_buffer(struct.pack("II", 0x2C, on))  # ETHTOOL_SGRO
    request = struct.pack("16sP16x", interface.encode(), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8946, request)

"""Inside the nodes of a topology: sockets, and changes to the network."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
import subprocess
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import TypeVar

import pytest
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


def steered() -> None:
    """In the calling thread's namespace any CPU handles what comes by the loopback (RPS)."""
    set_cpus = """
        mount -t sysfs none "$1" || exit
        [ -e "$1"/class/net/lo/queues/rx-0/rps_cpus ] || exit 77
        printf %x $(( (1 << $(getconf _NPROCESSORS_ONLN)) - 1 )) > "$1"/class/net/lo/queues/rx-0/rps_cpus
    """
    with TemporaryDirectory(prefix="tempos-test-") as empty:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", set_cpus, "sh", empty], check=False, capture_output=True
        )
    if done.returncode == 77:
        pytest.skip("this kernel has no receive packet steering")
    assert done.returncode == 0, done.stderr


def set_gro(interface: str, on: bool) -> None:
    """Of an interface of the calling thread's namespace. A veth without it takes no redirected frames."""
    value = ctypes.create_string_buffer(struct.pack("II", 0x2C, on))  # ETHTOOL_SGRO
    request = struct.pack("16sP16x", interface.encode(), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8946, request)

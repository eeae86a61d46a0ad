"""What tools see of sockets: made, named, connected, accepted, written to and read from, and what fails.

An act of observed.py: it gets its options, ``count``: how often, and gives what a tool ought to count.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

Options = dict[str, Any]


class _Sockets:
    """Uses sockets, and counts what a tool ought to count."""

    def __init__(self) -> None:
        self.doors: Counter[str] = Counter()
        self.joined: Counter[str] = Counter()
        self.times: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def socket(self, family: int, kind: int) -> socket.socket:
        self.doors["socket"] += 1
        return socket.socket(family, kind)

    def bind(self, sock: socket.socket, address: Any) -> None:
        self.doors["bind"] += 1
        sock.bind(address)

    def listener(self, family: int, address: Any) -> socket.socket:
        sock = self.socket(family, socket.SOCK_STREAM)
        self.bind(sock, address)
        self.doors["listen"] += 1
        sock.listen()
        return sock

    def connect(self, sock: socket.socket, address: Any) -> None:
        self.doors["connect"] += 1
        self.joined[f"connect {sock.family.name} {_protocol(sock)}"] += 1
        sock.connect(address)

    def accept(self, sock: socket.socket) -> socket.socket:
        self.doors["accept4"] += 1
        taken, _ = sock.accept()
        self.joined[f"accept {sock.family.name} {_protocol(sock)}"] += 1
        return taken

    def moved(self, way: str, sock: socket.socket, act: Callable[[], Any]) -> None:
        """``act`` writes, reads or peeks, and gives how many bytes, or they themselves."""
        self.doors["sock_sendmsg" if way == "write" else "sock_recvmsg"] += 1
        try:
            what = act()
        except OSError:
            self.failed[f"{way} {_protocol(sock)}"] += 1
            return
        self.times[f"{way} {_protocol(sock)}"] += 1
        if way != "peek":
            self.bytes[f"{way} {_protocol(sock)}"] += what if isinstance(what, int) else len(what)

    def told(self) -> Options:
        return {
            "doors": self.doors,
            "joined": self.joined,
            "io": self.times,
            "bytes": +self.bytes,
            "failed": self.failed,
        }


def _protocol(sock: socket.socket) -> str:
    """As the kernel calls it."""
    if sock.family == socket.AF_UNIX:
        return "UNIX-STREAM" if sock.type == socket.SOCK_STREAM else "UNIX"
    return ("TCP" if sock.type == socket.SOCK_STREAM else "UDP") + (
        "v6" if sock.family == socket.AF_INET6 else ""
    )


def sockets(options: Options) -> Options:
    """Sockets of three families and three protocols, from both ends, and what fails."""
    use = _Sockets()
    path = f"\0acts-{os.getpid()}"
    for family, address in (
        (socket.AF_INET, ("127.0.0.1", 0)),
        (socket.AF_INET6, ("::1", 0)),
        (socket.AF_UNIX, path),
    ):
        listener = use.listener(family, address)
        where = listener.getsockname()
        for _ in range(options["count"]):
            client = use.socket(family, socket.SOCK_STREAM)
            use.connect(client, where)
            with use.accept(listener) as taken, client:
                _converse(use, client, taken)
        listener.setblocking(False)
        for _ in range(options["count"]):
            use.doors["accept4"] += 1
            with suppress(BlockingIOError):
                listener.accept()
        listener.close()
        for _ in range(options["count"]):
            with use.socket(family, socket.SOCK_STREAM) as client, suppress(OSError):
                use.connect(client, where)
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with use.socket(family, socket.SOCK_DGRAM) as one, use.socket(family, socket.SOCK_DGRAM) as other:
            use.bind(one, (host, 0))
            for _ in range(options["count"]):
                use.connect(other, one.getsockname())
                _datagrams(use, other, one)
    for _ in range(options["count"]):
        use.doors["socketpair"] += 1
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with one, other:
            _datagrams(use, one, other)
    return use.told()


def _converse(use: _Sockets, client: socket.socket, taken: socket.socket) -> None:
    """Bytes over a stream, by every call that writes and reads."""
    room = bytearray(100)
    writes: list[Callable[[], int]] = [
        lambda: client.send(b"1"),
        lambda: os.write(client.fileno(), b"22"),
        lambda: client.sendmsg([b"3", b"33"]),
        lambda: os.writev(client.fileno(), [b"44", b"44"]),
    ]
    for write in writes:
        use.moved("write", client, write)
        use.moved("peek", taken, lambda: taken.recv(1, socket.MSG_PEEK))
        use.moved("read", taken, lambda: taken.recv(100))
    use.moved("write", taken, lambda: taken.send(b"12345678"))
    use.moved("read", client, lambda: os.read(client.fileno(), 2))
    use.moved("read", client, lambda: os.readv(client.fileno(), [bytearray(2)]))
    use.moved("read", client, lambda: client.recvmsg_into([memoryview(room)[:2]])[0])
    use.moved("read", client, lambda: client.recv(2))
    client.setblocking(False)
    use.moved("read", client, lambda: client.recv(1))
    taken.shutdown(socket.SHUT_WR)
    use.moved("write", taken, lambda: taken.send(b"1", socket.MSG_NOSIGNAL))
    use.moved("read", client, lambda: client.recv(1))


def _datagrams(use: _Sockets, sender: socket.socket, receiver: socket.socket) -> None:
    use.moved("write", sender, lambda: sender.send(b"datagram"))
    use.moved("write", sender, lambda: sender.send(b""))
    use.moved("read", receiver, lambda: receiver.recv(100))
    use.moved("read", receiver, lambda: receiver.recv(100))

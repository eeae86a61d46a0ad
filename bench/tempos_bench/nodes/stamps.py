"""Small datagrams with time stamps of both ends.

`python -m tempos_bench.nodes.stamps --bind IP` sends them back. What :mod:`.offset` makes of them is how
far two clocks are apart. All times are CLOCK_REALTIME, nanoseconds: an arrival is when the kernel had it
(SO_TIMESTAMPNS), a departure just before the system call that sends it. The program prints `ready` and
ends by a signal.
"""

from __future__ import annotations

import argparse
import socket
import struct
import time

#: Of the reflector, on every node.
PORT = 9790
SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@qq")
_NS = 1_000_000_000
#: Number of the exchange; arrival and departure at the reflector, 0 on the way there.
_STAMPS = struct.Struct("!IQQ")
_TIMEOUT = 0.2
#: So many without an answer, and none before: nobody is there.
_PATIENCE = 3


def wall_ns() -> int:
    """The clock of every time here."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME)


def exchanges(to: str, count: int) -> list[list[int]]:
    """Exchanges with the reflector at address ``to``: sent here, arrived and sent there, arrived here.

    At most ``count``, one at a time; none at all where nobody answers.
    """
    found: list[list[int]] = []
    with _stamping() as sock:
        sock.connect((to, PORT))
        sock.settimeout(_TIMEOUT)
        for number in range(count):
            if number == _PATIENCE and not found:
                break
            sent = wall_ns()
            try:
                sock.send(_STAMPS.pack(number, 0, 0))
                while True:
                    data, came = _take(sock)
                    if len(data) == _STAMPS.size and data[:4] == number.to_bytes(4, "big"):
                        break
            except (TimeoutError, ConnectionRefusedError):
                continue
            _, heard, answered = _STAMPS.unpack(data)
            found.append([sent, heard, answered, came])
    return found


def reflect(sock: socket.socket) -> None:
    """Send everything back to where it came from, until a signal."""
    while True:
        data, came, back = _take_from(sock)
        if len(data) == _STAMPS.size:
            sock.sendto(_STAMPS.pack(int.from_bytes(data[:4], "big"), came, wall_ns()), back)


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.nodes.stamps", description=__doc__)
    parser.add_argument("--bind", required=True, help="IPv4 address")
    args = parser.parse_args()
    with _stamping() as sock:
        sock.bind((args.bind, PORT))
        print("ready", flush=True)
        reflect(sock)


def _stamping() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    return sock


def _take(sock: socket.socket) -> tuple[bytes, int]:
    data, came, _ = _take_from(sock)
    return data, came


def _take_from(sock: socket.socket) -> tuple[bytes, int, tuple[str, int]]:
    """A datagram, when it arrived, and from where."""
    data, asides, _, sender = sock.recvmsg(64, socket.CMSG_SPACE(_TIMESPEC.size))
    for level, kind, value in asides:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, rest = _TIMESPEC.unpack(value)
            return data, seconds * _NS + rest, sender
    return data, wall_ns(), sender


if __name__ == "__main__":
    main()

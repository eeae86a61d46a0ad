"""Sends ICMP echo requests and times the replies: `python -m tempos_bench.programs.icmp`.

Prints one JSON object. One request at a time, on a schedule, from a raw socket that waits in the kernel:
none of the waiting of the `ping` command is in the times, only the kernel's echo at the other end. Needs
root.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import struct
import time
from typing import Any

from tempos_bench.programs.rehearsal import Asked

_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_HEADER = struct.Struct("!BBHHH")
_LEAST_IP_HEADER = 20


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.programs.icmp", description=__doc__)
    parser.add_argument("--to", required=True, help="IPv4 address")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--warm-up", type=int, default=50, help="requests before those that count")
    parser.add_argument("--size", type=int, default=56, help="bytes of the body")
    parser.add_argument("--interval", type=float, default=0, help="seconds from one to the next; 0: no pause")
    parser.add_argument("--timeout", type=float, default=0.5, help="seconds until one counts as lost")
    args = parser.parse_args()
    samples = []
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.connect((args.to, 0))
        began = time.monotonic()
        for number in range(args.warm_up + args.count):
            if (wait := began + number * args.interval - time.monotonic()) > 0:
                time.sleep(wait)
            took = _once(sock, number & 0xFFFF, args.size, args.timeout)
            if took is not None and number >= args.warm_up:
                samples.append(took)
    print(json.dumps({"sent": args.count, "lost": args.count - len(samples), "samples_ns": samples}))


def _once(sock: socket.socket, sequence: int, size: int, timeout: float) -> int | None:
    """One request; nanoseconds until its reply, None without one."""
    identity = os.getpid() & 0xFFFF
    sent = time.monotonic_ns()
    sock.settimeout(timeout)
    sock.send(request(identity, sequence, bytes(size)))
    end = sent + int(timeout * 1e9)
    while (left := end - time.monotonic_ns()) > 0:
        sock.settimeout(left / 1e9)
        try:
            packet = sock.recv(65536)
        except TimeoutError:
            return None
        came = time.monotonic_ns()
        if is_reply(packet, identity, sequence):
            return came - sent
    return None


def request(identity: int, sequence: int, body: bytes) -> bytes:
    """An echo request (RFC 792)."""
    head = _HEADER.pack(_ECHO_REQUEST, 0, 0, identity, sequence)
    return _HEADER.pack(_ECHO_REQUEST, 0, checksum(head + body), identity, sequence) + body


def is_reply(packet: bytes, identity: int, sequence: int) -> bool:
    """Whether an IPv4 packet, as a raw socket gives it, is the reply to that request."""
    header = (packet[0] & 0x0F) * 4 if packet else 0
    if header < _LEAST_IP_HEADER or len(packet) < header + _HEADER.size:
        return False
    kind, _, _, its_identity, its_sequence = _HEADER.unpack_from(packet, header)
    return (kind, its_identity, its_sequence) == (_ECHO_REPLY, identity, sequence)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def planned(asked: Asked) -> dict[str, Any]:
    """What a plan takes for its answer."""
    return {"sent": int(asked.options["--count"]), "lost": 0, "samples_ns": [1000]}


if __name__ == "__main__":
    main()

"""A program: callers of a webhook, each on a connection of its own, each asking as soon as it is answered.

    python -m tempos_bench.calls.callers PORT CONNECTIONS BYTES

Told ``{"seconds": S}`` as a line of JSON it calls for so long and answers
``{"times": [...], "seconds", "wrong"}``: nanoseconds of each call from its sending to its answer, and how
many were answered with anything but a 202.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from typing import Any

_LIMIT = 10.0


class _Caller:
    """One connection. ``asked``: when it asked last."""

    def __init__(self, port: int, request: bytes) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), _LIMIT)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self.asked = 0

    def ask(self) -> None:
        self.asked = time.monotonic_ns()
        self.sock.sendall(self._request)

    def hear(self) -> bool:
        """The answer, which has no body; whether it is a 202."""
        answer = self.sock.recv(65_536)
        while answer and b"\r\n\r\n" not in answer:
            more = self.sock.recv(65_536)
            if not more:
                break
            answer += more
        return answer.startswith(b"HTTP/1.1 202")


def _call(callers: list[_Caller], seconds: float) -> dict[str, Any]:
    poll = select.epoll()
    by_fd = {each.sock.fileno(): each for each in callers}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    times: list[int] = []
    wrong = 0
    began = time.monotonic_ns()
    end = began + round(seconds * 1e9)
    for each in callers:
        each.ask()
    waiting = len(callers)
    while waiting:
        found = poll.poll(_LIMIT)
        if not found:
            raise TimeoutError(f"no answer within {_LIMIT:g} s")
        for fd, _ in found:
            caller = by_fd[fd]
            right = caller.hear()
            now = time.monotonic_ns()
            times.append(now - caller.asked)
            wrong += not right
            if now < end and right:
                caller.ask()
            else:
                waiting -= 1
    poll.close()
    return {"times": times, "seconds": (time.monotonic_ns() - began) / 1e9, "wrong": wrong}


def _main(port: int, connections: int, size: int) -> None:
    head = f"POST /in HTTP/1.1\r\nHost: here\r\nContent-Length: {size}\r\n\r\n"
    request = head.encode() + b"x" * size
    print("ready", flush=True)
    for line in sys.stdin:
        # A server closes what is idle for long, as all but one are.
        callers = [_Caller(port, request) for _ in range(connections)]
        found = _call(callers, json.loads(line)["seconds"])
        for each in callers:
            each.sock.close()
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    _main(*(int(each) for each in sys.argv[1:4]))

"""What observation tools look at in the tests: a program that does an exactly known number of each act.

`python -S observed.py '{"act": ..., "processes": 3, ...}'`: forks so many processes, named `obs-0`, `obs-1`
and so on, says `ready`, waits for a line, lets all of them act, and prints what each of them did as a line
of JSON, with its pid. They live until the input ends. Needs nothing but the standard library, so that it
starts at once.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

Options = dict[str, Any]
_PR_SET_NAME, _PR_SET_PDEATHSIG, _SIGKILL = 15, 1, 9
_libc = ctypes.CDLL(None, use_errno=True)
#: What an act leaves open until the end.
held: list[object] = []


def udp_overflow(options: Options) -> Options:
    """Sends datagrams to a socket of its own that is not read meanwhile, and looks how many are there."""
    version = options.get("version", 4)
    receiver = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    receiver.bind(("127.0.0.1" if version == 4 else "::1", 0))
    sender = socket.socket(receiver.family, socket.SOCK_DGRAM)
    held.extend((receiver, sender))
    sender.connect(receiver.getsockname())
    for _ in range(options["count"]):
        sender.send(bytes(options.get("size", 100)))
    kept = 0
    receiver.setblocking(False)
    try:
        while receiver.recv(65536):
            kept += 1
    except BlockingIOError:
        pass
    return {"port": receiver.getsockname()[1], "kept": kept, "lost": options["count"] - kept}


ACTS: dict[str, Callable[[Options], Options]] = {each.__name__: each for each in (udp_overflow,)}


def main() -> None:
    options: Options = json.loads(sys.argv[1])
    act = ACTS[options["act"]]
    start_read, start_write = os.pipe()
    end_read, end_write = os.pipe()
    children = []
    for index in range(options.get("processes", 1)):
        told_read, told_write = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(end_write)
            os.close(start_write)
            _libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL)
            _libc.prctl(_PR_SET_NAME, options.get("comm", f"obs-{index}").encode())
            os.read(start_read, 1)
            try:
                done = act({**options, "index": index})
            except BaseException as error:  # noqa: BLE001 - told, and the test fails by it
                done = {"error": repr(error)}
            os.write(told_write, json.dumps({"pid": os.getpid(), **done}).encode() + b"\n")
            os.close(told_write)
            os.read(end_read, 1)
            os._exit(0)
        os.close(told_write)
        children.append((pid, told_read))
    print("ready", flush=True)
    sys.stdin.readline()
    os.close(start_read)
    os.write(start_write, bytes(len(children)))
    for _, told in children:
        with os.fdopen(told) as file:
            print(file.read().strip(), flush=True)
    sys.stdin.read()
    os.close(end_write)
    for pid, _ in children:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()

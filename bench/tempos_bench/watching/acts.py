"""What is watched: a program that does one thing again and again, first at a rate, then as fast as it can.

`python -S acts.py ACT NAME COUNT RATE`: takes the name NAME, waits for a line, does ACT COUNT times at RATE
a second (0: not at all), then COUNT times without pause, and prints how long that took in seconds. Nothing
but the standard library, so that it is the act that takes the time.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import sys
import time
from collections.abc import Callable

_PR_SET_NAME = 15
#: Seconds that are done at once of a paced act, then waited for.
_TURN = 0.001


def opens(count: int) -> None:
    """Open a file, and close it."""
    for _ in range(count):
        os.close(os.open("/dev/null", os.O_RDONLY))


def connects(count: int) -> None:
    """Connect to a server of its own, and close both ends by a reset: ports are free again at once."""
    server = socket.create_server(("127.0.0.1", 0), backlog=16)
    where = server.getsockname()
    for _ in range(count):
        client = socket.socket()
        client.connect(where)
        accepted, _ = server.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        accepted.close()
    server.close()


def execs(count: int) -> None:
    """Start a program, and wait for its end."""
    for _ in range(count):
        os.waitpid(os.posix_spawn("/bin/true", ["/bin/true", sys.argv[2]], {}), 0)


def faults(count: int) -> None:
    """Touch a page for the first time."""
    while count > 0:
        pages = min(count, 4096)
        with mmap.mmap(-1, pages * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            for at in range(0, len(memory), mmap.PAGESIZE):
                memory[at] = 1
        count -= pages


ACTS: dict[str, Callable[[int], None]] = {each.__name__: each for each in (opens, connects, execs, faults)}


def paced(act: Callable[[int], None], count: int, rate: float) -> None:
    """So many, at a rate a second."""
    begun, done = time.monotonic(), 0
    while done < count:
        due = min(int((time.monotonic() - begun) * rate) + 1, count) - done
        if due > 0:
            act(due)
            done += due
        else:
            time.sleep(_TURN)


def main() -> None:
    """Act as the command line says."""
    act, name, count, rate = ACTS[sys.argv[1]], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode())
    print("ready", flush=True)
    sys.stdin.readline()
    # While it is watched: net-pagefault shows processes that use the network.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        any_socket.sendto(b"here", ("127.0.0.1", 9))
    if rate:
        paced(act, count, rate)
    begun = time.monotonic()
    act(count)
    print(time.monotonic() - begun, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()

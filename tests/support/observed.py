"""What observation tools look at in the tests: a program that does an exactly known number of each act.

`python -S observed.py '{"act": ..., "processes": 3, ...}'`: forks so many processes, named `obs-0`, `obs-1`
and so on (or as `called` begins), says `ready` and their ids, waits for a line, lets all of them act, and
prints what each of them did as a line of JSON, with its pid. They live until the input ends. Needs nothing
but the standard library, so that it starts at once. Process ids are the machine's, as /proc has them, in a
container, too.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.acts_files import execs, lives, machine_pid, opens, reads
from support.acts_sockets import sockets

Options = dict[str, Any]
MAP_POPULATE = 0x8000
_PR_SET_NAME, _PR_SET_PDEATHSIG, _SIGKILL = 15, 1, 9
_SO_MEMINFO = 55
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
    # Where another CPU handles them they may be on their way still.
    kept, end = 0, time.monotonic() + 5
    receiver.setblocking(False)
    while not _thrown_away(receiver) and time.monotonic() < end:
        pass
    while kept + (lost := _thrown_away(receiver)) < options["count"] and time.monotonic() < end:
        with suppress(BlockingIOError):
            while receiver.recv(65536):
                kept += 1
    return {"port": receiver.getsockname()[1], "kept": kept, "lost": lost}


def _thrown_away(sock: socket.socket) -> int:
    """How many datagrams did not find room in its buffer."""
    numbers = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
    return struct.unpack("9I", numbers)[8]


def tcp_connects(options: Options) -> Options:
    """Connects to a server of its own, again and again; how long each took as seen from here, in ns."""
    family = socket.AF_INET if options.get("version", 4) == 4 else socket.AF_INET6
    server = socket.socket(family)
    server.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
    server.listen(options["count"])
    address = server.getsockname()
    made = {}
    for _ in range(options["count"]):
        client = socket.socket(family)
        before = time.monotonic_ns()
        client.connect(address)
        took = time.monotonic_ns() - before
        accepted, _ = server.accept()
        made[client.getsockname()[1]] = took
        held.extend((client, accepted))
    held.append(server)
    return {"port": address[1], "made": made}


def tcp_failures(options: Options) -> Options:
    """Connects that come to nothing: to where nobody listens, to no network, and one that is given up."""
    free = socket.socket()
    free.bind(("127.0.0.1", 0))
    refused = free.getsockname()[1]
    free.close()
    failed = {"refused": refused, "no_network": 0}
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", refused)) == errno.ECONNREFUSED
    with socket.socket() as client:
        # A group of hosts has no TCP.
        failed["no_network"] = client.connect_ex(("224.0.0.1", 1))
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    failed["given_up"] = full.getsockname()[1]
    clients = [socket.socket() for _ in range(3)]
    for client in clients:
        client.setblocking(False)
        client.connect_ex(full.getsockname())
    clients[2].close()
    held.extend((full, *clients))
    return failed


def tcp_exhausted(options: Options) -> Options:
    """Connects more often than there are ports; only for a network namespace of one's own."""
    family = socket.AF_INET if options.get("version", 4) == 4 else socket.AF_INET6
    server = socket.socket(family)
    server.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 30_000 + options["index"]))
    server.listen(options["count"])
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(f"40000 {39_999 + options['ports']}")
    held.append(server)
    results = []
    for _ in range(options["count"]):
        client = socket.socket(family)
        results.append(client.connect_ex(server.getsockname()))
        held.append(client)
    return {"port": server.getsockname()[1], "results": results}


def tcp_talk(options: Options) -> Options:
    """Asks a server of its own, which thinks for a while; what was sent, and how long answers took, in ns."""
    server = socket.create_server(("127.0.0.1", 0))
    thinking: list[int] = []

    def serve() -> None:
        connection, _ = server.accept()
        while connection.recv(options["request"], socket.MSG_WAITALL):
            begun = time.monotonic_ns()
            while time.monotonic_ns() - begun < options["think_ns"]:
                pass
            thinking.append(time.monotonic_ns() - begun)
            connection.sendall(bytes(options["answer"]))
        connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    client = socket.create_connection(server.getsockname())
    waited = []
    for _ in range(options["count"]):
        begun = time.monotonic_ns()
        client.sendall(bytes(options["request"]))
        client.recv(1, socket.MSG_PEEK)
        waited.append(time.monotonic_ns() - begun)
        client.recv(options["answer"], socket.MSG_WAITALL)
    port = client.getsockname()[1]
    if options.get("close"):
        client.close()
        thread.join()
    held.extend((client, server))
    return {"port": port, "thinking": sum(thinking), "waited": sum(waited)}


def udp_waits(options: Options) -> Options:
    """Lets datagrams wait in threes; between which bounds their waits are in sum, in ns, and the longest."""
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect(receiver.getsockname())
    held.extend((receiver, sender))
    least = most = 0
    for _ in range(options["count"]):
        sent = []
        for _ in range(3):
            sent.append(time.monotonic_ns())
            sender.send(b"x")
        select.select([receiver], [], [])
        there = time.monotonic_ns()
        while time.monotonic_ns() - there < options["wait_ns"]:
            pass
        least += time.monotonic_ns() - there
        for begun in sent:
            receiver.recv(10)
            most += time.monotonic_ns() - begun
    return {"port": receiver.getsockname()[1], "least": least, "most": most}


def udp_spun(options: Options) -> Options:
    """Reads without a rest what another process sends; ns that they may have waited, in sum and one."""
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    receiver.setblocking(False)
    held.append(receiver)
    if not (sender := os.fork()):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.connect(receiver.getsockname())
            for _ in range(options["count"]):
                begun = time.monotonic_ns()
                out.send(begun.to_bytes(8, sys.byteorder))
                while time.monotonic_ns() - begun < options["pause_ns"]:
                    pass
        os._exit(0)
    read = most = longest = 0
    gone = False
    while True:
        try:
            sent = int.from_bytes(receiver.recv(10), sys.byteorder)
        except BlockingIOError:
            # What was sent by then is there: a look at the buffer behind that is the last one.
            if gone:
                break
            gone = os.waitpid(sender, os.WNOHANG)[0] != 0
            continue
        waited = time.monotonic_ns() - sent
        read, most, longest = read + 1, most + waited, max(longest, waited)
    return {"port": receiver.getsockname()[1], "read": read, "most": most, "longest": longest}


def net_use(options: Options) -> Options:
    """Uses the network in each role so many times, and has page faults, in a thread that ends too."""
    local, family = (
        ("127.0.0.1", socket.AF_INET) if options.get("version", 4) == 4 else ("::1", socket.AF_INET6)
    )
    count = options["count"]
    server = socket.create_server((local, 0), family=family)
    server.listen(count)
    for _ in range(count):
        client = socket.create_connection(server.getsockname()[:2])
        held.extend((client, server.accept()[0]))
    receiver = socket.socket(family, socket.SOCK_DGRAM)
    receiver.bind((local, 0))
    sender = socket.socket(family, socket.SOCK_DGRAM)
    for how in range(count):
        sender.sendto(bytes(100), receiver.getsockname())
        # Three ways, of which two say from whom it is; and one that leaves it there.
        receiver.recv(200, socket.MSG_PEEK)
        if how % 3 == 0:
            receiver.recvfrom(200)
        elif how % 3 == 1:
            receiver.recvmsg(200)
        else:
            os.read(receiver.fileno(), 200)
    protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
    with socket.socket(family, socket.SOCK_RAW, protocol) as raw:
        for _ in range(count):
            raw.sendto(struct.pack("!BBHHH", 8 if family == socket.AF_INET else 128, 0, 0, 1, 1), (local, 0))
    held.extend((server, receiver, sender))
    pages = options["pages"] + options["index"]
    thread = threading.Thread(target=touch, args=(pages,))
    thread.start()
    thread.join()
    touch(pages)
    held.append(
        mmap.mmap(-1, pages * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_POPULATE)
    )
    return {"port": server.getsockname()[1], "udp_port": receiver.getsockname()[1], "pages": pages}


def touch(pages: int) -> None:
    memory = mmap.mmap(-1, pages * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, len(memory), mmap.PAGESIZE):
        memory[at] = 1
    held.append(memory)


def busy(options: Options) -> Options:
    """A thread that wants a CPU from now on, always the same."""
    os.sched_setaffinity(0, {options["core"]})
    # Whoever has work to do, the tools too, is not kept from it.
    os.nice(19)

    def want() -> None:
        while True:
            pass

    threading.Thread(target=want, daemon=True).start()
    return {}


def several(options: Options) -> Options:
    """One after the other, `acts`."""
    return {act: ACTS[act](options) for act in options["acts"]}


ACTS: dict[str, Callable[[Options], Options]] = {
    each.__name__: each
    for each in (
        busy,
        execs,
        lives,
        opens,
        reads,
        several,
        sockets,
        net_use,
        tcp_connects,
        tcp_exhausted,
        tcp_failures,
        tcp_talk,
        udp_overflow,
        udp_spun,
        udp_waits,
    )
}


def main() -> None:
    options: Options = json.loads(sys.argv[1])
    act = ACTS[options["act"]]
    start_read, start_write = os.pipe()
    end_read, end_write = os.pipe()
    children, pids = [], []
    for index in range(options.get("processes", 1)):
        told_read, told_write = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(end_write)
            os.close(start_write)
            _libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL)
            _libc.prctl(_PR_SET_NAME, options.get("comm", f"{options.get('called', 'obs-')}{index}").encode())
            os.write(told_write, f"{machine_pid()}\n".encode())
            os.read(start_read, 1)
            try:
                done = act({**options, "index": index})
            except BaseException as error:  # noqa: BLE001 - told, and the test fails by it
                done = {"error": repr(error)}
            os.write(told_write, json.dumps({"pid": machine_pid(), **done}).encode() + b"\n")
            if program := options.get("become"):
                # It has told all once that has ended.
                os.set_inheritable(told_write, True)
                os.execv(program, [program, str(index)])
            os.close(told_write)
            if not options.get("leave"):
                os.read(end_read, 1)
            os._exit(0)
        os.close(told_write)
        told = os.fdopen(told_read)
        children.append((pid, told))
        pids.append(told.readline().strip())
    print("ready", *pids, flush=True)
    sys.stdin.readline()
    os.close(start_read)
    os.write(start_write, bytes(len(children)))
    for pid, told in children:
        with told:
            done = json.loads(told.read())
        if options.get("leave"):
            used = os.wait4(pid, 0)[2]
            done |= {
                "min_flt": used.ru_minflt,
                "maj_flt": used.ru_majflt,
                "cpu": used.ru_utime + used.ru_stime,
            }
        print(json.dumps(done), flush=True)
    sys.stdin.read()
    os.close(end_write)
    for pid, _ in () if options.get("leave") else children:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()

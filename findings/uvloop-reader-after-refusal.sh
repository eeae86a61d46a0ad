#!/bin/sh
# uvloop's add_reader falls silent on a connected UDP socket once something that it sent came back.
#
# Versions    uvloop 0.23.0 (with its own libuv), CPython's asyncio beside it; Linux.
# Expected    A reader that was added is called whenever the socket has something to read, until it is removed. A
#             refusal (ICMP port unreachable, as when a server is started again) is an error for the program to
#             read once, and no end: on UDP the next datagram may well arrive.
# What it does  Where the poll reports the error alone, with no datagram beside it, the reader is called for the last
#             time. What arrives from then on lies in the socket's buffer; nothing is raised and nothing is logged.
#             asyncio's own loop goes on calling the same reader.
# Source      uvloop 0.23.0, Loop.add_reader (a uv_poll_t); libuv, uv__poll_io in src/unix/poll.c: an event that is
#             POLLERR without POLLPRI stops the watcher, and hands the error to the callback.
# For us      After a wake-up that brought no datagram a connected socket is given to the loop anew.
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/v" && "$folder/v/bin/pip" install -q --disable-pip-version-check uvloop==0.23.0 ||
    { echo "uvloop 0.23.0 cannot be had" >&2; exit 2; }

cat > "$folder/run.py" <<'SOURCE'
import asyncio
import select
import socket
import sys

import uvloop


async def heard(limit=3.0):
    """What a reader hears of two datagrams that come after a refusal."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    address = server.getsockname()
    server.close()
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.setblocking(False)
    client.connect(address)
    came, refused = [], asyncio.Event()

    def read():
        try:
            came.append(client.recv(100).decode())
        except ConnectionRefusedError:
            refused.set()
        except BlockingIOError:
            # uvloop's last call comes after the error was taken; there is nothing to read.
            refused.set()

    loop = asyncio.get_running_loop()
    loop.add_reader(client, read)
    client.send(b"to nobody")
    await asyncio.wait_for(refused.wait(), limit)
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(address)
    for text in (b"one", b"two"):
        server.sendto(text, client.getsockname())
    end = loop.time() + limit
    while len(came) < 2 and loop.time() < end:
        await asyncio.sleep(0.01)
    waiting = bool(select.select([client], [], [], 0)[0])
    loop.remove_reader(client)
    client.close()
    server.close()
    return came, waiting


seen = {}
for name, new_loop in (("asyncio", asyncio.new_event_loop), ("uvloop", uvloop.new_event_loop)):
    loop = new_loop()
    seen[name] = loop.run_until_complete(heard())
    loop.close()
    came, waiting = seen[name]
    print(f"{name}: after the refusal the reader got {came}; more waits in the socket: {waiting}")
sys.exit(seen != {"asyncio": (["one", "two"], False), "uvloop": ([], True)})
SOURCE
"$folder/v/bin/python" "$folder/run.py"

#!/bin/sh
# A UDP socket whose buffer is full turns datagrams away until a quarter of the buffer has been read.
#
# Versions    Linux 6.18.44 (the running kernel is tried), Python 3. Needs no privilege; loopback only.
# Expected    What is read makes room: once one datagram has been taken from a full buffer, the next one of that size is
#             let in. And what the kernel says is taken (SO_MEMINFO, the "r" of `ss -m`, Recv-Q of `ss -u`) is what waits.
# What it does  What was read goes on counting until it comes to a quarter of the buffer, or nothing is left to read. Till
#             then everything that arrives is dropped, however many were read. So a reader that takes as many as arrive,
#             one by one, loses them in runs, and its socket is told to be full while up to a quarter of it is free.
# Source      net/ipv4/udp.c, udp_rmem_release(): below udp_sock's forward_threshold, rcvbuf >> 2, nothing is given back while
#             the reader's queue holds something (since 4.10; socket(7), SO_RCVBUF, and udp(7) do not say it).
# For us      A buffer holds a burst of three quarters of its size for sure, not of all of it. Readers take what there is in
#             batches, to the end; who asks how much waits takes the answer for too much rather than too little
#             (clients/tempos/_sockets.py, memory()).
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

command -v python3 >/dev/null || { echo "needs python3" >&2; exit 2; }
python3 - <<'SOURCE'
import os, socket, struct, sys

MEMINFO, BUFFER, SIZE = 55, 65536, 32

def account(sock):
    """Bytes that are taken, bytes that may be, datagrams that found no room."""
    told = struct.unpack("=9I", sock.getsockopt(socket.SOL_SOCKET, MEMINFO, 36))
    return told[0], told[1], told[8]

def tried(read):
    """A full socket of which so many were read: how many were in it, what it says is taken, whether one more is let in."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        sender.connect(receiver.getsockname())
        sent = 0
        while not account(receiver)[2]:
            sender.send(bytes(SIZE))
            sent += 1
        held = sent - 1
        for _ in range(held if read is None else read):
            receiver.recv(SIZE)
        taken, most, dropped = account(receiver)
        sender.send(bytes(SIZE))
        return held, taken, most, account(receiver)[2] == dropped

held, full, most, _ = tried(0)
first = next(read for read in range(1, held) if tried(read)[3])
print(f"Linux {os.uname().release}; a buffer of {most} bytes is full with {held} datagrams of {SIZE} bytes")
for read in (0, 1, first - 1, first):
    _, taken, _, room = tried(read)
    print(f"  {read:3} of them read: {taken} bytes are taken; one more {'is let in' if room else 'is dropped'}")
_, taken, _, _ = tried(None)
print(f"  all of them read: {taken} bytes are taken")
each = full / held
right = (first - 1) * each < most / 4 <= (first + 1) * each and tried(first - 1)[1] == full and taken == 0
sys.exit(0 if right and first > 10 else 1)
SOURCE

#!/bin/sh
# With IP_RECVERR one peer that is gone makes the sends to all others fail, and these are not sent.
#
# Versions    Linux 6.18.44 (the running kernel is tried), Python 3. Needs no privilege; loopback only.
# Expected    A socket that serves many peers is not connected, hears of none of them, and IP_RECVERR adds a queue of its own
#             for what came back, with the address that each error is about. Sends to peers that are there go on.
# What it does  Each error is also pending on the socket itself, without an address: the next call on it, whatever it is and
#             whoever it is for, fails with that error and does nothing else. Where a send to the peer that is gone
#             is followed by one to another peer, the other never gets a datagram. The call after that succeeds, so
#             the sends to the peer that is gone are the ones that are told to have worked.
# Source      ip(7), IP_RECVERR ("all errors"); net/ipv4/udp.c, __udp4_lib_err(): with recverr sk_err is set though the socket
#             is not connected; sock_alloc_send_pskb() of net/core/sock.c returns it before anything is sent.
# For us      Sockets that send to members do not ask for it; who is out of reach is found out by a socket of its own
#             (broker/tempos_broker/members/health.py).
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

command -v python3 >/dev/null || { echo "needs python3" >&2; exit 2; }
python3 - <<'SOURCE'
import errno, os, socket, sys

IP_RECVERR, ROUNDS = 11, 100

def new():
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

def tried(asked):
    """Sends in turn to who is gone and to who is there: what the calls gave for each, and what arrived."""
    with new() as there, new() as sender:
        there.bind(("127.0.0.1", 0))
        there.setblocking(False)
        with new() as gone:
            gone.bind(("127.0.0.1", 0))
            peers = {"gone": gone.getsockname(), "there": there.getsockname()}
        sender.setsockopt(socket.IPPROTO_IP, IP_RECVERR, asked)
        gave = {name: set() for name in peers}
        for _ in range(ROUNDS):
            for name, address in peers.items():
                try:
                    sender.sendto(b"x", address)
                    gave[name].add("sent")
                except OSError as error:
                    gave[name].add(errno.errorcode[error.errno])
        arrived = 0
        try:
            while there.recv(9):
                arrived += 1
        except BlockingIOError:
            pass
        return {name: "/".join(sorted(each)) for name, each in gave.items()}, arrived

print(f"Linux {os.uname().release}; {ROUNDS} sends each, in turn to a peer that is gone and to one that is there")
seen = []
for asked in (0, 1):
    gave, arrived = tried(asked)
    seen.append((gave["gone"], gave["there"], arrived))
    print(f"  IP_RECVERR {asked}: gone: {gave['gone']}; there: {gave['there']}, {arrived} arrived")
sys.exit(seen != [("sent", "sent", ROUNDS), ("sent", "ECONNREFUSED", 0)])
SOURCE

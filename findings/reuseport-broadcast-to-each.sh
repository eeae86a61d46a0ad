#!/bin/sh
# Sockets that share a port by SO_REUSEPORT share out what is sent to one, and have each a copy of what is sent to all.
#
# Versions    Linux 6.18.44 (the running kernel is tried), Python 3. Needs no privilege; loopback only.
# Expected    Sockets of one program that bind a port with SO_REUSEPORT get each datagram once, one of them: chosen by a
#             hash, or by the program of SO_ATTACH_REUSEPORT_CBPF or _EBPF, which "defines how packets are assigned to the
#             sockets in the reuseport group" (socket(7)).
# What it does  Broadcasts and multicasts go to every socket that is bound to the wildcard address, members of a group or
#             not. The program is not run for them at all. So a server that adds sockets to be faster handles what was
#             sent to all as often as it has sockets, and nothing that recv() gives tells.
# Source      net/ipv4/udp.c, __udp4_lib_mcast_deliver(), which asks no reuseport group; socket(7), SO_REUSEPORT.
# For us      A broker that listens on 0.0.0.0 has two sockets, one for each class. It has the kernel tell at one of them to
#             whom a datagram was sent (IP_PKTINFO: the address in the header is not the local one), and passes over what
#             was for all there (broker/native/batch_receive.h).
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

python3 - <<'SOURCE'
import ctypes
import os
import socket
import struct
import sys

ATTACH_REUSEPORT_CBPF, RETURN, SENT, SOCKETS = 51, 0x06, 10, 3
FOR_ALL, HERE, GROUP = "127.255.255.255", "127.0.0.1", "239.192.0.1"


def read_all(sock):
    count = 0
    try:
        while True:
            sock.recv(100)
            count += 1
    except BlockingIOError:
        return count


def new():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.setblocking(False)
    return sock


sockets = [new() for _ in range(SOCKETS)]
sockets[0].bind(("0.0.0.0", 0))
port = sockets[0].getsockname()[1]
for sock in sockets[1:]:
    sock.bind(("0.0.0.0", port))
# One of them joins the group; all have it, as IP_MULTICAST_ALL is on.
sockets[0].setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + socket.inet_aton(HERE))
text = ctypes.create_string_buffer(struct.pack("=HBBI", RETURN, 0, 0, 1))
program = struct.pack("@HP", 1, ctypes.addressof(text))
sockets[0].setsockopt(socket.SOL_SOCKET, ATTACH_REUSEPORT_CBPF, program)
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(HERE))
seen = {}
for name, to in (("one address", HERE), ("all", FOR_ALL), ("a multicast group", GROUP)):
    for _ in range(SENT):
        sender.sendto(b"x", (to, port))
    seen[name] = [read_all(sock) for sock in sockets]
print(f"Linux {os.uname().release}; {SOCKETS} sockets, a program that chooses the second, {SENT} datagrams sent")
for name, counts in seen.items():
    print(f"  to {name:18} come as {', '.join(map(str, counts))}")
each = [SENT] * SOCKETS
sys.exit(list(seen.values()) != [[0, SENT, 0], each, each])
SOURCE

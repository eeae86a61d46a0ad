#!/bin/sh
# Datagrams that a UDP socket was closed upon, unread, are in no counter: neither received nor lost.
#
# Versions    Linux 6.18.44 (the running kernel is tried), Python 3. Needs the right to make a network namespace, for counters
#             that nobody else moves.
# Expected    Udp InDatagrams and its errors (InErrors, RcvbufErrors, NoPorts: nstat, netstat -su, /proc/net/snmp) account
#             for every datagram that arrives: so what was sent less what was received is what one of the errors says.
# What it does  A datagram is counted as received when the program reads it, not when it arrives, and one that is taken back
#             because its socket is closed is counted nowhere; the socket's own count of drops goes with the socket.
#             A server that is started again loses what waited in its buffer with every counter at zero.
# Source      net/ipv4/udp.c: udp_recvmsg() counts UDP_MIB_INDATAGRAMS; udp_destruct_sock() frees what is left without
#             counting. RFC 4113, udpInDatagrams: "delivered to UDP users".
# For us      A socket is read empty before it is closed, with what comes meanwhile turned away and counted; what a subscriber
#             does not hand out any more is told as discarded.
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

command -v python3 >/dev/null || { echo "needs python3" >&2; exit 2; }
unshare --net true 2>/dev/null || { echo "needs the right to make a network namespace" >&2; exit 2; }
unshare --net python3 - <<'SOURCE'
import fcntl, os, pathlib, socket, struct, sys

SENT, SIOCSIFFLAGS, IFF_UP = 100, 0x8914, 1

def counters():
    names, values = (line.split()[1:] for line in pathlib.Path("/proc/net/snmp").read_text().splitlines()
                     if line.startswith("Udp:"))
    return dict(zip(names, map(int, values)))

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
began = counters()
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    for _ in range(SENT):
        sender.sendto(b"x", receiver.getsockname())
    arrived = counters()
    for _ in range(SENT // 4):
        receiver.recv(9)
    receiver.close()
ended = counters()

def grew(now):
    return {name: value - began[name] for name, value in now.items() if value != began[name]}

print(f"Linux {os.uname().release}; {SENT} datagrams sent to a socket that has room for them")
print(f"  all of them in its buffer:        {grew(arrived)}")
print(f"  a quarter read, and then closed:  {grew(ended)}")
sys.exit((grew(arrived), grew(ended)) != ({"OutDatagrams": SENT}, {"OutDatagrams": SENT, "InDatagrams": SENT // 4}))
SOURCE

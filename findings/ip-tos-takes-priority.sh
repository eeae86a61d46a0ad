#!/bin/sh
# IP_TOS takes back the SO_PRIORITY that a socket was given, and IPV6_TCLASS does not.
#
# Versions    Linux 6.18.44 (the running kernel is tried), Python 3. Needs no privilege.
# Expected    SO_PRIORITY is what the queues of this machine go by (taprio, mqprio, prio), IP_TOS what the network goes by:
#             two things, set in any order. If they hang together, then as socket(7) has it: SO_PRIORITY "also sets
#             the IP type-of-service (TOS) field", and not the other way round.
# What it does  The other way round: SO_PRIORITY leaves TOS as it is, IP_TOS sets SO_PRIORITY, by a table for the four bits
#             of TOS as they were before DiffServ: EF becomes 4, CS6, which is to be ahead of all, becomes 0, like
#             CS0. So who asks for priority 6 and then marks packets, has them in the queue of 4 or 0, without an error.
#             IPV6_TCLASS leaves the priority alone; IP_TOS of an IPv6 socket, for what goes to IPv4, does not.
# Source      net/ipv4/ip_sockglue.c, __ip_sock_set_tos(): sk->sk_priority = rt_tos2priority(val); ip_tos2prio in
#             net/ipv4/route.c; socket(7), SO_PRIORITY.
# For us      The slow path sets IP_TOS first and SO_PRIORITY second; with one socket for both classes, where the DSCP comes
#             with each message, it says that the priority follows from that (broker/tempos_broker/slowpath/marking.py).
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

python3 - <<'SOURCE'
import os
import socket
import sys

IPV6_TCLASS = 67
EF, CS6 = 46 << 2, 48 << 2
KINDS = {
    "IP_TOS": (socket.AF_INET, socket.IPPROTO_IP, socket.IP_TOS),
    "IPV6_TCLASS": (socket.AF_INET6, socket.IPPROTO_IPV6, IPV6_TCLASS),
    "IP_TOS of an IPv6 socket": (socket.AF_INET6, socket.IPPROTO_IP, socket.IP_TOS),
}
seen = {}
print(f"Linux {os.uname().release}; SO_PRIORITY 6, and then")
for name, (family, level, option) in KINDS.items():
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM)
    except OSError as error:
        print(f"{name} cannot be tried here: {error}", file=sys.stderr)
        sys.exit(2)
    with sock:
        found = []
        for mark in (EF, CS6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 6)
            sock.setsockopt(level, option, mark)
            found.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY))
        sock.setsockopt(level, option, EF)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 6)
        stays = sock.getsockopt(level, option) == EF
    seen[name] = (*found, stays)
    kept = "stays" if stays else "goes"
    print(f"  {name:25} EF: {found[0]}, CS6: {found[1]}; the mark {kept} where SO_PRIORITY comes after")
sys.exit(seen != {"IP_TOS": (4, 0, True), "IPV6_TCLASS": (6, 6, True), "IP_TOS of an IPv6 socket": (4, 0, True)})
SOURCE

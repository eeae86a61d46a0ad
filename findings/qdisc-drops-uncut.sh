#!/bin/sh
# A queue counts what it sends in datagrams, and what it drops in packets, each of which may hold many.
#
# Versions    Linux 6.18 (the running kernel is tried; the same with etf below taprio on Debian's 6.12), iproute2
#             6.1.0-3 (Debian 12), Python 3. Needs root, for a network namespace of its own; nothing outside is touched.
# Expected    `tc -s qdisc` says "Sent ... pkt (dropped ...)": two counts of one kind, whose sum is what was offered.
# What it does  A message that UDP_SEGMENT cuts into ten datagrams counts as ten where it is sent and as one where it
#             is dropped. So from the dropped count nobody can tell how many datagrams are gone.
# Source      include/net/sch_generic.h: bstats_update() adds gso_segs, qdisc_qstats_drop() adds one;
#             net/sched/sch_taprio.c segments since Linux 6.3 only what fits no window, before that everything.
# For us      What was lost in a queue is what was offered less what it let pass, both counted in datagrams (by
#             classifiers before it, and its own "Sent").
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

[ "$(id -u)" = 0 ] || { echo "needs root: it makes a network namespace" >&2; exit 2; }
unshare --net true 2>/dev/null || { echo "needs the right to make a network namespace" >&2; exit 2; }
command -v tc >/dev/null && command -v python3 >/dev/null || { echo "needs iproute2 and Python" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

cat > send.py <<'SOURCE'
"""Ten datagrams of 64 bytes in one message, which the kernel is to cut."""
import socket

SOL_UDP, UDP_SEGMENT = 17, 103
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.setsockopt(SOL_UDP, UDP_SEGMENT, 64)
    sender.sendto(bytes(640), ("10.0.0.2", 9))
SOURCE

cat > play.sh <<'SOURCE'
set -eu
sysctl -qw net.ipv6.conf.default.disable_ipv6=1 || :
ip link add v0 type veth peer name v1
ip address add 10.0.0.1/24 dev v0
ip link set v0 up
ip link set v1 up
ip neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev v0
for limit in 1000 0; do
    tc qdisc add dev v0 root handle 1: pfifo limit $limit || exit 2
    python3 send.py
    tc -s qdisc show dev v0 | sed -n 's/ *Sent .* bytes \([0-9]*\) pkt (dropped \([0-9]*\).*/\1 \2/p'
    tc qdisc del dev v0 root
done
SOURCE
unshare --net sh play.sh > seen
{ read -r sent none; read -r nothing dropped; } < seen
echo "ten datagrams in one message: a queue that lets them pass has sent $sent, one that does not has dropped $dropped"
[ "$sent $none $nothing $dropped" = "10 0 0 1" ]

#!/bin/sh
# SO_RXQ_OVFL says "0 lost" with every datagram of a burst of which nine tenths were lost.
#
# Versions    Linux 6.18.44; iproute2 6.1.0 (Debian 12: 6.1.0-3), whose `ss` reads the socket's own counter.
# Expected    The count that comes beside each datagram is how many the socket has dropped so far: who reads a socket
#             empty after a burst knows what the burst lost.
# What it does  The count is what it was when that datagram was put into the queue, not when it is read. What is dropped
#             behind the last one that found room comes with the next that does, however much later; where none comes it
#             is never told. A socket that dropped nothing before says 0 to its last datagram.
# Source      socket(7), SO_RXQ_OVFL; net/core/sock.c, sock_skb_set_dropcount(), called where a buffer is queued.
# For us      Who counts losses asks for SO_MEMINFO, which has the counter of now (clients/tempos/_sockets.py, memory()).
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
command -v apt-get >/dev/null || { echo "needs apt-get" >&2; exit 2; }
command -v python3 >/dev/null || { echo "needs python3" >&2; exit 2; }
apt-get download -qq iproute2=6.1.0-3 >/dev/null 2>&1 || { echo "the package cannot be had (apt-get update?)" >&2; exit 2; }
dpkg-deb -x ./*.deb root
ss=$folder/root/bin/ss
"$ss" -V | grep -q 6.1.0 || { echo "it cannot be run here" >&2; exit 2; }

cat > run.py <<'SOURCE'
import re
import socket
import struct
import subprocess
import sys

RXQ_OVFL, SENT = 40, 2000


def read(sock: socket.socket) -> tuple[int, int]:
    """All that is there: how many, and what the last one says was lost before it."""
    count = lost = 0
    while True:
        try:
            _, beside, _, _ = sock.recvmsg(100, 64)
        except BlockingIOError:
            return count, lost
        count += 1
        lost = sum(struct.unpack("=I", data)[0] for _, kind, data in beside if kind == RXQ_OVFL)


def counter(sock: socket.socket) -> int:
    told = subprocess.run([sys.argv[1], "-uanmH", "sport", "=", f":{sock.getsockname()[1]}"],
                          capture_output=True, text=True, check=True).stdout
    return int(re.search(r"skmem:.*,d(\d+)\)", told)[1])


with (
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
):
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    receiver.setsockopt(socket.SOL_SOCKET, RXQ_OVFL, 1)
    receiver.bind(("127.0.0.1", 0))
    receiver.setblocking(False)
    for _ in range(SENT):
        sender.sendto(b"burst", receiver.getsockname())
    came, told = read(receiver)
    dropped = counter(receiver)
    print(f"{SENT} sent, {came} read: the last one says {told} lost, ss says {dropped}")
    sender.sendto(b"later", receiver.getsockname())
    print(f"one more, later, says {(later := read(receiver)[1])}")
    sys.exit(not (came + dropped == SENT and dropped > SENT / 2 and told == 0 and later == dropped))
SOURCE
echo "Linux $(uname -r), $("$ss" -V)"
python3 run.py "$ss"

#!/bin/sh
# The end of a socket pair that dies with something unread makes the other end's next read fail before it gives what
# had been sent.
#
# Versions    Linux 6.18, AF_UNIX, SOCK_SEQPACKET; nothing but Python's standard library.
# Expected    A socket pair is reliable and in order: who reads gets what the other end had sent, then the error that
#             tells of what was left unread, then the end. With SOCK_STREAM it is so.
# What it does  With SOCK_SEQPACKET the error, ECONNRESET, comes first, and once. Whoever takes it for the end throws
#             away all that lies in the buffer: the reads after it give every message, and only then the end.
# Source      unix_release_sock() in net/unix/af_unix.c sets the peer's sk_err where something lies unread. Packets
#             are read by __skb_try_recv_datagram() of net/core/datagram.c, which asks for that error before it looks
#             at the queue; unix_stream_read_generic() asks once the queue is empty.
# For us      Answers of a worker that died with calls unread are read to the end, beyond the error.
#
# Exit code 0: seen as described; 1: something else was seen; 2: could not be tried here.
set -eu

python3 - <<'SOURCE'
import socket
import sys

seen = {}
for kind in ("SOCK_SEQPACKET", "SOCK_STREAM"):
    ours, theirs = socket.socketpair(socket.AF_UNIX, getattr(socket, kind))
    ours.setblocking(False)
    ours.send(b"never read")
    for answer in (b"one", b"two"):
        theirs.send(answer)
    theirs.close()
    reads = []
    for _ in range(4):
        try:
            reads.append(ours.recv(3).decode() or "the end")
        except OSError as error:
            reads.append(type(error).__name__)
    ours.close()
    seen[kind] = reads
    print(f"{kind}: {', '.join(reads)}")
sys.exit(
    seen
    != {
        "SOCK_SEQPACKET": ["ConnectionResetError", "one", "two", "the end"],
        "SOCK_STREAM": ["one", "two", "ConnectionResetError", "the end"],
    }
)
SOURCE

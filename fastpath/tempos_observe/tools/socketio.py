"""socketio: how often processes write to sockets and read from them, and how many bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tempos_observe.frame.session import Session
from tempos_observe.tool import Counts, Example, Hook, Tool, Value

#: As the program numbers them (socketio.bpf.c).
_WAYS = ("write", "read", "peek")
_KEYS = ("comm", "pid", "way", "protocol")


def _counted(of: str) -> Callable[[Session], Iterator[tuple[tuple[Value, ...], int]]]:
    def rows(session: Session) -> Iterator[tuple[tuple[Value, ...], int]]:
        for key, io in session.rows("users"):
            count = getattr(io, of)
            if count:
                yield (key.comm, key.pid, _WAYS[key.way], key.protocol), count

    return rows


TOOL = Tool(
    name="socketio",
    question="How often, and how much, do processes write to sockets and read from them?",
    programs="socketio",
    hooks=(
        Hook("tempos_sent", "tracepoint sock_send_length: what is written, by any system call"),
        Hook("tempos_received", "tracepoint sock_recv_length: what is read, by any system call"),
    ),
    views=lambda wishes: (
        Counts("bytes", _KEYS, _counted("bytes")),
        Counts("io", _KEYS, _counted("times")),
        Counts("failed", _KEYS, _counted("failed")),
    ),
    blind=(
        "how many datagrams a message is that the kernel cuts or joins (GSO, GRO); its bytes are all there",
        "bytes that a look at what stays in the socket (MSG_PEEK) showed: it counts as `peek`, without bytes",
        "bytes behind the end of the room that was given for a datagram",
    ),
    examples=(
        Example("socketio --duration 10", "who speaks to whom how much, on this machine"),
        Example("socketio --broker --interval 1", "broker, worker and invokers"),
    ),
)

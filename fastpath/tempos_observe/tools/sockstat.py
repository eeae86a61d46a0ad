"""sockstat: how often sockets are used, each second, and by which door."""

from __future__ import annotations

from collections.abc import Iterator

from tempos_observe import calls
from tempos_observe.frame.session import Session
from tempos_observe.tool import Counts, Example, Hook, Tool, Value

#: Where the program counts each (sockstat.bpf.c): first what is no system call.
_DOORS = (
    "sock_sendmsg",
    "sock_recvmsg",
    "accept",
    "accept4",
    "bind",
    "connect",
    "listen",
    "socket",
    "socketpair",
)
_CALLS = {name: index for index, name in enumerate(_DOORS) if index >= 2}


def _uses(session: Session) -> Iterator[tuple[tuple[Value, ...], int]]:
    for _, uses in session.fresh("uses"):
        for name, count in zip(_DOORS, uses.times, strict=False):
            if count:
                yield (f"sys_exit_{name}" if name in _CALLS else name,), count


TOOL = Tool(
    name="sockstat",
    question="How often are sockets used each second, and how?",
    programs="sockstat",
    hooks=(
        Hook(
            "tempos_called",
            "tracepoint sys_exit: socket, socketpair, bind, listen, connect, accept and accept4",
            without="system calls",
            needs=calls.known,
        ),
        Hook(
            "tempos_sent", "tracepoint sock_send_length: every sock_sendmsg", without="messages that are sent"
        ),
        Hook(
            "tempos_received",
            "tracepoint sock_recv_length: every sock_recvmsg",
            without="messages that are received",
        ),
    ),
    views=lambda wishes: (Counts("", ("probe",), _uses),),
    blind=(
        "how many datagrams a message is that the kernel cuts or joins (GSO, GRO): it counts as one",
        "calls that have not ended yet",
        *calls.BLIND,
    ),
    rodata=lambda wishes: {"calls": calls.table(_CALLS)},
    interval=1.0,
    examples=(
        Example("sockstat", "every second, of the whole machine; `socketio` and `sofamily` say who it is"),
        Example("sockstat --broker --interval 10", "of broker, worker and invokers, every ten seconds"),
    ),
)

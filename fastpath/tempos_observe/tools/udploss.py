"""udploss: which UDP socket, and whose process, lost how many datagrams for which reason."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from tempos_observe.frame.session import Session
from tempos_observe.frame.sockets import OWNERS, Owner, address, owners
from tempos_observe.tool import Column, Example, Hook, Row, Table, Tool

_BEST = "tempos_thrown_for"
_PREFIX = "SKB_DROP_REASON_"
_COLUMNS = (
    Column("PID", "pid", 7, "d"),
    Column("COMM", "comm", 15),
    Column("WAY", "way", 4),
    Column("LADDR", "laddr", 15),
    Column("LPORT", "lport", 5, "d"),
    Column("NETNS", "netns", 10, "d", spare=2),
    Column("DATAGRAMS", "datagrams", 9, "d"),
    Column("BYTES", "bytes", 10, "d", spare=1),
    Column("REASON", "reason", 16),
)


def _rows(session: Session) -> Iterator[Row]:
    whose = owners(session)
    for key, lost in session.rows("losses"):
        if not lost.datagrams:
            continue  # booked on its socket since
        owner = _kept(session, key.inode, whose.get(key.inode))
        if not session.wants(owner.pid if owner else None, owner.comm if owner else None):
            continue
        yield (
            owner.pid if owner else None,
            owner.comm if owner else None,
            "out" if key.sent else "in",
            address(key.ends_local, key.ends_family),
            key.ends_local_port,
            key.namespace or None,
            lost.datagrams,
            lost.bytes if lost.bytes else None,
            _reason(key.reason),
        )


def _kept(session: Session, inode: int, owner: Owner | None) -> Owner | None:
    """Of a process that is gone meanwhile, who it was when it was last seen."""
    known: dict[int, Owner] = session.state
    if owner is not None and inode:
        known[inode] = owner
    return known.get(inode)


@lru_cache(256)
def _reason(number: int) -> str:
    from tempos_bpf.layouts import kernel_types

    named = kernel_types().enumerators("skb_drop_reason").get(number)
    return named.removeprefix(_PREFIX).lower() if named else f"reason {number}"


TOOL = Tool(
    name="udploss",
    question="Which UDP socket, and whose, lost how many datagrams, and why?",
    programs="udploss",
    hooks=(
        Hook(_BEST, "tracepoint kfree_skb: packets thrown away, with reason and socket"),
        Hook("tempos_thrown", "tracepoint kfree_skb: packets thrown away, with reason", instead_of=_BEST),
        Hook("tempos_full", "tracepoint udp_fail_queue_rcv_skb: full receive buffers", instead_of=_BEST),
        OWNERS,
    ),
    views=lambda wishes: (Table("losses", "Datagrams lost:", _COLUMNS, _rows, order="datagrams"),),
    blind=(
        "what a network card or an XDP program drops: those count by themselves (ip -s link, tempos status)",
        "the process of a socket that was closed before anybody looked: look more often, by --interval",
        "before Linux 6.6 whose a full receive buffer of IPv6 is: the loss stands at its port",
        "datagrams that an XDP redirect loses: xdpwhy has them, and tempos status (paths.fast.drops)",
    ),
    start=lambda session: {},
    examples=(
        Example("udploss --broker --interval 1", "every second, what broker and invokers lost so far"),
        Example("udploss --duration 10 --json", "for programs"),
    ),
)  # fmt: skip

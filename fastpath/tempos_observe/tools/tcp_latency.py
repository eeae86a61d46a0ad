"""tcp-latency: every TCP connect of every process, how long it took or why it failed, what became of it."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from typing import Any

from tempos_observe import calls
from tempos_observe.frame.session import Session
from tempos_observe.frame.sockets import address
from tempos_observe.tool import Column, Events, Example, Hook, Option, Row, Tool
from tempos_observe.wishes import Wishes

_MS = 1e6
_WHOLE = "whole"
_WALK = "tempos_connected"
#: As the source has them, and what it does not tell.
_COLUMNS = (
    Column("PID", "pid", 7, "<d"),
    Column("COMM", "comm", 15),
    Column("SADDR", "saddr", 15, spare=1),
    Column("DADDR", "daddr", 15),
    Column("DPORT", "dport", 5, "d"),
    Column("SPORT", "sport", 5, "d", spare=3),
    Column("LAT(ms)", "latency_ms", 9, ".3f"),
)
_END = (Column("NETNS", "netns", 10, "d", spare=9), Column("ERROR", "error", 5))
#: Of a whole connection. Goodput: payload that arrived; throughput: all, headers and repetitions too.
_LIFE = (
    Column("LIFE(ms)", "life_ms", 10, ".1f", spare=2),
    Column("TX(B)", "tx_bytes", 9, "d"),
    Column("RX(B)", "rx_bytes", 9, "d"),
    Column("TXGOOD(kB/s)", "tx_goodput_kBps", 12, ".1f", spare=6),
    Column("RXGOOD(kB/s)", "rx_goodput_kBps", 12, ".1f", spare=6),
    Column("TXALL(kB/s)", "tx_throughput_kBps", 11, ".1f", spare=7),
    Column("RXALL(kB/s)", "rx_throughput_kBps", 11, ".1f", spare=7),
    Column("RTT(ms)", "rtt_ms", 8, ".3f"),
    Column("JITTER(ms)", "jitter_ms", 10, ".3f", spare=4),
    Column("ANSWERS", "answers", 7, "d", spare=5),
    Column("APP(ms)", "answer_ms", 9, ".3f"),
    Column("APPMAX(ms)", "answer_max_ms", 10, ".3f", spare=5),
)


def _columns(wishes: Wishes) -> Sequence[Column]:
    return (*_COLUMNS, *(_LIFE if wishes.own[_WHOLE] else ()), *_END)


def _row(record: Any, session: Session) -> Row:
    established = record.established_ns
    # None where there has been no SYN.
    latency = ((established or record.now_ns) - record.begun_ns) / _MS if record.begun_ns else None
    return (
        record.pid,
        record.comm,
        address(record.ends_local, record.ends_family),
        address(record.ends_remote, record.ends_family),
        record.ends_remote_port,
        record.ends_local_port,
        latency,
        *(_life(record) if session.wishes.own[_WHOLE] else ()),
        record.namespace,
        _error(record),
    )


def _error(record: Any) -> str | None:
    """Why there is no connection; None: there is one, or it has been one."""
    if record.established_ns:
        return None
    return errno.errorcode.get(record.error, str(record.error)) if record.error else "given up"


def _life(record: Any) -> Row:
    if not record.established_ns:
        return (None,) * len(_LIFE)
    life = record.now_ns - record.established_ns
    per_kb = life / _MS if life else None
    rates = [record.sent, record.received, record.wire_sent, record.wire_received]
    return (
        life / _MS,
        record.sent,
        record.received,
        *(each / per_kb if per_kb else None for each in rates),
        record.srtt_us / 1e3,
        record.mdev_us / 1e3,
        record.answers,
        record.answer_ns / record.answers / _MS if record.answers else None,
        record.answer_max_ns / _MS if record.answers else None,
    )


def _open(session: Session) -> Iterator[Row]:
    """The connections that are still there, where the kernel lets a program go over them."""
    if _WALK not in session.has:
        return
    for record in session.iterate(_WALK, "tempos_connection", "openers"):
        yield _row(record, session)


def _views(wishes: Wishes) -> tuple[Events]:
    return (
        Events(
            "connections",
            "tempos_connection",
            _columns(wishes),
            _row,
            remaining=_open if wishes.own[_WHOLE] else None,
        ),
    )


TOOL = Tool(
    name="tcp-latency",
    question="How long does each TCP connect take, whose is it, and why did it fail?",
    programs="tcp_latency",
    hooks=(
        Hook("tempos_state", "tracepoint inet_sock_set_state: from SYN to established, or to the error"),
        Hook(
            "tempos_connect_ended",
            "tracepoint sys_exit: connect that failed before there was a SYN",
            without="connects that fail before there is a SYN",
            needs=calls.known,
        ),
        Hook(
            "tempos_answered",
            "tracepoint sk_data_ready: the first data of an answer",
            without="how long answers take (ANSWERS, APP)",
            only_with=_WHOLE,
        ),
        Hook(
            _WALK,
            "iterator bpf_sk_storage_map: connections that are still open, when they are shown",
            without="connections that are still open at the end",
            only_with=_WHOLE,
        ),
    ),
    views=_views,
    options=(
        Option(
            _WHOLE,
            "a line when a connection ends, not when it begins: how long it lasted, goodput and throughput, "
            "the kernel's smoothed round trip and its jitter, answers; at the end (and at each --interval) "
            "those that are still open",
        ),
    ),
    rodata=lambda wishes: {"whole": bytes([wishes.own[_WHOLE]]), "calls": calls.table({"connect": 1})},
    blind=(
        "connections that were opened before it began; those that others open to this machine's servers",
        "answers of a peer without SACK; how much of what came in came more than once",
    ),
    examples=(
        Example("tcp-latency", "every connect of every process"),
        Example(
            "tcp-latency --whole --comm curl",
            "what curl's connections were worth, and how long servers think",
        ),
        Example("tcp-latency --broker --json", "for programs: what the broker connects to"),
    ),
)

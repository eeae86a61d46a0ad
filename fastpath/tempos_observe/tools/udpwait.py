"""udpwait: how long datagrams wait in a socket's buffer before the process reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tempos_observe.frame.session import Session
from tempos_observe.tool import Column, Example, Histogram, Hook, Option, Row, Table, Tool, Value
from tempos_observe.wishes import Wishes

_US = 1e3
_EACH = "histograms"
_COLUMNS = (
    Column("PID", "pid", 7, "<d"),
    Column("COMM", "comm", 15),
    Column("LPORT", "lport", 5, "d"),
    Column("NETNS", "netns", 10, "d", spare=2),
    Column("READ", "read", 9, "d"),
    Column("MEAN(us)", "mean_us", 9, ".1f"),
    Column("P50(us)<", "p50_below_us", 9, "d", spare=1),
    Column("P99(us)<", "p99_below_us", 9, "d"),
    Column("MAX(us)", "max_us", 10, ".1f"),
    Column("UNKNOWN", "unknown", 7, "d"),
)


def _rows(session: Session) -> Iterator[Row]:
    for key, waits in session.rows("waits"):
        known = sum(waits.buckets)
        yield (
            key.pid,
            waits.comm,
            key.port,
            key.namespace,
            waits.read,
            waits.wait_ns / known / _US if known else None,
            _below(waits.buckets, known, 0.5),
            _below(waits.buckets, known, 0.99),
            waits.longest_ns / _US if known else None,
            waits.read - known,
        )


def _below(buckets: tuple[int, ...], known: int, share: float) -> int | None:
    """What at least this share of the waits were shorter than: the end of a bucket."""
    reached = 0
    for bucket, count in enumerate(buckets):
        reached += count
        if reached and reached >= known * share:
            return 1 << bucket
    return None


def _histograms(session: Session) -> Iterator[tuple[tuple[Value, ...], tuple[int, ...]]]:
    for key, waits in session.rows("waits"):
        yield (waits.comm, key.pid, key.port), waits.buckets


def _views(wishes: Wishes) -> tuple[Any, ...]:
    table = Table("waits", "Datagrams read, and how long they waited:", _COLUMNS, _rows, order="read")
    if not wishes.own[_EACH]:
        return (table,)
    return (table, Histogram("usecs", ("comm", "pid", "lport"), _histograms))


TOOL = Tool(
    name="udpwait",
    question="How long do datagrams wait in a socket's buffer before the process reads them?",
    programs="udpwait",
    hooks=(
        Hook("tempos_arrived", "tracepoint sk_data_ready: a datagram is in the buffer"),
        Hook("tempos_read", "tracepoint sock_recv_length: it was read"),
    ),
    views=_views,
    options=(Option(_EACH, "also a histogram of each socket's waits, in microseconds"),),
    blind=(
        "when the datagrams came that waited already when it began, and those behind 4,096 others: UNKNOWN",
        "arrivals that the kernel runs no program for, and a last one that was read at once: UNKNOWN",
        "which of several threads that read one socket at the same moment had which datagram",
        "datagrams that the kernel joined for a socket with UDP_GRO: they are one read",
    ),
    examples=(
        Example("udpwait --broker --interval 1", "whether broker, worker and invokers keep up"),
        Example("udpwait --comm tempos --histograms --duration 10", "the distribution of each socket"),
    ),
)

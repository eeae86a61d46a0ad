"""One or two processes behind one face: why there is no worker, and what is told of the one there is."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from typing import Any

import pytest

from tempos import Framing, Quality, Reason, Topic
from tempos._rows import Rows
from tempos_broker import scheduling
from tempos_broker.config.model import Limits, QualityConfig
from tempos_broker.paths import LocalLimits, LocalTickets, RateLimits, Tickets
from tempos_broker.slowpath import SlowPathServer
from tempos_broker.slowpath.book import ARRIVED
from tempos_broker.tickets import FileTickets
from tempos_broker.worker.slowpaths import SlowPaths

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the worker is for Linux")

SQ, BQ = Topic(1, "sq", Quality.SQ, framing=Framing.RAW), Topic(2, "bq", framing=Framing.RAW)
WANTED = QualityConfig(worker_sq=True, priority_sq=0, dscp_sq=0, so_priority_sq=0)


def make(quality: QualityConfig, tickets: Tickets, rates: RateLimits, *, portable: bool = False) -> SlowPaths:
    limits = Limits(receive_buffer=65536)
    server = SlowPathServer(
        topics=(SQ, BQ), listen=("127.0.0.1",), port=0, limits=limits, tickets=tickets, portable=portable,
        quality=quality, rates=rates,
    )  # fmt: skip
    return SlowPaths(
        server, topics=(SQ, BQ), quality=quality, limits=limits, tickets=tickets, rates=rates, rows=Rows()
    )


@pytest.fixture
def shared() -> Any:
    return pytest.importorskip("tempos_broker.shared", reason="the compiled helper is not built")


@pytest.fixture
def tickets() -> Any:
    made = FileTickets(None, Rows())
    yield made
    made.close()


@pytest.fixture
def rates(shared: Any) -> Any:
    descriptor = shared.anonymous("test", shared.SharedRates.size(Rows()))
    yield shared.SharedRates(descriptor, Rows())
    os.close(descriptor)


@pytest.mark.parametrize(
    ("change", "own", "portable", "why"),
    [
        ({"worker_sq": False}, "", False, "not asked for in the configuration"),
        (
            {"sockets": "one"},
            "",
            False,
            "SQ and BQ share the data socket (the configuration says sockets = one)",
        ),
        ({}, "", True, "it needs recvmmsg, but the slow path is portable: asked for"),
        ({}, "tickets", False, "the ticket counters are this process's own"),
        ({}, "rates", False, "the token buckets are this process's own"),
    ],
)
async def test_where_there_is_no_worker_the_status_says_why_and_the_broker_serves(
    change: dict[str, Any], own: str, portable: bool, why: str, tickets: Any, rates: Any
) -> None:
    paths = make(
        replace(WANTED, **change),
        LocalTickets() if own == "tickets" else tickets,
        LocalLimits() if own == "rates" else rates,
        portable=portable,
    )
    await paths.start()
    await paths.start_worker()
    try:
        told = paths.worker()
        assert (told["state"], told["pid"]) == ("off", None)
        assert told["reason"].startswith(why)
        assert told["broker_cpus"] == sorted(os.sched_getaffinity(0))
    finally:
        await paths.close()


async def test_the_account_is_that_of_both_and_stays_when_all_is_closed(tickets: Any, rates: Any) -> None:
    paths = make(WANTED, tickets, rates)
    await paths.start()
    await paths.start_worker()
    try:
        told = paths.worker()
        assert told["state"] == "serving", told
        assert (told["policy"], told["priority"], told["nice"]) == (
            "other",
            0,
            os.getpriority(os.PRIO_PROCESS, 0),
        )
        assert told["io"] == "recvmmsg"
        assert paths._estate is not None
        # As if three had come and one of them had gone out, two still waiting.
        book = paths._estate.book
        book.counts[SQ.id][ARRIVED] += 3
        book.counts[SQ.id][Reason.FORWARDED] += 1
        status = paths.status()
        assert (status.received, status.queued) == (3, 2)
        assert {quality: each.queued for quality, each in status.classes.items()} == {
            Quality.SQ: 2,
            Quality.BQ: 0,
        }
        os.kill(told["pid"], signal.SIGCONT)  # its own process, alive
    finally:
        await paths.close()
    with pytest.raises(ProcessLookupError):
        os.kill(told["pid"], signal.SIGCONT)
    assert paths.worker()["state"] == "off"
    assert paths.counters() == {SQ.id: {Reason.FORWARDED: 1, Reason.WORKER_LOST: 2}}
    assert paths.status().queued == 0
    await paths.close()


def test_a_cpu_that_is_not_there_is_told() -> None:
    before = os.sched_getaffinity(0)
    missing = max(before) + 1000
    try:
        assert scheduling.pin(()) == ""
        assert str(missing) in scheduling.pin((missing,))
        assert os.sched_getaffinity(0) == before
        assert f"no CPU {missing}" in scheduling.pin((min(before), missing))
        assert scheduling.cpus_of(0) == (min(before),)
        given = scheduling.give(os.getpid(), 0, before, (missing,))
        assert f"CPUs {missing} cannot all be had" in given.reason
        assert set(given.cpus) == before
    finally:
        scheduling.pin(before)

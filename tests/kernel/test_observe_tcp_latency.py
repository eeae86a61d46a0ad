"""tcp-latency tells every connect and whose it is; its times hold against those that the process measured."""

from __future__ import annotations

import errno
from collections import Counter

import pytest
from support.nodes import loopback_up
from support.observing import Filtered, Line, Observed, acting, called, inode
from support.privileges import require_kernel, require_netns

from tempos_bench.nodes.namespace import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.netns]
MS = 1e6


def events(lines: list[Line], pid: int) -> list[Line]:
    return [line for line in lines if line["type"] == "event" and line["pid"] == pid]


@pytest.mark.parametrize(("processes", "version"), [(1, 6), (50, 4)])
def test_every_connect_is_told_with_its_process(
    space: Namespace | None, processes: int, version: int
) -> None:
    here = "127.0.0.1" if version == 4 else "::1"
    where = inode(str(space.path) if space else "/proc/self/ns/net")
    with (
        acting("tcp_connects", processes=processes, space=space, count=5, version=version) as acts,
        Filtered("tcp-latency", acts) as tools,
    ):
        done = acts.go()
        for lines, whom, alone in tools.stop(done):
            for index, each in whom.items():
                rows = events(lines, each["pid"])
                assert [str(row["sport"]) for row in rows] == list(each["made"])
                for row in rows:
                    assert 0 < row["latency_ms"] * MS <= each["made"][str(row["sport"])]
                    assert (row["saddr"], row["daddr"], row["dport"]) == (here, here, each["port"])
                    assert (row["comm"], row["netns"], row["error"]) == (called(index), where, None)
            if alone:
                assert len(lines) == 2 + 5 * len(whom)


def test_a_connect_that_fails_says_why(space: Namespace | None) -> None:
    with acting("tcp_failures", space=space) as acts, Observed("tcp-latency") as tool:
        (done,) = acts.go()
        rows = events(tool.stop(), done["pid"])
    told = {(row["daddr"], row["dport"], row["error"]) for row in rows if row["error"]}
    expected = {
        ("127.0.0.1", done["refused"], "ECONNREFUSED"),
        ("127.0.0.1", done["given_up"], "given up"),
        ("224.0.0.1", 1, errno.errorcode[done["no_network"]]),
    }
    assert told == expected
    assert all(row["sport"] for row in rows if row["error"] == "ECONNREFUSED")


@pytest.mark.parametrize(("processes", "version"), [(1, 4), (1, 6), (10, 4)])
def test_a_connect_for_which_there_is_no_port_left_has_failed(processes: int, version: int) -> None:
    require_kernel()
    require_netns()
    with (
        Namespace("observed") as space,
        acting("tcp_exhausted", processes=processes, space=space, version=version, count=7, ports=4) as acts,
        Observed("tcp-latency") as tool,
    ):
        space.call(loopback_up)
        where = inode(str(space.path))
        done = acts.go()
        lines = tool.stop()
    for each in done:
        assert Counter(each["results"]) == {0: 4, errno.EADDRNOTAVAIL: 3}
        rows = events(lines, each["pid"])
        assert Counter(row["error"] for row in rows) == {None: 4, "EADDRNOTAVAIL": 3}
        for row in rows:
            assert (row["dport"], row["netns"]) == (each["port"], where)


@pytest.mark.parametrize("close", [True, False])
def test_what_a_connection_was_worth(close: bool) -> None:
    require_kernel()
    talk = {"count": 20, "request": 3000, "answer": 5000, "think_ns": 1_000_000, "close": close}
    with (
        acting("tcp_talk", processes=2, **talk) as acts,
        Observed("tcp-latency", "--whole", "--comm", called(1)) as tool,
    ):
        other, done = acts.go()
        lines = tool.stop()
    assert not events(lines, other["pid"])
    if not close and any("still open" in each for each in tool.start["left_out"]):
        assert not events(lines, done["pid"])
        return
    (row,) = events(lines, done["pid"])
    assert (row["sport"], row["tx_bytes"], row["rx_bytes"]) == (done["port"], 60_000, 100_000)
    assert row["tx_goodput_kBps"] == pytest.approx(row["tx_bytes"] / row["life_ms"])
    # 20 headers at least, of 20 bytes of IPv4 and 20 to 60 of TCP each.
    headers = row["tx_throughput_kBps"] * row["life_ms"] - 60_000
    assert 20 * 40 <= headers <= 1000 * 80
    assert row["rtt_ms"] > 0
    assert row["jitter_ms"] >= 0
    if any("sk_data_ready" in each for each in tool.start["left_out"]):
        return
    assert row["answers"] == 20
    assert done["thinking"] <= row["answer_ms"] * 20 * MS <= done["waited"]

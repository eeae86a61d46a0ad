"""The roles that publish by a schedule and record latency, over loopback: no privilege needed."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from support.ports import free_ports
from support.waiting import LIMIT

from tempos import wire
from tempos_bench.compiled import latency
from tempos_bench.measure import samples
from tempos_bench.nodes.node import Node, Program, local

pytest.importorskip("tempos_bench._latency", reason="the latency helper is not compiled")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the harness runs on Linux"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed"),
]

SQ, BQ = 1, 2
SIZE = 40
BEGIN = latency.wall_ns()


@pytest.fixture
def node() -> Iterator[Node]:
    here = local()
    yield here
    here.close()


def roles(node: Node, port: int) -> tuple[Program, Program]:
    gather = node.role("gather", "--bind", f"127.0.0.1:{port}", ready=True, talk=True)
    return node.role("pace", "--to", f"127.0.0.1:{port}", ready=True, talk=True), gather


def begin(gather: Program, *wanted: dict[str, int]) -> None:
    command = {"do": "begin", "wanted": wanted, "size": SIZE, "idle": 0.1}
    assert gather.ask(command, LIMIT) == {"begun": True}


def lane(topic: int, count: int, interval: float, publisher: int = 7) -> dict[str, Any]:
    return {"topic": topic, "count": count, "interval": interval, "publisher": publisher}


def want(topic: int, expect: int, publisher: int = 7) -> dict[str, int]:
    return {"topic": topic, "publisher": publisher, "expect": expect, "room": expect}


def test_every_event_of_every_lane_is_timed_by_its_schedule(node: Node) -> None:
    (port,) = free_ports(1)
    pace, gather = roles(node, port)
    begin(gather, want(SQ, 200), want(BQ, 400))
    began_ns = latency.wall_ns()
    sent = pace.ask(
        {"lanes": [lane(SQ, 200, 0.001), lane(BQ, 400, 0.0005)], "begin_ns": began_ns, "length": 10.0,
         "size": SIZE},
        LIMIT,
    )["lanes"]  # fmt: skip
    found = gather.ask("end", LIMIT)

    assert [(each["topic"], each["sent"], each["slipped"]) for each in sent] == [(SQ, 200, 0), (BQ, 400, 0)]
    assert (found["foreign"], found["unstamped"], found["dropped"]) == (0, 0, {str(port): 0})
    for trace, count in zip(found["traces"], (200, 400), strict=True):
        transit, late = samples.unpack(trace["transit"]), samples.unpack(trace["late"])
        assert (trace["received"], trace["repeated"], trace["reordered"], trace["ahead"]) == (count, 0, 0, 0)
        assert len(transit) == len(late) == len(samples.unpack(trace["taken"])) == count
        # What passed before an event was sent is part of its latency: that is the point of a schedule.
        assert all(whole > before for whole, before in zip(transit, late, strict=True))
        # The last event was due 199 or 399 intervals after the begin, and cannot have come before.
        assert trace["last_ns"] >= began_ns + 199_000_000


def test_a_sender_that_begins_too_late_shows_in_the_latency(node: Node) -> None:
    (port,) = free_ports(1)
    pace, gather = roles(node, port)
    begin(gather, want(SQ, 100))
    behind_ns = 300_000_000
    command = {"lanes": [lane(SQ, 100, 0.001)], "begin_ns": latency.wall_ns() - behind_ns, "length": 10.0,
               "size": SIZE}  # fmt: skip
    (sent,) = pace.ask(command, LIMIT)["lanes"]
    (trace,) = gather.ask("end", LIMIT)["traces"]

    assert (sent["sent"], sent["slipped"], trace["received"]) == (100, 0, 100)
    # Event n was due n milliseconds after a begin that had passed before the first could leave.
    transit = samples.unpack(trace["transit"])
    assert all(time_ns >= behind_ns - number * 1_000_000 for number, time_ns in enumerate(transit))
    assert sent["latest"] * 1e9 >= behind_ns


def test_a_lane_that_may_slip_goes_on_with_what_is_due(node: Node) -> None:
    (port,) = free_ports(1)
    pace, gather = roles(node, port)
    begin(gather, want(BQ, 1000))
    command = {"lanes": [lane(BQ, 1000, 0.001)], "begin_ns": latency.wall_ns() - 300_000_000, "length": 0.4,
               "size": SIZE, "slip": 0.01, "segments": 8, "batch": 32}  # fmt: skip
    (sent,) = pace.ask(command, LIMIT)["lanes"]
    (trace,) = gather.ask("end", LIMIT)["traces"]

    assert sent["slipped"] >= 290
    assert sent["sent"] + sent["slipped"] <= 402
    assert trace["received"] == sent["sent"]


def test_lost_repeated_foreign_and_reordered_events_are_told_apart(node: Node) -> None:
    (port,) = free_ports(1)
    _, gather = roles(node, port)
    begin(gather, want(SQ, 10))
    now = latency.wall_ns()

    def event(sequence: int, *, topic: int = SQ, publisher: int = 7, size: int = SIZE) -> bytes:
        body = bytes(size - wire.HEADER_LEN)
        return wire.encode_event(topic, publisher=publisher, sequence=sequence, sent_ns=now, body=body)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        good = [event(0), event(3), event(1), event(3), event(10)]
        for payload in (*good, event(2, topic=BQ), event(2, publisher=8), event(2, size=39), b"", b"\1"):
            sock.send(payload)
    found = gather.ask("end", LIMIT)

    (trace,) = found["traces"]
    # Sequence 3 came twice, and 10 is beyond those that were announced.
    assert (trace["received"], trace["repeated"], trace["reordered"]) == (3, 2, 1)
    assert found["foreign"] == 5


def test_what_the_kernel_thins_out_is_counted(node: Node) -> None:
    (port,) = free_ports(1)
    pace, gather = roles(node, port)
    gather.ask({"do": "thin", "port": port, "topic": BQ, "keep_one_in": 10}, LIMIT)
    begin(gather, want(SQ, 100), want(BQ, 1000))
    pace.ask(
        {"lanes": [lane(SQ, 100, 0.001), lane(BQ, 1000, 0.0001)], "begin_ns": latency.wall_ns(),
         "length": 5.0, "size": SIZE},
        LIMIT,
    )  # fmt: skip
    found = gather.ask("end", LIMIT)

    assert [trace["received"] for trace in found["traces"]] == [100, 100]
    assert found["dropped"] == {str(port): 900}


def test_events_too_small_to_be_timed_are_refused() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, pytest.raises(OSError, match="Invalid"):
        latency.pace(
            sock, [latency.Lane(SQ, 0.001, 1, 7)], begin_ns=BEGIN, length=1, size=latency.LEAST_SIZE - 1
        )

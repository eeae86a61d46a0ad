"""Programs in a node and the traffic between them, on this machine: no privilege needed."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.ports import free_ports
from support.processes import still_alive
from support.waiting import LIMIT

import tempos.wire
from tempos import Framing
from tempos_bench.compiled import traffic
from tempos_bench.nodes.node import PYTHON, Node, ProgramFailed, local

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the harness runs on Linux"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed"),
]


@pytest.fixture
def node() -> Iterator[Node]:
    here = local()
    yield here
    here.close()


def script(text: str) -> tuple[str, ...]:
    return (PYTHON, "-c", text)


def test_readiness_is_a_line_and_the_result_is_the_last_one(node: Node) -> None:
    program = node.start(script("print('noise'); print('ready now'); print('{\"n\": 3}')"), ready="ready")
    assert program.result(LIMIT) == {"n": 3}


def test_a_program_that_ends_instead_of_getting_ready_shows_what_it_said(node: Node) -> None:
    with pytest.raises(ProgramFailed, match=r"(?s)ended without a line starting with 'ready'.*no such port"):
        node.start(script("import sys; print('hm'); sys.exit('no such port')"), ready="ready", limit=LIMIT)


def test_a_program_that_does_not_get_ready_in_time_shows_what_it_said(node: Node) -> None:
    with pytest.raises(ProgramFailed, match=r"(?s)did not print within 0.5 s.*still thinking"):
        node.start(("sh", "-c", "echo still thinking; exec sleep 1000"), ready="ready", limit=0.5)


def test_an_exit_code_that_is_not_0_is_no_result(node: Node) -> None:
    program = node.start(script("print('{}'); raise SystemExit(3)"))
    with pytest.raises(ProgramFailed, match="exit code 3"):
        program.result(LIMIT)


def test_a_program_that_ignores_sigterm_is_killed(node: Node) -> None:
    deaf = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(1000)"
    )
    program = node.start(script(deaf), ready="ready", limit=LIMIT)
    assert program.stop(limit=0.2) == -signal.SIGKILL
    assert still_alive({program.pid}, LIMIT) == set()


def test_a_program_talks_and_is_pinned(node: Node) -> None:
    core = min(os.sched_getaffinity(0))
    talker = (
        "import json, os, sys\n"
        "for line in sys.stdin: print(json.dumps([json.loads(line), list(os.sched_getaffinity(0))]))"
    )
    program = node.start(script(talker), cpu=core, talk=True)
    assert program.ask({"a": 1}) == [{"a": 1}, [core]]
    assert program.ask("again") == ["again", [core]]


@pytest.fixture(scope="module")
def compiled() -> None:
    pytest.importorskip("tempos_bench._traffic", reason="the traffic helper is not compiled")


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("framing", Framing)
@pytest.mark.parametrize("segments", [1, 8])
def test_a_blast_is_counted_and_checked_at_the_sink(node: Node, framing: Framing, segments: int) -> None:
    to = f"127.0.0.1:{free_ports(1)[0]}"
    common = ("--size", 100, "--framing", framing.value)
    sink = node.role("sink", "--bind", to, "--expect", 1000, *common, ready=True)
    sent = node.role("blast", "--to", to, "--topic", 5, "--count", 1000, "--rate", 20_000,
                     "--segments", segments, *common).result(LIMIT)  # fmt: skip
    got = sink.result(LIMIT)

    assert sent["sent"] == got["received"] == 1000
    assert got["by_topic"] == {"5": 1000}
    assert (got["damaged"], got["repeated"], got["overrun"], got["bad_checksums"]) == (0, 0, 0, 0)


@pytest.mark.usefixtures("compiled")
def test_the_sink_tells_damaged_and_repeated_datagrams_from_good_ones() -> None:
    port = traffic.Endpoint("127.0.0.1", free_ports(1)[0])
    with traffic.open_socket(bind=port) as receiver, traffic.open_socket(connect=port) as sender:
        traffic.blast(sender, traffic.Datagrams(topic=1, count=3, size=40))
        good = [receiver.recv(100) for _ in range(3)]
        for datagram in (good[0], good[1], good[1], good[2][:-1], good[2][:-1] + b"\0", b"", b"\1"):
            sender.send(datagram)
        sunk = traffic.sink([receiver], 7, 40, Framing.EVENT, first=LIMIT, idle=LIMIT)

    assert (sunk.received, sunk.damaged, sunk.repeated) == (7, 4, 1)
    assert sunk.by_topic == {"1": 6}


@pytest.mark.usefixtures("compiled")
def test_the_audit_finds_whatever_a_member_must_not_get() -> None:
    """Two groups of one and two members; each fault is made once and found under its own name."""
    ports = [traffic.Endpoint("127.0.0.1", port) for port in free_ports(4)]
    with ExitStack() as stack:
        origin, *members = [stack.enter_context(traffic.open_socket(bind=port)) for port in ports]
        sender = stack.enter_context(traffic.open_socket(connect=ports[0]))
        traffic.blast(sender, traffic.Datagrams(topic=7, count=5, size=40))
        sent = [bytearray(origin.recv(100)) for _ in range(5)]

        def deliver(number: int, member: int, delivery: int, epoch: int = 3, cut: int = 40) -> None:
            tempos.wire.stamp(sent[number], epoch, delivery)
            origin.sendto(sent[number][:cut], members[member].getsockname())

        for number in range(5):
            deliver(number, 0, number)
        deliver(0, 1, 0)
        deliver(1, 2, 0)
        deliver(1, 1, 1)  # the other member gets it, too
        deliver(3, 2, 0)  # numbered like the one before
        deliver(4, 1, 3)  # not a number of this member's
        deliver(2, 2, 1, epoch=4)
        deliver(2, 2, 1, cut=39)
        events = traffic.Events(topic=7, epoch=3, count=5, size=40)
        audited = traffic.audit(members, [0, 1, 1], events, first=LIMIT, idle=0.2)

    assert audited == [
        traffic.Audited(received=5, missing=0, damaged=0, repeated=0, redelivered=0),
        traffic.Audited(received=3, missing=0, damaged=0, repeated=0, redelivered=1),
        traffic.Audited(received=4, missing=0, damaged=2, repeated=1, redelivered=1),
    ]


@pytest.mark.usefixtures("compiled")
def test_a_forwarder_takes_turns_and_an_echo_answers(node: Node) -> None:
    entry, *members, origin = free_ports(4)
    targets = [part for port in members for part in ("--member", f"127.0.0.1:{port}")]
    binds = [part for port in members for part in ("--bind", f"127.0.0.1:{port}")]
    forwarder = node.role("forward", "--bind", f"127.0.0.1:{entry}", *targets, ready=True)
    sink = node.role("sink", *binds, "--expect", 100, ready=True)
    node.role("blast", "--to", f"127.0.0.1:{entry}", "--topic", 1, "--count", 100).result(LIMIT)
    assert sink.result(LIMIT)["by_port"] == {str(port): 50 for port in members}
    forwarder.stop()
    assert forwarder.result(LIMIT) == {"received": 100, "sent": 100, "refused": 0}

    node.role("echo", "--bind", f"127.0.0.1:{members[0]}", ready=True)
    answer = node.role("ping", "--bind", f"127.0.0.1:{origin}", "--to", f"127.0.0.1:{members[0]}",
                       "--topic", 1, "--count", 50, "--warm-up", 5).result(LIMIT)  # fmt: skip
    assert answer["lost"] == 0
    assert len(answer["samples_ns"]) == 50


def test_a_member_tells_also_of_what_came_before_it_knew_that_it_is_one() -> None:
    here, there = traffic.Endpoint("127.0.0.1", 0), tempos.wire.encode_event
    with ExitStack() as stack:
        data = stack.enter_context(traffic.open_socket(bind=here))
        sender = stack.enter_context(traffic.open_socket(bind=here))
        collector = traffic.Collector(data, traffic.Seen(100, 24))

        def come(epoch: int, *sequences: int) -> None:
            for sequence in sequences:
                event = bytearray(there(1, 7, sequence, 1, b""))
                event[3] = epoch
                sender.sendto(event, data.getsockname())
            assert (collector.take(), collector.damaged) == (len(sequences), 0)

        come(200, 0)
        come(201, 1, 2)
        # The answer was overtaken by events, and by the next change of the route.
        collector.joined(200)
        assert collector.epoch == 201
        come(201, 3)
        come(202, 4)
        assert collector.by_epoch() == {200: 1, 201: 3, 202: 1}

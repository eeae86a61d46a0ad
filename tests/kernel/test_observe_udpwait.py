"""udpwait counts every datagram that is read, and its waits lie between the bounds that the reader knows."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from support.observing import LIMIT, Filtered, Observed, acting, called, inode, rows, undisturbed
from support.privileges import require_kernel

from tempos_bench.nodes.namespace import Namespace
from tempos_bpf.layouts import kernel_types

pytestmark = [pytest.mark.kernel, pytest.mark.netns]
ROUNDS = 10


@pytest.fixture(autouse=True)
def _needs() -> None:
    """Where the kernel does not tell it the tool says so, and that is all there is to see."""
    require_kernel()
    if kernel_types().has_tracepoint("sk_data_ready") and kernel_types().has_tracepoint("sock_recv_length"):
        return
    command = [sys.executable, "-m", "tempos", "observe", "udpwait"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 2
    assert "this kernel cannot say it" in done.stderr
    pytest.skip(done.stderr.strip())


@undisturbed
@pytest.mark.parametrize(
    ("space", "processes"),
    [("here", 1), ("here", 50), ("elsewhere", 1), ("elsewhere", 50), ("other-cpu", 1)],
    indirect=["space"],
)
def test_waits_are_what_the_reader_knows_of_them(
    space: Namespace | None, processes: int, request: pytest.FixtureRequest
) -> None:
    steered = "other-cpu" in request.node.callspec.id
    wait = {"count": ROUNDS, "wait_ns": 500_000}
    where = inode(str(space.path) if space else "/proc/self/ns/net")
    with (
        acting("udp_waits", processes=processes, space=space, **wait) as acts,
        Filtered("udpwait", acts) as tools,
    ):
        done = acts.go()
        for lines, whom, alone in tools.stop(done):
            found = {row["pid"]: row for row in rows(lines, "waits")}
            if alone:
                assert len(found) == len(whom)
            for index, each in whom.items():
                row = found[each["pid"]]
                assert (row["comm"], row["lport"], row["netns"]) == (called(index), each["port"], where)
                assert row["read"] == 3 * ROUNDS
                # Who is interrupted by the arrival may be one for whom the kernel runs no program.
                assert row["unknown"] == 0 or steered
                if row["unknown"] == row["read"]:
                    continue
                # Of each three the first was there when the reader saw it; all came after they were sent.
                waited = row["mean_us"] * 1e3 * (row["read"] - row["unknown"])
                assert (0 if row["unknown"] else each["least"]) <= waited <= each["most"]
                assert (0 if row["unknown"] else 500) <= row["max_us"] <= each["most"] / 1e3
                assert row["p50_below_us"] <= row["p99_below_us"] <= max(2 * row["max_us"], 1)


@undisturbed
def test_a_datagram_that_is_read_before_it_is_told_has_the_time_of_no_other(space: Namespace | None) -> None:
    spin = {"count": 3000, "pause_ns": 100_000}
    with acting("udp_spun", space=space, **spin) as acts, Filtered("udpwait", acts, everybody=False) as tools:
        done = acts.go()
        for lines, whom, _ in tools.stop(done):
            (each,) = whom.values()
            (row,) = (row for row in rows(lines, "waits") if row["pid"] == each["pid"])
            assert row["read"] == each["read"]
            assert row["mean_us"] * 1e3 * (row["read"] - row["unknown"]) <= each["most"]
            assert row["max_us"] * 1e3 <= each["longest"]


@undisturbed
def test_what_waited_already_is_unknown() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(3):
                sender.sendto(b"before", receiver.getsockname())
            with Observed("udpwait", "--pid", str(os.getpid())) as tool:
                sender.sendto(b"after", receiver.getsockname())
                for _ in range(4):
                    receiver.recv(10)
                port = receiver.getsockname()[1]
                (row,) = [row for row in rows(tool.stop(), "waits") if row["lport"] == port]
    assert (row["read"], row["unknown"]) == (4, 3)

"""udploss counts exactly what a socket's receiver does not find, and knows whose socket it is."""

from __future__ import annotations

import socket

import pytest
from support.observing import Observed, acting, inode, rows
from support.privileges import require_kernel

from tempos_bench.nodes.namespace import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.netns]


@pytest.mark.parametrize(("processes", "version"), [(1, 6), (50, 4)])
def test_each_socket_lost_what_its_process_did_not_get(
    space: Namespace | None, processes: int, version: int
) -> None:
    with (
        acting("udp_overflow", processes=processes, space=space, count=200, version=version) as acts,
        Observed("udploss") as tool,
    ):
        done = acts.go()
        found = {
            row["lport"]: row for row in rows(tool.stop(), "losses") if row["reason"] == "socket_rcvbuff"
        }
    where = inode(str(space.path) if space else "/proc/self/ns/net")
    assert all(each["lost"] > 0 for each in done)
    for index, each in enumerate(done):
        row = found[each["port"]]
        assert (row["datagrams"], row["way"]) == (each["lost"], "in")
        if row["pid"] is None:
            # Before 6.6 the kernel does not say of IPv6 which socket's buffer is full.
            assert version == 6
            assert any("udp_fail_queue_rcv_skb" in hook for hook in tool.start["hooks"])
            continue
        assert (row["pid"], row["comm"], row["netns"]) == (each["pid"], f"obs-{index}", where)


def test_only_who_was_asked_for_is_shown() -> None:
    require_kernel()
    with (
        acting("udp_overflow", processes=3, count=200) as acts,
        Observed("udploss", "--comm", "obs-1") as tool,
    ):
        done = acts.go()
        assert [row["pid"] for row in rows(tool.stop(), "losses")] == [done[1]["pid"]]


def test_what_nobody_listens_for_is_told_by_its_port() -> None:
    require_kernel()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken, Observed("udploss") as tool:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(7):
                sender.sendto(b"x", ("127.0.0.1", port))
        mine = [row for row in rows(tool.stop(), "losses") if row["lport"] == port]
    assert [(row["reason"], row["datagrams"], row["pid"]) for row in mine] == [("no_socket", 7, None)]

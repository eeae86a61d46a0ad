"""udploss counts exactly what a socket's receiver does not find, and knows whose socket it is."""

from __future__ import annotations

import socket

import pytest
from support.observing import Filtered, Observed, acting, called, inode, rows
from support.privileges import require_kernel

from tempos_bench.nodes.namespace import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.netns]


@pytest.mark.parametrize(("processes", "version"), [(1, 6), (50, 4)])
def test_each_socket_lost_what_its_process_did_not_get(
    space: Namespace | None, processes: int, version: int
) -> None:
    where = inode(str(space.path) if space else "/proc/self/ns/net")
    with (
        acting("udp_overflow", processes=processes, space=space, count=200, version=version) as acts,
        Filtered("udploss", acts) as tools,
    ):
        done = acts.go()
        assert all(each["lost"] > 0 for each in done)
        for lines, whom, alone in tools.stop(done):
            # Before 6.6 the kernel does not say of IPv6 which socket's buffer is full.
            nobodys = version == 6 and any("udp_fail_queue_rcv_skb" in hook for hook in lines[0]["hooks"])
            found = {row["lport"]: row for row in rows(lines, "losses") if row["reason"] == "socket_rcvbuff"}
            if alone:
                assert len(found) == (0 if nobodys else len(whom))
            for index, each in () if alone and nobodys else whom.items():
                row = found[each["port"]]
                assert (row["datagrams"], row["way"]) == (each["lost"], "in")
                if not nobodys:
                    assert (row["pid"], row["comm"], row["netns"]) == (each["pid"], called(index), where)


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

"""net-pagefault tells each role of each process, and faults of whole processes as getrusage counts them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.observing import LIMIT, Line, Observed, acting, inode, rows

from tempos_bench.nodes.namespace import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.netns]
COUNT = 6


def faults_when_it_sleeps(pid: int) -> dict[str, int]:
    """What getrusage would tell the process then: of one that runs on it is out of date when it is told."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] == "S":
            return {"min_flt": int(fields[7]), "maj_flt": int(fields[9])}
    raise AssertionError(f"{pid} does not come to rest")


@pytest.mark.parametrize(("processes", "version", "leave"), [(1, 6, False), (1, 4, True), (50, 4, False)])
def test_who_used_the_network_and_had_page_faults(
    space: Namespace | None, processes: int, version: int, leave: bool
) -> None:
    use = {"count": COUNT, "pages": 100, "version": version, "leave": leave}
    with (
        Observed("net-pagefault") as tool,
        acting("net_use", processes=processes, space=space, **use) as acts,
    ):
        done = acts.go()
        if not leave:
            for each in done:
                each |= faults_when_it_sleeps(each["pid"])
        lines = tool.stop()
    where = inode(str(space.path) if space else "/proc/self/ns/net")
    local = "127.0.0.1" if version == 4 else "::1"
    ends = {"ipver": version, "saddr": local, "daddr": local, "netns": where}
    blind = {each.split(":")[0] for each in tool.start["left_out"]}
    for index, each in enumerate(done):
        who = {"pid": each["pid"], "comm": f"obs-{index}"}

        def of(table: str, **more: object) -> list[Line]:
            kept = {"type": "row", "table": table, **who, **more}  # noqa: B023 - called at once
            return [row for row in rows(lines, table) if kept.items() <= row.items()]

        assert [row["count"] for row in of("connect", **ends, dport=each["port"])] == [COUNT]
        assert [row["count"] for row in of("accept", **ends, lport=each["port"])] == [COUNT]
        (sent,) = of("udp_sent", **ends, dport=each["udp_port"])
        assert (sent["count"], sent["bytes"]) == (COUNT, COUNT * 100)
        named = of("udp_received", **ends, lport=each["udp_port"])
        assert [(row["count"], row["bytes"]) for row in named] == [(4, 400)]
        nameless = of("udp_received", saddr="*", lport=each["udp_port"])
        assert [row["count"] for row in nameless] == ([] if blind else [2])
        pings = of("other", protocol="ICMP" if version == 4 else "ICMPV6", daddr=local)
        # The answers, which the kernel sends while the process is still sending, are not its own.
        assert [row["count"] for row in pings] == [COUNT]
        (faults,) = of("faults")
        assert (faults["min_flt"], faults["maj_flt"]) == (each["min_flt"], each["maj_flt"])
        assert faults["min_flt"] > 2 * each["pages"]
        assert faults["cpu_ms"] > 0
        if leave:
            assert faults["cpu_ms"] == pytest.approx(each["cpu"] * 1e3, abs=5)


def test_only_who_was_asked_for(space: Namespace | None) -> None:
    with (
        acting("net_use", processes=3, space=space, count=COUNT, pages=1) as acts,
        Observed("net-pagefault", "--comm", "obs-1") as tool,
    ):
        done = acts.go()
        lines = tool.stop()
    assert {line["pid"] for line in lines if line["type"] == "row"} == {done[1]["pid"]}

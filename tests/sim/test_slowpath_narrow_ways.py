"""The slow path where the way out is narrow: an MTU too small, a link too slow. In a namespace of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from support.privileges import require
from support.waiting import LIMIT

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's"),
]

PREAMBLE = """
import asyncio, json, socket, subprocess, sys
from tempos import Framing, Group, Member, Quality, Route, Topic
from tempos.wire import decode_event, encode_event
from tempos_broker.config.model import Limits
from tempos_broker.paths import LocalTickets
from tempos_broker.slowpath import SlowPathServer

portable = sys.argv[1] == "portable"
sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
sink.bind(("127.0.0.1", 0))
sink.settimeout(10)
publisher = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
topic = Topic(1, "t", Quality.SQ, 0, Framing.EVENT)

async def started():
    server = SlowPathServer(topics=(topic,), listen=("127.0.0.1",), port=0, limits=Limits(datagram=3000),
                            tickets=LocalTickets(), portable=portable)
    server.swap(Route(topic, 1, (Group("g", (Member(*sink.getsockname()),)),)))
    await server.start()
    return server, ("127.0.0.1", int(server.status().listen[0].rpartition(":")[2]))

def report(server, got, **more):
    counters = {t: {r.label: n for r, n in row.items()} for t, row in server.counters().items()}
    print(json.dumps({"io": server.status().io, "counters": counters, "lost": server.lost(1, 1, 0),
                      "got": [decode_event(each).sequence for each in got], **more}))
"""

TOO_BIG = """
async def main():
    server, address = await started()
    # The publisher's own kernel fragments, the broker must not.
    for number, size in enumerate((1500, 1500, 900, 1500, 900, 1376, 1372)):
        publisher.sendto(encode_event(1, 1, number, 0, bytes(size - 24)), address)
    got = [await asyncio.to_thread(sink.recv, 4000) for _ in range(3)]
    while server.status().received < 7 or server.status().queued:
        await asyncio.sleep(0.001)
    await server.close()
    report(server, got)
asyncio.run(main())
"""

TOO_SLOW = """
async def main():
    server, address = await started()
    for number in range(600):
        publisher.sendto(encode_event(1, 1, number, 0, bytes(1000)), address)
    # Only what the broker sends is still to come when the link becomes slow.
    subprocess.run("tc qdisc add dev lo root tbf rate 16mbit burst 3000 limit 3000000".split(), check=True)
    most = 0
    async def watch():
        nonlocal most
        while True:
            most = max(most, server.status().queued)
            await asyncio.sleep(0.001)
    watcher = asyncio.create_task(watch())
    got = [await asyncio.to_thread(sink.recv, 4000) for _ in range(600)]
    watcher.cancel()
    await server.close()
    report(server, got, most_queued=most)
asyncio.run(main())
"""


TOO_SLOW_TO_WAIT_FOR = """
async def main():
    server, address = await started()
    for number in range(600):
        publisher.sendto(encode_event(1, 1, number, 0, bytes(1000)), address)
    subprocess.run("tc qdisc add dev lo root tbf rate 80kbit burst 3000 limit 3000000".split(), check=True)
    while not server.status().queued:
        await asyncio.sleep(0.001)
    await server.close()
    report(server, [], received=server.status().received, queued=server.status().queued)
asyncio.run(main())
"""


SLOW_FOR_BEST_EFFORT = """
def ip(*words):
    subprocess.run(["ip", *words], check=True)

async def main():
    ip("link", "add", "slow", "type", "veth", "peer", "name", "end")
    ip("link", "set", "slow", "up")
    ip("link", "set", "end", "up")
    ip("address", "add", "10.9.9.1/24", "dev", "slow")
    ip("neighbour", "add", "10.9.9.2", "lladdr", "02:00:00:00:00:02", "dev", "slow")
    subprocess.run("tc qdisc add dev slow root tbf rate 80kbit burst 3000 limit 3000000".split(), check=True)
    best = Topic(2, "best", Quality.BQ, 0, Framing.EVENT)
    server = SlowPathServer(topics=(topic, best), listen=("0.0.0.0",), port=0, limits=Limits(),
                            tickets=LocalTickets(), portable=portable)
    server.swap(Route(topic, 1, (Group("g", (Member(*sink.getsockname()),)),)))
    server.swap(Route(best, 1, (Group("g", (Member("10.9.9.2", 9),)),)))
    await server.start()
    address = ("127.0.0.1", int(server.status().listen[0].rpartition(":")[2]))
    for number in range(600):
        # Not to a loopback address: what is answered from one may not leave by the link.
        publisher.sendto(encode_event(2, 1, number, 0, bytes(1000)), ("10.9.9.1", address[1]))
    # Until the socket of best effort takes no more.
    while server.status().received < 600 or not server.status().queued:
        await asyncio.sleep(0.001)
    for number in range(5):
        publisher.sendto(encode_event(1, 1, number, 0, b""), address)
    got = [await asyncio.to_thread(sink.recv, 4000) for _ in range(5)]
    status = server.status()
    waiting = status.classes[Quality.BQ].queued
    await server.close()
    report(server, got, waiting=waiting, sockets=status.sockets)
asyncio.run(main())
"""


def in_namespace(script: str, io: str, *, mtu: int = 65536) -> Any:
    if io == "recvmmsg":
        pytest.importorskip("tempos_broker._batch", reason="the compiled helper is not built")
    for tool in ("unshare", "ip", "tc"):
        require(None if shutil.which(tool) else f"needs {tool}")
    # Root needs no user namespace, and some machines allow none.
    enter = ["unshare", "-n" if os.geteuid() == 0 else "-rn", "sh", "-c"]
    setup = f"ip link set lo mtu {mtu} up"
    probe = subprocess.run([*enter, setup], capture_output=True, text=True)
    require(f"no namespace to be had: {probe.stderr.strip()}" if probe.returncode else None)
    done = subprocess.run(
        [*enter, f'{setup} && exec "$0" - {io}', sys.executable],
        input=PREAMBLE + textwrap.dedent(script), capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip
    require("this kernel has no token bucket filter" if "Specified qdisc" in done.stderr else None)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["io"] == io
    return {**result, "log": done.stderr}


@pytest.mark.parametrize("io", ["recvmmsg", "portable"])
def test_what_does_not_fit_the_mtu_is_lost_alone_and_never_fragmented(io: str) -> None:
    result = in_namespace(TOO_BIG, io, mtu=1400)
    # 1372 bytes and 28 of headers are the MTU; 1376 are too many.
    assert result["got"] == [2, 4, 6]
    assert result["counters"] == {"1": {"forwarded": 7, "send_error": 4}}
    assert result["lost"] == 4
    # One of them, with its size.
    assert re.search(r"(1528|1404) bytes, headers included, are too many for 127.0.0.1:\d+,", result["log"])
    assert "takes 1400 (MTU)" in result["log"]


@pytest.mark.parametrize("io", ["recvmmsg", "portable"])
def test_a_slow_link_makes_events_wait_but_loses_none(io: str) -> None:
    result = in_namespace(TOO_SLOW, io)
    assert result["got"] == list(range(600))
    assert result["counters"] == {"1": {"forwarded": 600}}
    assert result["most_queued"] > 0, "the link was never slow"


@pytest.mark.parametrize("io", ["recvmmsg", "portable"])
def test_what_a_closing_broker_cannot_get_rid_of_is_in_the_account(io: str) -> None:
    result = in_namespace(TOO_SLOW_TO_WAIT_FOR, io)
    (counters,) = result["counters"].values()
    assert counters["forwarded"] + result["queued"] == result["received"]
    assert result["lost"] == counters.get("send_error", 0)
    assert result["lost"] + result["queued"] > 0


@pytest.mark.parametrize("io", ["recvmmsg", "portable"])
def test_a_socket_full_of_best_effort_holds_no_strict_event_back(io: str) -> None:
    result = in_namespace(SLOW_FOR_BEST_EFFORT, io)
    assert result["sockets"] == "classic"
    assert result["got"] == list(range(5))
    assert result["waiting"] > 0
    assert result["counters"]["1"] == {"forwarded": 5}

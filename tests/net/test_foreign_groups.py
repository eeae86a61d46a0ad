"""Groups of a foreign topic that do not get all, by who sent it or as a sample: every path, told exactly."""

from __future__ import annotations

import asyncio
import operator
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path as FilePath

import pytest
from support.brokers import Node, get
from support.features import NO_TCX, no_tcx
from support.nodes import udp
from support.ports import free_ports
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT, until

from tempos import Admin, Fanout, Framing, Group, GroupOptions, Member, Path, Pick, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import build

PORT = 2055
#: Mode, portable, who makes the copies for several groups.
CASES = {
    "recvmmsg": ("off", False, Fanout.AUTO),
    "portable": ("off", True, Fanout.AUTO),
    "broadcast": ("native", False, Fanout.XDP),
    "clone": ("native", False, Fanout.TC),
    "generic": ("generic", False, Fanout.AUTO),
}
SENT = 60


@pytest.mark.netns
@pytest.mark.parametrize(
    ("case", "pick"),
    [
        ("recvmmsg", Pick.TURN), ("portable", Pick.SOURCE_PORT), ("broadcast", Pick.TURN),
        ("broadcast", Pick.SOURCE_PORT), ("clone", Pick.TURN), ("generic", Pick.SOURCE_PORT),
    ],
)  # fmt: skip
def test_each_group_gets_its_senders_and_its_sample_to_the_datagram(case: str, pick: Pick) -> None:
    mode, portable, fanout = CASES[case]
    require_netns()
    if mode != "off":
        require_kernel()
    if (case == "clone" or mode == "generic") and no_tcx():
        pytest.skip(NO_TCX)
    with build("straight") as topology, ExitStack() as stack:
        a, b, c = topology.publisher, topology.broker, topology.subscriber
        flows = Topic(
            300, "flows", framing=Framing.FOREIGN, ports=(PORT,), pick=pick, fanout=fanout,
            groups=(
                GroupOptions("ours", (f"{a.address}/32",)),
                GroupOptions("others", ("192.0.2.0/24",)),
                GroupOptions("some", every=7),
                GroupOptions("some of ours", (f"{a.address}/32", "198.51.100.1"), 4),
            ),
        )  # fmt: skip
        names = ("all", "ours", "others", "some", "some of ours")
        groups = [
            Group(
                name, tuple(Member(c.address, 7000 + 10 * n + each) for each in range(1 + (name != "others")))
            )
            for n, name in enumerate(names)
        ]
        sinks = {
            group.name: [stack.enter_context(udp(c, (c.address, member.port))) for member in group.members]
            for group in groups
        }
        broker = stack.enter_context(Broker(b, {flows: groups}, mode=mode, portable=portable))
        if mode != "off":
            broker.wait_path("flows", Path.FAST)
        with udp(a, (a.address, 0)) as sock:
            for number in range(SENT):
                sock.sendto(b"%d" % number, (b.address, PORT))
        told = broker.wait_received("flows", SENT)
        wanted = {
            "all": range(SENT),
            "ours": range(SENT),
            "others": (),
            "some": range(0, SENT, 7),
            "some of ours": range(0, SENT, 4),
        }
        for name, numbers in wanted.items():
            got = []
            for sink in sinks[name]:
                sink.setblocking(False)
            until(lambda name=name, got=got, numbers=numbers: _read(sinks[name], got) >= len(numbers))
            assert sorted(map(int, got)) == list(numbers), name
        assert (told.problems, told.refused) == ((), {})
        assert (told.fast, told.slow) == ((0, SENT) if mode == "off" else (SENT, 0))
        rows = {group["name"]: group for group in broker.entry("flows")["groups"]}
        for name, numbers in wanted.items():
            row = rows[name]
            filtered = SENT if name == "others" else 0
            assert (row["tickets"], row["filtered"]) == (SENT, filtered)
            assert row["sampled"] == SENT - filtered - len(numbers)
            assert row["unknown"] == len(numbers)
            assert sum(member["ticketed"] for member in row["members"]) == len(numbers)


@pytest.mark.netns
@pytest.mark.parametrize("several", [False, True], ids=["one", "broadcast"])
def test_samples_go_on_where_they_were_over_a_kill_and_change_under_traffic(
    tmp_path: FilePath, several: bool
) -> None:
    """The kernel counts on while there is no broker; options change while datagrams come."""
    require_netns()
    require_kernel()
    with build("straight") as topology, ExitStack() as stack:
        a, b, c = topology.publisher, topology.broker, topology.subscriber
        ours, senders = GroupOptions("some", (f"{a.address}/32",), 7), ["192.0.2.0/24"]
        sinks = [stack.enter_context(udp(c, (c.address, 7000 + n))) for n in range(1 + several)]
        for sink in sinks:
            sink.setblocking(False)
        members = [
            {"ip": c.address, "port": 7000 + n, "group": ("some", "all")[n]} for n in range(1 + several)
        ]
        source = stack.enter_context(udp(a, (a.address, 0)))
        state, sent = str(tmp_path / "state"), 0
        got: list[list[bytes]] = [[] for _ in sinks]

        def send(count: int) -> None:
            nonlocal sent
            for number in range(sent, sent + count):
                source.sendto(b"%d" % number, (b.address, PORT))
            sent += count

        def row() -> dict[str, int]:
            entry = next(each for each in broker.entry("flows")["groups"] if each["name"] == "some")
            return {key: entry[key] for key in ("tickets", "unknown", "filtered", "sampled")}

        def has(*wanted: int) -> bool:
            """So much has come, of each group that there is."""
            come = [_read([sink], each) for sink, each in zip(sinks, got, strict=True)]
            return all(map(operator.ge, come, wanted))

        def options(every: int, sources: Sequence[str]) -> object:
            return {"group": [{"name": "some", "every": every, "sources": sources}]}

        broker = stack.enter_context(Broker(b, {}, mode="native", state=state))
        broker.ask("POST", "/v1/topics", {"name": "flows", "ports": [PORT], "member": members,
                                          **options(ours.every, ours.sources)})  # fmt: skip
        broker.wait_path("flows", Path.FAST)
        send(20)
        broker.program.kill()
        send(20)
        until(lambda: has(6, 40))
        broker = stack.enter_context(Broker(b, {}, mode="native", state=state))
        broker.wait_path("flows", Path.FAST)
        send(20)
        until(lambda: has(9, 60))
        assert sorted(map(int, got[0])) == list(range(0, 60, 7))
        until(lambda: row()["tickets"] == 60)
        assert row() == {"tickets": 60, "unknown": 9, "filtered": 0, "sampled": 51}
        with ThreadPoolExecutor(1) as pool:
            changing = pool.submit(lambda: [
                broker.ask("PATCH", "/v1/topics/flows", options(every, sources))
                for every, sources in ((3, []), (2, senders), (4, ours.sources), (1, []), (5, []))
            ])  # fmt: skip
            while not changing.done():
                send(20)
                until(lambda: has(0, sent))
            changing.result()
        told = broker.wait_received("flows", sent)
        until(lambda: row()["tickets"] == sent)
        after = row()
        assert after["unknown"] + after["filtered"] + after["sampled"] == sent
        until(lambda: has(after["unknown"], sent))
        assert len(set(got[0])) == len(got[0]) == after["unknown"]
        if several:
            assert sorted(map(int, got[1])) == list(range(sent)), (
                "what another group gets is all the same to it"
            )
        assert (told.problems, told.refused) == ((), {})


def _read(sinks: list[socket.socket], got: list[bytes]) -> int:
    for sink in sinks:
        try:
            while True:
                got.append(sink.recv(100))
        except BlockingIOError:
            pass
    return len(got)


def test_groups_change_while_the_broker_runs_and_the_account_goes_on(tmp_path: FilePath) -> None:
    node = Node(tmp_path, "", state=str(tmp_path / "state"))
    admin = Admin(f"http://127.0.0.1:{node.api}")
    (port,) = free_ports(1)
    with ExitStack() as stack:
        sink, source = (
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2)
        )
        for sock in (sink, source):
            sock.bind(("127.0.0.1", 0))
        sink.settimeout(LIMIT)
        member = [{"ip": "127.0.0.1", "port": sink.getsockname()[1], "group": "g"}]

        def send(numbers: range) -> None:
            for number in numbers:
                source.sendto(b"%d" % number, ("127.0.0.1", port))

        def group() -> dict[str, int]:
            (topic,) = get(node.api, "/v1/ledger")["topics"]
            assert topic["problems"] == []
            (row,) = topic["groups"]
            return {key: row[key] for key in ("tickets", "unknown", "filtered", "sampled")}

        async def order() -> None:
            made = await admin.add_topic("logs", ports=[port], member=member,
                                         group=[{"name": "g", "every": 3}])  # fmt: skip
            assert made.topic.groups == (GroupOptions("g", every=3),)
            send(range(10))
            assert [int(sink.recv(100)) for _ in range(4)] == [0, 3, 6, 9]
            until(lambda: group()["tickets"] == 10)
            assert group() == {"tickets": 10, "unknown": 4, "filtered": 0, "sampled": 6}
            changed = await admin.set_topic("logs", group=[{"name": "g", "sources": ["192.0.2.0/24"]}])
            assert changed.topic.groups == (GroupOptions("g", ("192.0.2.0/24",)),)
            send(range(5))
            until(lambda: group()["tickets"] == 15)

        with node.broker():
            asyncio.run(order())
        with node.broker():
            # The same in its next life.
            assert group() == {"tickets": 15, "unknown": 4, "filtered": 5, "sampled": 6}
            send(range(3))
            until(lambda: group()["tickets"] == 18)
            asyncio.run(admin.set_topic("logs", group=None))
            send(range(1))
            assert sink.recv(100) == b"0"
            assert group() == {"tickets": 19, "unknown": 5, "filtered": 8, "sampled": 6}

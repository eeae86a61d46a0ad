"""Collectors that are down: out of their group after a while, back by themselves, and others lose nothing."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import ExitStack, closing
from pathlib import Path as FilePath
from typing import Any

import pytest
from support.brokers import Node, get
from support.nodes import ip, udp
from support.ports import free_ports
from support.privileges import require_kernel, require_netns
from support.waiting import LIMIT, until

from tempos import Admin, Framing, Group, GroupOptions, Member, Path, Pick, Topic
from tempos_bench.measure.broker import Broker
from tempos_bench.nodes.topology import build

SOURCES = 40


def _outs(entry: dict[str, Any]) -> dict[int, str]:
    members = [member for group in entry["groups"] for member in group["members"]]
    return {member["port"]: member["left_out"] for member in members}


@pytest.mark.netns
@pytest.mark.parametrize("mode", ["off", "native"])
def test_a_collector_whose_port_is_closed_gives_its_sources_to_the_others_until_it_is_back(mode: str) -> None:
    require_netns()
    if mode != "off":
        require_kernel()
    flows = Topic(
        300, "flows", framing=Framing.FOREIGN, ports=(2055,), pick=Pick.SOURCE_PORT,
        groups=(GroupOptions("g", down_after=0.5),),
    )  # fmt: skip
    with build("straight") as topology, ExitStack() as stack:
        a, b, c = topology.publisher, topology.broker, topology.subscriber
        ports = (7001, 7002, 7003)
        sinks = {port: stack.enter_context(udp(c, (c.address, port))) for port in ports}
        groups = [Group("g", tuple(Member(c.address, port) for port in ports))]
        broker = stack.enter_context(Broker(b, {flows: groups}, mode=mode))
        if mode != "off":
            broker.wait_path("flows", Path.FAST)
        senders = [stack.enter_context(udp(a, (a.address, 0))) for _ in range(SOURCES)]

        def who_gets_them() -> dict[int, int]:
            for number, sender in enumerate(senders):
                sender.sendto(b"%d" % number, (b.address, 2055))
            found: dict[int, int] = {}

            def all_came() -> bool:
                for port, sink in sinks.items():
                    sink.setblocking(False)
                    try:
                        while True:
                            number = int(sink.recv(100))
                            assert found.setdefault(number, port) == port
                    except BlockingIOError:
                        pass
                return len(found) == SOURCES

            until(all_came)
            return found

        before = who_gets_them()
        sinks.pop(7002).close()
        until(lambda: _nudge(senders, b.address) and _outs(broker.entry("flows"))[7002] != "")
        assert "what is sent to it comes back" in _outs(broker.entry("flows"))[7002]
        if mode != "off":
            broker.wait_path("flows", Path.FAST)
        _drain(sinks)
        without = who_gets_them()
        assert 7002 not in without.values()
        # Nobody else has moved.
        assert all(without[number] == port for number, port in before.items() if port != 7002)
        sinks[7002] = stack.enter_context(udp(c, (c.address, 7002)))
        until(lambda: not any(_outs(broker.entry("flows")).values()))
        if mode != "off":
            broker.wait_path("flows", Path.FAST)
        _drain(sinks)
        assert who_gets_them() == before
        assert broker.topic("flows").problems == ()
        words = " ".join(change["text"] for change in broker.status()["changes"])
        assert f"member {c.address}:7002 of topic flows (group g) is taken out" in words
        assert f"member {c.address}:7002 of topic flows (group g) is back" in words


def _nudge(senders: list[socket.socket], address: str) -> bool:
    for sender in senders:
        sender.sendto(b"0", (address, 2055))
    return True


def _drain(sinks: dict[int, socket.socket]) -> None:
    for sink in sinks.values():
        sink.setblocking(False)
        try:
            while True:
                sink.recv(100)
        except BlockingIOError:
            pass


@pytest.mark.netns
def test_a_collector_that_is_gone_from_its_network_gives_its_share_to_the_others() -> None:
    require_netns()
    flows = Topic(
        300, "flows", framing=Framing.FOREIGN, ports=(2055,), groups=(GroupOptions("g", down_after=0.5),)
    )
    with build("straight") as topology, ExitStack() as stack:
        a, b, c = topology.publisher, topology.broker, topology.subscriber
        gone = c.address.rpartition(".")[0] + ".77"
        sink = stack.enter_context(udp(c, (c.address, 7001)))
        groups = [Group("g", (Member(c.address, 7001), Member(gone, 7001)))]
        broker = stack.enter_context(Broker(b, {flows: groups}, mode="off"))
        sender = stack.enter_context(udp(a, (a.address, 0)))

        def is_out() -> bool:
            sender.sendto(b"x", (b.address, 2055))
            words = [change["text"] for change in broker.status()["changes"]]
            return any(f"member {gone}:7001 of topic flows (group g) is taken out" in each for each in words)

        until(is_out)
        # Only that it is out is told before the new route is in force.
        until(lambda: broker.entry("flows")["epoch"] > 1)
        (member,) = (each for each in broker.entry("flows")["groups"][0]["members"] if each["ip"] == gone)
        assert "no MAC address" in member["left_out"]
        assert not member["in_route"]
        before = broker.topic("flows").received
        _drain({7001: sink})
        for number in range(20):
            sender.sendto(b"%d" % number, (b.address, 2055))
        sink.settimeout(LIMIT)
        assert [int(sink.recv(100)) for _ in range(20)] == list(range(20))
        broker.wait_received("flows", before + 20)


@pytest.mark.netns
def test_who_is_asked_by_datagrams_is_asked_on_where_the_broker_has_another_address_by_now() -> None:
    require_netns()
    group = GroupOptions("g", down_after=0.5, probe="udp")
    flows = Topic(300, "flows", framing=Framing.FOREIGN, ports=(2055,), groups=(group,))
    with build("straight") as topology, ExitStack() as stack:
        b, c = topology.broker, topology.subscriber
        sinks = [stack.enter_context(udp(c, (c.address, port))) for port in (7001, 7002)]
        groups = [Group("g", tuple(Member(c.address, port) for port in (7001, 7002)))]
        broker = stack.enter_context(Broker(b, {flows: groups}, mode="off", listen=("0.0.0.0",)))
        old, card = topology.facing_subscriber, b.interfaces[1]
        new = old.rpartition(".")[0] + ".77"

        def all_asked(by: str) -> None:
            for sink in sinks:
                sink.settimeout(LIMIT)
                while sink.recvfrom(100)[1][0] != by:
                    pass

        all_asked(old)
        ip(b, f"addr del {old}/24 dev {card}", f"addr add {new}/24 dev {card}")
        all_asked(new)
        assert _outs(broker.entry("flows")) == {7001: "", 7002: ""}
        assert "taken out" not in " ".join(change["text"] for change in broker.status()["changes"])


@pytest.mark.parametrize("probe", ["udp", "tcp"])
def test_a_probe_tells_without_any_privilege(probe: str, tmp_path: FilePath) -> None:
    first, second, port, asked, elsewhere = free_ports(5)
    node = Node(
        tmp_path,
        f"""
        [[topic]]
        name = "logs"
        ports = [{port}]
        [[topic.group]]
        name = "g"
        down_after = 0.3
        probe = "{probe}"
        probe_port = {asked}
        [[topic.member]]
        ip = "127.0.0.1"
        port = {first}
        group = "g"
        [[topic.member]]
        ip = "127.0.0.2"
        port = {second}
        group = "g"
        """,
    )
    kind = socket.SOCK_DGRAM if probe == "udp" else socket.SOCK_STREAM

    def listening(ip: str, port: int = asked) -> socket.socket:
        sock = socket.socket(socket.AF_INET, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((ip, port))
        if probe == "tcp":
            sock.listen(100)
        return sock

    def out() -> list[int]:
        (topic,) = get(node.api, "/v1/status")["topics"]
        return [at for at, why in _outs(topic).items() if why]

    with closing(listening("127.0.0.1")), node.broker() as process:
        until(lambda: out() == [second])
        with closing(listening("127.0.0.2")):
            until(lambda: out() == [])
        # The last one stays, whatever its probe says.
        until(lambda: out() == [second])
        # Asked at another port, where somebody is, it is back.
        words = node.file.read_text()
        node.file.write_text(words.replace(f"probe_port = {asked}", f"probe_port = {elsewhere}"))
        with closing(listening("127.0.0.2", elsewhere)):
            process.send_signal(signal.SIGHUP)
            until(lambda: second not in out())


@pytest.mark.netns
def test_what_comes_back_is_heard_of_for_a_topic_that_is_made_at_run_time(tmp_path: FilePath) -> None:
    require_netns()
    port, closed = free_ports(2)
    node = Node(tmp_path, '[[topic]]\nid = 1\nname = "other"\n')
    with node.broker(), udp_here() as sink, udp_here() as source:
        member = [{"ip": "127.0.0.1", "port": at, "group": "g"} for at in (sink.getsockname()[1], closed)]
        group = [{"name": "g", "down_after": 0.3}]
        admin = Admin(f"http://127.0.0.1:{node.api}")
        asyncio.run(admin.add_topic("logs", ports=[port], member=member, group=group))

        def is_out() -> bool:
            source.sendto(b"x", ("127.0.0.1", port))
            (topic,) = (each for each in get(node.api, "/v1/status")["topics"] if each["name"] == "logs")
            return "comes back" in _outs(topic)[closed]

        until(is_out)


def udp_here() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock

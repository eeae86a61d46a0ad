"""The slow path over an adapter that is no UDP: chosen by its name, served in turns, let go of in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from importlib.metadata import EntryPoint

import pytest
from support.channels import MemoryAdapter

from tempos import ConfigError, Framing, Group, Member, Quality, Reason, Route, Topic, Unavailable
from tempos_broker.broker import Broker
from tempos_broker.config.model import BrokerConfig, Limits, QualityConfig, TopicConfig
from tempos_broker.paths import LocalLimits, LocalTickets, NoFastPath
from tempos_broker.slowpath import SlowPathServer, adapters, shell
from tempos_broker.slowpath.marking import Marking

from .test_broker import Client, free_ports, until

SQ, BQ = Quality.SQ, Quality.BQ
BRAKE = Topic(1, "brake", SQ, 7, Framing.RAW)
LOGS = Topic(2, "logs", BQ, 0, Framing.RAW, rate=1, burst=3)
GROUPS = (Group("g", (Member("10.0.0.1", 1), Member("10.0.0.2", 2))),)
MEMORY = EntryPoint("memory", "support.channels:MemoryAdapter", adapters.GROUP)


@pytest.fixture
async def served(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[SlowPathServer, MemoryAdapter]]:
    monkeypatch.setattr(adapters, "installed", lambda: [MEMORY])
    rates = LocalLimits(lambda: 0)
    rates.configure((BRAKE, LOGS))
    server = SlowPathServer(
        topics=(BRAKE, LOGS),
        listen=("192.0.2.1",),
        port=7,
        limits=Limits(batch=4),
        tickets=LocalTickets(),
        quality=QualityConfig(dscp_sq=40, so_priority_sq=5),
        rates=rates,
        adapter="memory",
    )
    for topic in (BRAKE, LOGS):
        server.swap(Route(topic, 1, GROUPS))
    await server.start()
    try:
        yield server, MemoryAdapter.made[-1]
    finally:
        await server.close()


async def test_it_is_connected_marked_and_served_by_class(
    served: tuple[SlowPathServer, MemoryAdapter],
) -> None:
    server, channels = served
    assert channels.setting.listen == ("192.0.2.1",)
    assert {quality: marked.marking for quality, marked in channels.marked.items()} == {
        SQ: Marking(40, 5),
        BQ: Marking(0, 0),
    }
    channels.arrive(b"\x02a", b"\x02b", b"\x02c", b"\x02over", b"\x01x", b"\x09unknown")
    channels.wake()
    assert [(each.quality, list(each.payloads)) for each in channels.sent] == [
        (SQ, [b"\x01x"]),
        (BQ, [b"\x02a", b"\x02b", b"\x02c"]),
    ]
    assert server.counters() == {
        1: {Reason.FORWARDED: 1},
        2: {Reason.FORWARDED: 3, Reason.OVER_RATE: 1},
        9: {Reason.UNKNOWN_TOPIC: 1},
    }
    status = server.status()
    assert (status.adapter, status.io, status.sockets) == ("memory", "memory", "channels")
    assert status.classes[SQ].marking == Marking(40, 5)


async def test_a_class_can_be_left_to_somebody_else_and_taken_back(
    served: tuple[SlowPathServer, MemoryAdapter],
) -> None:
    server, channels = served
    server.serve((BQ,))
    channels.arrive(b"\x01x", b"\x02a")
    channels.wake()
    assert [each.quality for each in channels.sent] == [BQ]
    server.serve(Quality)
    channels.wake()
    assert [each.quality for each in channels.sent] == [BQ, SQ]
    assert not server.descriptors(), "these cannot be handed over"


async def test_more_than_a_turn_goes_on_by_itself(served: tuple[SlowPathServer, MemoryAdapter]) -> None:
    _, channels = served
    channels.arrive(*[b"\x01x"] * 1000)
    channels.wake()
    assert len(channels.sent) < 1000
    while channels.incoming[SQ]:
        await asyncio.sleep(0)
    assert sum(len(each.payloads) for each in channels.sent) == 1000


async def test_what_is_held_up_goes_when_the_channel_wakes_or_before_it_closes(
    served: tuple[SlowPathServer, MemoryAdapter],
) -> None:
    server, channels = served
    channels.full.add(SQ)
    channels.arrive(b"\x01x", b"\x01y")
    channels.wake()
    closing = asyncio.ensure_future(server.close())
    await asyncio.sleep(0)
    assert not channels.sent
    assert not channels.closed
    channels.full.clear()
    channels.wake()
    await closing
    assert [list(each.payloads) for each in channels.sent] == [[b"\x01x", b"\x01y"]]
    assert channels.closed
    assert not channels.watched


async def test_what_cannot_go_before_it_closes_is_in_the_account(
    served: tuple[SlowPathServer, MemoryAdapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, channels = served
    monkeypatch.setattr(shell, "PATIENCE", 0.01)
    channels.arrive(b"\x01x", b"\x01y")
    # Full only once they were taken.
    channels.after = lambda what, quality: channels.full.add(SQ)
    channels.wake()
    await server.close()
    counters = server.counters().get(1, {})
    assert counters.get(Reason.FORWARDED, 0) + server.status().queued == 2
    assert server.lost(1, 1, 0) == counters.get(Reason.SEND_ERROR, 0)
    assert server.status().queued + server.lost(1, 1, 0) == 2


async def test_another_route_is_in_force_once_a_full_channel_has_let_go_of_what_it_holds(
    served: tuple[SlowPathServer, MemoryAdapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is told that it left gets nothing behind that, and what it had got tickets for goes before."""
    server, channels = served
    await asyncio.wait_for(server.sent(), 1)
    channels.full.add(SQ)
    channels.arrive(b"\x01x")
    channels.wake()
    left = asyncio.ensure_future(server.sent())
    await asyncio.sleep(0.01)
    assert not left.done()
    assert not channels.sent
    channels.full.clear()
    channels.wake()
    await left
    assert [list(each.payloads) for each in channels.sent] == [[b"\x01x"]]
    # One that lets go of nothing keeps those that ask from going on once, and not each of them.
    channels.full.add(SQ)
    channels.arrive(b"\x01y")
    channels.wake()
    monkeypatch.setattr(shell, "PATIENCE", 0.01)
    await server.sent()
    monkeypatch.setattr(shell, "PATIENCE", 60)
    await asyncio.wait_for(server.sent(), 1)
    channels.full.clear()
    channels.wake()
    channels.full.add(SQ)
    channels.arrive(b"\x01z")
    channels.wake()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(server.sent(), 0.01)
    # Closing is not to wait for it.
    channels.full.clear()


@pytest.mark.parametrize("op", ["goodbye", "unsubscribe"])
async def test_who_leaves_is_answered_once_a_full_channel_holds_nothing_for_it(
    op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "installed", lambda: [MEMORY])
    monkeypatch.setattr(shell, "PATIENCE", 60)
    data, control = free_ports(2)
    config = BrokerConfig((TopicConfig(BRAKE),), ("127.0.0.1",), data, control, api_port=0, adapter="memory")
    async with Broker(config, NoFastPath("off")) as broker, AsyncExitStack() as stack:
        channels = MemoryAdapter.made[-1]
        stays, leaves = Client(broker), Client(broker)
        for each in (stays, leaves):
            stack.callback(each.close)
            each.ask("subscribe", topic="brake", group="g", port=each.port)
            await each.answer()
        # It takes no more once these have been received.
        channels.after = lambda what, quality: channels.full.add(SQ) if what == "receive" else None
        channels.arrive(*[b"\x01x"] * 40)
        channels.wake()
        channels.after = lambda what, quality: None
        assert channels.gathered[SQ], "their tickets are drawn"
        what = {"topic": "brake", "group": "g"} if op == "unsubscribe" else {"received": []}
        leaves.ask(op, port=leaves.port, **what)
        stays.ask("hello")
        await stays.answer()
        for _ in range(20):
            await asyncio.sleep(0.001)
            with pytest.raises(BlockingIOError):
                leaves.control.recv(2048)
        channels.full.clear()
        channels.wake()
        await leaves.answer()
        before = len(channels.sent)
        channels.arrive(*[b"\x01y"] * 8)
        channels.wake()
        await until(lambda: sum(len(each.payloads) for each in channels.sent) == 48)
        sizes = [len(each.route.groups[0].members) for each in channels.sent]
        assert (sizes[0], set(sizes[before:])) == (2, {1})


def test_the_installed_adapters_are_found_by_name_and_no_others() -> None:
    assert [point.value for point in adapters.installed()] in (
        ["tempos_broker.slowpath.udp:UdpAdapter"],
        [],
    )
    assert adapters.names([MEMORY]) == ["memory", "udp"]
    assert adapters.find("memory", [MEMORY]) is MemoryAdapter
    with pytest.raises(ConfigError, match=r'broker\.adapter: is "dpdk"; allowed: "memory", "udp"'):
        adapters.find("dpdk", [MEMORY])
    broken = EntryPoint("broken", "no_such_module:Adapter", adapters.GROUP)
    with pytest.raises(Unavailable, match=r"'broken' .* cannot be loaded: No module"):
        adapters.find("broken", [broken])

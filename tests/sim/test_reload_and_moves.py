"""A running broker is told something else: another configuration, another path, one member less."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tempos import ConfigError, Framing, Overflow, PathPolicy, Quality, Subscriber, Topic, Unavailable
from tempos import Path as DataPath
from tempos._rows import Rows
from tempos_broker.broker import Broker
from tempos_broker.config.model import BrokerConfig, ClientConfig, ControlConfig, StaticMember, TopicConfig
from tempos_broker.lives import continuity
from tempos_broker.lives.store import Store
from tempos_broker.membership import Refused
from tempos_broker.paths import NoFastPath
from tempos_broker.tickets import FileTickets
from tempos_broker.worker.slowpaths import SlowPaths

from .test_broker import Client, FakeFastPath, free_ports, running, topic, until
from .test_changes_under_traffic import EVENTS, Traffic, assert_exact, broker


async def test_a_reload_under_traffic_changes_what_it_says_and_loses_nothing() -> None:
    (port,) = free_ports(1)
    async with broker() as running:
        traffic = Traffic(running.config, "events")
        members = [traffic.subscriber() for _ in range(2)]
        for member in members:
            await member.__aenter__()
        readers = [asyncio.create_task(traffic.read(member)) for member in members]
        publishing = asyncio.create_task(traffic.run())
        await until(lambda: members[0].stats.events > 100)
        epoch = topic(running, "events")["epoch"]
        # A limit that this traffic stays far below.
        strict = replace(
            EVENTS, quality=Quality.SQ, priority=3, rate=10_000_000, burst=100_000, overflow=Overflow.PASS
        )
        new = replace(
            running.config,
            topics=(
                TopicConfig(strict, (StaticMember("127.0.0.1", port, "displays"),)),
                TopicConfig(Topic(9, "more")),
            ),
            control=replace(running.config.control, lease=5.0),
        )
        assert await running.reload(new) == (
            "topic plain (2) removed",
            "topic more (9) added",
            "topic events: class BQ -> SQ",
            "topic events: priority 0 -> 3",
            "topic events: rate 0 -> 10000000",
            "topic events: burst 0 -> 100000",
            "topic events: overflow drop -> pass",
            f"topic events: static member 127.0.0.1:{port} added",
            "control.lease (10.0 -> 5.0)",
        )
        assert await running.reload(new) == ()
        assert [entry["name"] for entry in running.status()["topics"]] == ["events", "more"]
        assert topic(running, "events")["epoch"] == epoch + 1
        shown = [topic(running, "events")[key] for key in ("class", "rate", "burst", "overflow")]
        assert shown == ["SQ", 10_000_000, 100_000, "pass"]
        seen = traffic.sent
        await until(lambda: traffic.sent > seen + 500)
        back = replace(new, topics=(TopicConfig(strict), TopicConfig(replace(strict, id=2, name="plain"))))
        await running.reload(back)
        traffic.stop()
        await publishing
        await until(traffic.all_arrived)
        for member in members:
            assert (await member.drain()).lost == 0  # type: ignore[union-attr]
        await asyncio.gather(*readers)
        assert_exact(running, traffic)
        # An id that comes back goes on with its epochs, and begins a new account.
        assert topic(running, "plain")["epoch"] > 1
        assert (topic(running, "plain")["received"], topic(running, "plain")["groups"]) == (0, [])


async def test_a_topic_whose_framing_changes_sends_its_members_back_to_subscribe() -> None:
    async with broker(lease=2.0, heartbeat=0.1) as running:
        control = running.config.control_port
        async with Subscriber("127.0.0.1", "events", group="g", control_port=control) as member:
            raw = TopicConfig(replace(EVENTS, framing=Framing.RAW))
            await running.reload(replace(running.config, topics=(raw, *running.config.topics[1:])))
            assert topic(running, "events")["groups"] == []
            await until(lambda: bool(topic(running, "events")["groups"]))
            traffic = Traffic(running.config, "events")
            publishing = asyncio.create_task(traffic.run())
            await until(lambda: member.stats.events > 50)
            traffic.stop()
            await publishing
        assert running.ledger()["balanced"], running.ledger()


async def test_what_cannot_change_while_running_changes_nothing_at_all() -> None:
    async with broker() as running:
        before = running.config
        control = replace(before.control, clients=(ClientConfig("c", bytes(16)),))
        for new, words in (
            (
                replace(before, data_port=1, api_token="x" * 16),
                ("broker.data_port", "broker.api_token: cannot"),
            ),
            (replace(before, limits=replace(before.limits, batch=3)), ("limits.batch (64 -> 3)",)),
            (
                replace(before, quality=replace(before.quality, share_bq=5, cpus_bq=(0, 1))),
                ("quality.share_bq (0 -> 5)", "quality.cpus_bq ([] -> [0, 1])"),
            ),
            (replace(before, listen=("127.0.0.2",), control=control), ("broker.listen ([127.0.0.1] -> ",)),
        ):
            with pytest.raises(ConfigError) as refused:
                await running.reload(new)
            assert all(word in str(refused.value) for word in words)
            assert "restart it" in str(refused.value)
        own = StaticMember("127.0.0.1", before.data_port)
        with pytest.raises(ConfigError, match="own socket"):
            await running.reload(replace(before, topics=(TopicConfig(EVENTS, (own,)),)))
        assert running.config is before
        assert [entry["name"] for entry in running.status()["topics"]] == ["events", "plain"]


async def test_the_fast_path_knows_classes_and_rates_before_it_gets_a_route_or_nothing_changes() -> None:
    async with running() as (broker_, fast, client):
        client.ask("subscribe", topic="alpha", group="g", port=client.port)
        await client.answer()
        alpha, beta = fast.topics
        assert [alpha.name, beta.name] == ["alpha", "beta"]
        known: list[int] = []
        fast.before_install = lambda: known.append(fast.topics[0].rate)
        limited = replace(alpha, rate=100, quality=Quality.BQ)
        new = replace(broker_.config, topics=(TopicConfig(limited), TopicConfig(beta)))

        fast.refusal = Unavailable("no memory for that")
        with pytest.raises(ConfigError, match="the fast path refuses: no memory for that"):
            await broker_.reload(new)
        assert (fast.topics, known) == ([alpha, beta], [])
        assert topic(broker_, "alpha")["rate"] == 0

        fast.refusal = None
        await broker_.reload(new)
        assert (fast.topics, known) == ([limited, beta], [100])
        assert fast.installed[-1].topic is limited


async def test_moves_keep_epoch_and_route_and_a_drain_waits_for_the_member() -> None:
    async with running() as (broker_, fast, client):
        client.ask("subscribe", topic="alpha", group="g", port=client.port)
        await client.answer()
        for policy, path in ((PathPolicy.SLOW, "slow"), (PathPolicy.FAST, "fast"), (PathPolicy.AUTO, "fast")):
            await broker_.move("alpha", policy)
            status = topic(broker_, "alpha")
            assert (status["policy"], status["path"], status["epoch"]) == (policy.value, path, 2)
        assert [route.epoch for route in fast.installed] == [2, 2, 2]
        assert fast.withdrawn == [1, 1], "of the first, empty route, and of the move"
        await broker_.move("beta", PathPolicy.FAST)
        assert topic(broker_, "beta")["reason"] == "the topic has no member"
        with pytest.raises(Refused, match="no topic is named"):
            await broker_.move("gamma", PathPolicy.FAST)

        client.publish(b"\x01x")
        await client.event()
        where = ("127.0.0.1", client.port)
        draining = asyncio.create_task(broker_.drain("alpha", "g", where, 5))
        await until(lambda: topic(broker_, "alpha")["epoch"] == 3)
        from tempos.control import Received

        client.ask("heartbeat", port=client.port, received=[Received(1, "g", 0, 1)])
        await client.answer()
        assert (await draining)[:2] == (1, 1)
        with pytest.raises(Refused, match="no member with a lease"):
            await broker_.remove("alpha", "g", where)


@pytest.mark.parametrize("served", [True, False])
async def test_whom_the_kernel_served_beyond_its_lease_is_a_member_until_it_could_be_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: bool
) -> None:
    """Nobody was there to renew a lease with, and then a start took longer than a heartbeat and a half."""
    data, control = free_ports(2)
    config = BrokerConfig(
        (TopicConfig(Topic(1, "alpha")),), listen=("127.0.0.1",), data_port=data, control_port=control,
        api_port=0, control=ControlConfig(lease=5.0, heartbeat=0.4),
    )  # fmt: skip
    tickets, fast, again = FileTickets(tmp_path / "tickets", Rows()), FakeFastPath(), FakeFastPath()
    fast.tickets = again.tickets = tickets  # type: ignore[assignment]
    async with Broker(config, fast, store=Store.open(tmp_path / "state")) as first:
        with contextlib.closing(Client(first)) as client:
            client.ask("subscribe", topic="alpha", group="g", port=client.port)
            await client.answer()
    start = SlowPaths.start

    async def start_late(self: SlowPaths) -> None:
        await start(self)
        await asyncio.sleep(2 * config.control.heartbeat)

    monkeypatch.setattr(continuity, "now_there", lambda _: time.time() + 3600)
    monkeypatch.setattr(SlowPaths, "start", start_late)
    again.left = {1: 2} if served else {}
    async with Broker(config, again, store=Store.open(tmp_path / "state")) as second:
        assert again.installed == fast.installed
        status = topic(second, "alpha")
        assert status["epoch"] == (2 if served else 3)
        members = [member for group in status["groups"] for member in group["members"]]
        assert [member["lease_s"] > 0 for member in members] == [True] * served
        # A member that stays away is out.
        await until(lambda: topic(second, "alpha")["epoch"] == 3)
        assert again.withdrawn == [1]
    tickets.close()


async def test_a_clock_that_is_set_between_two_lives_ends_no_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, control = free_ports(2)
    config = BrokerConfig(
        (TopicConfig(Topic(1, "alpha")),), listen=("127.0.0.1",), data_port=data, control_port=control,
        api_port=0, control=ControlConfig(lease=5.0, heartbeat=0.4),
    )  # fmt: skip
    async with Broker(config, NoFastPath(""), store=Store.open(tmp_path / "state")) as first:
        with contextlib.closing(Client(first)) as client:
            client.ask("subscribe", topic="alpha", group="g", port=client.port)
            await client.answer()
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + 3600)
    async with Broker(config, NoFastPath(""), store=Store.open(tmp_path / "state")) as second:
        (group,) = topic(second, "alpha")["groups"]
        (member,) = group["members"]
        assert 0 < member["lease_s"] <= 5.0


async def test_an_adopted_route_is_kept_as_it_is(tmp_path: Path) -> None:
    """What a killed broker left in the kernel: the same epoch, tickets that went on, counters that did."""
    data, control = free_ports(2)
    alpha = Topic(1, "alpha")
    config = BrokerConfig(
        (TopicConfig(alpha),), listen=("127.0.0.1",), data_port=data, control_port=control, api_port=0,
        control=ControlConfig(lease=3.0, heartbeat=0.5),
    )  # fmt: skip
    tickets = FileTickets(tmp_path / "tickets", Rows())
    fast = FakeFastPath()
    fast.tickets = tickets  # type: ignore[assignment]
    async with Broker(config, fast, store=Store.open(tmp_path / "state")) as first:
        client = Client(first)
        client.ask("subscribe", topic="alpha", group="g", port=client.port)
        assert (await client.answer())["epoch"] == 2
        instance = first.instance
    (route,) = fast.installed
    # What the kernel did while nobody was there.
    tickets.draw(1, 2, 0, 40)
    again = FakeFastPath()
    again.tickets = tickets  # type: ignore[assignment]
    from tempos import Reason

    again.left, again.counts = {1: 2}, {1: {Reason.FORWARDED: 37}}
    async with Broker(config, again, store=Store.open(tmp_path / "state")) as second:
        assert second.instance == instance
        assert again.installed == [route]
        assert again.withdrawn == []
        status = topic(second, "alpha")
        assert (status["epoch"], status["path"]) == (2, DataPath.FAST.value)
        # Three tickets that the fast path did not draw: the slow path did, and died before it said so.
        assert (status["fast"], status["slow"], status["received"]) == (37, 3, 40)
        assert status["groups"][0]["tickets"] == 40
        assert status["balanced"], status
        client.ask("heartbeat", port=client.port, received=[])
        await client.answer()
    # The state is lost, the kernel's route is not: it is taken out before anything else.
    third = FakeFastPath()
    third.tickets = tickets  # type: ignore[assignment]
    third.left, third.counts = {1: 7}, {1: {Reason.FORWARDED: 50}}
    async with Broker(config, third, store=Store.open(tmp_path / "other")) as last:
        status = topic(last, "alpha")
        assert third.withdrawn[0] == 1
        assert (status["epoch"], status["received"], status["balanced"]) == (8, 0, True)
    client.close()
    tickets.close()

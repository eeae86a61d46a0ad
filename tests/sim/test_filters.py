"""Members by filters, through real brokers on loopback: of topics that there are and of those made later."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.brokers import post

from tempos import ControlRefused, LocalError, Publisher, Subscriber, Topic, blocking
from tempos.session import ControlSession
from tempos_broker.broker import Broker
from tempos_broker.config.model import BrokerConfig, ControlConfig, Limits, TopicConfig
from tempos_broker.paths import NoFastPath

from .test_broker import free_ports, until
from .test_changes_under_traffic import broker
from .test_restart import LIMIT, Machine

PRESS, OVEN = "plant/line1/press/temperature", "plant/line2/oven/temperature"


def subscriber(running: Broker, *wanted: str, group: str | None = "g") -> Subscriber:
    return Subscriber("127.0.0.1", *wanted, group=group, control_port=running.config.control_port)


def publisher(running: Broker) -> Publisher:
    config = running.config
    return Publisher("127.0.0.1", data_port=config.data_port, control_port=config.control_port)


def members(running: Broker, topic: str) -> int:
    return sum(len(group["members"]) for group in running.topic(topic)["groups"])


async def taken(sub: Subscriber, count: int) -> Counter[tuple[str, int]]:
    return Counter([(event.topic, event.topic_id) for event in [await sub.next(LIMIT) for _ in range(count)]])


def balanced(running: Broker) -> dict[str, dict[str, Any]]:
    topics = {each["name"]: each for each in running.ledger()["topics"]}
    assert all(each["balanced"] for each in topics.values()), topics
    return topics


async def test_a_filter_has_all_that_match_now_and_later_and_each_event_once() -> None:
    async with broker(lease=4.0, heartbeat=0.2) as running:
        for name in (PRESS, OVEN):
            await running.add_topic({"name": name})
        async with (
            subscriber(running, "plant/+/press/#", "plant/#", PRESS) as sub,
            subscriber(running, "#", group=None) as alone,
            publisher(running) as pub,
        ):
            assert set(sub.topics) == {PRESS, OVEN}
            assert set(alone.topics) == {PRESS, OVEN, "events", "plain"}
            for name in (PRESS, OVEN, "events"):
                await pub.publish(name, b"1")
            assert await taken(sub, 2) == Counter({(PRESS, 3): 1, (OVEN, 4): 1})
            assert await taken(alone, 3) == Counter({(PRESS, 3): 1, (OVEN, 4): 1, ("events", 1): 1})
            # Made later, of either framing, and published to before any heartbeat: nothing is miscounted.
            for number, framing in enumerate(("event", "raw")):
                name = f"plant/line3/press/{number}"
                made = await running.add_topic({"name": name, "framing": framing})
                for _ in range(50):
                    await pub.publish(name, b"2")
                assert await taken(sub, 50) == Counter({(name, made["id"]): 50})
                assert await taken(alone, 50) == Counter({(name, made["id"]): 50})
            for each in (sub, alone):
                assert (each.stats.malformed, each.stats.missed, each.stats.queue_full) == ({}, 0, 0)
            # Removed and made again: joined again, whatever its id.
            await running.remove_topic("plant/line3/press/0", drain=True)
            await until(lambda: "plant/line3/press/0" in sub.away and "plant/line3/press/0" in alone.away)
            assert "plant/line3/press/0" not in sub.topics
            again = await running.add_topic({"name": "plant/line3/press/0"})
            await pub.flush()
            async with publisher(running) as anew:
                await anew.publish("plant/line3/press/0", b"3")
            assert await taken(sub, 1) == Counter({("plant/line3/press/0", again["id"]): 1})
            assert "plant/line3/press/0" not in sub.away
            # What is wanted otherwise, too, stays.
            await sub.unsubscribe("plant/#")
            assert [members(running, name) for name in (OVEN, "events", PRESS)] == [1, 1, 2]
            await sub.unsubscribe("plant/+/press/#")
            assert set(sub.topics) == {PRESS}
            with pytest.raises(LocalError, match="no member of 'plant/#'"):
                await sub.unsubscribe("plant/#")
            drained = await alone.drain()
            assert drained is not None
            # What came of the topic that was removed is in an account that ended with it.
            assert (drained.ticketed, drained.lost) == (3 + 50 + 1, 0)
        topics = balanced(running)
        assert topics[PRESS]["groups"][0]["delivered"] == 1


@pytest.mark.parametrize("framing", ["event", "raw"])
async def test_what_came_of_a_topic_that_is_gone_before_anybody_heard_of_it_is_delivered(
    framing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removed, or its member taken out, as soon as it was published to; it hears by heartbeats only."""
    monkeypatch.setattr(ControlSession, "look", lambda session, now: None)
    async with broker(lease=30.0, heartbeat=0.2) as running, subscriber(running, "plant/#") as sub:
        for number in range(3):
            made = await running.add_topic({"name": PRESS, "framing": framing, "id": 300 + number})
            async with publisher(running) as pub:
                for _ in range(5):
                    await pub.publish(PRESS, b"x")
            if number < 2:
                await running.remove_topic(PRESS, drain=True, patience=LIMIT)
            else:
                place = ("127.0.0.1", sub.member.port)
                drained = await running.drain(PRESS, "g", place, LIMIT)
                assert (drained.ticketed, drained.confirmed) == (5, 5)
            assert await taken(sub, 5) == Counter({(PRESS, made["id"]): 5})
        assert (sub.stats.malformed, sub.stats.missed) == ({}, 0)
        balanced(running)


async def test_a_blocking_subscriber_has_filters_too_and_bad_ones_are_refused_at_once() -> None:
    async with broker(lease=4.0, heartbeat=0.2) as running:
        await running.add_topic({"name": PRESS})
        sub = blocking.Subscriber(
            "127.0.0.1",
            ["plant/+/+/temperature", "events"],
            control_port=running.config.control_port,
            timeout=LIMIT,
        )
        await asyncio.to_thread(sub.__enter__)
        async with publisher(running) as pub:
            await pub.publish(PRESS, b"x")
            event = await asyncio.to_thread(sub.next, LIMIT)
        assert (event.topic, sub.topics) == (PRESS, ("events", PRESS))
        await asyncio.to_thread(sub.close)
        balanced(running)
        for bad in ("plant/#/press", "a+", "$share/g/plant"):
            with pytest.raises(LocalError, match=r"a filter is .*which"):
                subscriber(running, bad)
        # A name that no topic has is a mistake; a filter that nothing matches waits.
        with pytest.raises(ControlRefused, match="no topic is named 'cold'"):
            await subscriber(running, "events", "cold").__aenter__()
        async with subscriber(running, "nothing/#") as waits:
            assert waits.topics == ()
            await running.add_topic({"name": "nothing/yet"})
            await until(lambda: waits.topics == ("nothing/yet",))


async def test_who_has_no_room_in_one_topic_is_in_the_others_and_in_it_once_there_is() -> None:
    data, port = free_ports(2)
    config = BrokerConfig(
        tuple(TopicConfig(Topic(n, f"t/{n}")) for n in (1, 2)), listen=("127.0.0.1",), data_port=data,
        control_port=port, api_port=0, limits=Limits(members_per_group=1),
        control=ControlConfig(lease=4.0, heartbeat=0.1),
    )  # fmt: skip
    async with Broker(config, NoFastPath("off")) as running:
        async with subscriber(running, "t/1") as first, subscriber(running, "t/#") as second:
            assert second.topics == ("t/2",)
            await until(lambda: "no room" in second.away.get("t/1", ""))
            await first.close()
            await until(lambda: set(second.topics) == {"t/1", "t/2"})
            assert not second.away
        balanced(running)


TOPICS = "".join(
    f'[[topic]]\nid = {n}\nname = "plant/{n}"\nframing = "{f}"\n' for n, f in ((1, "event"), (2, "raw"))
)
MORE = '[[topic]]\nid = 9\nname = "plant/9"\n'


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_what_is_wanted_outlives_the_broker(tmp_path: Path, how: signal.Signals) -> None:
    machine = Machine(tmp_path, lease=30.0)
    machine.configure(TOPICS)

    async def publish(name: str) -> None:
        async with Publisher("127.0.0.1", data_port=machine.data, control_port=machine.control) as pub:
            for _ in range(20):
                await pub.publish(name, b"x")

    async with contextlib.AsyncExitStack() as stack:
        with machine.broker(how):
            sub = await stack.enter_async_context(
                Subscriber("127.0.0.1", "plant/#", group="g", control_port=machine.control)
            )
            port = sub.member.port
            await publish("plant/1")
            assert await taken(sub, 20) == Counter({("plant/1", 1): 20})
        machine.configure(TOPICS + MORE)
        with machine.broker(how):
            # Of what is new, too, and before it has said a word.
            rows = await asyncio.to_thread(machine.get, "/v1/topics/plant%2F9")
            assert [each["port"] for group in rows["groups"] for each in group["members"]] == [port]
            await publish("plant/9")
            assert await taken(sub, 20) == Counter({("plant/9", 9): 20})
            machine.configure(TOPICS.replace('"plant/1"', '"plant/one"') + MORE)
            await asyncio.to_thread(post, machine.api, "/v1/reload")
            await until(lambda: set(sub.topics) == {"plant/one", "plant/2", "plant/9"})
            await publish("plant/one")
            await publish("plant/2")
            assert await taken(sub, 40) == Counter({("plant/one", 1): 20, ("plant/2", 2): 20})
            assert (sub.stats.malformed, sub.stats.missed) == ({}, 0)
            drained = await sub.drain()
            assert drained is not None
            assert drained.lost == 0
            ledger = await asyncio.to_thread(machine.get, "/v1/ledger")
            assert all(each["balanced"] for each in ledger["topics"]), ledger

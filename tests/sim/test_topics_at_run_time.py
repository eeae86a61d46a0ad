"""Topics are made, changed and removed while the broker runs: under traffic, over kills, beside a file."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
from support.waiting import LIMIT

from tempos import (
    Admin,
    ApiRefused,
    ConfigError,
    ControlRefused,
    NoReply,
    Publisher,
    Quality,
    RemoteError,
    Subscriber,
    Topic,
    Unavailable,
    blocking,
)
from tempos.cli import main
from tempos.sending import telling
from tempos_broker.broker import Broker
from tempos_broker.config import parse
from tempos_broker.config.model import BrokerConfig, Limits, StaticMember, TopicConfig
from tempos_broker.config.topics import BadTopic
from tempos_broker.lives.store import Store, Thing, things_in
from tempos_broker.membership import Refused, Registry
from tempos_broker.paths import NoFastPath
from tempos_broker.topics.former import MADE

from .test_broker import FakeFastPath, free_ports, topic, until
from .test_changes_under_traffic import EVENTS, Traffic, broker
from .test_restart import Machine

NAME = "plant/line1/press"


async def test_a_topic_is_made_served_and_drained_away_under_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its members get all that had come when it was ordered, and are told; its account closes with that."""
    monkeypatch.setattr(telling, "EVERY", 0.05)
    async with broker(lease=4.0, heartbeat=0.05) as running:
        made = await running.add_topic({"name": NAME, "class": "SQ", "priority": 3})
        assert (made["id"], made["origin"], made["durable"], made["class"]) == (3, "run-time", False, "SQ")
        traffic, beside = Traffic(running.config, NAME), Traffic(running.config, "events")
        members = [traffic.subscriber() for _ in range(2)]
        other = beside.subscriber()
        for each in (*members, other):
            await each.__aenter__()
        readers = [asyncio.create_task(traffic.read(each)) for each in members]
        readers.append(asyncio.create_task(beside.read(other)))
        publishing = [asyncio.create_task(each.run()) for each in (traffic, beside)]
        await until(lambda: len(traffic.got) > 500)
        await running.set_topic(NAME, {"priority": None, "rate": 10_000_000, "burst": 100_000})
        assert [topic(running, NAME)[key] for key in ("priority", "rate")] == [0, 10_000_000]
        seen = traffic.sent
        await until(lambda: len(traffic.got) > seen + 200)
        with pytest.raises(Refused, match=r"has 2 members") as refused:
            await running.remove_topic(NAME)
        assert "drain" in refused.value.hint
        had_come = traffic.sent
        removed = await running.remove_topic(NAME, drain=True)
        assert removed.members == 2
        assert removed.ticketed == removed.confirmed >= had_come, "what had been sent by then went to them"
        assert (removed.account["balanced"], removed.account["problems"]) == (True, [])
        (group,) = removed.account["groups"]
        assert group["tickets"] == group["delivered"] == removed.ticketed
        await until(lambda: len(traffic.got) == removed.ticketed)
        assert traffic.got == Counter(range(removed.ticketed)), "each once, and the first ones that were sent"
        assert all(NAME in each.away for each in members)
        assert [each["name"] for each in running.status()["topics"]] == ["events", "plain"]
        # Made anew it is another topic, whose id rests; who was a member asks on, and is one again.
        again = await running.add_topic({"name": NAME})
        assert again["id"] == 4
        await until(lambda: sum(len(g["members"]) for g in topic(running, NAME)["groups"]) == 2)
        # So does who publishes: it hears that the number which it knows is nobody's any more.
        known = len(traffic.got)
        await until(lambda: len(traffic.got) > known)
        for each in (traffic, beside):
            each.stop()
        await asyncio.gather(*publishing)
        await until(beside.all_arrived)
        assert beside.got == Counter(range(beside.sent)), "nothing of others is lost or doubled"
        for each in (*members, other):
            await each.close()
        await asyncio.gather(*readers)
        assert running.ledger()["balanced"]


@pytest.mark.parametrize("number", [3, 2], ids=["another number", "the number of another name before"])
async def test_who_publishes_hears_that_a_topic_is_no_more_or_another_one(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(telling, "EVERY", 0.02)
    async with broker(lease=4.0, heartbeat=0.05) as running:
        ports = {key: getattr(running.config, key) for key in ("data_port", "control_port")}
        async with Publisher("127.0.0.1", **ports) as pub:
            with blocking.Publisher("127.0.0.1", **ports) as blocked:

                async def goes_on(refused: type[Exception]) -> None:
                    """Publish and ask by every way until each is refused so."""
                    for way in (
                        lambda: pub.publish("plain", b"x"),
                        lambda: asyncio.to_thread(blocked.publish, "plain", b"x"),
                        lambda: pub.request("plain", b"x", 0.05),
                    ):
                        deadline = asyncio.get_running_loop().time() + LIMIT
                        while asyncio.get_running_loop().time() < deadline:
                            try:
                                await way()
                            except refused:
                                break
                            except NoReply:
                                pass
                            await asyncio.sleep(0)
                        else:
                            pytest.fail("it went on without a word")

                await pub.publish("plain", b"first")
                entries = running.config.topics
                await running.reload(replace(running.config, topics=entries[:1]))
                await goes_on(ControlRefused)
                assert pub.stats.events >= 1, "what was sent before is in the counts"
                events, plain = entries[0], entries[1]
                moved = replace(plain, topic=replace(plain.topic, id=number))
                if number == 2:
                    # While it knows the new one, the numbers change places.
                    await running.reload(replace(running.config, topics=(events, moved)))
                    await pub.publish("plain", b"x")
                    moved = replace(plain, topic=replace(plain.topic, id=1))
                    events = replace(events, topic=replace(events.topic, id=2))
                await running.reload(replace(running.config, topics=(events, moved)))
                async with Subscriber("127.0.0.1", "plain", control_port=ports["control_port"]) as sub:
                    got = asyncio.create_task(anext(aiter(sub)))
                    deadline = asyncio.get_running_loop().time() + LIMIT
                    while not got.done():
                        assert asyncio.get_running_loop().time() < deadline
                        await pub.publish("plain", b"again")
                        await asyncio.sleep(0.001)
                    assert got.result().body == b"again"


async def test_what_lies_in_the_socket_when_a_topic_is_drained_goes_to_its_members() -> None:
    async with broker(lease=4.0, heartbeat=0.05) as running:
        await running.add_topic({"name": NAME})
        traffic = Traffic(running.config, NAME)
        member = traffic.subscriber()
        await member.__aenter__()
        reading = asyncio.create_task(traffic.read(member))
        async with Publisher(
            "127.0.0.1", data_port=running.config.data_port, control_port=running.config.control_port
        ) as publisher:
            await publisher.publish(NAME, bytes(4))
            await until(lambda: bool(traffic.got))
            # The broker has no turn before the order: nothing of this is read.
            for number in range(1, 1000):
                await publisher.publish(NAME, number.to_bytes(4, "big"))
            removed = await running.remove_topic(NAME, drain=True)
        assert (removed.ticketed, removed.confirmed, removed.account["refused"]) == (1000, 1000, {})
        await until(lambda: traffic.got == Counter(range(1000)))
        await member.close()
        await reading


async def test_all_faults_come_at_once_and_what_contradicts_is_told() -> None:
    async with broker() as running:
        with pytest.raises(BadTopic) as bad:
            await running.add_topic(
                {"name": "a#", "priority": 9, "burst": 3, "Rate": 1, "sources": ["10.0.0.1/8"],
                 "member": [{"ip": "127.0.0.1", "port": running.config.data_port}]}
            )  # fmt: skip
        keys = ("name", "priority", "Rate", "sources[0]", "burst", "member[0]")
        assert sorted(each.split()[1] for each in bad.value.problems) == sorted(keys)
        for document, words in (
            ({"name": "events"}, r"there is a topic 'events' \(1\) already: the file has it"),
            ({"name": "new", "id": 2}, "id 2 is that of topic 'plain'"),
        ):
            with pytest.raises(Refused, match=words):
                await running.add_topic(document)
        await running.add_topic({"name": "new", "id": 200, "framing": "raw"})
        for changes, words in (
            ({"framing": "event"}, "framing is .*remove this one and add that"),
            ({"id": 5}, "id is 5; allowed: 200, as it is"),
            ({"overflow": "pass"}, "overflow is .*without a rate"),
            # No option that there is not has a default.
            ({"Rate": None}, "Rate is an unknown key"),
        ):
            with pytest.raises(BadTopic, match=words):
                await running.set_topic("new", changes)
        with pytest.raises(Refused, match="stands in the configuration file"):
            await running.set_topic("events", {"rate": 1})
        with pytest.raises(Refused, match="stands in the configuration file"):
            await running.remove_topic("events", drain=True)
        for order in (running.remove_topic("nobody"), running.set_topic("nobody", {})):
            with pytest.raises(Refused, match="no topic is named 'nobody'"):
                await order
        # Orders for one name come one after the other; of two that make it one does.
        twice = await asyncio.gather(
            *(running.add_topic({"name": "twice"}) for _ in range(2)), return_exceptions=True
        )
        assert sum(isinstance(each, Refused) for each in twice) == 1
        assert [each["name"] for each in running.status()["topics"]] == ["events", "plain", "new", "twice"]


async def test_what_the_kernel_or_the_disk_refuses_has_changed_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, control = free_ports(2)
    config = BrokerConfig((TopicConfig(EVENTS),), ("127.0.0.1",), data, control, api_port=0)
    store, fast = Store.open(tmp_path / "state"), FakeFastPath()
    async with Broker(config, fast, store=store) as running:
        await running.add_topic({"name": "made", "rate": 7})
        fast.refusal = Unavailable("no memory")
        for order in (running.add_topic({"name": "new"}), running.set_topic("made", {"rate": 8})):
            with pytest.raises(Refused, match="the fast path refuses: no memory"):
                await order
        fast.refusal = None
        monkeypatch.setattr(Store, "_write", _full)
        for order in (  # type: ignore[assignment]
            running.add_topic({"name": "new"}), running.set_topic("made", {"rate": 8}),
            running.remove_topic("made"),
        ):  # fmt: skip
            with pytest.raises(Refused, match="could not be written"):
                await order
        monkeypatch.undo()
        assert [(each["name"], each["rate"]) for each in running.status()["topics"]] == [
            ("events", 0), ("made", 7),
        ]  # fmt: skip
        # Neither its name nor its id is gone.
        assert (await running.add_topic({"name": "new"}))["id"] == 3
        assert [each.name for each in fast.topics] == ["events", "made", "new"]
    assert {
        name: each["rate"] for name, each in things_in(tmp_path / "state", MADE).items() if "rate" in each
    } == {"made": 7}


async def test_an_order_tells_both_paths_of_its_own_topic_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else there is, thousands of topics it may be, is not gone through."""
    data, control = free_ports(2)
    config = BrokerConfig((TopicConfig(EVENTS),), ("127.0.0.1",), data, control, api_port=0)
    async with Broker(config, NoFastPath("off")) as running:

        def all_of_them(*_: object) -> None:
            raise AssertionError("all topics were gone through")

        for each in (NoFastPath, Registry):
            monkeypatch.setattr(each, "configure", all_of_them)
        for id_ in (None, 60_000):
            made = await running.add_topic({"name": NAME, "id": id_, "class": "SQ", "rate": 1_000_000})
            await running.set_topic(NAME, {"class": "BQ", "priority": 2, "rate": None})
            traffic = Traffic(running.config, NAME)
            member = traffic.subscriber()
            await member.__aenter__()
            reading = asyncio.create_task(traffic.read(member))
            publishing = asyncio.create_task(traffic.run())
            await until(lambda traffic=traffic: len(traffic.got) > 100)
            traffic.stop()
            await publishing
            await until(traffic.all_arrived)
            assert topic(running, NAME)["received"] == traffic.sent
            removed = await running.remove_topic(NAME, drain=True)
            assert (removed.topic.id, removed.account["balanced"]) == (made["id"], True)
            await member.close()
            await reading
        monkeypatch.undo()


async def test_a_reload_goes_by_the_topics_that_it_changes_and_keeps_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, control = free_ports(2)
    there = tuple(TopicConfig(Topic(id_, f"t{id_}", Quality.SQ)) for id_ in (1, 2, 300, 301))
    config = BrokerConfig(there, ("127.0.0.1",), data, control, api_port=0)
    told: list[int] = []
    async with Broker(config, NoFastPath("off")) as running:
        amend, put = Registry.amend, NoFastPath.put

        async def put_(fast: NoFastPath, topic: Topic) -> None:
            told.append(topic.id)
            await put(fast, topic)

        def amend_(registry: Registry, entry: TopicConfig, now: float) -> None:
            told.append(entry.topic.id)
            amend(registry, entry, now)

        monkeypatch.setattr(Registry, "amend", amend_)
        monkeypatch.setattr(NoFastPath, "put", put_)
        monkeypatch.delattr(NoFastPath, "configure")
        # The same file, read anew: the topics are other objects.
        await running.reload(replace(config, topics=tuple(map(deepcopy, there))))
        assert not told
        assert all(now is was for now, was in zip(running.config.topics, there, strict=True))
        # One goes, one takes its id, one has another option, one is new.
        entries = [deepcopy(there[0]), TopicConfig(Topic(2, "other")), TopicConfig(Topic(302, "new"))]
        changed = TopicConfig(replace(there[2].topic, quality=Quality.BQ))
        await running.reload(replace(config, topics=(*entries, changed)))
        assert sorted(told) == [2, 2, 300, 300, 302, 302]
        assert running.config.topics[0] is there[0]
        names = {each["name"] for each in running.status()["topics"]}
        assert names == {"t1", "other", "new", "t300"}
        for name in names:
            traffic = Traffic(running.config, name)
            async with traffic.subscriber() as member:
                reading = asyncio.create_task(traffic.read(member))
                publishing = asyncio.create_task(traffic.run())
                await until(lambda traffic=traffic: len(traffic.got) > 10)
                traffic.stop()
                await publishing
                await until(traffic.all_arrived)
            await reading


def _full(store: Store, *_: object) -> None:
    raise sqlite3.OperationalError("database or disk is full")


async def test_a_file_that_contradicts_is_told_and_one_that_agrees_takes_over(tmp_path: Path) -> None:
    data, control = free_ports(2)
    config = BrokerConfig((TopicConfig(EVENTS),), ("127.0.0.1",), data, control, api_port=0)
    made = TopicConfig(Topic(9, "made", Quality.SQ, rate=5), (StaticMember("10.0.0.1", group="g"),))
    with_it = replace(config, topics=(*config.topics, made))
    contradictions = (
        (replace(made, topic=replace(made.topic, rate=6)), r"topic 'made' \(9\) .*rate 5 -> 6"),
        (replace(made, topic=replace(made.topic, id=8)), r"topic 'made' \(9\) .*id 9 -> 8"),
        (replace(made, topic=replace(made.topic, name="other")), "'other' of the file has id 9, as 'made'"),
        (replace(made, members=()), "static member 10.0.0.1:9998 removed"),
    )
    async with Broker(config, NoFastPath("off"), store=Store.open(tmp_path / "state")) as running:
        await running.add_topic(
            {"name": "made", "id": 9, "class": "SQ", "rate": 5, "member": [{"ip": "10.0.0.1", "group": "g"}]}
        )
        before = running.status()["topics"]
        for entry, words in contradictions:
            with pytest.raises(ConfigError, match=words) as error:
                await running.reload(replace(config, topics=(*config.topics, entry)))
            assert "tempos ctl topic remove 'made'" in str(error.value)
            assert running.status()["topics"] == before
    # The next life finds it, and goes by it; one whose file contradicts does not start.
    for entry, words in contradictions:
        store = Store.open(tmp_path / "state")
        with pytest.raises(ConfigError, match=words):
            Broker(replace(config, topics=(*config.topics, entry)), NoFastPath("off"), store=store)
        await store.close()
    async with Broker(config, NoFastPath("off"), store=Store.open(tmp_path / "state")) as running:
        assert [topic(running, "made")[key] for key in ("id", "origin", "durable", "rate")] == [
            9, "run-time", True, 5,
        ]  # fmt: skip
        assert await running.reload(config) == ()
        assert topic(running, "made")["groups"][0]["members"][0]["ip"] == "10.0.0.1"
        assert await running.reload(with_it) == ("topic made (9) is the file's now",)
        assert topic(running, "made")["origin"] == "file"
        assert await running.reload(config) == ("topic made (9) removed",)
    async with Broker(config, NoFastPath("off"), store=Store.open(tmp_path / "state")) as running:
        assert [each["name"] for each in running.status()["topics"]] == ["events"]
        await running.add_topic({"name": "made", "id": 9})
    # What agrees is the file's also where only a start finds out.
    plain = replace(config, topics=(*config.topics, TopicConfig(Topic(9, "made"))))
    async with Broker(plain, NoFastPath("off"), store=Store.open(tmp_path / "state")) as running:
        assert topic(running, "made")["origin"] == "file"
    assert things_in(tmp_path / "state", MADE) == {}


async def test_what_cannot_be_served_again_is_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, control = free_ports(2)
    config = BrokerConfig((), ("127.0.0.1",), data, control, api_port=0, limits=Limits(members_per_group=1))
    store = Store.open(tmp_path / "state")
    members = [{"ip": f"10.0.0.{each}", "group": "g"} for each in (1, 2)]
    for name, document in (
        ("good", {"name": "good", "id": 4}), ("other", {"name": "o", "id": 5}), ("no id", {"name": "no id"}),
        ("many", {"name": "many", "id": 6, "member": members}), ("twice", {"name": "twice", "id": 4}),
    ):  # fmt: skip
        assert await store.save([Thing(MADE, name, document)])
    await store.close()
    async with Broker(config, NoFastPath("off"), store=Store.open(tmp_path / "state")) as running:
        assert [each["name"] for each in running.status()["topics"]] == ["good"]
        for name in ("other", "no id", "many", "twice"):
            assert f"topic {name}, made at run time, is left out" in caplog.text


async def test_they_live_on_after_a_kill_with_members_epochs_and_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made by each of the three ways; a publisher and a subscriber notice nothing of the kill."""
    machine = Machine(tmp_path, lease=60.0)
    machine.configure('[[topic]]\nid = 1\nname = "events"\n')
    url = f"http://127.0.0.1:{machine.api}"
    monkeypatch.setenv("TEMPOS_API", url)
    admin = Admin()

    async def run(*words: str) -> tuple[int, str]:
        code = await asyncio.to_thread(main, list(words))
        return code, "".join(capsys.readouterr())

    with machine.broker(signal.SIGKILL):
        made = await admin.add_topic(NAME, quality=Quality.SQ, sources=["127.0.0.0/8"], rate=1_000_000)
        assert (made.topic.id, made.topic.quality, made.topic.sources) == (2, Quality.SQ, ("127.0.0.0/8",))
        assert (made.origin, made.durable, made.members) == ("run-time", True, 0)
        code, text = await run("ctl", "topic", "add", "plant/line2/press", "--id", "77", "--framing", "raw")
        assert (code, text.startswith("plant/line2/press (77): BQ, priority 0, raw;")) == (0, True)
        third = await asyncio.to_thread(lambda: blocking.Admin(url).add_topic("a b", topic_id=9, priority=7))
        assert third == await admin.topic("a b")
        with pytest.raises(ApiRefused, match="priority is 9") as refused:
            await admin.add_topic("x", priority=9, burst=3)
        assert (refused.value.status, len(refused.value.problems)) == (422, 2)
        code, text = await run("ctl", "topic", "add", "x", "--priority", "9", "--burst", "3")
        assert (code, len(text.splitlines())) == (1, 3), "a line for each fault"
        member = Subscriber("127.0.0.1", NAME, group="g", control_port=machine.control)
        await member.__aenter__()
        publisher = Publisher("127.0.0.1", data_port=machine.data, control_port=machine.control)
        await publisher.__aenter__()
        for number in range(100):
            await publisher.publish(NAME, number)
        await until(lambda: member.stats.events == 100)
        before = await admin.topic(NAME)
    with machine.broker(signal.SIGKILL):
        assert await admin.topic(NAME) == before, "the epoch, too"
        assert [each.topic.name for each in await admin.topics()] == [
            "events", NAME, "a b", "plant/line2/press",
        ]  # fmt: skip
        for number in range(100):
            await publisher.publish(NAME, number)
        await until(lambda: member.stats.events == 200)
        code, text = await run("ctl", "topic", "set", NAME, "--priority", "2", "--default", "rate")
        assert (code, "priority 2, event, from 127.0.0.0/8;" in text) == (0, True)
        assert (await run("ctl", "topic", "remove", NAME))[0] == 1
        code, text = await run("ctl", "topic", "list", "--run-time")
        assert [line.split("  ")[0] for line in text.splitlines()[1:]] == [NAME, "a b", "plant/line2/press"]
        code, text = await run("config", "dump", str(machine.file))
        whole = parse(text)
        assert text.count("# made at run time") == 3
        assert [entry.topic.name for entry in whole.topics] == ["events", NAME, "a b", "plant/line2/press"]
        assert whole.topics[1].topic.priority == 2
    # What the dump says is sound, agrees with the state, and is the file's once it stands there.
    machine.file.write_text(text)
    with machine.broker(signal.SIGKILL):
        assert {each.origin for each in await admin.topics()} == {"file"}
        machine.configure('[[topic]]\nid = 1\nname = "events"\n')
        assert (await run("reload"))[0] == 0
    with machine.broker():
        assert [each.topic.name for each in await admin.topics()] == ["events"]
        await admin.add_topic(NAME)
        await until(lambda: NAME not in member.away)
        removed = await admin.remove_topic(NAME, drain=True)
        assert (removed.members, removed.account["balanced"]) == (1, True)
        await publisher.close()
        await member.close()
    with pytest.raises(RemoteError, match="Is the broker running"):
        await admin.topics()

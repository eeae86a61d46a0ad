"""Members that are taken out of a topic: told why, back by themselves unless an operator keeps them out."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import logging
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from support.brokers import post

from tempos import Publisher, Subscriber, Topic, Unheard, blocking
from tempos.control import Code, Out, decode_reply, encode_ok, encode_request
from tempos.receiving.intake import Intake
from tempos.receiving.standing import Standing
from tempos.session.events import Forgotten, RenewalFailed, Subscribed
from tempos.session.rows import in_requests
from tempos_broker.config.model import BrokerConfig, TopicConfig
from tempos_broker.members.departures import Place

from .test_broker import until
from .test_control_pair import IP, World
from .test_restart import LIMIT, TOPICS, Machine


class Member:
    """A subscriber of a simulated broker, as the library has it but for sockets."""

    def __init__(self, world: World, port: int, *topics: str) -> None:
        self.world, self.intake = world, Intake(16, "deliver", 0)
        self.standing = Standing("sim", self.intake)
        self.session = world.add(port, self.intake)
        for some in in_requests(topics):
            self.session.subscribe(some, "g", world.now)

    def run(self, seconds: float) -> None:
        """Let time pass, in steps in which the owner hears of what happened."""
        seen = self.world.events[id(self.session)]
        for _ in range(round(seconds / 0.1)):
            known = len(seen)
            self.world.run(0.1)
            for event in seen[known:]:
                self.standing.on_event(event)  # type: ignore[arg-type]

    def of(self, kind: type) -> list[Any]:
        return self.world.seen(self.session, kind)


def keep_out(world: World, topic: int, place: Place, seconds: float | None) -> None:
    """As an operator's order does, after the eviction."""
    world.registry.departures.keep_out(place, world.now, 1e9, seconds)
    known = world.registry.numbered(topic)
    assert known is not None
    world.registry.keep_waiting(known, place, world.now)
    world._swap()


def holds(world: World, topic: int) -> set[int]:
    return {port for state in world.registry.states(topic) for _, port in state.members}


def test_who_is_taken_out_of_one_topic_of_many_is_back_within_a_heartbeat_and_knows_why() -> None:
    world = World(1, 0.0, [f"t{n}" for n in range(1, 255)])
    member = Member(world, 5000, *(f"t{n}" for n in range(1, 255)))
    member.run(30)
    assert all(holds(world, topic) == {5000} for topic in range(1, 255))
    assert not member.of(Forgotten)
    assert not world.server.replies
    world.registry.evict(7, "g", (IP, 5000), world.now)
    world._swap()
    member.run(2.5 + 1.0)
    (forgotten,) = member.of(Forgotten)
    assert forgotten.topics == {"t7": Out.OPERATOR}
    assert holds(world, 7) == {5000}
    assert [each.topic.id for each in member.of(Subscribed)[254:]] == [7]
    # All but one at once: what there is to say fits the answers, whose size the requests limit.
    for topic in range(1, 254):
        world.registry.evict(topic, "g", (IP, 5000), world.now)
    world._swap()
    member.run(2.5 + 6.0)
    assert all(holds(world, topic) == {5000} for topic in range(1, 255))
    assert not world.server.replies
    assert sum(len(each.topics) for each in member.of(Forgotten)) == 1 + 253
    assert not member.standing.away


def test_whom_an_operator_keeps_out_stays_out_until_then_and_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(2, 0.1, ["alpha", "beta"])
    member = Member(world, 5000, "alpha", "beta")
    other = Member(world, 5001, "alpha")
    member.run(5)
    with caplog.at_level(logging.WARNING):
        world.registry.evict(1, "g", (IP, 5000), world.now)
        place = Place("alpha", "g", IP, 5000)
        keep_out(world, 1, place, 60.0)
        for _ in range(11):
            member.run(5)
            other.run(0)
            assert holds(world, 1) == {5001}
            assert holds(world, 2) == {5000}
        assert "an operator keeps 10.0.2.2:5000 out of group 'g' of 'alpha'" in member.standing.away["alpha"]
        member.run(10)
        assert holds(world, 1) == {5000, 5001}
        assert not member.standing.away
    assert member.of(Forgotten)[0].topics == {"alpha": Out.KEPT_OUT}
    assert not member.of(RenewalFailed), "the broker knows that it wants to be back"
    assert caplog.text.count("until 2001-09-09 01:47:40 UTC") == 1, "told once, with the time"
    # Until let in: as long as it takes.
    world.registry.evict(1, "g", (IP, 5000), world.now)
    keep_out(world, 1, place, None)
    member.run(3600)
    assert holds(world, 1) == {5001}
    assert "until let in" in member.standing.away["alpha"]
    assert world.registry.departures.let_in(place, world.now)
    member.run(4)
    assert holds(world, 1) == {5000, 5001}


@pytest.mark.parametrize("says", ["topic", "limits", "warn"])
def test_whom_events_do_not_reach_has_to_go_for_longer_each_time_where_that_is_wanted(says: str) -> None:
    world = World(3, 0.0, ["alpha", "beta"])
    config = world.config
    alpha = replace(config.topics[0].topic, unheard=Unheard.EVICT if says == "topic" else Unheard.AUTO)
    beta = replace(config.topics[1].topic, unheard=Unheard.WARN)
    limits = replace(config.limits, unheard="evict" if says == "limits" else "warn")
    world.config = replace(config, topics=(TopicConfig(alpha), TopicConfig(beta)), limits=limits)
    world.start_broker(1)
    member = Member(world, 5000, "alpha", "beta")
    # Ticketed all the time, and tells of nothing.
    reaches = False
    world.ledger.progress = lambda holder, places: (  # type: ignore[method-assign]
        round(world.now * 10) if places else 0,
        round(world.now * 10) if reaches else 0,
    )
    member.run(5)
    stays_out: list[float] = []
    for _ in range(3):
        member.run(10)
        assert holds(world, 2) == {5000}, "the other topic only warns"
        if says == "warn":
            assert holds(world, 1) == {5000}
            assert not member.standing.away
            continue
        assert holds(world, 1) == set()
        assert "none of the events that it was sent reached it" in member.standing.away["alpha"]
        (kept,) = world.registry.departures.all_kept_out(world.now)
        assert (kept.why, kept.place.group) == (Out.UNHEARD, "g")
        assert kept.until is not None
        stays_out.append(kept.until - world.now)
        member.run(kept.until - world.now + 2.6)
        assert holds(world, 1) == {5000}, "it may come back"
    if says != "warn":
        assert stays_out[0] > 15
        assert all(after > 1.5 * before for before, after in itertools.pairwise(stays_out))
    reaches = True
    member.run(60)
    assert holds(world, 1) == {5000}
    assert not member.standing.away


def test_who_is_kept_out_of_most_of_its_topics_asks_seldom_and_is_back_within_a_heartbeat() -> None:
    """The requests of one address are limited: those for what it may not have would cost it what it has."""
    world = World(5, 0.0, [f"t{n}" for n in range(1, 255)])
    member = Member(world, 5000, *(f"t{n}" for n in range(1, 255)))
    member.run(5)
    for topic in range(2, 255):
        world.registry.evict(topic, "g", (IP, 5000), world.now)
        keep_out(world, topic, Place(f"t{topic}", "g", IP, 5000), None)
    member.run(300)
    assert holds(world, 1) == {5000}
    assert not world.server.refused[Code.KEPT_OUT], "it does not ask: the broker knows"
    assert sum(len(each.topics) for each in member.of(Forgotten)) == 253
    assert set(world.registry.departures.all_kept_out(world.now))
    assert world.registry.departures.let_in(Place("t99", "g", IP, 5000), world.now)
    member.run(2.5 + 1.0)
    assert holds(world, 99) == {5000}


def test_who_loses_its_only_topic_is_told_why_and_a_reload_says_so() -> None:
    world = World(3, 0.0, ["alpha", "beta"])
    member = Member(world, 5000, "alpha")
    member.run(1)
    world.registry.evict(1, "g", (IP, 5000), world.now)
    member.run(4)
    assert member.of(Forgotten)[0].topics == {"alpha": Out.OPERATOR}
    assert holds(world, 1) == {5000}
    world.config = BrokerConfig(world.config.topics[1:])
    world.registry.configure(world.config, [1], [], world.now)
    member.run(4)
    assert member.of(Forgotten)[1].topics == {"alpha": Out.RELOAD}
    # Once there is one again it is a member, without a word of its own.
    asked = world.server.served["subscribe"]
    world.config = BrokerConfig((TopicConfig(Topic(9, "alpha")), *world.config.topics))
    world.registry.configure(world.config, [], world.config.topics[:1], world.now)
    member.run(4)
    assert holds(world, 9) == {5000}
    assert not member.standing.away
    assert world.server.served["subscribe"] == asked


def test_what_a_client_of_before_asks_is_answered_as_before() -> None:
    """It names topics, or none, and no version; who is out of all that it had is no member."""
    world = World(4, 0.0, ["alpha", "beta"])
    for topic in ("alpha", "beta"):
        world.server.receive_datagram(
            encode_request("subscribe", 1, 5, topic=topic, port=5000, group="g"), IP, world.now
        )
    world.registry.evict(1, "g", (IP, 5000), world.now)
    decision = world.server.receive_datagram(
        encode_request("heartbeat", 2, 5, port=5000, received=[]), IP, world.now
    )
    assert decision is not None
    assert world.server.render(decision) == encode_ok(2)
    decision = world.server.receive_datagram(
        encode_request("heartbeat", 3, 5, port=5000, received=[], topics=[(1, 0), (2, 0)]), IP, world.now
    )
    assert decision is not None
    assert decode_reply(world.server.render(decision) or b"").ok == {
        "life": world.server._life, "epochs": [[2, 0, 0]], "out": [[1, Out.OPERATOR]],
    }  # fmt: skip
    world.registry.evict(2, "g", (IP, 5000), world.now)
    decision = world.server.receive_datagram(
        encode_request("heartbeat", 4, 5, port=5000, received=[]), IP, world.now
    )
    assert decision is not None
    refused = decode_reply(world.server.render(decision) or b"").error
    assert refused is not None
    assert refused.text.endswith("no member of anything: an operator had taken it out")


# --- a broker, and its operator ----------------------------------------------------------------


def where(member: object, topic: str = "events", group: str = "g") -> str:
    return f"/v1/topics/{topic}/groups/{quote(group, safe='')}/members/{str(member).split()[0]}"


def delete(api: int, path: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", api, timeout=LIMIT)
    try:
        connection.request("DELETE", path)
        response = connection.getresponse()
        return response.status, json.load(response)
    finally:
        connection.close()


def ports(machine: Machine, topic: str) -> set[int]:
    rows = machine.get(f"/v1/topics/{topic}")["groups"]
    return {member["port"] for group in rows for member in group["members"]}


async def test_an_operators_word_holds_over_a_kill_and_a_reload(tmp_path: Path) -> None:
    machine = Machine(tmp_path, lease=2.0)
    with machine.broker(signal.SIGKILL):
        async with (
            Subscriber("127.0.0.1", "events", "plain", group="g", control_port=machine.control) as sub,
            Publisher("127.0.0.1", data_port=machine.data, control_port=machine.control) as pub,
        ):
            with blocking.Subscriber(
                "127.0.0.1", "events", group="h", control_port=machine.control
            ) as single:
                status, done = await asyncio.to_thread(
                    delete, machine.api, where(single.member, group="h") + "?keep_out_s=0"
                )
                assert (status, done["kept_out"]) == (200, None)
                await until(lambda: sub.member.port in ports(machine, "events"))
                await until(lambda: single.member.port in ports(machine, "events") and not single.away)
            status, done = await asyncio.to_thread(
                delete, machine.api, where(sub.member) + "?until_let_in=true"
            )
            assert status == 200
            assert done["kept_out"]["until"] == "until let in"
            assert (await asyncio.to_thread(delete, machine.api, where(sub.member)))[0] == 404
            assert (await asyncio.to_thread(delete, machine.api, where(sub.member) + "?keep_out_s=-1"))[
                0
            ] == 422
            await until(lambda: "until let in" in sub.away.get("events", ""))
            await pub.publish("plain", b"x")
            assert (await sub.next(LIMIT)).topic == "plain"
            port = sub.member.port
            # The same endpoint as another client.
            await sub.close()
            with pytest.raises(Exception, match="an operator keeps"):
                await Subscriber(
                    "127.0.0.1", "events", group="g", port=port, control_port=machine.control
                ).__aenter__()
    machine.configure(TOPICS.replace("id = 1", "id = 7"))
    with machine.broker():
        kept = await asyncio.to_thread(machine.get, "/v1/kept-out")
        assert [(each["topic"], each["group"], each["port"], each["seconds"]) for each in kept] == [
            ("events", "g", port, None)
        ]
        async with Subscriber(
            "127.0.0.1", "plain", group="g", port=port, control_port=machine.control
        ) as sub:
            with pytest.raises(Exception, match="until let in"):
                await sub._link.subscribe("events", "g")  # type: ignore[union-attr]
            machine.configure(TOPICS)
            await asyncio.to_thread(post, machine.api, "/v1/reload")
            assert await asyncio.to_thread(machine.get, "/v1/kept-out") == kept
            await asyncio.to_thread(post, machine.api, where(sub.member) + "/let-in")
            await sub._link.subscribe("events", "g")  # type: ignore[union-attr]
            assert port in await asyncio.to_thread(ports, machine, "events")
            assert not (await asyncio.to_thread(machine.get, "/v1/status"))["kept_out"]


async def test_a_topic_that_gets_another_id_is_subscribed_to_again_by_who_has_others(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    with machine.broker():
        async with Subscriber("127.0.0.1", "events", "plain", group="g", control_port=machine.control) as sub:
            machine.configure(TOPICS.replace("id = 1", "id = 7"))
            await asyncio.to_thread(post, machine.api, "/v1/reload")
            # The status shows a member as soon as its route is made; it is answered when that is in force.
            await until(lambda: sub.member.port in ports(machine, "events") and not sub.away)
            async with Publisher("127.0.0.1", data_port=machine.data, control_port=machine.control) as pub:
                await pub.publish("events", "new")
                assert (await sub.next(LIMIT)).unpack() == "new"

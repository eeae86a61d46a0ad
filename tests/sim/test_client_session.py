"""The client's session against a small broker, over a network that loses, delays and repeats.

No socket and no clock: time is moved by hand to whatever comes next.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.minibroker import MiniBroker

from tempos import ControlRefused, Framing, NoAnswer, Quality, Topic, control
from tempos._pages import Pages
from tempos.control import Code, Received, decode_request
from tempos.receiving.feeds import Feeds
from tempos.receiving.intake import Intake
from tempos.receiving.standing import Standing
from tempos.session import ControlSession
from tempos.session.events import (
    Accepted,
    Answered,
    BrokerBack,
    BrokerChanged,
    BrokerSilent,
    Failed,
    Forgotten,
    InForce,
    Joined,
    Listed,
    ProofAsked,
    RenewalFailed,
    SessionEvent,
    Subscribed,
)

HEAT = Topic(7, "heat", quality=Quality.SQ, priority=3)
RAW = Topic(8, "raw", framing=Framing.RAW)
ME = ("10.0.0.9", 4000)


class Account:
    """Counts as a subscriber would have them."""

    def __init__(self, *rows: Received) -> None:
        self.rows = list(rows)
        self.acknowledged: list[Received] = []

    def report(self) -> list[dict[str, Any]]:
        pages = Pages("received")
        for row in self.rows:
            pages.add("received", row)
        return pages.done()

    def acknowledge(self, told: Mapping[str, Any], answer: object) -> None:
        self.acknowledged = list(told["received"])

    def tell_again(self) -> None:
        self.acknowledged = []


class World:
    """One session, one broker, and the network between them."""

    def __init__(self, *, seed: int = 0, loss: float = 0.0, jitter: float = 0.0, client: int = 77) -> None:
        self.broker = MiniBroker((HEAT, RAW))
        self.account = Account(Received(7, "g", 1, 5))
        self.session = ControlSession(client=client, broker="10.0.0.1:9997", port=ME[1], counts=self.account)
        self.now = 1000.0
        self.up = True
        self.loss, self.jitter = loss, jitter
        self.random = random.Random(seed)
        self.flying: list[tuple[float, int, str, bytes]] = []
        self.sent_at: list[float] = []
        self.events: list[SessionEvent] = []
        self._count = 0

    def pump(self) -> None:
        for datagram in self.session.datagrams_to_send(self.now):
            self.sent_at.append(self.now)
            self.fly("broker", datagram)
        while (event := self.session.next_event()) is not None:
            # That all has been told is told by each heartbeat.
            if not isinstance(event, Listed):
                self.events.append(event)

    def fly(self, to: str, datagram: bytes) -> None:
        for _ in range(2 if self.jitter and self.random.random() < 0.1 else 1):
            if self.random.random() >= self.loss:
                self._count += 1
                delay = 0.001 + self.random.random() * self.jitter
                heapq.heappush(self.flying, (self.now + delay, self._count, to, datagram))

    def run(self, seconds: float) -> list[SessionEvent]:
        """Let that much time pass; returns the events of it."""
        end, self.events = self.now + seconds, []
        self.pump()
        while True:
            timer = self.session.get_timer()
            upcoming = [self.flying[0][0]] if self.flying else []
            upcoming += [max(timer, self.now)] if timer is not None else []
            if not upcoming or min(upcoming) > end:
                self.now = end
                return self.events
            self.now = min(upcoming)
            if self.flying and self.flying[0][0] <= self.now:
                _, _, to, datagram = heapq.heappop(self.flying)
                if to == "client":
                    self.session.receive_datagram(datagram, self.now)
                elif self.up:
                    self.fly("client", self.broker.answer(datagram, ME[0]))
            else:
                self.session.handle_timer(self.now)
            self.pump()

    def subscribed(self, topic: str = "heat", group: str | None = "g") -> World:
        self.session.subscribe(topic, group, self.now)
        assert any(isinstance(event, Subscribed) for event in self.run(1))
        return self


def kinds(events: list[SessionEvent]) -> list[type]:
    return [type(event) for event in events]


def test_a_subscription_brings_topic_group_and_heartbeats() -> None:
    world = World()
    request = world.session.subscribe("heat", "g", world.now)
    assert world.run(1) == [
        Subscribed(request, HEAT, "g", 1, renewed=False, clock=7, members=1),
        Joined(request, 1),
    ]
    assert world.run(60) == []
    assert world.broker.seen == {"subscribe": 1, "heartbeat": 24}
    assert world.broker.told == {(7, "g", 1): 5}
    assert world.account.acknowledged == world.account.rows


def test_a_request_is_repeated_with_back_off_and_then_fails_with_address_and_time() -> None:
    world = World()
    world.up = False
    request = world.session.ask("resolve", world.now, topic="heat")
    begun = world.now
    (event,) = world.run(60)
    assert [round(at - begun, 6) for at in world.sent_at] == [0, 0.2, 0.6, 1.4, 3.0]
    assert isinstance(event, Failed)
    assert isinstance(event.error, NoAnswer)
    assert (event.request, event.op) == (request, "resolve")
    for part in ("resolve", "10.0.0.1:9997", "5 tries", "6.2 s"):
        assert part in str(event.error)
    assert world.session.get_timer() is None


@pytest.mark.parametrize("interval", [0.05, 0.5, 2.5])
def test_a_broker_is_known_to_be_silent_also_where_heartbeats_follow_each_other_fast(interval: float) -> None:
    world = World().subscribed()
    world.session._interval = interval
    world.run(10)
    assert not world.session.is_unanswered
    world.up = False
    world.run(0.59)
    assert not world.session.is_unanswered
    world.run(interval + 0.26)
    assert world.session.is_unanswered
    world.up = True
    world.run(interval + 0.1)
    assert not world.session.is_unanswered


def test_a_refusal_says_what_the_broker_said() -> None:
    world = World()
    request = world.session.subscribe("cold", None, world.now)
    (event,) = world.run(1)
    assert isinstance(event, Failed)
    assert isinstance(event.error, ControlRefused)
    assert (event.request, event.error.code) == (request, Code.UNKNOWN_TOPIC)
    assert "heat" in event.error.hint
    assert world.session.get_timer() is None


def test_replies_are_matched_by_id() -> None:
    world = World()
    first = world.session.ask("resolve", world.now, topic="heat")
    second = world.session.ask("resolve", world.now, topic="raw")
    answers = {event.request: event.fields["topic"]["name"] for event in world.run(1)}  # type: ignore[union-attr]
    assert answers == {first: "heat", second: "raw"}
    world.session.receive_datagram(control.encode_ok(first, topic={}), world.now)
    assert world.session.unmatched == 1
    assert world.session.next_event() is None


def test_a_forgotten_member_subscribes_again_and_notices_the_new_broker() -> None:
    world = World().subscribed().subscribed("raw", None)
    world.broker.restart()
    events = world.run(3)
    told = [Forgotten, BrokerChanged, Accepted, Subscribed, Accepted, Subscribed]
    assert [kind for kind in kinds(events) if kind is not InForce] == told
    assert all(event.renewed for event in events if isinstance(event, Subscribed))
    assert world.broker.groups == {("heat", "g"): [ME], ("raw", "~10.0.0.9:4000"): [ME]}
    assert world.run(30) == []


def test_what_a_broker_has_not_got_is_asked_again_at_once_when_it_is_heard() -> None:
    world = World().subscribed()
    world.session.moved(4001, None, "it moves", world.now)
    world.up = False
    world.run(sum(control.RETRY_AFTER[:4]) + 0.1)
    world.up = True
    # By itself it is asked again after the longest pause there is; heartbeats go on.
    events = world.run(world.session.interval + 0.1)
    assert [event.renewed for event in events if isinstance(event, Subscribed)] == [True]
    world.run(30)
    assert world.broker.seen["subscribe"] == 2, "and never again"


@pytest.mark.parametrize("leave", ["", "drain", "goodbye"])
def test_what_is_told_says_whose_account_it_is_for(leave: str) -> None:
    """Counts of before must be in no account of a broker that has let its member in without knowing them."""
    world = World().subscribed()
    told: list[int] = []
    fly = world.fly

    def watched(to: str, datagram: bytes) -> None:
        fields = decode_request(datagram).fields if to == "broker" else {}
        if "received" in fields:
            told.append(fields["instance"])
        fly(to, datagram)

    world.fly = watched  # type: ignore[method-assign]
    world.run(3)
    former = world.broker.instance
    world.broker.restart()
    # Let in again, but no answer of that has come yet.
    world.broker.answer(
        control.encode_request("subscribe", 1, 77, topic="heat", port=ME[1], group="g"), ME[0]
    )
    world.run(3)
    assert set(told) == {former}
    if leave == "drain":
        world.session.drain(world.now, 1.0)
    elif leave:
        world.session.goodbye(world.now)
    world.run(3)
    assert set(told) == {former}, "nobody has told this member of another"


def test_a_renewal_that_is_refused_is_tried_again() -> None:
    world = World().subscribed()
    world.broker.restart(RAW)
    events = world.run(8)
    assert set(kinds(events)) == {Forgotten, RenewalFailed}
    assert 2 <= kinds(events).count(RenewalFailed) <= 4
    world.broker.topics = (replace(HEAT, id=9), RAW)
    changed, accepted, back = (event for event in world.run(3) if not isinstance(event, Forgotten))
    assert isinstance(changed, BrokerChanged)
    assert accepted == Accepted(("heat",))
    assert isinstance(back, Subscribed)
    assert (back.topic.id, back.renewed) == (9, True)


def test_heartbeats_that_are_refused_are_told_once_a_reason_and_once_when_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World().subscribed()
    answer, why = world.broker.answer, ""

    def refuse(datagram: bytes, ip: str) -> bytes:
        asked = decode_request(datagram)
        if asked.op == "heartbeat" and why:
            return control.encode_error(asked.id, Code.NOT_ALLOWED, why)
        return answer(datagram, ip)

    world.broker.answer = refuse  # type: ignore[method-assign]
    standing = Standing("sim", Intake(16, "deliver", 0))
    told = []
    for why in ("no right", "another reason", "", "no right", ""):  # noqa: B007 - refuse() reads it
        events = world.run(60)
        told.append(kinds(events))
        for event in events:
            standing.on_event(event)
    assert told == [[Failed], [Failed], [Answered], [Failed], [Answered]]
    assert [("heartbeats again" in line, "another" in line) for line in caplog.messages] == [
        (False, False), (False, True), (True, False), (False, False), (True, False)
    ]  # fmt: skip


def test_a_broker_away_for_minutes_is_told_once_and_taken_up_again() -> None:
    world = World().subscribed()
    world.up = False
    (silent,) = world.run(300)
    assert isinstance(silent, BrokerSilent)
    assert 10 < silent.seconds < 13
    world.up = True
    world.broker.restart()
    events = world.run(3)
    assert kinds(events) == [BrokerBack, Forgotten, BrokerChanged, Accepted, Subscribed]
    assert isinstance(events[0], BrokerBack)
    assert 300 < events[0].seconds < 305


def test_goodbye_ends_heartbeats_and_tells_every_count_in_datagrams_that_fit() -> None:
    world = World().subscribed()
    world.account.rows = [
        Received(topic, "g" * 60, epoch, 2**40) for topic in range(1, 40) for epoch in (1, 2)
    ]
    request = world.session.goodbye(world.now)
    assert world.run(60) == [Answered(request, "goodbye", {})]
    assert len(world.broker.told) == 78
    assert world.broker.groups["heat", "g"] == []
    assert world.session.get_timer() is None


@pytest.mark.parametrize("leave", ["goodbye", "drain"])
def test_who_leaves_tells_again_what_a_broker_that_was_killed_meanwhile_may_have_had(leave: str) -> None:
    """Acknowledged by one life, not stored before it was killed; no heartbeat has met the next one yet."""
    world = World()
    feeds = Feeds()
    world.session = ControlSession(client=77, broker="10.0.0.1:9997", port=ME[1], counts=feeds)
    feed = feeds.put(HEAT, "g")
    world.subscribed()
    feed.tracker.in_force(1)
    for sequence in range(5):
        feed.see(1, sequence)
    world.run(3)
    assert world.broker.told == {(HEAT.id, "g", 1): 5}
    world.run(3)
    world.broker.told.clear()
    world.session.goodbye(world.now) if leave == "goodbye" else world.session.drain(world.now, 1.0)
    world.run(1)
    assert world.broker.told == {(HEAT.id, "g", 1): 5}


@given(st.integers(0, 2**32), st.floats(0, 0.4), st.floats(0, 1.0))
def test_a_bad_network_delays_but_does_not_break(seed: int, loss: float, jitter: float) -> None:
    world = World(seed=seed, loss=loss, jitter=jitter, client=seed)
    for _ in range(20):
        world.session.subscribe("heat", "g", world.now)
        if any(isinstance(event, Subscribed) for event in world.run(30)):
            break
    heartbeats = world.broker.seen["heartbeat"]
    world.run(100)
    assert world.broker.seen["heartbeat"] - heartbeats >= 10
    world.broker.restart()
    world.run(100)
    assert world.broker.groups == {("heat", "g"): [ME]}
    assert world.broker.told == {(7, "g", 1): 5}
    # Nothing piles up: what is not answered is one heartbeat at most, and perhaps a renewal.
    assert len(world.session._pending) <= 2
    assert world.session.malformed == 0


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_foreign_datagrams_are_counted(datagrams: list[bytes]) -> None:
    world = World().subscribed()
    for datagram in datagrams:
        world.session.receive_datagram(datagram, world.now)
    assert world.session.malformed == len(datagrams)
    assert world.run(1) == []


def test_an_answer_that_is_too_large_or_nested_too_deep_is_counted() -> None:
    world = World()
    request = world.session.subscribe("heat", "g", world.now)
    deep: list[object] = []
    for _ in range(400):
        deep = [deep]
    for fields in ({"rows": deep}, {"rows": [], "pad": bytes(2000)}):
        world.session.receive_datagram(control.encode_ok(request, **fields), world.now)
    assert (world.session.malformed, world.session.next_event()) == (2, None)


ROW = [7, "heat", 0x1B, 1, 1]


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 5},
        {"rows": [5]},
        {"rows": [[0, "heat", 0x1B, 1, 1]]},
        {"rows": [[7, "", 0x1B, 1, 1]]},
        {"rows": [[7, "heat", 0x20, 1, 1]]},
        {"rows": [[7, "heat", 0x1B, "1", 1]]},
        {"rows": [[7, "heat", 0x1B, 1, -1]]},
        {"rows": [[*ROW, 5]]},
        {"gone": [[7, "heat"]]},
        {"gone": [[7, 5, "why"]]},
        {"group": 5},
        {"life": None},
        {"version": -1},
        {"count": True},
        {"failed": [[1, "code"]]},
        {"failed": [[0, 5]]},
        {"failed": [5]},
        {"lease_ms": 0},
        {"heartbeat_ms": True},
        {"instance": None},
    ],
)
def test_an_answer_that_lacks_something_counts_as_none(change: dict[str, object]) -> None:
    world = World()
    request = world.session.subscribe("heat", "g", world.now)
    good = {
        "group": "g", "lease_ms": 9, "heartbeat_ms": 9, "instance": 1, "life": 1, "base": 0, "version": 5,
        "count": 1, "more": False, "rows": [ROW],
    }  # fmt: skip
    world.session.receive_datagram(control.encode_ok(request, **{**good, **change}), world.now)
    assert (world.session.malformed, world.session.next_event()) == (1, None)
    world.session.receive_datagram(control.encode_ok(request, **good), world.now)
    assert world.session.next_event() == Subscribed(request, HEAT, "g", 1, renewed=False, members=1)


def test_a_broker_that_is_stopping_has_not_answered_yet() -> None:
    session = ControlSession(client=77, broker="10.0.0.1:9997", port=4000)
    request, now = session.subscribe("heat", "g", 0.0), 0.0
    asked = session.datagrams_to_send(now)
    stopping = control.encode_error(request, Code.STOPPING, "the broker is stopping", "ask again")
    for _ in control.RETRY_AFTER[:-1]:
        session.receive_datagram(stopping, now)
        assert session.next_event() is None
        now = session.get_timer() or 0.0
        assert session.datagrams_to_send(now) == asked, "as if nobody had answered"
    session.receive_datagram(stopping, now)
    session.handle_timer(session.get_timer() or 0.0)
    failed = session.next_event()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, NoAnswer)
    assert "the broker is stopping" in str(failed.error)


def test_who_was_asked_to_prove_is_not_without_an_answer() -> None:
    session = ControlSession(client=77, broker="10.0.0.1:9997", port=4000)
    request, now = session.subscribe("heat", "g", 0.0), 0.0
    last = sum(control.RETRY_AFTER) - 0.01

    def until(end: float) -> None:
        nonlocal now
        while (at := session.get_timer()) is not None and at < end:
            now = at
            session.handle_timer(now)
        now = end

    until(last)
    proofs = [bytes([number]) * control.PROOF_BYTES for number in range(4)]
    session.receive_datagram(control.encode_error(request, Code.PROVE, "prove it", proof=proofs[0]), now)
    until(now + 5.0)
    assert session.prove(77, proofs[1], now)
    until(now + 5.0)
    assert isinstance(session.next_event(), ProofAsked)
    assert session.next_event() is None, "the broker has answered so far"
    # Who is asked again and again is told so in the end.
    for number in range(40):
        session.receive_datagram(
            control.encode_error(request, Code.PROVE, "prove it", proof=proofs[2 + number % 2]), now
        )
        until(now + 1.0)
    events = list(iter(session.next_event, None))
    failed = [each for each in events if isinstance(each, Failed)]
    assert [type(each.error) for each in failed] == [NoAnswer]
    assert "prove it" in str(failed[0].error)

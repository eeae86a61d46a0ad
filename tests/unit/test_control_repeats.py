"""Heartbeats that are answered by what came of the one before: as if each had been decided upon."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tempos import Framing, Quality, Topic
from tempos.control import Received, decode_reply, encode_request
from tempos_broker.account.accounts import Holder
from tempos_broker.account.ledger import Ledger
from tempos_broker.config.model import BrokerConfig, ControlConfig, TopicConfig
from tempos_broker.control.decisions import Decision
from tempos_broker.control.repeats import SPARE
from tempos_broker.control.server import ControlServer
from tempos_broker.membership import Registry

TOPICS = tuple(Topic(7 + at, name, Quality.SQ, 3, Framing.EVENT) for at, name in enumerate(("a/x", "a/y")))
PLACES = [(f"10.0.2.{number}", 5000 + number, number) for number in range(1, 5)]
LIFE, INSTANCE = 77, 42


class Side:
    """A server; ``keeps``: it goes by what it knows of heartbeats."""

    def __init__(self, *, keeps: bool) -> None:
        self.config = BrokerConfig(
            tuple(map(TopicConfig, TOPICS)), control=ControlConfig(networks=("10.0.0.0/8",), rate=20.0)
        )
        self.registry = Registry(self.config, lambda ip: False)
        self.ledger = Ledger()
        self.epochs = {topic.id: 0 for topic in TOPICS}
        self.drawn: dict[tuple[int, int, int], int] = {}
        self.ledger.tickets = lambda *where: self.drawn.get(where, 0)
        self.server = ControlServer(
            self.registry, self.ledger, self.config.control, name="test", instance=INSTANCE, life=LIFE,
            epoch=self.epochs.__getitem__, wall=lambda: 0.0, monotonic=lambda: 0.0,
        )  # fmt: skip
        self.keeps, self.kept = keeps, 0

    def hear(self, datagram: bytes, ip: str, now: float) -> bytes | None:
        """As the control port does."""
        if self.keeps and (known := self.server.repeats.answer(datagram, ip, None, now)) is not None:
            self.kept += 1
            return known
        decision = self.server.receive_datagram(datagram, ip, now)
        if decision is None:
            return None
        for topic in sorted(decision.changed):
            self.swap(topic, now)
        for changed in self.server.joins(decision):
            for topic in sorted(changed):
                self.swap(topic, now)
        answer = self.server.render(decision)
        if answer is not None and decision.again is not None and self.keeps:
            self.server.repeats.keep(datagram, ip, None, decision, answer)
        return answer

    def swap(self, topic: int, now: float) -> None:
        """A new epoch, after which the one before is over."""
        before, self.epochs[topic] = self.epochs[topic], self.epochs[topic] + 1
        groups = self.registry.holders(topic)
        self.ledger.opened(topic, self.epochs[topic], groups, now)
        if before:
            tickets = [self.drawn.get((topic, before, at), 0) for at in range(8)]
            self.ledger.closed(topic, before, tickets[: len(self.ledger.route(topic, before))])

    def draw(self, topic: int, count: int) -> None:
        for at in range(2):
            where = topic, self.epochs[topic], at
            self.drawn[where] = self.drawn.get(where, 0) + count

    def state(self, now: float) -> Any:
        leases = {
            each.holder: (each.expires, tuple(each.topics), each.progress, each.put_out)
            for each in self.registry.holdings.all()
        }
        accounts = [(each.holder, each.totals) for place in PLACES
                    for each in self.ledger.accounts(Holder(*place))]  # fmt: skip
        loads = [self.server.reports.consumers.of(Holder(*place)) for place in PLACES]
        return leases, accounts, loads, self.epochs, self.server.refused


def heartbeat(rng: random.Random, sides: list[Side], number: int, saying: dict[str, Any]) -> bytes:
    """What a member says: mostly the same again."""
    if rng.random() < 0.15:
        version = sides[0].registry.holdings.news
        topic = rng.choice(TOPICS).id
        epoch = sides[0].epochs[topic]
        saying |= {
            "received": [Received(topic, "g", epoch, rng.choice((0, 1, 40)))] if rng.random() < 0.5 else [],
            "since": rng.choice(([LIFE, version], [LIFE, max(0, version - 1)], [])),
            "full": rng.choice((True, None)),
            **rng.choice(({}, {"queue": 8, "waiting": rng.choice((0, 7))}, {"untold": 0})),
            "instance": rng.choice((INSTANCE, None, 41)),
        }
    if rng.random() < 0.05:
        saying.clear()
    return encode_request("heartbeat", number, saying["client"], **{
        key: value for key, value in saying.items() if key != "client" and value is not None
    }) if "client" in saying else b""  # fmt: skip


@pytest.mark.parametrize("seed", range(24))
def test_nobody_can_tell_the_difference(seed: int) -> None:
    rng = random.Random(seed)
    sides = [Side(keeps=keeps) for keeps in (True, False)]
    saying: dict[int, dict[str, Any]] = {}
    now = 0.0
    for number in range(1, 500):
        now += rng.choice((0.01, 0.1, 1.0))
        ip, port, client = rng.choice(PLACES)
        # Most of the time nothing happens but heartbeats.
        act = rng.choices(
            ["beat", "subscribe", "filter", "leave", "draw", "swap", "expire", "reconfigure", "same id"],
            [120, 3, 2, 1, 4, 2, 1, 1, 3],
        )[0]
        datagram = b""
        if act in ("beat", "same id"):
            said = saying.setdefault(client, {"port": port, "received": []})
            if not said:
                said |= {"port": port, "received": []}
            said["client"] = client
            datagram = heartbeat(rng, sides, number if act == "beat" else 5, said)
        elif act == "subscribe":
            topic = rng.choice(TOPICS).name
            datagram = encode_request("subscribe", number, client, topic=topic, group="g", port=port)
        elif act == "filter":
            datagram = encode_request(
                "subscribe", number, client, names=["a/+"], group="g", port=port, pad=bytes(400)
            )
        elif act == "leave":
            datagram = encode_request("goodbye", number, client, port=port, received=[])
        if datagram:
            first, second = (side.hear(datagram, ip, now) for side in sides)
            if first != second:
                assert first is not None
                assert second is not None
                assert decode_reply(first) == decode_reply(second), (number, act)
        for side in sides:
            _happen(act, side, random.Random(number), now)
        assert sides[0].state(now) == sides[1].state(now), (number, act)
    assert sides[0].kept > 10, "this is about those"
    assert not sides[1].kept


def beaten(side: Side, times: int, now: float, first: int = 10) -> int:
    """So many heartbeats of a member that says the same; how many were answered."""
    ip, port, client = PLACES[0]
    if side.registry.lease_of(Holder(*PLACES[0])) is None:
        side.hear(encode_request("subscribe", 1, client, topic="a/x", group="g", port=port), ip, now)
    return sum(
        side.hear(encode_request("heartbeat", number, client, port=port, received=[]), ip, now) is not None
        for number in range(first, first + times)
    )


def test_who_says_the_same_again_may_not_ask_more_often_than_others() -> None:
    sides = [Side(keeps=keeps) for keeps in (True, False)]
    answered = [beaten(side, 200, 1.0) for side in sides]
    assert answered[0] == answered[1] < 200
    assert sides[0].kept > 20
    assert sides[0].server.refused == sides[1].server.refused


def test_what_is_drawn_while_a_heartbeat_is_answered_is_noticed_by_the_next_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A member that tells of none of it is called unheard, though no more is drawn."""
    side = Side(keeps=True)
    render = side.server.render

    def render_late(decision: Decision) -> bytes | None:
        if not side.drawn and decision.again is not None:
            side.draw(7, 60)
        return render(decision)

    monkeypatch.setattr(side.server, "render", render_late)
    beaten(side, 8, 1.0)
    lease = side.registry.lease_of(Holder(*PLACES[0]))
    assert lease is not None
    assert lease.progress.lost == 60


def test_who_has_left_is_forgotten() -> None:
    side, most = Side(keeps=True), 0
    for client in range(1, 2_000):
        ip, port = f"10.{client >> 8}.{client & 255}.9", 5000
        side.hear(encode_request("subscribe", 1, client, topic="a/x", group="g", port=port), ip, client)
        for number in range(2, 5):
            side.hear(encode_request("heartbeat", number, client, port=port, received=[]), ip, client)
        side.hear(encode_request("goodbye", 5, client, port=port, received=[]), ip, client)
        most = max(most, side.server.repeats.known)
    assert side.kept >= 2_000
    assert SPARE / 2 < most <= SPARE + 4


def _happen(act: str, side: Side, rng: random.Random, now: float) -> None:
    """What no datagram asks for."""
    topic = rng.choice(TOPICS).id
    acts: dict[str, Callable[[], object]] = {
        "draw": lambda: side.draw(topic, rng.choice((1, 60))),
        "swap": lambda: side.swap(topic, now),
        "expire": lambda: [side.swap(each, now) for each in side.registry.expire(now)],
        "reconfigure": lambda: side.server.reconfigure(
            replace(side.config.control, rate=rng.choice((5.0, 20.0)))
        ),
    }
    if act in acts:
        acts[act]()

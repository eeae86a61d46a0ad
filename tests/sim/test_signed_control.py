"""A client that signs and a broker that demands it, over a bad network, with clocks that differ."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempos import ControlRefused, Key, NoAnswer, Topic, auth
from tempos.control import Code, decode_reply, encode_error, encode_ok, encode_request
from tempos.session import ControlSession
from tempos.session.events import Answered, Failed, RenewalFailed, SessionEvent, Subscribed
from tempos_broker.account.ledger import Ledger
from tempos_broker.config.model import BrokerConfig, ClientConfig, ControlConfig, TopicConfig
from tempos_broker.control.server import ControlServer
from tempos_broker.fleet.desk import Desk
from tempos_broker.membership import Registry

IP = "10.0.2.2"
KEY = Key("sensor-1", bytes(range(32)))
CLIENT = ClientConfig("sensor-1", KEY.secret, subscribe=("alarms",))


class Named(Desk):
    """Of a broker that requests have to name by a number; 0: they name nobody."""

    def __init__(self, registry: Registry, addressee: int) -> None:
        super().__init__(registry)
        self._addressee = addressee

    @property
    def addressee(self) -> int:
        return self._addressee


class Pair:
    """One client, one broker, one clock that never steps; wall clocks of their own beside it."""

    def __init__(
        self,
        *,
        seed: int = 0,
        loss: float = 0.0,
        ahead: float = 0.0,
        key: Key | None = KEY,
        addressee: int = 0,
    ) -> None:
        self.now = 100.0
        self.addressee = addressee
        self.wall = 1.8e9
        self.ahead = ahead
        self._rng = random.Random(seed)
        self._loss = loss
        self.config = BrokerConfig(
            (TopicConfig(Topic(1, "alarms")), TopicConfig(Topic(2, "other"))),
            control=ControlConfig(clients=(CLIENT,)),
        )
        self.registry = Registry(self.config, lambda ip: False)
        self.start_broker()
        self.now += 20.0
        signer = None if key is None else auth.Signer(
            key, lambda: self.wall + self.now + self.ahead, self._rng.randbytes
        )  # fmt: skip
        self.session = ControlSession(client=5, broker="sim", port=9000, signer=signer)
        self.events: list[SessionEvent] = []
        self.sent: list[bytes] = []

    def start_broker(self) -> None:
        self.server = ControlServer(
            self.registry, Ledger(), self.config.control, name="sim", instance=1, epoch=lambda topic: 1,
            wall=lambda: self.wall + self.now, fleet=Named(self.registry, self.addressee),
        )  # fmt: skip

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            outgoing = self.session.datagrams_to_send(self.now)
            for datagram in outgoing:
                self.sent.append(datagram)
                # Some are doubled by the network, which a broker must not answer twice.
                for _ in range(1 + (self._rng.random() < self._loss)):
                    if self._rng.random() >= self._loss:
                        self._serve(datagram)
            while (event := self.session.next_event()) is not None:
                self.events.append(event)
            at = self.session.get_timer()
            if outgoing:
                continue
            if at is None or at > end:
                break
            self.now = max(self.now, at) + 0.001
        self.now = end

    def _serve(self, datagram: bytes) -> None:
        decision = self.server.receive_datagram(datagram, IP, self.now)
        for topic in () if decision is None else decision.changed:
            self.registry.holdings.in_force(topic, self.registry.holders(topic))
        answer = None if decision is None else self.server.render(decision)
        if answer is not None and self._rng.random() >= self._loss:
            self.session.receive_datagram(answer, self.now)

    def of(self, kind: type) -> list[SessionEvent]:
        return [event for event in self.events if isinstance(event, kind)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.2]), st.sampled_from([-1e8, -40.0, 0.0, 29.0, 3e7]))
def test_a_member_lives_over_a_bad_network_whatever_its_clock_shows(
    seed: int, loss: float, ahead: float
) -> None:
    pair = Pair(seed=seed, loss=loss, ahead=ahead)
    while not pair.of(Subscribed):
        pair.session.subscribe("alarms", "g", pair.now)
        pair.run(10)
    for _ in range(6):
        pair.run(10)
        pair.registry.expire(pair.now)
    # Refused or not, nothing was signed twice with one nonce.
    nonces = [auth.open_request(datagram).nonce for datagram in pair.sent]
    assert len(set(nonces)) == len(nonces)
    assert pair.registry.member_count(1) == 1
    assert pair.server.refused["wrong key"] == pair.server.refused["unsigned"] == 0
    if not loss:
        assert not pair.of(Failed)
        assert pair.server.refused["wrong time"] == (abs(ahead) > 30)


def test_a_broker_that_restarts_takes_the_members_back_at_their_next_heartbeat() -> None:
    # Slow enough that what it signs seems to be from before the start.
    pair = Pair(ahead=-5.0)
    pair.session.subscribe("alarms", "g", pair.now)
    pair.run(4)
    pair.start_broker()
    pair.run(3)
    assert pair.server.refused == {"wrong time": 1}
    assert pair.server.served["heartbeat"] >= 1
    assert not pair.of(RenewalFailed)


def test_answers_by_the_former_clock_that_come_late_refuse_nothing() -> None:
    pair = Pair(ahead=-40.0)
    pair.session.ask("hello", pair.now)
    copies = pair.session.datagrams_to_send(pair.now)
    pair.now += 0.3
    copies += pair.session.datagrams_to_send(pair.now)
    assert len(copies) == 2, "asked again, for nobody had answered"
    for datagram in copies:
        pair._serve(datagram)
    pair.run(5)
    assert pair.server.refused == {"wrong time": 2}
    assert len(pair.of(Answered)) == 1
    assert not pair.of(Failed)


def test_a_forbidden_topic_fails_at_once() -> None:
    pair = Pair()
    pair.session.subscribe("other", None, pair.now)
    pair.run(0.1)
    (failed,) = pair.of(Failed)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, ControlRefused)
    assert failed.error.code == Code.NOT_ALLOWED
    assert "'other'" in failed.error.text


@pytest.mark.parametrize(
    ("key", "says"),
    [(Key("sensor-1", bytes(32)), "no client 'sensor-1' has"), (Key("x", bytes(32)), "no client 'x' has")],
)
def test_a_wrong_key_is_told_in_the_end_but_not_believed_before(key: Key, says: str) -> None:
    pair = Pair(key=key)
    pair.session.ask("hello", pair.now)
    pair.run(10)
    (failed,) = pair.of(Failed)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, NoAnswer)
    assert says in str(failed.error)
    assert pair.session.unsigned == 5
    assert pair.server.refused["wrong key"] == 5


def test_without_a_key_the_refusal_says_what_is_needed() -> None:
    pair = Pair(key=None)
    pair.session.ask("hello", pair.now)
    pair.run(0.1)
    (failed,) = pair.of(Failed)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, ControlRefused)
    assert "--auth-file" in failed.error.hint


def test_only_the_broker_can_answer_and_only_what_was_asked() -> None:
    pair = Pair()
    request = pair.session.ask("hello", pair.now)
    (datagram,) = pair.session.datagrams_to_send(pair.now)
    nonce = auth.open_request(datagram).nonce
    yes = encode_ok(request, instance=9)
    forged = [
        yes,
        encode_error(request, Code.UNKNOWN_MEMBER, "no", ""),
        auth.sign_reply(Key("sensor-1", bytes(32)), yes, 5, nonce),
        auth.sign_reply(KEY, yes, 5, bytes(8)),
        auth.sign_request(KEY, yes, 5, nonce),
        b"",
    ]
    for reply in forged:
        pair.session.receive_datagram(reply, pair.now)
        assert pair.session.next_event() is None
    assert (pair.session.unsigned, pair.session.unmatched) == (5, 1)
    pair.session.receive_datagram(auth.sign_reply(KEY, yes, 5, nonce), pair.now)
    assert isinstance(pair.session.next_event(), Answered)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.2]), st.sampled_from([-1e8, 0.0]))
def test_a_member_finds_out_whom_to_name_and_by_which_clock(seed: int, loss: float, ahead: float) -> None:
    pair = Pair(seed=seed, loss=loss, ahead=ahead, addressee=77)
    while not pair.of(Subscribed):
        pair.session.subscribe("alarms", "g", pair.now)
        pair.run(10)
    for number in (78, 0):
        # Another broker at its address, or one that is in no fleet any more.
        pair.addressee = number
        pair.start_broker()
        for _ in range(4):
            pair.run(10)
            pair.registry.expire(pair.now)
    assert pair.registry.member_count(1) == 1
    if not loss:
        assert not pair.of(Failed)
        assert pair.server.refused["wrong addressee"] == 1


def test_what_one_broker_has_taken_no_other_takes() -> None:
    one, other, alone = Pair(addressee=77), Pair(addressee=78), Pair()
    one.session.subscribe("alarms", "g", one.now)
    one.run(1)
    assert one.registry.member_count(1) == 1
    for each in (other, alone):
        for datagram in one.sent:
            if each is other or auth.open_request(datagram).to:
                each._serve(datagram)
        assert each.registry.member_count(1) == 0
        assert set(each.server.refused) == {"wrong addressee"}


def test_a_client_that_cannot_name_a_broker_is_refused_in_words() -> None:
    pair = Pair(addressee=77)
    datagram = auth.sign_request(KEY, encode_request("subscribe", 9, 5, topic="alarms", port=9000, group="g"),
                                 round((pair.wall + pair.now) * 1000), bytes(8))  # fmt: skip
    decision = pair.server.receive_datagram(datagram, IP, pair.now)
    assert decision is not None
    answer = pair.server.render(decision)
    assert answer is not None
    error = decode_reply(auth.open_reply(KEY, answer)[2]).error
    assert error is not None
    assert error.code == Code.ADDRESSEE
    assert "brokers of a fleet have to be named" in str(error)
    assert "0.2" in str(error)

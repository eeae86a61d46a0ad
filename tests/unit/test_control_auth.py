"""Who may ask the broker what: keys, times, replays, rights, rates, and a flood of forgeries."""

from __future__ import annotations

import itertools
import logging
import os
import random
from collections.abc import Iterator

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempos import Key, Topic, auth, control
from tempos.control import Code, decode_reply, encode_request
from tempos_broker.account.ledger import Ledger
from tempos_broker.config.model import BrokerConfig, ClientConfig, ControlConfig, TopicConfig
from tempos_broker.control.auth import MAX_NONCES, Nonces
from tempos_broker.control.server import ControlServer
from tempos_broker.membership import Registry

IP, PORT, CLIENT = "10.0.2.2", 5001, 77
WALL = 1_800_000_000.0
ONE, ALL, NONE = (Key(name, bytes([number]) * 16) for number, name in enumerate(("one", "all", "none")))
CLIENTS = (
    ClientConfig("one", ONE.secret, publish=("alarms",), subscribe=("telemetry",)),
    ClientConfig("all", ALL.secret, publish=("*",), subscribe=("*",)),
    ClientConfig("none", NONE.secret),
)
#: Forgeries in the flood; a million of them are the same test with another number.
FORGERIES = int(os.environ.get("TEMPOS_FORGERIES", "100000"))


class Scene:
    """A server, a clock for both, and nonces that never repeat."""

    def __init__(self, **options: object) -> None:
        options.setdefault("clients", CLIENTS)
        self.config = BrokerConfig(
            (TopicConfig(Topic(1, "alarms")), TopicConfig(Topic(2, "telemetry"))),
            control=ControlConfig(**options),  # type: ignore[arg-type]
        )
        self.wall = WALL
        self.steady = 1000.0
        self.registry = Registry(self.config, lambda ip: False)
        self.server = self.start()
        self.wall += 1
        self._numbers: Iterator[int] = itertools.count()

    def start(self) -> ControlServer:
        return ControlServer(
            self.registry, Ledger(), self.config.control, name="test", instance=1, epoch=lambda topic: 1,
            wall=lambda: self.wall, monotonic=lambda: self.steady,
        )  # fmt: skip

    def signed(self, key: Key, op: str, at: float = 0.0, **fields: object) -> bytes:
        """A signed request, its time ``at`` seconds from the broker's."""
        plain = encode_request(op, 9, CLIENT, **fields)
        nonce = next(self._numbers).to_bytes(8, "big")
        return auth.sign_request(key, plain, round((self.wall + at) * 1000), nonce)

    def send(self, datagram: bytes, ip: str = IP, now: float = 0.0) -> bytes | None:
        decision = self.server.receive_datagram(datagram, ip, now)
        answer = None if decision is None else self.server.render(decision)
        assert answer is None or len(answer) <= len(datagram)
        return answer

    def ask(self, key: Key, op: str, at: float = 0.0, **fields: object) -> str:
        """'ok', the code of a signed refusal, or 'silence'."""
        datagram = self.signed(key, op, at, **fields)
        answer = self.send(datagram)
        if answer is None:
            return "silence"
        nonce, time_ms, plain = auth.open_reply(key, answer)
        assert (nonce, time_ms) == (auth.open_request(datagram).nonce, round(self.wall * 1000))
        reply = decode_reply(plain)
        return "ok" if reply.error is None else reply.error.code


def unsigned(answer: bytes | None) -> str:
    assert answer is not None
    error = decode_reply(answer).error
    return "ok" if error is None else error.code


def test_rights_are_those_of_the_configuration() -> None:
    scene = Scene()
    member = {"port": PORT}
    for key, op, fields, expected in (
        (ONE, "hello", {}, "ok"),
        (NONE, "hello", {}, "ok"),
        (ONE, "resolve", {"topic": "alarms"}, "ok"),
        (ONE, "resolve", {"topic": "telemetry"}, "ok"),
        (NONE, "resolve", {"topic": "alarms"}, Code.NOT_ALLOWED),
        # Which topics exist is only told to those who may ask for them.
        (ONE, "resolve", {"topic": "secret"}, Code.NOT_ALLOWED),
        (ALL, "resolve", {"topic": "secret"}, Code.UNKNOWN_TOPIC),
        (ONE, "subscribe", {"topic": "alarms", **member}, Code.NOT_ALLOWED),
        (ONE, "subscribe", {"topic": "telemetry", **member}, "ok"),
        (ONE, "heartbeat", {"received": [], **member}, "ok"),
        (NONE, "heartbeat", {"received": [], **member}, Code.NOT_ALLOWED),
        (NONE, "drain", {"received": [], **member}, Code.NOT_ALLOWED),
        (NONE, "goodbye", {"received": [], **member}, Code.NOT_ALLOWED),
        (NONE, "unsubscribe", {"topic": "telemetry", **member}, Code.NOT_ALLOWED),
        (ALL, "subscribe", {"topic": "alarms", **member}, "ok"),
        # By a filter: only what the right covers whole, whatever there is of it now.
        (ONE, "subscribe", {"topics": ["telemetry"], "roomy": True, **member}, "ok"),
        (ONE, "subscribe", {"topics": ["telemetry/#"], "roomy": True, **member}, Code.NOT_ALLOWED),
        (ALL, "subscribe", {"topics": ["#"], "roomy": True, "port": PORT + 1}, "ok"),
        # What was published is told by who may publish it.
        (ONE, "sent", {"publisher": 1, "sent": [(1, 5, 0, 5, 0)]}, "ok"),
        (ONE, "sent", {"publisher": 1, "sent": [(1, 5, 0, 5, 0), (2, 5, 0, 5, 0)]}, Code.NOT_ALLOWED),
        (NONE, "sent", {"publisher": 1, "sent": [(1, 5, 0, 5, 0)]}, Code.NOT_ALLOWED),
    ):
        assert scene.ask(key, op, **fields) == expected, (key, op, fields)
    assert scene.registry.member_count(1) == 1
    assert scene.registry.member_count(2) == 1


def test_a_right_holds_by_name_by_filter_and_for_all() -> None:
    for right, name, holds in (
        ((), "a", False),
        (("a",), "a", True),
        (("a/+",), "a/b", True),
        (("a/+",), "a/b/c", False),
        (("*",), "a/b/c", True),
        (("#",), "a", True),
        # Of a filter: all that it can match.
        (("a/+", "b/#"), "b/+/c", True),
        (("a/b",), "a/+", False),
        (("a", "a/+/#"), "a/#", True),
        (("*",), "#", True),
        (("#",), "$x/#", False),
    ):
        client = ClientConfig("c", bytes(16), publish=right)
        assert client.may("publish", name) is holds, (right, name)
        assert not client.may("subscribe", name)


def test_a_forbidden_topic_is_named_with_the_right_that_lacks(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    datagram = scene.signed(ONE, "subscribe", topic="alarms", port=PORT)
    _, _, plain = auth.open_reply(ONE, scene.send(datagram) or b"")
    error = decode_reply(plain).error
    assert error is not None
    assert error.text == "client 'one' has no right to subscribe on topic 'alarms'"
    assert scene.server.refused == {Code.NOT_ALLOWED: 1}
    assert f"control request from one at {IP} refused: {error.text}" in caplog.text


def test_what_is_refused_is_counted_and_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene(networks=("10.0.0.0/8",), rate=1000)
    plain = encode_request("hello", 9, CLIENT)
    good = scene.signed(ALL, "hello")
    assert scene.send(good) is not None
    cases = [
        ("unsigned", plain, IP, Code.NOT_ALLOWED, "must be signed"),
        ("wrong key", scene.signed(Key("all", bytes(16)), "hello"), IP, Code.NOT_ALLOWED, "no client 'all'"),
        ("wrong key", scene.signed(Key("who", bytes(16)), "hello"), IP, Code.NOT_ALLOWED, "no client 'who'"),
        ("replay", good, IP, None, "replayed"),
        ("replay", good, "10.0.2.3", None, "replayed"),
        ("foreign network", scene.signed(ALL, "hello"), "192.0.2.1", None, "not in control.networks"),
        (Code.BAD_REQUEST, b"\x94" + bytes(40), IP, None, "signed"),
    ]
    for count, datagram, ip, code, text in cases:
        caplog.clear()
        scene.server._log._kinds.clear()
        before = scene.server.refused[count]
        answer = scene.send(datagram, ip)
        assert scene.server.refused[count] == before + 1
        assert (None if answer is None else unsigned(answer)) == code, count
        assert f"control request from {ip} refused" in caplog.text
        assert text in caplog.text
    assert sum(scene.server.served.values()) == 1


def test_the_log_is_not_flooded(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    caplog.set_level(logging.WARNING)
    for _ in range(50):
        scene.send(encode_request("hello", 9, CLIENT))
    assert len(caplog.records) == 1
    scene.send(encode_request("hello", 9, CLIENT), now=60.0)
    assert "49 more" in caplog.records[-1].message


@pytest.mark.parametrize("window", [1.0, 30.0])
def test_a_clock_that_differs_too_much_is_told_the_time(window: float) -> None:
    scene = Scene(clock_window=window)
    scene.wall += 100
    for at, expected in ((-window, "ok"), (window, "ok"), (-window - 0.01, Code.CLOCK),
                         (window + 0.01, Code.CLOCK), (-1.7e9, Code.CLOCK), (1e9, Code.CLOCK)):  # fmt: skip
        assert scene.ask(ALL, "hello", at) == expected, at
    assert scene.server.refused == {"wrong time": 4}


def test_a_clock_that_is_set_back_locks_nobody_out_and_lets_no_replay_in() -> None:
    scene = Scene()
    scene.wall += 100
    recorded = scene.signed(ALL, "hello")
    assert scene.send(recorded) is not None
    right = scene.wall
    for back in (40, 3600):
        scene.wall -= back
        scene.steady += 5
        right += 5
        served = scene.server.served["hello"]
        assert scene.send(recorded) is None, "a replay"
        # A client whose clock is right.
        assert scene.send(scene.signed(ALL, "hello", right - scene.wall)) is not None
        assert scene.server.served["hello"] == served + 1
        # One whose clock went back, too, is told the time that the broker goes by.
        answer = scene.send(scene.signed(ALL, "hello"))
        assert answer is not None
        _, time_ms, plain = auth.open_reply(ALL, answer)
        assert time_ms == right * 1000
        error = decode_reply(plain).error
        assert error is not None
        assert error.code == Code.CLOCK
    # It goes forward with whoever sets it.
    scene.wall = WALL + 7200
    assert scene.ask(ALL, "hello") == "ok"


def test_a_replay_is_refused_for_as_long_as_its_time_is_taken_and_after_a_restart() -> None:
    scene = Scene()
    recorded = [scene.signed(ALL, "hello", at) for at in (-0.5, 0, 29.9)]
    for datagram in recorded:
        assert scene.send(datagram) is not None
    for later in range(0, 70, 7):
        scene.wall = WALL + 1 + later
        served = scene.server.served["hello"]
        for datagram in recorded:
            scene.send(datagram)
        assert scene.server.served["hello"] == served
    # A broker that starts anew has no memory, so it takes nothing from before its start.
    scene.wall = WALL + 2
    scene.server = scene.start()
    for datagram in recorded[:2]:
        scene.send(datagram)
    assert scene.server.refused == {"wrong time": 2}
    assert scene.server.served == {}


def test_a_new_configuration_keeps_the_memory_of_keys_that_stay() -> None:
    scene = Scene()
    scene.wall += 5
    recorded = scene.signed(ALL, "hello")
    of_one = scene.signed(ONE, "hello")
    assert scene.send(recorded) is not None
    scene.server.reconfigure(ControlConfig(clients=CLIENTS[1:], clock_window=60))
    assert scene.send(recorded) is None
    assert scene.server.refused["replay"] == 1
    assert unsigned(scene.send(of_one)) == Code.NOT_ALLOWED
    # A key that comes back starts with nothing from before.
    scene.server.reconfigure(ControlConfig(clients=CLIENTS))
    assert scene.send(of_one) is not None
    assert scene.server.refused["wrong time"] == 1
    assert scene.ask(ONE, "hello", 0.01) == "ok"


def test_open_networks_and_no_client_at_all() -> None:
    scene = Scene(open_networks=("10.1.0.0/16",))
    plain = encode_request("subscribe", 9, CLIENT, topic="alarms", port=PORT)
    assert unsigned(scene.send(plain, "10.2.0.1")) == Code.NOT_ALLOWED
    assert unsigned(scene.send(plain, "10.1.0.1")) == "ok"
    # A bad signature is no better than none there: it is not taken for an unsigned request.
    assert unsigned(scene.send(scene.signed(Key("all", bytes(16)), "hello"), "10.1.0.1")) == Code.NOT_ALLOWED
    nobody = Scene(clients=())
    assert unsigned(nobody.send(plain)) == "ok"
    assert unsigned(nobody.send(nobody.signed(ALL, "hello"))) == Code.NOT_ALLOWED


def test_who_asks_too_often_is_counted_and_not_answered() -> None:
    scene = Scene(clients=(), rate=5)
    plain = encode_request("hello", 9, CLIENT)
    answers = [scene.send(plain, now=1.0) for _ in range(30)]
    assert sum(answer is not None for answer in answers) == 10
    assert scene.server.refused == {"rate limit": 20}
    assert scene.send(plain, "10.0.2.3", now=1.0) is not None
    assert scene.send(plain, now=2.0) is not None


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), max_size=60), st.integers(1, 12))
def test_a_full_memory_forgets_nothing_it_would_take_again(
    asked: list[tuple[int, int]], capacity: int
) -> None:
    nonces = Nonces(0)
    nonces.set_window(20)
    nonces._capacity = capacity
    taken = set()
    for step, (time_ms, number) in enumerate(asked):
        now_ms, entry = step, (time_ms, bytes([number]) * 8)
        if nonces.is_timely(time_ms, now_ms) and nonces.take(*entry, now_ms):
            assert entry not in taken
            taken.add(entry)
        assert len(nonces) <= capacity


def test_the_memory_has_room_for_its_window() -> None:
    nonces = Nonces(0)
    nonces.set_window(30_000)
    assert 60 * 200 <= nonces._capacity <= MAX_NONCES


def forge(rng: random.Random, genuine: bytes) -> bytes:
    """A datagram that nobody has signed, made from one that somebody has."""
    changed = bytearray(genuine)
    kind = rng.randrange(6)
    if kind == 0:
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del changed[rng.randrange(len(changed)) :]
    elif kind == 2:
        at = rng.randrange(len(changed))
        changed[at:at] = rng.randbytes(rng.randrange(1, 9))
    elif kind == 3:
        at = rng.randrange(len(changed))
        changed[at : at + 8] = rng.randbytes(8)
    elif kind == 4:
        # The genuine parts with another time, nonce, id or request inside, and the old tag.
        row = msgpack.unpackb(genuine[: -auth.TAG_BYTES])
        place = rng.randrange(4)
        row[place] = (rng.choice(["one", "none", "x"]), row[1] + rng.randrange(1, 99), rng.randbytes(8),
                      encode_request("hello", rng.randrange(2**32), 1))[place]  # fmt: skip
        changed = bytearray(msgpack.packb(row) + genuine[-auth.TAG_BYTES :])
    else:
        changed = bytearray(auth.open_request(genuine).plain)
    return bytes(changed)


def test_a_flood_of_forgeries_moves_nothing_and_is_never_answered_larger() -> None:
    scene = Scene(rate=1_000_000)
    rng = random.Random(7)
    genuine = [
        scene.signed(ALL, "hello"),
        scene.signed(ALL, "subscribe", topic="alarms", group="g", port=PORT),
        scene.signed(ALL, "goodbye", port=PORT, received=[]),
        scene.signed(ALL, "resolve", topic="telemetry"),
    ]
    originals = set(genuine)
    sent = 0
    for number in range(FORGERIES):
        datagram = forge(rng, genuine[number % len(genuine)])
        if datagram in originals:
            continue
        sent += 1
        # Time passes, or the limit of all sources together would answer for the signatures.
        scene.send(datagram, now=number / 1000)
    assert scene.server.served == {}
    refused = scene.server.refused
    assert sum(refused.values()) == sent
    assert set(refused) == {"unsigned", "wrong key", Code.BAD_REQUEST}
    assert scene.registry.member_count(1) == 0
    assert all(len(nonces) == 0 for nonces in scene.server.guard._nonces.values())
    # And the genuine ones are still taken.
    assert [unsigned(auth.open_reply(ALL, scene.send(each, now=1e6) or b"")[2]) for each in genuine[:2]] == [
        "ok",
        "ok",
    ]


@settings(max_examples=300)
@given(st.binary(max_size=600) | st.sampled_from(list(control.OPERATIONS)).flatmap(
    lambda op: st.builds(
        lambda pad, topic, tag: msgpack.packb(
            {"v": 1, "id": 2**32 - 1, "op": op, "client": 5, "topic": topic, "port": 9, "received": [],
             "pad": bytes(pad)}) + tag,
        st.integers(0, 300), st.text(min_size=1, max_size=64), st.just(b"") | st.binary(max_size=3),
    )
), st.booleans())  # fmt: skip
def test_no_request_is_answered_with_more_bytes_than_it_has(datagram: bytes, with_keys: bool) -> None:
    scene = Scene() if with_keys else Scene(clients=())
    scene.send(datagram)  # asserts it

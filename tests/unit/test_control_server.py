"""The broker's end of the control protocol: every operation, every refusal, and arbitrary bytes."""

import itertools
from collections.abc import Sequence
from typing import Any, cast

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos import Framing, Member, Quality, Topic, auth
from tempos.control import MAX_DATAGRAM, OPERATIONS, Asked, Code, Received, Sent, decode_reply, encode_request
from tempos.names import name_fault
from tempos.receiving.feeds import Feeds
from tempos.session.roll import Roll
from tempos_broker.account.accounts import Holder
from tempos_broker.account.changes import Changes
from tempos_broker.account.ledger import Ledger
from tempos_broker.config.model import BrokerConfig, ControlConfig, FleetConfig, TopicConfig
from tempos_broker.control.decisions import Decision
from tempos_broker.control.server import TOO_LARGE, ControlServer
from tempos_broker.fleet.desk import Desk as FleetDesk
from tempos_broker.fleet.fleet import Fleet
from tempos_broker.fleet.memory import LocalRegistry, Memory
from tempos_broker.fleet.rows import BrokerRow
from tempos_broker.membership import Registry
from tempos_broker.routes import Routes

IP, PORT, CLIENT = "10.0.2.2", 5001, 2**63 + 5
HOLDER = Holder(IP, PORT, CLIENT)
TOPIC = Topic(7, "alpha", Quality.SQ, 3, Framing.EVENT)


def pair(networks: tuple[str, ...] = ("10.0.0.0/8",)) -> tuple[Registry, Ledger, ControlServer]:
    config = BrokerConfig((TopicConfig(TOPIC),), control=ControlConfig(networks=networks))
    registry = Registry(config, lambda ip: False)
    ledger = Ledger()
    server = ControlServer(
        registry, ledger, config.control, name="test", instance=42, epoch=lambda topic: 300
    )
    return registry, ledger, server


def ask(server: ControlServer, op: str, now: float = 0.0, **fields: object) -> tuple[Decision, dict]:
    decision = server.receive_datagram(encode_request(op, 9, CLIENT, **fields), IP, now)
    assert decision is not None
    datagram = server.render(decision)
    assert datagram is not None
    reply = decode_reply(datagram)
    assert reply.id == 9
    if reply.error is not None:
        return decision, {"code": reply.error.code, "text": reply.error.text, "hint": reply.error.hint}
    assert reply.ok is not None
    return decision, dict(reply.ok)


def test_a_member_that_gets_nothing_is_told_so_and_the_log_too(caplog: pytest.LogCaptureFixture) -> None:
    registry, ledger, server = pair()
    ask(server, "subscribe", topic="alpha", group="workers", port=PORT)
    ledger.opened(7, 300, registry.holders(7), 0)
    tickets = [0]
    ledger.tickets = lambda topic, epoch, group: tickets[group]

    def beat(got: int = 0) -> object:
        received = [Received(7, "workers", 300, got)] if got else []
        _, answer = ask(server, "heartbeat", now=1, port=PORT, received=received, full=True, since=[])
        return answer.get("unheard")

    assert beat() is None
    tickets[0] = 50
    assert beat() is None
    tickets[0] = 100
    assert beat() == 100
    assert [line for line in caplog.messages if "tells of none of 100 events" in line]
    assert registry.lease_of(HOLDER).progress.lost == 100  # type: ignore[union-attr]
    assert beat(got=1) is None
    assert caplog.messages[-1] == f"member {IP}:{PORT} gets events again"


def test_a_membership_from_hello_to_goodbye() -> None:
    registry, ledger, server = pair()
    timing = {"lease_ms": 10_000, "heartbeat_ms": 2500, "instance": 42}
    topic = {"id": 7, "name": "alpha", "class": "SQ", "priority": 3, "framing": "event"}
    assert ask(server, "hello")[1] == {"broker": "test", **timing}
    resolved = ask(server, "resolve", topic="alpha")[1]
    before = resolved.pop("clock")
    assert resolved == {"topic": topic, "members": 0}
    decision, answer = ask(server, "subscribe", topic="alpha", group="workers", port=PORT)
    assert decision.changed == {7}
    # Who asked for the topic before this was a member may have published before, too.
    assert answer.pop("clock") > before
    assert answer == {"topic": topic, "group": "workers", "epoch": 300, **timing}
    assert registry.groups(7)[0].members == (Member(IP, PORT),)
    ledger.opened(7, 300, registry.holders(7), 0)
    ask(server, "heartbeat", now=9, port=PORT, received=[Received(7, "workers", 300 & 0xFF, 12)])
    assert ledger.accounts(HOLDER)[0].delivered == 12
    assert registry.next_expiry() == 19
    decision, answer = ask(server, "unsubscribe", topic="alpha", group="workers", port=PORT)
    assert (decision.changed, answer) == ({7}, {})
    assert registry.groups(7) == ()
    _, answer = ask(server, "heartbeat", port=PORT, received=[])
    assert (answer["code"], answer["hint"]) == (Code.UNKNOWN_MEMBER, "subscribe again")
    ask(server, "subscribe", topic="alpha", port=PORT)
    decision, _ = ask(server, "goodbye", port=PORT, received=[])
    assert decision.changed == {7}
    assert registry.groups(7) == ()
    assert server.served["subscribe"] == 2


def test_counts_that_were_meant_for_an_earlier_account_are_in_none() -> None:
    """They were under way while this broker, which has forgotten that account, let their member in."""
    registry, ledger, server = pair()
    ask(server, "subscribe", topic="alpha", group="workers", port=PORT)
    ledger.opened(7, 1, registry.holders(7), 0)
    for datagrams, instance, booked in ((400, 41, 0), (5, 42, 5), (6, None, 6)):
        said: dict[str, object] = {"port": PORT, "received": [Received(7, "workers", 1, datagrams)]}
        for op in ("heartbeat", "drain"):
            _, answer = ask(server, op, **said, **({} if instance is None else {"instance": instance}))
            assert "code" not in answer, answer
            assert sum(each.delivered for each in ledger.accounts(HOLDER)) == booked
            ask(server, "subscribe", topic="alpha", group="workers", port=PORT)


def test_whoever_repeats_that_it_leaves_waits_for_the_same_routes() -> None:
    """An answer says that nothing new comes; the swap for the first request may still be under way."""
    registry, ledger, server = pair()
    leaving: dict[str, dict[str, object]] = {
        "unsubscribe": {"topic": "alpha", "group": "workers"},
        "goodbye": {"received": []},
        "drain": {"received": [], "patience_ms": 2000},
    }
    for op, fields in leaving.items():
        ask(server, "subscribe", topic="alpha", group="workers", port=PORT)
        ledger.opened(7, 1, registry.holders(7), 0)
        for _ in range(3):
            decision = server.receive_datagram(encode_request(op, 9, CLIENT, port=PORT, **fields), IP, 0.0)
            assert decision is not None
            assert decision.changed == {7}, op
    # Of somebody who never was a member no route can be waited for.
    assert ask(server, "goodbye", port=PORT + 1, received=[])[0].changed == set()


def test_who_subscribes_gets_its_events_from_the_address_it_asked() -> None:
    registry, _, server = pair()
    request = encode_request("subscribe", 9, CLIENT, topic="alpha", port=PORT)
    for asked in ("10.0.1.9", None):
        assert server.receive_datagram(request, IP, 0, asked) is not None
        assert registry.groups(7)[0].members == (Member(IP, PORT, source=asked),)


def test_a_drain_is_answered_when_everything_is_confirmed_or_it_is_too_late() -> None:
    registry, ledger, server = pair()
    ask(server, "subscribe", topic="alpha", group="workers", port=PORT)
    ledger.opened(7, 1, registry.holders(7), 0)

    def drain(now: float, datagrams: int) -> dict | None:
        rows = [Received(7, "workers", 1, datagrams)]
        request = encode_request("drain", 9, CLIENT, port=PORT, received=rows, patience_ms=2000)
        decision = server.receive_datagram(request, IP, now)
        assert decision is not None
        assert decision.changed == {7}
        if registry.groups(7) == () and 1 in ledger.open_epochs(7):
            ledger.opened(7, 2, [], now)
            ledger.closed(7, 1, [10])
        answer = server.render(decision)
        return None if answer is None else dict(decode_reply(answer).ok or {})

    assert drain(1.0, 8) is None
    assert drain(1.5, 9) is None
    assert drain(1.6, 10) == {"ticketed": 10, "delivered": 10, "lost": 0}
    assert drain(9.0, 10) == {"ticketed": 10, "delivered": 10, "lost": 0}

    ask(server, "subscribe", topic="alpha", group="workers", port=PORT)
    ledger.opened(7, 1, registry.holders(7), 2)
    assert drain(10.0, 0) is None
    late = drain(12.0, 0)
    assert late is not None
    assert late["lost"] == 10


def test_bad_requests_are_answered_with_what_is_allowed_and_counted() -> None:
    *_, server = pair()
    for fields, code in (
        ({"op": "dance"}, Code.UNKNOWN_OPERATION),
        ({"op": "subscribe", "topic": "alpha", "port": 0}, Code.BAD_REQUEST),
        ({"op": "subscribe", "topic": "alpha", "port": True}, Code.BAD_REQUEST),
        ({"op": "subscribe", "topic": "alpha\n", "port": 5}, Code.BAD_REQUEST),
        ({"op": "resolve"}, Code.BAD_REQUEST),
        ({"op": "resolve", "topic": "beta"}, Code.UNKNOWN_TOPIC),
        ({"op": "heartbeat", "port": 5, "received": [[1, "g", 0]]}, Code.BAD_REQUEST),
        ({"op": "hello", "v": 2}, Code.BAD_REQUEST),
        ({"op": "hello", "client": -1}, Code.BAD_REQUEST),
    ):
        message = {"v": 1, "id": 9, "client": CLIENT, "pad": bytes(200), **fields}
        decision = server.receive_datagram(msgpack.packb(message), IP, 0)
        assert decision is not None
        reply = decode_reply(server.render(decision) or b"")
        assert reply.error is not None
        assert (reply.error.code, bool(reply.error.text and reply.error.hint)) == (code, True), fields
    assert sum(server.refused.values()) == 9


def test_a_foreign_network_gets_no_answer() -> None:
    *_, server = pair(networks=("192.0.2.0/24",))
    assert server.receive_datagram(encode_request("hello", 1, 1), IP, 0) is None
    assert server.refused == {"foreign network": 1}


def test_no_broker_answers_another_ones_answer() -> None:
    """One datagram in the name of another broker's control port must not be the first of many."""
    *_, asked = pair()
    *_, named = pair()
    for request in (
        encode_request("hello", 1, 1),
        encode_request("resolve", 1, 1, topic="beta"),
        msgpack.packb({"v": 1, "id": 1, "pad": bytes(200)}),
    ):
        decision = asked.receive_datagram(request, IP, 0)
        assert decision is not None
        answer = asked.render(decision)
        assert answer is not None
        assert named.receive_datagram(answer, IP, 0) is None
    assert (named.served, named.refused) == ({}, {"reply": 3})


def test_nothing_larger_than_a_request_is_decoded_and_no_nesting_is_followed() -> None:
    *_, server = pair()
    large = msgpack.packb(
        {"v": 1, "id": 9, "op": "heartbeat", "client": 1, "port": 5, "received": [[]] * 48_000}
    )
    head = msgpack.packb({"v": 1, "id": 9, "client": 1, "op": None})[:-1]
    for datagram in (large, large[: MAX_DATAGRAM + 1], head + b"\x91" * 1000 + b"\xc0"):
        assert server.receive_datagram(datagram, IP, 0) is None
    assert server.refused == {"too large": 2, "bad request": 1}


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
NEARLY = st.fixed_dictionaries(
    {"v": st.just(1) | VALUES, "id": st.integers(0, 2**32 - 1) | VALUES, "client": st.just(5) | VALUES},
    optional={
        "op": st.sampled_from(
            ["hello", "resolve", "subscribe", "unsubscribe", "heartbeat", "drain", "goodbye"]
        )
        | VALUES,
        "topic": st.just("alpha") | VALUES,
        "group": st.just("g") | VALUES,
        "port": st.just(PORT) | VALUES,
        "received": st.just([[7, "g", 1, 2]]) | VALUES,
    },
)


@given(st.binary(max_size=200) | NEARLY.map(msgpack.packb) | VALUES.map(msgpack.packb))
def test_arbitrary_datagrams_never_raise_and_every_reply_can_be_read(datagram: bytes) -> None:
    *_, server = pair()
    decision = server.receive_datagram(datagram, IP, 0)
    if decision is not None and (answer := server.render(decision)) is not None:
        decode_reply(answer)
        assert len(answer) <= len(datagram)
    assert sum(server.served.values()) + sum(server.refused.values()) == 1


@given(
    st.sampled_from(list(OPERATIONS)),
    st.text(st.sampled_from("aä語𝄞/"), min_size=1, max_size=256).filter(lambda text: not name_fault(text)),
    st.text(min_size=1, max_size=64).filter(str.isprintable),
)
def test_what_a_client_asks_leaves_room_for_the_whole_answer(op: str, name: str, group: str) -> None:
    topic = Topic(254, name, Quality.SQ, 7)
    config = BrokerConfig((TopicConfig(topic),))
    registry = Registry(config, lambda ip: False)
    fleet = Fleet(
        FleetConfig("plant"), BrokerRow("one", "255.255.255.255", 65535, 65535, 2**32 - 1),
        LocalRegistry(Memory()), registry, cast(Routes, None), Changes(),
    )  # fmt: skip
    for number in range(60):
        row = BrokerRow(f"b{number}", f"255.255.255.{number}", 65535, 65535, 1)
        fleet.view.brokers[row.name] = row
    server = ControlServer(
        registry, Ledger(), ControlConfig(), name=f"tempos 10.20.30 on {'h' * 64}", instance=2**32 - 1,
        epoch=lambda topic: 2**32 - 1, fleet=FleetDesk(registry, fleet),
    )  # fmt: skip
    values = {
        **{key: [] for key in ("counts", "drops", "former", "heard", "lacking", "sent")},
        **{key: [] for key in ("confirm", "missing", "repairs", "replays", "consumed", "taking")},
        "topic": name,
        "group": group,
        "filter": name,
        "wanted": [name],
        "version": [2**32 - 1, 2**64 - 1],
        "port": 65535,
        "milliseconds": 0,
        "flag": True,
        "proof": bytes(16),
        "number": 1,
        "count": 9,
        "numbers": [],
        "asked": [Asked(254, 0)],
    }
    fields = {field.name: values[field.kind] for field in OPERATIONS[op][1]}
    for chosen in (fields, {**fields, "group": None} if "group" in fields else fields):
        request = encode_request(op, 2**32 - 1, 2**64 - 1, **chosen)
        assert len(request) <= MAX_DATAGRAM
        decision = server.receive_datagram(request, "255.255.255.254", 0)
        assert decision is not None
        answer = server.render(decision)
        assert answer is not None
        assert not server.replies, (op, len(request), len(answer))


@pytest.mark.parametrize("count", [3, 254])
def test_a_member_of_very_many_topics_tells_and_asks_in_datagrams_that_fit(count: int) -> None:
    topics = [Topic(number, f"plant/{number}/{'t' * (number % 40)}") for number in range(1, count + 1)]
    registry = Registry(BrokerConfig(tuple(map(TopicConfig, topics))), lambda ip: False)
    epochs = {topic.id: 2**32 - topic.id for topic in topics}
    server = ControlServer(
        registry, Ledger(), ControlConfig(), name="sim", instance=1, epoch=epochs.__getitem__, life=2**32 - 1
    )
    holder = Holder(IP, PORT, 5)
    registry.join(holder, registry.subscribe_by("plant/#", "g" * 64, (IP, PORT), 5, 0), 0)
    feeds, roll = Feeds(), Roll()

    def tell(page: dict[str, Any], since: Sequence[int], *, roomy: bool = False) -> dict[str, Any]:
        request = encode_request("heartbeat", 1, 5, port=PORT, roomy=roomy, since=since, **page)
        assert len(request) <= MAX_DATAGRAM - auth.OVERHEAD
        decision = server.receive_datagram(request, IP, 1)
        assert decision is not None
        answer = server.render(decision) or b""
        assert len(answer) <= len(request)
        ok = decode_reply(answer).ok
        assert ok is not None
        return dict(ok)

    def listed() -> tuple[int, set[str]]:
        """Ask until nothing is left to be told: how often, and of which topics."""
        named: set[str] = set()
        for pages in itertools.count(1):
            since = roll.since
            news = roll.take(tell({"received": []}, since, roomy=pages > 1), since)
            assert news is not None
            for row in (*news.come, *news.stay):
                feeds.put(row.topic, row.group).in_force(row.epoch, row.members or 1)
                named.add(row.topic.name)
            named |= {f"-{name} {why}" for name, why in news.gone.items()}
            if news.complete:
                return pages, named
        raise AssertionError

    # Nobody is told of what is not in force yet.
    assert listed() == (1, set())
    assert (roll.count, len(roll)) == (count, 0)
    for topic in topics:
        registry.holdings.in_force(topic.id, registry.holders(topic.id))
    pages, named = listed()
    assert named == {topic.name for topic in topics}
    assert pages <= 2 + count // 9
    assert {row.topic.id: row.tracker.epoch for row in feeds} == epochs
    # From then on what is new costs what is new.
    assert listed() == (1, set())
    epochs[3] = 7
    registry.holdings.in_force(3, registry.holders(3))
    registry.evict(2, "g" * 64, (IP, PORT), 1)
    assert listed() == (1, {topics[2].name, f"-{topics[1].name} operator"})
    assert (roll.count, len(roll)) == (count - 1, count - 1)
    # Counts go in pages that fit, and are told once.
    for feed in feeds:
        feed.tracker.see(epochs[feed.topic.id] & 0xFF, 0)
    for rows in (count, 0):
        told = feeds.report()
        assert sum(len(page["received"]) for page in told) == rows
        for page in told:
            feeds.acknowledge(page, tell(page, ()))
    assert not server.replies
    # Another life may not have stored what this one has acknowledged, and tells everything again.
    feeds.acknowledge({"received": []}, {"life": 7})
    assert sum(len(page["received"]) for page in feeds.report()) == count
    server._life = server._listing._life = 8
    assert {name for name in listed()[1] if name[0] != "-"} == {each.name for each in topics if each.id != 2}


def test_members_learn_what_publishers_say_as_there_is_room() -> None:
    registry, ledger, server = pair()
    registry.subscribe("alpha", None, (IP, PORT), CLIENT, 0)
    feeds = Feeds()
    feed = feeds.put(TOPIC, f"~{IP}:{PORT}")
    said = {number: 10**9 + number for number in range(2**32 - 150, 2**32)}
    for number, numbered in said.items():
        since = server._clock.not_after()
        answer = ask(
            server, "sent", publisher=number, sent=[Sent(7, numbered, 1, numbered - 1, since)], final=True
        )[1]
        assert answer == {"heartbeat_ms": 2500, "life": server._life}
        feed.sources.follow(number, 5, 1, alone=True)
    rounds = 0
    while len(feed.sources.said) < len(said):
        rounds += 1
        assert rounds < 20
        for page in feeds.report():
            request = encode_request("heartbeat", 1, CLIENT, port=PORT, **page)
            assert len(request) <= MAX_DATAGRAM - auth.OVERHEAD
            decision = server.receive_datagram(request, IP, 1)
            assert decision is not None
            datagram = server.render(decision)
            assert datagram is not None
            assert len(datagram) <= len(request)
            reply = decode_reply(datagram)
            assert reply.ok is not None
            feeds.acknowledge(page, reply.ok)
    assert {number: each.numbered for number, each in feed.sources.said.items()} == said
    # Nothing is said twice, but for what is new.
    assert feeds.report() == [
        {"received": [], "full": True, "topics": [(7, feed.sources.heard)], "untold": 0}
    ]
    assert list(ledger.publishers.news(7, feed.sources.heard)) == []
    # In another life versions begin anew, and all is told again.
    feeds.acknowledge({"received": []}, {"life": 1})
    assert feed.sources.heard == 0
    assert sum(len(page.get("publishers", ())) for page in feeds.report()) == 64


def test_what_a_publisher_says_of_foreign_topics_is_ignored_and_without_the_right_refused() -> None:
    _, ledger, server = pair()
    row = Sent(9, 10, 0, 10, 0)
    assert "heartbeat_ms" in ask(server, "sent", publisher=1, sent=[row])[1]
    assert ledger.publishers.account(9, 0, {}).rows == ()
    refused = ask(server, "sent", publisher=1, sent=[[7, 1, 0]])[1]
    assert refused["code"] == Code.BAD_REQUEST
    assert "topic, numbered, unsent, datagrams, since" in refused["hint"]


def test_a_request_without_room_is_told_so_or_not_answered_and_changes_nothing() -> None:
    registry, _, server = pair()
    message = {"v": 1, "id": 9, "client": 1, "op": "subscribe", "topic": "alpha", "port": PORT}
    decision = server.receive_datagram(msgpack.packb({**message, "pad": bytes(20)}), IP, 0)
    assert decision is not None
    reply = decode_reply(server.render(decision) or b"")
    assert reply.error is not None
    assert reply.error.code == Code.TOO_SHORT
    assert registry.groups(7) == ()
    tiny = msgpack.packb({"v": 1, "id": 9, "client": 1, "op": "hello"})
    decision = server.receive_datagram(tiny, IP, 0)
    assert decision is not None
    assert server.render(decision) is None
    assert server.refused == {Code.TOO_SHORT: 1}
    assert server.replies == {TOO_LARGE: 1}


def test_while_it_stops_nobody_joins_or_leaves_and_what_is_told_still_counts() -> None:
    registry, ledger, server = pair()
    ask(server, "subscribe", topic="alpha", group="g", port=PORT)
    ledger.opened(7, 300, registry.holders(7), 0)
    before = registry.groups(7)
    server.stopping = True
    requests: dict[str, dict[str, object]] = {
        "subscribe": {"topic": "alpha", "group": "g", "port": PORT + 1},
        "unsubscribe": {"topic": "alpha", "group": "g", "port": PORT},
        "drain": {"port": PORT, "received": [], "patience_ms": 2000},
        "goodbye": {"port": PORT, "received": []},
    }
    for op, fields in requests.items():
        decision, answer = ask(server, op, **fields)
        assert (decision.changed, answer["code"]) == (frozenset(), Code.STOPPING), op
    assert registry.groups(7) == before
    assert server.refused == {Code.STOPPING: len(requests)}
    ask(server, "heartbeat", port=PORT, received=[Received(7, "g", 300 & 0xFF, 12)])
    assert ledger.accounts(HOLDER)[0].delivered == 12

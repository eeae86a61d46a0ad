"""Who is sent events out of journals, and how much: the rules of the broker's side, and its restarts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tempos import Topic
from tempos.control import U64, Code, decode_reply, encode_request
from tempos.session import replayed
from tempos_broker.account.ledger import Ledger
from tempos_broker.config.model import BrokerConfig, ControlConfig, TopicConfig
from tempos_broker.control.decisions import Copies
from tempos_broker.control.server import ControlServer
from tempos_broker.journal.journals import Journals
from tempos_broker.journal.replay import BURST, MOST, Replays
from tempos_broker.membership import Registry

pytest.importorskip("tempos_broker.shared", reason="the compiled helper is not built")

IP, PORT, CLIENT, INSTANCE = "10.0.0.2", 5000, 5, 7
TOPIC, COUNT = Topic(1, "t", journal=4096, journal_bytes=100), 3000


class Stand:
    """A broker's decisions, with one member who came after so many events."""

    def __init__(self) -> None:
        config = BrokerConfig((TopicConfig(TOPIC),))
        self.registry = Registry(config, lambda ip: False)
        self.journals = Journals()
        self.journals.change((), [TOPIC])
        self.journals.begin(1, 1, 0)
        self.put(1, COUNT)
        self.journals.ended(1, 1, COUNT)
        self.registry.subscribe("t", "g", (IP, PORT), CLIENT, 0.0)
        self.journals.begin(1, 2, COUNT)
        self.journals.joined(1, 2, self.registry.holders(1))
        self.put(2, 10)
        self.server = ControlServer(
            self.registry, Ledger(), ControlConfig(), name="sim", instance=INSTANCE, epoch=lambda topic: 2,
            more={"replay": Replays(self.registry, self.journals, INSTANCE).request},
        )  # fmt: skip

    def put(self, epoch: int, count: int) -> None:
        for ticket in range(count):
            self.journals.of[1].put(epoch, [ticket], b"\1\x10\0\0" + bytes(20) + b"%d" % ticket)

    def ask(
        self,
        *rows: tuple[int, int, int, int],
        now: float = 0.0,
        ip: str = IP,
        port: int = PORT,
        client: int = CLIENT,
        instance: int = INSTANCE,
        roomy: bool = True,
    ) -> tuple[str | list[list[object]], Copies | None]:
        """The rows of the answer or the code of the refusal, and what is sent."""
        request = encode_request(
            "replay", 1, client, roomy=roomy, port=port, instance=instance, replays=list(rows)
        )
        decision = self.server.receive_datagram(request, ip, now)
        assert decision is not None
        answer = self.server.render(decision)
        assert answer is not None
        assert len(answer) <= len(request)
        reply = decode_reply(answer)
        if reply.ok is None:
            assert reply.error is not None
            assert decision.copies is None
            return reply.error.code, None
        return reply.ok["replayed"], decision.copies


@pytest.fixture
def stand() -> Iterator[Stand]:
    made = Stand()
    yield made
    made.journals.close()


def test_all_comes_in_pages_up_to_where_live_begins(stand: Stand) -> None:
    after, now, found = 0, 0.0, []
    more = True
    while more:
        rows, copies = stand.ask((1, after, COUNT, U64), now=now)
        assert isinstance(rows, list)
        ((topic, after, more, gone, numbers),) = rows  # type: ignore[misc]
        assert (topic, gone) == (1, 0)
        assert copies is not None
        assert (copies.endpoint, copies.via) == ((IP, PORT), None)
        assert 0 < len(copies.datagrams) <= MOST
        for number, datagram in zip(numbers, copies.datagrams, strict=True):
            told = replayed.decode(datagram)
            assert told is not None
            assert told.number == number
            found.append(int(told.datagram[24:]))
        # The same again is the same: nothing is remembered of who reads.
        now += 0.01
    assert found == list(range(COUNT))
    rows, copies = stand.ask((1, after, COUNT, U64), now=now)
    assert rows == [[1, after, False, 0, []]]
    assert copies is None


async def test_nothing_is_gone_that_another_size_of_the_journal_is_about_to_take_over(stand: Stand) -> None:
    rows, _ = stand.ask((1, 0, 10, U64))
    stand.journals.change((), [replace(TOPIC, journal=4 * TOPIC.journal)])
    assert stand.ask((1, 0, 10, U64), now=1.0)[0] == rows
    await stand.journals.settle()
    assert stand.ask((1, 0, 10, U64), now=2.0)[0] == rows


def test_no_more_is_sent_than_may_be_in_a_time(stand: Stand) -> None:
    sent = 0
    for _ in range(100):
        _, copies = stand.ask((1, 0, COUNT, U64))
        sent += len(copies.datagrams) if copies else 0
    assert sent == BURST
    assert stand.ask((1, 0, COUNT, U64)) == ([], None)
    assert stand.ask((1, 0, 5, U64), now=1.0)[1] is not None


def test_nobody_else_is_sent_anything(stand: Stand) -> None:
    row = (1, 0, 10, U64)
    for other in ({"ip": "10.0.0.3"}, {"port": 5001}, {"client": 6}, {"instance": 8}):
        assert stand.ask(row, **other) == (Code.UNKNOWN_MEMBER, None)  # type: ignore[arg-type]
    stand.registry.goodbye((IP, PORT), CLIENT)
    assert stand.ask(row) == (Code.UNKNOWN_MEMBER, None)


def test_what_is_no_topic_of_its_own_has_nothing(stand: Stand) -> None:
    rows, copies = stand.ask((1, 0, 3, U64), (2, 0, 3, U64), (1, 1 << 63, 1, U64), (1, 0, 0, U64))
    assert copies is not None
    assert len(copies.datagrams) == 3
    assert isinstance(rows, list)
    assert [row[4] for row in rows[1:]] == [[], [], []]
    short, _ = stand.ask((1, 0, 60, U64), roomy=False)
    assert isinstance(short, list)
    assert all(len(row[4]) < 60 for row in short)  # type: ignore[arg-type]


def test_a_life_later_nobody_knows_where_live_began_for_who_was_reading(stand: Stand) -> None:
    journals = stand.journals
    journals.change([1], [TOPIC])
    journals.begin(1, 2, 0)
    journals.joined(1, 2, stand.registry.holders(1), before=True)
    assert stand.ask((1, 0, 3, U64)) == (Code.UNKNOWN_MEMBER, None)
    journals.begin(1, 3, 10)
    journals.joined(1, 3, stand.registry.holders(1))
    assert stand.ask((1, 0, 3, U64)) == (Code.UNKNOWN_MEMBER, None)

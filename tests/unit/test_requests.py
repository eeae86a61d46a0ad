"""The envelope, the book of requests, return addresses: their bytes, and that nothing is lost in them.

The last test sends requests and replies over legs that lose, double and mix up what they carry, by the
sans-IO parts alone: every request has become one thing, and every answer that arrived is counted once.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos import Framing, Reason, WireError, _abi, wire
from tempos.requests import core, envelope
from tempos.requests.core import Answer, Requests, RequestStats
from tempos_broker.slowpath.returns import LIFETIME, Destination, Returns, unsealed

ME = 0x01020304
TOKEN = b"token!"
ADDRESS = bytes(range(24))
KEY = bytes(32)
AT = wire.HEADER_LEN
ENDED = ("timeouts", "cancelled", "failed")

u16, u32 = st.integers(1, 0xFFFF), st.integers(0, 0xFFFFFFFF)
ips = st.ip_addresses(v=4).map(str)


class Waiter(list[Answer]):
    """Takes what comes until it is given up."""

    given_up = False

    def done(self) -> bool:
        return self.given_up

    def set_result(self, answer: Answer, /) -> None:
        self.append(answer)


def request(sequence: int = 5, token: bytes = TOKEN, address: bytes = ADDRESS, topic: int = 7) -> bytes:
    return wire.encode_event(
        topic, ME, sequence, 9, envelope.request(address, token) + b"body", _abi.FLAG_ENVELOPE
    )


def reply(asked: bytes, body: bytes = b"answer", **kind: int) -> bytes:
    return envelope.answer(asked[: AT + envelope.LENGTH], AT, 77, **kind) + body


def test_envelopes_lie_on_the_wire_as_documented() -> None:
    head = "07 18 00 00 01020304 00000005 00000000"
    asked = request()
    assert asked == bytes.fromhex(f"{head} 0000000000000009 11 00") + ADDRESS + TOKEN + b"body"
    there = reply(asked)
    assert there == bytes.fromhex(f"{head} 000000000000004d 12 00") + ADDRESS + TOKEN + b"answer"
    error = reply(asked, b"", kind=_abi.KIND_ERROR, code=_abi.ERROR_NO_MEMBER)
    assert error == bytes.fromhex(f"{head} 000000000000004d 13 01") + ADDRESS + TOKEN
    assert wire.check_payload(asked, Framing.EVENT) is Reason.FORWARDED
    assert (
        wire.check_payload(there, Framing.EVENT) is wire.check_payload(error, Framing.EVENT) is Reason.REPLY
    )
    assert wire.is_request(asked)
    assert envelope.read(error, AT) == (_abi.KIND_ERROR, _abi.ERROR_NO_MEMBER, ADDRESS, TOKEN)
    assert envelope.port_of(error, AT) == int.from_bytes(ADDRESS[14:16], "big")


@given(st.binary(max_size=40), st.integers(0, 8))
def test_reading_an_envelope_raises_only_wire_errors(data: bytes, at: int) -> None:
    if len(data) - at < envelope.LENGTH or data[at] not in (0x11, 0x12, 0x13):
        with pytest.raises(WireError) as refused:
            envelope.read(data, at)
        assert refused.value.reason is Reason.BAD_ENVELOPE
    else:
        read = envelope.read(data, at)
        assert (len(read.address), len(read.token)) == (envelope.ADDRESS_LEN, envelope.TOKEN_LEN)


@given(ips, u16, st.none() | ips.filter(lambda ip: ip != "0.0.0.0"), st.floats(0, 2**32 - 2 * LIFETIME), u16)
def test_a_return_address_is_good_for_an_hour_with_the_key_that_sealed_it(
    ip: str, port: int, via: str | None, now: float, data_port: int
) -> None:
    ours = Returns(KEY, data_port)
    there = reply(request(address=ours.grant(ip, port, via, now)))
    sealed = there[AT : AT + envelope.LENGTH]
    assert envelope.port_of(there, AT) == data_port
    assert ours.open(sealed, now) == ours.open(sealed, int(now) + LIFETIME) == Destination(ip, port, via)
    assert ours.open(sealed, int(now) + LIFETIME + 1) is None
    assert ours.open(sealed, int(now) - 1) is None, "it is of another time"
    assert Returns(b"another key".ljust(32), data_port).open(sealed, now) is None
    onward = unsealed(there, AT)
    assert ours.open(onward[AT : AT + envelope.LENGTH], now) is None
    assert (len(onward), onward[-6:], envelope.read(onward, AT).token) == (len(there), b"answer", TOKEN)


@given(st.integers(0, 24 * 8 - 1))
def test_whatever_bit_of_a_return_address_is_changed_it_is_not_ours(bit: int) -> None:
    ours = Returns(KEY, 9998)
    sealed = bytearray(envelope.request(ours.grant("10.0.0.1", 4000, "10.0.0.2", 0), TOKEN))
    sealed[_abi.ENVELOPE_PORT + bit // 8] ^= 1 << bit % 8
    assert ours.open(bytes(sealed), 0) is None


def test_answers_come_to_who_asked_and_all_others_are_told_apart() -> None:
    book, answers = Requests(ME), Waiter()
    key = book.begin(7, 5, TOKEN, answers, 1.0)
    asked = request()
    book.receive(reply(request(topic=8)))
    book.receive(reply(request(sequence=6)))
    book.receive(reply(request(token=b"guess?")))
    book.receive(asked)
    assert (answers, book.stats.strays) == ([], 4)
    book.receive(reply(asked))
    book.receive(reply(asked, b"of another group"))
    book.end(key, "timeouts")
    assert answers == [Answer(_abi.KIND_REPLY, 0, b"answer", 77)]
    assert (book.stats.answered, book.stats.further, book.stats.timeouts) == (1, 1, 0)
    late = book.begin(7, 6, TOKEN, answers, 1.0)
    book.end(late, "timeouts")
    book.receive(reply(request(sequence=6), kind=_abi.KIND_ERROR))
    book.receive(reply(request(sequence=6, token=b"guess?")))
    # Publishers count on; the number that travels has 32 bits.
    book.begin(7, 1 << 32 | 9, TOKEN, answers, 1.0)
    book.receive(reply(request(sequence=9), b"", kind=_abi.KIND_ERROR, code=1))
    assert answers[1:] == [Answer(_abi.KIND_ERROR, 1, b"", 77)]
    stats = RequestStats(answered=1, refused=1, timeouts=1, further=1, late=1, strays=5)
    assert (book.stats, book.stats.requests) == (stats, 3)


def test_what_is_remembered_of_ended_requests_is_bounded() -> None:
    book = Requests(ME)
    for sequence in range(core.REMEMBERED + 1):
        book.end(book.begin(7, sequence, TOKEN, Waiter(), 1.0), "cancelled")
    book.receive(reply(request(sequence=0)))
    book.receive(reply(request(sequence=1)))
    assert (book.stats.strays, book.stats.late) == (1, 1)


@given(
    st.lists(
        st.binary(max_size=80)
        | st.binary(max_size=60).map(lambda rest: b"\x07\x18\x00\x00" + rest)
        | st.integers(0, 63).flatmap(
            lambda at: st.integers(0, 255).map(
                lambda byte: (whole := reply(request()))[:at] + bytes((byte,)) + whole[at + 1 :]
            )
        ),
        max_size=30,
    )
)
def test_nothing_that_arrives_raises_and_each_is_counted_once(datagrams: list[bytes]) -> None:
    book, answers = Requests(ME), Waiter()
    book.begin(7, 5, TOKEN, answers, 1.0)
    for datagram in datagrams:
        book.receive(datagram)
    stats = book.stats
    counted = stats.answered + stats.refused + stats.further + stats.late + stats.strays + stats.malformed
    assert counted == len(datagrams)
    assert len(answers) == stats.answered + stats.refused <= 1
    assert stats.requests == 1


class Legs:
    """What is on its way: lost, doubled and out of order, by chance."""

    def __init__(self, rng: random.Random, loss: float, doubled: float) -> None:
        self.rng, self.loss, self.doubled = rng, loss, doubled
        self.on_way: list[tuple[float, int, str, bytes]] = []
        self.sent = self.lost = self.twice = 0

    def send(self, now: float, to: str, datagram: bytes) -> None:
        self.sent += 1
        if self.rng.random() < self.loss:
            self.lost += 1
            return
        for _ in range(1 + (self.rng.random() < self.doubled)):
            heapq.heappush(
                self.on_way, (now + self.rng.expovariate(20), self.sent + self.twice, to, datagram)
            )
            self.twice += 1
        self.twice -= 1


@pytest.mark.parametrize("seed", range(5))
def test_over_legs_that_lose_double_and_mix_up_everything_is_counted_once(seed: int) -> None:
    rng = random.Random(seed)
    legs = Legs(rng, loss=0.1, doubled=0.1)
    broker, book = Returns(rng.randbytes(32), 9998), Requests(ME)
    address = broker.grant("10.0.1.2", 4000, "10.0.1.1", 0)
    became: Counter[str] = Counter()
    at_asker, unsent = 0, 0
    keys, waiters = {}, {}
    for sequence in range(2000):
        token = rng.randbytes(6)

        began = sequence / 1000
        due = began + rng.choice((0.01, 0.2, 0.2))
        waiters[sequence] = Waiter()
        keys[sequence] = book.begin(7, sequence, token, waiters[sequence], due)
        # A tenth cannot be sent, a tenth is given up early.
        if rng.random() < 0.1:
            book.end(keys[sequence], "failed")
            became["failed"] += 1
            continue
        datagram = wire.encode_event(
            7, ME, sequence, 0, envelope.request(address, token) + b"%d" % sequence, _abi.FLAG_ENVELOPE
        )
        legs.send(began, "members", datagram)
    while legs.on_way or book.stats.waiting:
        due = book.next_due()
        if due is not None and (not legs.on_way or due <= legs.on_way[0][0]):
            over = book.expire(due)
            assert over
            assert {waiting.due for waiting in over} == {due}
            became["timeouts"] += len(over)
            continue
        now, _, to, datagram = heapq.heappop(legs.on_way)
        assert wire.check_payload(datagram, Framing.EVENT) in (Reason.FORWARDED, Reason.REPLY)
        if to == "members":
            for _ in range(2):
                kind = rng.choice((_abi.KIND_REPLY, _abi.KIND_ERROR))
                head = envelope.answer(datagram[: AT + envelope.LENGTH], AT, 1, kind=kind)
                if rng.random() < 0.05:
                    head = head[:30] + b"?" + head[31:]
                legs.send(now, "broker", head + datagram[AT + envelope.LENGTH :])
        elif to == "broker":
            if broker.open(datagram[AT : AT + envelope.LENGTH], 1) is None:
                unsent += 1
            else:
                legs.send(now, "asker", unsealed(datagram, AT))
        else:
            at_asker += 1
            book.receive(datagram)
    answers = [(sequence, answer) for sequence, waiter in waiters.items() for answer in waiter]
    assert all(answer.body == b"%d" % sequence for sequence, answer in answers)
    assert len({sequence for sequence, _ in answers}) == len(answers)
    became.update("refused" if answer.kind == _abi.KIND_ERROR else "answered" for _, answer in answers)
    stats = book.stats
    assert {name: getattr(stats, name) for name in became} == became
    assert stats.requests == 2000
    assert stats.waiting == stats.malformed == stats.strays == 0
    assert stats.answered + stats.refused + stats.further + stats.late == at_asker
    # Nothing of this is idle: each of it has happened.
    assert all(value > 20 for value in (*became.values(), stats.further, stats.late, unsent, legs.lost))
    assert len(astuple(stats)) == 11

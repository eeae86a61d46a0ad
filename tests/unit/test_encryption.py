"""Encrypted bodies: who has no key reads and makes none, and what came once does not come again."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos import Framing, LocalError, Topic, _abi, wire
from tempos.encryption import MAX_AGE, OVERHEAD, WINDOW, Decryptor, Encryptor, TopicKeys, Undecryptable
from tempos.requests import envelope
from tempos.sending.outlets import Outlets

SECRET, OTHER = "5e" * 32, "c4" * 32
NARROW, WIDE = Topic(7, "plant/line1/heat"), Topic(40_000, "plant/line1/press")
NOW = 1_700_000_000_000_000_000
BODY = b"a body that nobody on the way reads"


def keys(secret: Any = SECRET, wanted: str = "plant/#") -> TopicKeys:
    return TopicKeys({wanted: secret})


def datagram(topic: Topic = NARROW, body: bytes = BODY, sent_ns: int = NOW, flags: int = 0) -> bytes:
    return wire.encode_event(topic.id, 0xC0FFEE, 99, sent_ns, body, flags)


def encrypted(encryptor: Encryptor, plain: bytes, at: int | None = None) -> bytes:
    at = wire.body_at(plain) if at is None else at
    return encryptor.encrypt(plain[:at], plain[at:])


def as_read(whole: bytes) -> bytes:
    """As a subscriber lays it out before it looks in."""
    return wire.as_narrow(whole) if whole[0] == _abi.WIDE else whole


def refusal(decryptor: Decryptor, whole: bytes, now: int = NOW) -> str:
    with pytest.raises(Undecryptable) as caught:
        decryptor.decrypt(as_read(whole), now)
    return caught.value.reason


@pytest.mark.parametrize("topic", [NARROW, WIDE])
@pytest.mark.parametrize("flags", [0, _abi.FLAG_BATCH, _abi.FLAG_ENVELOPE])
def test_only_what_its_maker_bound_is_read_and_every_changed_byte_shows(topic: Topic, flags: int) -> None:
    key = keys().of(topic)
    head = envelope.request(b"\x11" * envelope.ADDRESS_LEN, b"\x22" * envelope.TOKEN_LEN)
    plain = datagram(topic, (head if flags & _abi.FLAG_ENVELOPE else b"") + BODY, flags=flags)
    at = wire.body_at(plain) + (len(head) if flags & _abi.FLAG_ENVELOPE else 0)
    whole = encrypted(Encryptor(key[0]), plain, at)
    assert len(whole) == len(plain) + OVERHEAD
    assert whole[:at] == plain[:at]
    assert BODY not in whole
    # The broker stamps, and somebody may mark a repetition: neither is bound.
    stamped = bytearray(whole)
    wire.stamp(stamped, 17, 12345)
    flag_at = _abi.WIDE_FLAGS_AT if topic is WIDE else _abi.OFFSET_VERSION_FLAGS
    stamped[flag_at] |= _abi.FLAG_DUP
    free = {_abi.OFFSET_EPOCH, *range(_abi.OFFSET_DELIVERY_SEQUENCE, _abi.OFFSET_SENT_NS)}
    # What is not a header of ours never gets as far: first byte and reserved ones.
    free |= {0, 1, 2, 25, 26, 27} if topic is WIDE else {0, _abi.OFFSET_RESERVED}
    if flags & _abi.FLAG_ENVELOPE:
        # The return address is the broker's.
        free |= set(range(at - envelope.LENGTH + _abi.ENVELOPE_PORT, at - envelope.TOKEN_LEN))
    for place in range(len(whole)):
        if place in free:
            continue
        for bit in (1, 0x80):
            changed = bytearray(stamped)
            changed[place] ^= bit
            if place == flag_at and bit == _abi.FLAG_DUP:
                continue
            assert refusal(Decryptor(key), bytes(changed)) in (
                "forged", "not_encrypted", "unknown_key", "stale",
            ), place  # fmt: skip
    opened = Decryptor(key).decrypt(as_read(bytes(stamped)), NOW)
    assert opened.endswith(plain[at:])
    assert len(opened) == len(as_read(plain))


def test_a_key_is_of_one_topic_and_topics_are_not_exchanged() -> None:
    both = keys(wanted="#")
    other = Topic(8, "plant/line2/heat")
    whole = encrypted(Encryptor(both.of(NARROW)[0]), datagram())
    moved = bytes((other.id,)) + whole[1:]
    assert refusal(Decryptor(both.of(other)), moved) == "forged"
    # Nor by a name that has taken over the number.
    assert refusal(Decryptor(both.of(Topic(NARROW.id, other.name))), whole) == "forged"
    assert TopicKeys({"plant/line2/#": SECRET}).of(NARROW) == []


def test_secrets_change_while_events_flow() -> None:
    before, during, after = keys(), keys([OTHER, SECRET]), keys(OTHER)
    old, new = Encryptor(before.of(NARROW)[0]), Encryptor(during.of(NARROW)[0])
    reader = Decryptor(during.of(NARROW))
    assert reader.decrypt(encrypted(old, datagram()), NOW) == datagram()
    assert reader.decrypt(encrypted(new, datagram()), NOW) == datagram()
    assert Decryptor(after.of(NARROW)).decrypt(encrypted(new, datagram()), NOW) == datagram()
    assert refusal(Decryptor(after.of(NARROW)), encrypted(old, datagram())) == "unknown_key"


def test_what_is_recorded_is_taken_by_nobody_later() -> None:
    key = keys().of(NARROW)
    whole = encrypted(Encryptor(key[0]), datagram())
    reader = Decryptor(key)
    reader.decrypt(whole, NOW)
    assert refusal(reader, whole) == "replayed"
    late = NOW + round(MAX_AGE * 1e9) + 1
    for now in (late, 2 * NOW - late):
        assert refusal(Decryptor(key), whole, now) == "stale"
    # Of a session that is known, nobody asks how old it is: a slow way is no attack.
    sender = Encryptor(key[0])
    first, second = (encrypted(sender, datagram()) for _ in range(2))
    reader.decrypt(first, NOW)
    reader.decrypt(second, late)


def test_sessions_that_are_let_go_of_cannot_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempos.encryption._SWEEP", 8)
    key = keys().of(NARROW)
    reader = Decryptor(key)
    recorded = []
    for step in range(40):
        now = NOW + step * 10**9
        recorded.append(encrypted(Encryptor(key[0]), datagram(sent_ns=now)))
        reader.decrypt(recorded[-1], now)
        for whole in recorded:
            assert refusal(reader, whole, now) in ("replayed", "stale")
    assert len(reader._sessions) < len(recorded)


@given(st.lists(st.integers(0, 3 * WINDOW), min_size=1, max_size=60))
def test_each_is_taken_once_in_any_order(numbers: list[int]) -> None:
    key = keys().of(NARROW)
    random = iter([bytes(12)])
    sender, reader = Encryptor(key[0], lambda size: next(random)), Decryptor(key)
    taken: set[int] = set()
    for number in numbers:
        sender._counter = number
        whole = encrypted(sender, datagram())
        if number in taken or (taken and max(taken) - number >= WINDOW):
            assert refusal(reader, whole) == "replayed"
        else:
            assert reader.decrypt(whole, NOW) == datagram()
            taken.add(number)


@pytest.mark.parametrize("topic", [NARROW, WIDE])
def test_an_outlet_counts_what_encryption_adds_and_halves_its_batches(topic: Topic) -> None:
    outlet = Outlets(None, keys()).of(topic, 1472)
    reader = Decryptor(keys().of(topic))
    outlet.open(1472, NOW)
    while (left := outlet.left - len(BODY) - 2) >= 0:
        outlet.left = left
        outlet.bodies.append(BODY)
    whole, count = outlet.take(5)
    assert 1472 - len(BODY) - 2 < len(whole) <= 1472
    halves = outlet.halves(whole)
    assert sum(part for _, part in halves) == count
    bodies = []
    for half, part in halves:
        run = wire.split_batch(reader.decrypt(as_read(half), NOW)[wire.HEADER_LEN :])
        assert len(run) == part
        bodies += run
    assert bodies == [BODY] * count
    # The whole was never sent, and would be taken, too: its number is its own.
    assert reader.decrypt(as_read(whole), NOW)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(junk: bytes) -> None:
    reader = Decryptor(keys().of(NARROW))
    with pytest.raises(Undecryptable):
        reader.decrypt(datagram(body=junk), NOW)


def test_a_child_begins_a_session_of_its_own() -> None:
    sender = Encryptor(keys().of(NARROW)[0])
    before = encrypted(sender, datagram())
    sender.forked()
    at = wire.HEADER_LEN
    after = encrypted(sender, datagram())
    assert before[at + 2 : at + 14] != after[at + 2 : at + 14]
    assert struct.unpack_from("!HI", after, at + 14) == (0, 0)


@pytest.mark.parametrize(
    ("given_keys", "words"),
    [
        ({"plant/#": "5e" * 31}, "has 31 bytes, needed are 32"),
        ({"plant/#": "no hex"}, "not hexadecimal"),
        ({"plant/#/x": SECRET}, "not the last level"),
        ({"plant": [bytes([each]) * 32 for each in range(9)]}, "9 secrets, 8 are allowed"),
    ],
)
def test_keys_that_are_none_are_refused_and_never_shown(given_keys: Any, words: str) -> None:
    with pytest.raises(LocalError, match=words) as caught:
        TopicKeys(given_keys)
    assert "5e5e" not in str(caught.value)
    assert SECRET not in repr(keys())
    assert "plant/#" in repr(keys())


def test_key_files(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"plant/line 1/#  {SECRET}\n\n# {OTHER}\n")
    file.chmod(0o600)
    read = TopicKeys.read(file)
    assert len(read.of(Topic(1, "plant/line 1/heat"))) == 2
    assert len(read.of(Topic(1, "elsewhere"))) == 1
    for text, words in (
        ("plant/#\n", "line 1: a name or filter and a secret"),
        (f"a {SECRET}\nplant/# 5e5e\n", "line 2: .*has 2 bytes"),
        ("\n", "holds no key"),
    ):
        file.write_text(text)
        with pytest.raises(LocalError, match=words):
            TopicKeys.read(file)
    file.chmod(0o644)
    with pytest.raises(LocalError, match="open to others"):
        TopicKeys.read(file)
    with pytest.raises(LocalError, match="cannot be read"):
        TopicKeys.read(tmp_path / "nothing")


def test_raw_topics_have_no_keys() -> None:
    raw = Topic(9, "plant/raw", framing=Framing.RAW)
    with pytest.raises(LocalError, match="is raw, so its events cannot be encrypted"):
        keys().of(raw)
    with pytest.raises(LocalError, match="is raw"):
        Outlets(None, keys()).of(raw, 1472)
    assert refusal(Decryptor(keys().named(raw)), b"\x09anything") == "not_encrypted"

"""The wire format of events, both ways, and bytes that are none of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos import BodyError, Framing, LocalError, Reason, WireError, wire
from tempos._abi import EVENT_HEADER, FLAG_BATCH, FLAG_TRACE, WIDE
from tempos._rows import is_topic

topics = st.integers(1, 254) | st.integers(1, 65534).filter(is_topic)
u8 = st.integers(0, 0xFF)
u32 = st.integers(0, 0xFFFFFFFF)
u64 = st.integers(0, 0xFFFFFFFFFFFFFFFF)


def test_an_event_lies_on_the_wire_as_documented() -> None:
    datagram = wire.encode_event(7, 0x01020304, 0x05060708, 0x1112131415161718, b"body", FLAG_TRACE)
    assert datagram == bytes.fromhex("07 14 00 00 01020304 05060708 00000000 1112131415161718") + b"body"


def test_a_wide_event_has_all_that_is_stamped_where_a_narrow_one_has_it() -> None:
    datagram = bytearray(
        wire.encode_event(0x1234, 0x01020304, 0x05060708, 0x1112131415161718, b"body", FLAG_TRACE)
    )
    wire.stamp(datagram, 0x0109, 0x0A0B0C0D)
    header = "ff 1234 09 01020304 05060708 0a0b0c0d 1112131415161718 14 000000"
    assert datagram == bytes.fromhex(header) + b"body"
    assert wire.decode_event(wire.as_narrow(bytes(datagram)).replace(b"\0", b"\7", 1)).bodies == (b"body",)
    assert wire.encode_raw(0x1234, b"body") == b"\xff\x12\x34body"
    assert wire.header_len(0x1234, Framing.RAW) == 3


@given(topics, u32, u32, u64, st.binary(max_size=64), u8, u32)
def test_what_is_encoded_and_stamped_is_decoded(
    topic: int, publisher: int, sequence: int, sent_ns: int, body: bytes, epoch: int, delivery: int
) -> None:
    datagram = bytearray(wire.encode_event(topic, publisher, sequence, sent_ns, body))
    wire.stamp(datagram, epoch + 256, delivery)
    event = wire.decode_event(datagram)
    assert (event.topic, event.publisher, event.sequence, event.sent_ns) == (
        topic,
        publisher,
        sequence,
        sent_ns,
    )
    assert (event.epoch, event.delivery_sequence, event.is_batch) == (epoch, delivery, False)
    assert [bytes(part) for part in event.bodies] == [body]


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=20))
def test_a_batch_gives_back_its_bodies(bodies: list[bytes]) -> None:
    datagram = wire.encode_batch(3, 1, 2, 3, bodies)
    assert len(datagram) == wire.batch_size(bodies) == wire.batch_size(bodies, 300) - 4
    event = wire.decode_event(datagram)
    assert event.is_batch
    assert [bytes(part) for part in event.bodies] == bodies
    assert list(wire.split_batch(datagram[wire.HEADER_LEN :])) == bodies


@given(st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=4), st.data())
def test_a_batch_that_is_cut_anywhere_but_between_bodies_is_refused(
    bodies: list[bytes], data: st.DataObject
) -> None:
    run = wire.encode_batch(3, 1, 2, 3, bodies)[wire.HEADER_LEN :]
    borders, at = {0}, 0
    for body in bodies:
        at += 2 + len(body)
        borders.add(at)
    cut = data.draw(st.integers(0, len(run)))
    if cut in borders - {0}:
        assert len(wire.split_batch(run[:cut])) <= len(bodies)
    else:
        with pytest.raises(WireError):
            wire.split_batch(run[:cut])


@given(
    st.binary(max_size=80)
    | st.binary(max_size=60).map(lambda rest: b"\x07\x11\x00" + rest)
    | st.tuples(st.binary(min_size=21, max_size=21), st.integers(0x0F, 0x22), st.binary(max_size=40)).map(
        lambda parts: b"\x07\x18\x00" + parts[0] + bytes((parts[1],)) + parts[2]
    )
    | st.tuples(
        st.binary(min_size=23, max_size=23),
        st.sampled_from([b"\x10", b"\x11", b"\x18"]),
        st.binary(max_size=60),
    ).map(lambda parts: b"\xff" + parts[0] + parts[1] + bytes(3) + parts[2])
)
def test_decoding_raises_only_wire_errors(datagram: bytes) -> None:
    reason = wire.check_payload(datagram, Framing.EVENT)
    wide = datagram[:1] == b"\xff"
    header, flags_at = (wire.WIDE_HEADER_LEN, 24) if wide else (wire.HEADER_LEN, 1)
    good = (Reason.FORWARDED, Reason.REPLY)
    if reason in good and wide and not is_topic(wire.topic_in(datagram)):
        reason = Reason.RESERVED_TOPIC
    if reason in good and not datagram[flags_at] & FLAG_BATCH:
        decoded = wire.decode_event(datagram)
        rest = bytes(decoded.envelope or b"") + b"".join(map(bytes, decoded.bodies))
        assert (rest, len(decoded.bodies)) == (datagram[header:], 1)
    elif reason not in good:
        with pytest.raises(WireError) as refused:
            wire.decode_event(datagram)
        assert refused.value.reason == reason
    else:
        # Only the inside of the batch can be wrong, which no broker looks at.
        try:
            bodies, inside = wire.decode_event(datagram).bodies, None
        except WireError as error:
            bodies, inside = (), error.reason
        assert inside is None
        assert sum(map(len, bodies)) + 2 * len(bodies) in (0, len(datagram) - header)


@pytest.mark.parametrize(
    ("payload", "framing", "reason"),
    [
        (b"", Framing.RAW, Reason.EMPTY),
        (b"", Framing.EVENT, Reason.EMPTY),
        (b"\x07", Framing.RAW, Reason.FORWARDED),
        (b"\x07" + bytes(22), Framing.EVENT, Reason.SHORT_HEADER),
        (b"\x07\x10" + bytes(22), Framing.EVENT, Reason.FORWARDED),
        (b"\x07\x00" + bytes(22), Framing.EVENT, Reason.BAD_VERSION),
        (b"\x07\x20" + bytes(22), Framing.EVENT, Reason.BAD_VERSION),
        (b"\x07\x18" + bytes(22), Framing.EVENT, Reason.BAD_ENVELOPE),
        (b"\x07\x18" + bytes(22) + b"\x11" + bytes(30), Framing.EVENT, Reason.BAD_ENVELOPE),
        (b"\x07\x18" + bytes(22) + b"\x11" + bytes(31), Framing.EVENT, Reason.FORWARDED),
        (b"\x07\x1e" + bytes(22) + b"\x12" + bytes(40), Framing.EVENT, Reason.REPLY),
        (b"\x07\x18" + bytes(22) + b"\x13" + bytes(31), Framing.EVENT, Reason.REPLY),
        (b"\x07\x18" + bytes(22) + b"\x14" + bytes(31), Framing.EVENT, Reason.BAD_ENVELOPE),
        (b"\x07\x18" + bytes(22) + b"\x21" + bytes(31), Framing.EVENT, Reason.BAD_ENVELOPE),
        (b"\x07\x19" + bytes(22) + b"\x11" + bytes(31), Framing.EVENT, Reason.BAD_ENVELOPE),
        (b"\x07\x18\x01" + bytes(21) + b"\x11" + bytes(31), Framing.EVENT, Reason.RESERVED_BITS),
        (b"\x07\x10\x01" + bytes(21), Framing.EVENT, Reason.RESERVED_BITS),
        (b"\x07\x17\x00\xff" + bytes(20), Framing.EVENT, Reason.FORWARDED),
        (b"\xff", Framing.RAW, Reason.SHORT_HEADER),
        (b"\xff\x01", Framing.RAW, Reason.SHORT_HEADER),
        (b"\xff\x01\x00", Framing.RAW, Reason.FORWARDED),
        (b"\xff\x01\x00" + bytes(21) + b"\x10\0\0", Framing.EVENT, Reason.SHORT_HEADER),
        (b"\xff\x01\x00" + bytes(21) + b"\x10\0\0\0", Framing.EVENT, Reason.FORWARDED),
        (b"\xff\x01\xff" + b"\xff" * 21 + b"\x17\0\0\0", Framing.EVENT, Reason.FORWARDED),
        (b"\xff\x10\x00" + bytes(25), Framing.EVENT, Reason.BAD_VERSION),
        (b"\xff\x10\x00" + bytes(21) + b"\x18\0\0\0", Framing.EVENT, Reason.BAD_ENVELOPE),
        (b"\xff\x10\x00" + bytes(21) + b"\x18\0\0\0\x11" + bytes(31), Framing.EVENT, Reason.FORWARDED),
        (b"\xff\x10\x00" + bytes(21) + b"\x18\0\0\0\x12" + bytes(31), Framing.EVENT, Reason.REPLY),
        *(
            (b"\xff\x10\x00" + bytes(21) + b"\x10" + bits, Framing.EVENT, Reason.RESERVED_BITS)
            for bits in (b"\1\0\0", b"\0\1\0", b"\0\0\1")
        ),
    ],
)
def test_payloads_are_judged_by_their_framing(payload: bytes, framing: Framing, reason: Reason) -> None:
    assert wire.check_payload(payload, framing) is reason
    assert wire.check_payload(memoryview(payload), framing) is reason


@given(st.binary(max_size=64))
def test_bodies_decode_or_raise_a_wire_error(body: bytes) -> None:
    try:
        value = wire.decode_body(body)
    except WireError:
        return
    assert value is None or wire.decode_body(wire.encode_body(value) if value == value else body) is not None


def test_bytes_are_bodies_as_they_are_and_the_rest_is_msgpack() -> None:
    assert wire.encode_body(bytearray(b"ab")) == wire.encode_body(memoryview(b"ab")) == b"ab"
    assert wire.decode_body(wire.encode_body({"c": [21.5, None, "°"]})) == {"c": [21.5, None, "°"]}
    for impossible in (object(), 2**70, {"a": {1, 2}}):
        with pytest.raises(BodyError):
            wire.encode_body(impossible)


@pytest.mark.parametrize("topic", [0, WIDE, 65535, 65536, -1])
def test_reserved_topics_are_not_encoded(topic: int) -> None:
    with pytest.raises(LocalError, match=str(topic)):
        wire.encode_event(topic, 0, 0, 0, b"")
    with pytest.raises(LocalError, match=str(topic)):
        wire.encode_raw(topic, b"")


def test_sizes_agree_with_the_header() -> None:
    assert EVENT_HEADER.size == wire.HEADER_LEN == len(wire.encode_event(1, 0, 0, 0, b""))
    assert wire.encode_raw(9, b"abc") == b"\x09abc"
    with pytest.raises(BodyError, match="65536"):
        wire.encode_batch(1, 0, 0, 0, [bytes(65536)])


def split_plainly(run: bytes) -> list[bytes] | None:
    """What the bodies of a batch are, by its definition; None if it is none."""
    bodies = []
    while run:
        prefix, run = run[:2], run[2:]
        length = int.from_bytes(prefix, "big")
        if len(prefix) < 2 or len(run) < length:
            return None
        bodies.append(run[:length])
        run = run[length:]
    return bodies or None


#: Runs of even bodies, of nearly even ones, and of anything; all also with a byte changed or cut away.
_even = st.tuples(st.integers(0, 300), st.integers(1, 60)).map(lambda both: [bytes(both[0])] * both[1])
_runs = st.one_of(_even, st.lists(st.binary(max_size=3), min_size=1), st.lists(st.binary(max_size=300))).map(
    lambda bodies: b"".join(len(body).to_bytes(2, "big") + body for body in bodies)
)


@given(_runs, st.data())
def test_a_run_is_split_as_defined_whatever_the_lengths(run: bytes, data: st.DataObject) -> None:
    damaged = bytearray(run)
    for _ in range(data.draw(st.integers(0, 2))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 3))
    del damaged[len(damaged) - data.draw(st.sampled_from((0, 0, 1, 2, 33))) :]
    for each in (run, bytes(damaged)):
        expected = split_plainly(each)
        if expected is None:
            with pytest.raises(WireError):
                wire.split_batch(each)
            with pytest.raises(WireError):
                wire.split_batch(memoryview(each))
        else:
            assert list(wire.split_batch(each)) == expected
            assert [bytes(view) for view in wire.split_batch(memoryview(each))] == expected
            assert wire.join_batch(expected) == each


@pytest.mark.parametrize("length", [0, 1, 1499, 1500, 65535])
def test_bodies_of_any_length_are_joined(length: int) -> None:
    for bodies in ([bytes(length)] * 3, [b"a", bytes(length)], [bytes(length)]):
        assert wire.split_batch(wire.join_batch(bodies)) == tuple(bodies)
    # More bodies than a layout is kept for.
    many = [bytes(length % 7)] * 5000
    assert wire.split_batch(wire.join_batch(many)) == tuple(many)
    with pytest.raises(BodyError, match="65536"):
        wire.join_batch([b"", bytes(65536)])

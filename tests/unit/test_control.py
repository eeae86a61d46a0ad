"""The control protocol's codec, both ways, and bytes that are none of it."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos import WireError, auth, control, names
from tempos.control import BadRequest, Code

groups = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=control.MAX_GROUP)
topics = groups.filter(lambda text: names.name_fault(text) is None)
U8, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (8, 32, 64))
IN_ROWS = {"topic": U8, "group": groups, "epoch": U32, "publisher": U32, "first": U32, "number": U32,
           "ip": st.just("10.0.0.1"), "port": st.integers(1, 65535)}  # fmt: skip


def rows(kind: Any) -> st.SearchStrategy[Any]:
    return st.lists(st.builds(kind, *(IN_ROWS.get(name, U64) for name in kind._fields)), max_size=5)


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "topic": topics,
    "group": groups,
    "filter": topics | st.just("a/+/#"),
    "wanted": st.lists(topics | st.just("a/+/#"), min_size=1, max_size=3),
    "version": st.just([]) | st.tuples(U32, U64).map(list),
    "port": st.integers(1, 65535),
    "milliseconds": st.integers(0, control.MAX_PATIENCE),
    "flag": st.booleans(),
    "number": U32,
    "count": U64,
    "counts": rows(control.Received),
    "drops": rows(control.Dropped),
    "heard": rows(control.Heard),
    "lacking": rows(control.Lacking),
    "missing": rows(control.Missing),
    "confirm": rows(control.Confirm),
    "consumed": rows(control.Consumed),
    "taking": rows(control.Taking),
    "repairs": rows(control.Repaired),
    "asked": rows(control.Asked),
    "sent": rows(control.Sent),
    "former": rows(control.Former),
    "replays": rows(control.Replay),
    "numbers": st.lists(st.integers(0, 2**32 - 1), max_size=8),
    "proof": st.just(b"") | st.binary(min_size=control.PROOF_BYTES, max_size=control.PROOF_BYTES),
}
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(max_size=70)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)


@given(
    st.sampled_from(list(control.OPERATIONS)), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.data()
)
def test_every_operation_survives_the_wire(
    op: str, request_id: int, client: int, data: st.DataObject
) -> None:
    fields = {}
    for field in control.OPERATIONS[op][1]:
        value = VALUES[field.kind]
        fields[field.name] = data.draw(value if field.required else value | st.none())
    request = control.decode_request(control.encode_request(op, request_id, client, **fields))
    assert (request.id, request.op, request.client, request.fields) == (request_id, op, client, fields)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=4), st.data())
def test_what_is_said_again_is_the_same_request_under_another_id(ids: list[int], data: st.DataObject) -> None:
    fields = {"port": 5000, "received": data.draw(VALUES["counts"]), "since": data.draw(VALUES["version"])}
    for request_id in ids:
        request = control.decode_request(control.encode_request("heartbeat", request_id, 9, **fields))
        assert (request.id, request.client) == (request_id, 9)
        assert {name: request.fields[name] for name in fields} == fields


def test_what_is_said_again_is_not_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked = []
    unpack = msgpack.unpackb
    monkeypatch.setattr(msgpack, "unpackb", lambda *it, **how: unpacked.append(it) or unpack(*it, **how))
    said = {"port": 5000, "received": [control.Received(7, "once", 1, 5)]}
    # Padding makes up for ids that are shorter.
    for ids in ((1, 0x7F), (0x80, 0xFF), (0x100, 0xFFFF), (0x10000, 2**32 - 1)):
        unpacked.clear()
        for each in (*ids, *ids):
            assert control.decode_request(control.encode_request("heartbeat", each, 77, **said)).id == each
        assert len(unpacked) == 1
    more = {**said, "received": [control.Received(7, "once", 1, 6)]}
    (told,) = control.decode_request(control.encode_request("heartbeat", 3, 77, **more)).fields["received"]
    assert told.datagrams == 6
    # What begins so and is none, however short it is cut, is none still.
    whole = control.encode_request("heartbeat", 2**32 - 1, 77, **said)
    for size in range(len(whole)):
        with pytest.raises(BadRequest):
            control.decode_request(whole[:size])


@given(st.binary(max_size=60) | anything.map(msgpack.packb))
def test_foreign_requests_and_replies_raise_only_their_own_error(datagram: bytes) -> None:
    with pytest.raises(BadRequest):
        control.decode_request(datagram)
    with pytest.raises(WireError):
        control.decode_reply(datagram)


def nested(levels: int) -> bytes:
    return b"\x91" * levels + b"\xc0"


#: Of a request and of a reply, all but what stands at the end of it.
ASKED = msgpack.packb({"v": 1, "id": 7, "op": "hello", "client": 9, "x": None})[:-1]
TOLD = msgpack.packb({"v": 1, "id": 7, "ok": {"topic": None}})[:-1]


@pytest.mark.parametrize("levels", [control.MAX_DEPTH, 500, 1000, control.MAX_DATAGRAM - 60])
def test_what_is_nested_too_deep_is_not_looked_at(levels: int) -> None:
    assert control.decode_request(ASKED + nested(control.MAX_DEPTH - 2)).op == "hello"
    assert control.decode_reply(TOLD + nested(control.MAX_DEPTH - 3)).id == 7
    with pytest.raises(BadRequest) as caught:
        control.decode_request(ASKED + nested(levels))
    assert caught.value.request_id is None
    with pytest.raises(WireError):
        control.decode_reply(TOLD + nested(levels))


def test_what_is_larger_than_any_request_is_not_looked_at() -> None:
    def padded(size: int) -> bytes:
        bare = {"v": 1, "id": 7, "op": "hello", "client": 9, "ok": {}}
        return bytes(msgpack.packb({**bare, "pad": bytes(size - len(msgpack.packb(bare)) - 7)}))

    most, more = padded(control.MAX_DATAGRAM), padded(control.MAX_DATAGRAM + 1)
    assert (len(most), len(more)) == (control.MAX_DATAGRAM, control.MAX_DATAGRAM + 1)
    assert control.decode_request(most).id == control.decode_reply(most).id == 7
    for decode in (control.decode_request, control.decode_reply):
        with pytest.raises(WireError):
            decode(more)


@given(topics, groups)
def test_the_largest_requests_fit_and_have_room_for_a_signature(topic: str, group: str) -> None:
    for op in ("subscribe", "unsubscribe", "resolve"):
        request = control.encode_request(op, 2**32 - 1, 2**64 - 1, topic=topic, group=group, port=65535)
        assert len(request) + auth.OVERHEAD <= control.MAX_DATAGRAM


@given(st.booleans(), st.integers(0, 2**32 - 1))
def test_no_reply_is_a_request(good: bool, request_id: int) -> None:
    reply = control.encode_ok(request_id) if good else control.encode_error(request_id, "c", "t", "h")
    with pytest.raises(BadRequest) as caught:
        control.decode_request(reply)
    assert (caught.value.code, caught.value.request_id) == (control.REPLY, None)


@given(st.sampled_from(list(control.OPERATIONS)), st.data())
def test_a_request_with_one_foreign_field_can_be_answered(op: str, data: st.DataObject) -> None:
    message: dict[str, Any] = {
        "v": 1,
        "id": 7,
        "op": op,
        "client": 9,
        "topic": "t",
        "port": 5,
        "received": [],
    }
    key = data.draw(st.sampled_from([key for key in message if key != "id"]))
    message[key] = data.draw(anything)
    error = None
    try:
        control.decode_request(msgpack.packb(message))
    except BadRequest as refused:
        error = refused
    if error is not None:
        assert error.request_id == 7
        reply = control.decode_reply(control.encode_error(7, error.code, str(error), error.hint))
        assert reply.error is not None
        assert reply.error.code in (Code.BAD_REQUEST, Code.UNKNOWN_OPERATION)


def test_faults_are_named() -> None:
    def fault(**changes: Any) -> BadRequest:
        message = {"v": 1, "id": 7, "op": "subscribe", "client": 9, "topic": "t", "port": 5} | changes
        with pytest.raises(BadRequest) as caught:
            control.decode_request(msgpack.packb(message))
        return caught.value

    assert fault(v=2).hint == "this broker speaks version 1"
    assert fault(op="shout").code == Code.UNKNOWN_OPERATION
    assert "subscribe: port is 0" in str(fault(port=0))
    assert "1-65535" in fault(port=True).hint
    assert "topic is ''" in str(fault(topic=""))
    assert fault(id=-1).request_id is None
    assert fault(client=None).hint
    assert len(str(fault(topic="x" * 500))) < 100


def test_a_reply_is_an_answer_or_an_error() -> None:
    reply = control.decode_reply(control.encode_ok(3, members=2))
    assert (reply.id, reply.ok, reply.error) == (3, {"members": 2}, None)
    error = control.decode_reply(control.encode_error(4, Code.LIMIT, "full", "try later")).error
    assert error is not None
    assert (error.code, error.text, error.hint) == (Code.LIMIT, "full", "try later")
    assert str(error) == "full (limit reached); try later"
    for message in ({"v": 1, "id": 1}, {"v": 1, "id": 1, "ok": {}, "error": {}}, {"v": 1, "id": 1, "ok": 3}):
        with pytest.raises(WireError):
            control.decode_reply(msgpack.packb(message))
    with pytest.raises(WireError):
        control.decode_reply(msgpack.packb({"v": 1, "id": 1, "error": {"code": 5}}))

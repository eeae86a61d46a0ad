"""The control protocol's codec, both ways, and bytes that are none of it."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos import WireError, control
from tempos.control import BadRequest, Code, Received

names = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=control.MAX_NAME)
counts = st.lists(
    st.builds(Received, st.integers(0, 255), names, st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)),
    max_size=5,
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "name": names,
    "port": st.integers(1, 65535),
    "counts": counts,
    "milliseconds": st.integers(0, control.MAX_PATIENCE),
    "flag": st.booleans(),
    "topics": st.lists(st.integers(0, 255), max_size=9),
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


@given(st.binary(max_size=60) | anything.map(msgpack.packb))
def test_foreign_requests_and_replies_raise_only_their_own_error(datagram: bytes) -> None:
    with pytest.raises(BadRequest):
        control.decode_request(datagram)
    with pytest.raises(WireError):
        control.decode_reply(datagram)


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

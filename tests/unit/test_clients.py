"""Clients as documents and rows, and what the guard of the control port makes of orders about them."""

from __future__ import annotations

import json
import time

import pytest
from support.asking import signed

from tempos import Key
from tempos_broker.clients.catalogue import Clients, merged
from tempos_broker.config.bad import BadDocument
from tempos_broker.config.clients import BadClient, document_of, read_client
from tempos_broker.config.dump import dump_rights
from tempos_broker.config.load import parse
from tempos_broker.config.model import ClientConfig, ControlConfig, Origin
from tempos_broker.control.auth import Denied, Guard
from tempos_broker.fleet import rows

SECRET, OTHER = b"k" * 16, b"o" * 32
CLIENT = ClientConfig("a@plant", SECRET, ("plant/#",), ("*",), Origin.RUN_TIME)


def test_a_client_is_the_same_by_whatever_it_is_told_and_shows_no_key() -> None:
    document = document_of(CLIENT)
    assert read_client(document) == CLIENT
    assert read_client(json.loads(json.dumps(document))).origin is Origin.RUN_TIME
    assert read_client({**document, "publish": None}).publish == ()
    row = rows.made_in(rows.CLIENTS, "a@plant", rows.made(document))
    assert row == rows.MadeRow(document)
    remarks = dump_rights([CLIENT])
    for told in (repr(CLIENT), repr(row), remarks):
        assert SECRET.hex() not in told
        assert "kkkk" not in told
    # As remarks they may stand in any file; with the key written there they are what they were.
    assert parse(remarks).control.clients == ()
    lines = (line.removeprefix("#") for line in remarks.splitlines()[1:])
    (read,) = parse("\n".join(lines).replace("...", SECRET.hex())).control.clients
    assert read == CLIENT


@pytest.mark.parametrize("document", [
    None, [], {}, {"id": "a"}, {"id": "*", "key": SECRET.hex()}, {"id": "a", "key": SECRET.hex() + "0"},
    {"id": "a", "key": SECRET.hex(), "origin": "file"}, {"id": "a", "key": SECRET.hex(), "publish": "x"},
    {"id": "a", "key": SECRET.hex(), "subscribe": ["#/x"]}, {"id": "a", "key": [SECRET.hex()]},
])  # fmt: skip
def test_what_is_no_client_is_refused_without_its_key(document: object) -> None:
    with pytest.raises(BadClient) as bad:
        read_client(document)
    assert isinstance(bad.value, BadDocument)
    assert SECRET.hex() not in str(bad.value)


@pytest.mark.parametrize("value", [
    b"", b"[]", b"{}", b'{"options": []}', b'{"options": {"name": "a"}}', b'{"options": {"id": "b"}}',
    b'{"removed": true}', b'{"removed": "1"}', b"\xff",
])  # fmt: skip
def test_what_is_no_row_of_a_client_is_none(value: bytes) -> None:
    assert rows.made_in(rows.CLIENTS, "a", value) is None


@pytest.mark.parametrize(
    "value", [b"[" * 200_000, b'{"a":' * 200_000, b"9" * 5000, b'"\\ud800"', b"\xff", b"null"]
)
def test_what_others_wrote_into_the_store_is_read_as_nothing_where_it_is_none(value: bytes) -> None:
    """Be it nested so deeply that reading it would end the watch of the whole fleet."""
    assert rows.made_in(rows.TOPICS, "a", value) is None
    assert rows.broker_in(f"{rows.BROKERS}a", value) is None
    assert rows.progress_in(value) == rows.progress_in(b"{}")
    assert rows.member_in(f"{rows.MEMBERS}10.0.0.1:9:7", value) is None
    assert rows.drained_in(value) == rows.Drained()


def test_progress_of_brokers_of_before_is_read_and_the_rest_is_not() -> None:
    assert rows.progress_in(b'{"revision": 5, "serves": 1}') == rows.Progress(5, 1)
    assert rows.progress_in(rows.Progress(5, 1, 2, 3, 4).value()) == rows.Progress(5, 1, 2, 3, 4)
    assert rows.progress_in(b'{"revision": 5, "clients": -1}') is None


def test_an_id_and_a_key_are_one_clients() -> None:
    clients = Clients(merged([], [CLIENT]))
    again = ClientConfig(CLIENT.id, OTHER, origin=Origin.RUN_TIME)
    clients.put(again)
    assert (clients.named(CLIENT.id), clients.with_key(SECRET), clients.with_key(OTHER)) == (
        again,
        None,
        again,
    )
    assert (clients.closed, clients.shut) == (True, False)
    clients.drop(again)
    assert (len(clients), clients.closed, clients.shut, clients.with_key(OTHER)) == (0, False, False, None)
    assert [Clients([], demanded=True).shut, Clients([], shared=True).closed] == [True, True]


def test_the_guard_takes_nothing_twice_whatever_is_ordered_meanwhile() -> None:
    wall = time.time()
    key, other = Key(CLIENT.id, SECRET), Key(CLIENT.id, OTHER)
    guard = Guard(ControlConfig(), wall - 1)

    def asks(datagram: bytes) -> str:
        try:
            guard.admit(datagram, "10.0.0.1", time.time(), time.monotonic())
        except Denied as denied:
            return denied.count
        return "taken"

    first, second = signed(key), signed(key)
    guard.set_client(CLIENT.id, CLIENT, wall - 1)
    assert [asks(first), asks(first)] == ["taken", "replay"]
    # Another key, and back: what was taken with the one of before is known still.
    guard.set_client(CLIENT.id, ClientConfig(CLIENT.id, OTHER), wall)
    assert [asks(second), asks(signed(other))] == ["wrong key", "taken"]
    guard.set_client(CLIENT.id, CLIENT, wall)
    assert [asks(first), asks(second)] == ["replay", "taken"]
    guard.set_client(CLIENT.id, None, wall)
    assert [asks(first), asks(signed(key)), asks(b"\x80")] == ["wrong key", "wrong key", "unsigned"]
    # Made anew it begins anew, and takes nothing from before that.
    guard.set_client(CLIENT.id, CLIENT, time.time() + 1)
    assert asks(first) == "wrong time"
    guard.set_client(CLIENT.id, None, wall)
    guard.demand(signatures=False)
    assert asks(b"\x80") == "taken"

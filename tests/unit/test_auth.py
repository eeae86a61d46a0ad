"""Signed control datagrams on the wire, and the files that hold keys."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempos import Key, LocalError, WireError, auth

VECTORS = Path(__file__).resolve().parents[2] / "clients" / "vectors"
KEY = Key("sensor-1", bytes(range(16)))
OTHER = Key("sensor-1", bytes(range(1, 17)))
times = st.integers(0, 2**64 - 1)
nonces = st.binary(min_size=8, max_size=8)


@given(st.binary(max_size=1100), times, nonces)
def test_what_is_signed_is_opened_by_the_same_key_only(plain: bytes, time_ms: int, nonce: bytes) -> None:
    datagram = auth.sign_request(KEY, plain, time_ms, nonce)
    assert auth.is_signed(datagram)
    assert len(datagram) <= len(plain) + auth.OVERHEAD
    signed = auth.open_request(datagram)
    assert (signed.key_id, signed.time_ms, signed.nonce, signed.plain) == (KEY.id, time_ms, nonce, plain)
    assert signed.is_from(KEY)
    assert not signed.is_from(OTHER)
    assert not signed.is_from(Key("sensor-2", KEY.secret))
    reply = auth.sign_reply(KEY, plain, time_ms, nonce)
    assert len(reply) <= len(plain) + auth.REPLY_OVERHEAD
    assert auth.open_reply(KEY, reply) == (nonce, time_ms, plain)
    with pytest.raises(WireError):
        auth.open_reply(OTHER, reply)


@given(st.binary(min_size=1, max_size=60), nonces, st.data())
def test_no_changed_byte_goes_unnoticed(plain: bytes, nonce: bytes, data: st.DataObject) -> None:
    for original in (auth.sign_request(KEY, plain, 5, nonce), auth.sign_reply(KEY, plain, 5, nonce)):
        changed = bytearray(original)
        changed[data.draw(st.integers(0, len(original) - 1))] ^= data.draw(st.integers(1, 255))
        with contextlib.suppress(WireError):
            assert not auth.open_request(bytes(changed)).is_from(KEY)
        with pytest.raises(WireError):
            auth.open_reply(KEY, bytes(changed))


@given(st.binary(max_size=1100), nonces, st.integers(1, 2**64 - 1))
def test_what_is_signed_for_one_broker_says_so(plain: bytes, nonce: bytes, to: int) -> None:
    datagram = auth.sign_request(KEY, plain, 5, nonce, to)
    assert auth.is_signed(datagram)
    assert len(datagram) <= len(plain) + auth.OVERHEAD
    signed = auth.open_request(datagram)
    assert (signed.plain, signed.to) == (plain, to)
    assert signed.is_from(KEY)
    assert not signed.is_from(OTHER)
    # Nobody takes the name out, or puts another in.
    row = msgpack.unpackb(datagram[:-16])
    for forged in (row[:4], [*row[:4], to % 2**64 ^ 1]):
        other = msgpack.packb(forged) + datagram[-16:]
        with contextlib.suppress(WireError):
            assert not auth.open_request(other).is_from(KEY)


def test_the_vectors_of_signed_requests() -> None:
    for each in json.loads((VECTORS / "signed.json").read_text())["requests"]:
        key = Key(each["id"], each["key"])
        whole = auth.sign_request(
            key, bytes.fromhex(each["plain"]), each["time_ms"], bytes.fromhex(each["nonce"]),
            auth.addressee_of(each["fleet"], each["broker"]) if each["fleet"] else 0,
        )  # fmt: skip
        assert whole.hex() == each["signed"], each["name"]
        assert auth.open_request(whole).to == each["addressee"]


def test_a_request_is_no_reply_even_if_it_looks_like_one() -> None:
    # A row of three signed as a request must not pass for a reply.
    sealed = auth._seal(KEY, auth._REQUEST, [bytes(8), 5, b"plain"])
    with pytest.raises(WireError):
        auth.open_reply(KEY, sealed)


@given(st.binary(max_size=120) | st.lists(st.integers() | st.binary(max_size=9), max_size=5).map(
    lambda row: msgpack.packb([each if isinstance(each, bytes) else each % 2**64 for each in row]) + bytes(16)
))  # fmt: skip
def test_foreign_bytes_raise_only_their_own_error(datagram: bytes) -> None:
    with pytest.raises(WireError):
        auth.open_request(datagram)
    with pytest.raises(WireError):
        auth.open_reply(KEY, datagram)


def test_keys_are_checked_and_never_shown() -> None:
    for key_id, secret in (("", bytes(16)), ("a b", bytes(16)), ("é", bytes(16)), ("x" * 65, bytes(16)),
                           ("a", bytes(15)), ("a", bytes(65))):  # fmt: skip
        with pytest.raises(LocalError):
            Key(key_id, secret)
    assert "x0" not in repr(KEY)


def test_key_files(tmp_path: Path) -> None:
    path = tmp_path / "key"

    def write(text: str, mode: int = 0o600) -> Path:
        path.write_text(text)
        path.chmod(mode)
        return path

    assert auth.read_key_file(write(f"sensor-1 {KEY.secret.hex()}\n")) == KEY
    assert auth.read_key_file(write(f" sensor-1\t{KEY.secret.hex().upper()}", 0o640)) == KEY
    for mode in (0o644, 0o604, 0o602, 0o620):
        with pytest.raises(LocalError, match="chmod 600"):
            auth.read_key_file(write(f"sensor-1 {KEY.secret.hex()}\n", mode))
    for text in ("", "sensor-1", "sensor-1 xyz", f"sensor-1 {KEY.secret.hex()} more", "\0"):
        with pytest.raises(LocalError, match="one line") as refused:
            auth.read_key_file(write(text))
        assert KEY.secret.hex() not in str(refused.value)
    with pytest.raises(LocalError, match="16-64"):
        auth.read_key_file(write("sensor-1 00"))
    with pytest.raises(LocalError, match=os.strerror(2)):
        auth.read_key_file(tmp_path / "none")


def test_a_key_is_given_as_bytes_or_as_the_configuration_has_it() -> None:
    assert Key("sensor-1", KEY.secret.hex()) == KEY
    assert "0001" not in repr(Key("sensor-1", KEY.secret.hex()))
    with pytest.raises(LocalError, match="the key of 'sensor-1' is text, but not hexadecimal") as raised:
        Key("sensor-1", "not a hexadecimal secret")
    assert "secret" not in str(raised.value)

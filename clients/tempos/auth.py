"""Signed control datagrams: who asked is known, what was asked is unchanged, and asked only once.

Both ends, without I/O and without a clock. A signed datagram wraps a plain one:

    request:  msgpack [key id, time ms, nonce, plain request]  + tag
    request:  msgpack [key id, time ms, nonce, plain request, addressee]  + tag
    reply:    msgpack [nonce of the request, time ms, plain reply] + tag

``tag`` is the first 16 bytes of HMAC-SHA-256 (RFC 2104, truncated as its section 5 allows) over a label
that tells requests from replies, then every byte before the tag. The bytes themselves are signed, not
what they decode to, so no two encodings of one message share a tag. A plain datagram is a map and a
signed one an array: the first byte tells them apart.

The nonce is fresh in every datagram, also in one that repeats a request: the broker takes each once. A
reply carries the nonce of what it answers, so an old reply answers nothing, and the broker's time, so
that a client whose clock is wrong can follow it.

Brokers of a fleet know the same keys, but not each other's nonces, so a request to one of them names it: by
the number that it told in a signed refusal of one that named nobody, or another. No other serves it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack

from tempos.errors import LocalError, WireError

TAG_BYTES = 16
NONCE_BYTES = 8
MIN_KEY_BYTES, MAX_KEY_BYTES = 16, 64
#: Modes of files that others can change, and that others can read.
_CHANGE, _READ = stat.S_IWGRP | stat.S_IWOTH, stat.S_IROTH
#: What the two ends may differ in time by default, seconds either way.
WINDOW = 30.0
#: Of key ids: what needs no quoting anywhere.
KEY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
KEY_ID_RULE = "1-64 letters, digits and . _ @ -, the first a letter or digit"

#: The most a signature adds to a reply.
REPLY_OVERHEAD = 1 + 2 + NONCE_BYTES + 9 + 3 + TAG_BYTES

_REQUEST, _ADDRESSED = b"tempos control request 1\0", b"tempos control request 2\0"
_REPLY = b"tempos control reply 1\0"
#: First bytes of msgpack arrays of four, of five and of three.
_REQUEST_HEAD, _ADDRESSED_HEAD, _REPLY_HEAD = 0x94, 0x95, 0x93
_U64 = 0xFFFFFFFFFFFFFFFF
#: The most a signature adds to a request: head, id, time, nonce, length of what it wraps, addressee, tag.
OVERHEAD = 1 + 2 + 64 + 9 + 2 + NONCE_BYTES + 3 + 9 + TAG_BYTES


@dataclass(frozen=True, slots=True, init=False)
class Key:
    """A client's id and its secret, which the broker has too. Raises :class:`LocalError` for what is none.

    The secret is bytes or, as in the broker's configuration, hexadecimal text. It never shows: not in
    ``repr``, not in an error.
    """

    id: str
    secret: bytes = field(repr=False)

    def __init__(self, id: str, secret: bytes | str) -> None:  # noqa: A002 - the field's name
        if isinstance(secret, str):
            try:
                secret = bytes.fromhex(secret)
            except ValueError:
                raise LocalError(f"the key of {id!r} is text, but not hexadecimal") from None
        object.__setattr__(self, "id", id)
        object.__setattr__(self, "secret", secret)
        if not KEY_ID.fullmatch(self.id):
            raise LocalError(f"the key id {self.id[:80]!r} cannot be one: {KEY_ID_RULE}")
        if not MIN_KEY_BYTES <= len(self.secret) <= MAX_KEY_BYTES:
            raise LocalError(
                f"the key of {self.id!r} has {len(self.secret)} bytes, "
                f"allowed: {MIN_KEY_BYTES}-{MAX_KEY_BYTES}"
            )


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed request, taken apart but not believed. ``time_ms``: when it was signed, Unix time.

    ``to``: the broker that it is meant for; 0: it names none.
    """

    key_id: str
    time_ms: int
    nonce: bytes
    plain: bytes
    signed: bytes = field(repr=False)
    tag: bytes = field(repr=False)
    to: int = 0

    def is_from(self, key: Key) -> bool:
        """Whether this key signed it; the comparison takes the same time wherever they differ."""
        label = _ADDRESSED if self.to else _REQUEST
        return key.id == self.key_id and hmac.compare_digest(_tag(key, label, self.signed), self.tag)


def is_signed(datagram: bytes) -> bool:
    """Whether a datagram is not a plain request but means to be a signed one."""
    return bool(datagram) and datagram[0] in (_REQUEST_HEAD, _ADDRESSED_HEAD)


def addressee_of(fleet: str, broker: str) -> int:
    """What requests name a broker of a fleet by: the first 8 bytes of SHA-256 over both names."""
    return int.from_bytes(hashlib.sha256(f"{fleet}\0{broker}".encode()).digest()[:8], "big") or 1


def sign_request(key: Key, plain: bytes, time_ms: int, nonce: bytes, to: int = 0) -> bytes:
    """Wrap a plain request; ``to``: the only broker that is to take it, 0: any."""
    if to:
        return _seal(key, _ADDRESSED, [key.id, time_ms, nonce, plain, to])
    return _seal(key, _REQUEST, [key.id, time_ms, nonce, plain])


def open_request(datagram: bytes) -> Signed:
    """Take a signed request apart; raises :class:`WireError` and nothing else, whatever the bytes."""
    is_addressed = datagram[:1] == bytes((_ADDRESSED_HEAD,))
    row, signed, tag = (
        _open(datagram, _ADDRESSED_HEAD, 5) if is_addressed else _open(datagram, _REQUEST_HEAD, 4)
    )
    key_id, time_ms, nonce, plain, *addressee = row
    to = addressee[0] if addressee else 0
    if not isinstance(key_id, str) or not KEY_ID.fullmatch(key_id):
        raise WireError("a signed request without a usable key id")
    if not _is_time(time_ms) or not _is_nonce(nonce) or not isinstance(plain, bytes):
        raise WireError("a signed request of another shape")
    if is_addressed and (type(to) is not int or not 0 < to <= _U64):
        raise WireError("a signed request that names no broker where it ought to")
    return Signed(key_id, time_ms, nonce, plain, signed, tag, to)


def sign_reply(key: Key, plain: bytes, time_ms: int, nonce: bytes) -> bytes:
    """Wrap the reply to the request with this nonce."""
    return _seal(key, _REPLY, [nonce, time_ms, plain])


def open_reply(key: Key, datagram: bytes) -> tuple[bytes, int, bytes]:
    """Nonce, the broker's time and the plain reply; raises :class:`WireError` unless this key signed it."""
    (nonce, time_ms, plain), signed, tag = _open(datagram, _REPLY_HEAD, 3)
    if not hmac.compare_digest(_tag(key, _REPLY, signed), tag):
        raise WireError("a reply that the broker's key has not signed")
    if not _is_nonce(nonce) or not _is_time(time_ms) or not isinstance(plain, bytes):
        raise WireError("a signed reply of another shape")
    return nonce, time_ms, plain


class Signer:
    """The client's end at one broker: signs each datagram anew, by its clock and to it if it is told to.

    ``wall`` gives Unix time in seconds; ``nonce`` so many random bytes.
    """

    def __init__(
        self, key: Key, wall: Callable[[], float], nonce: Callable[[int], bytes] = os.urandom
    ) -> None:
        self.key = key
        self._wall = wall
        self._nonce = nonce
        self._ahead_ms = 0
        self._to = 0

    def another(self) -> Signer:
        """One with the same key, for another broker."""
        return Signer(self.key, self._wall, self._nonce)

    def sign(self, plain: bytes) -> tuple[bytes, bytes]:
        """The datagram and its nonce."""
        nonce = self._nonce(NONCE_BYTES)
        time_ms = max(0, round(self._wall() * 1000) + self._ahead_ms)
        return sign_request(self.key, plain, time_ms, nonce, self._to), nonce

    def open(self, datagram: bytes) -> tuple[bytes, int, bytes]:
        """As :func:`open_reply`."""
        return open_reply(self.key, datagram)

    def follow(self, time_ms: int) -> None:
        """From now on sign as if the clock showed what a signed reply told."""
        self._ahead_ms = time_ms - round(self._wall() * 1000)

    def address(self, to: int) -> None:
        """From now on sign for the broker that a signed reply told of; 0: for any."""
        self._to = to


def read_key_file(path: str | Path) -> Key:
    """The key in a file of one line, "id hexkey"; raises :class:`LocalError`.

    A file that everyone can read, or that others than its owner can write, is refused.
    """
    try:
        key_id, secret = read_secret_file(path).split()
        return Key(key_id, bytes.fromhex(secret))
    except ValueError:
        raise LocalError(f'the key file {path} must hold one line, "id hexkey"') from None


def read_secret_file(path: str | Path, most: int = 1 << 20) -> str:
    """What a key file holds, ``most`` bytes at the most; raises :class:`LocalError`.

    A file that everyone can read, or that others than its owner can write, is refused.
    """
    try:
        with Path(path).open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(most + 1)
    except OSError as error:
        raise LocalError(f"the key file {path} cannot be read: {error.strerror or error}") from error
    if stat.S_ISREG(mode) and mode & (_READ | _CHANGE):
        raise LocalError(
            f"the key file {path} is open to others (mode {stat.S_IMODE(mode):04o}): chmod 600 {path}"
        )
    if len(text) > most:
        raise LocalError(f"the key file {path} has more than {most} bytes")
    return text.decode("utf-8", errors="replace")


def open_to_others(path: str | Path, *, secret: bool = True) -> str:
    """How a file is open to others than its owner and, for reading, group, and what to do; "": it is not.

    To be read it may be open unless it has a ``secret``.
    """
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        # Who reads it says so.
        return ""
    mode = status.st_mode
    verbs = [verb for verb, bits in (("read", _READ if secret else 0), ("change", _CHANGE)) if mode & bits]
    if not (verbs and stat.S_ISREG(mode) and status.st_nlink):
        # One without a name nobody can open.
        return ""
    return (
        f"is open to others, who can {' and '.join(verbs)} it (mode {stat.S_IMODE(mode):04o}): "
        f"chmod {'600' if secret else '644'} {path}"
    )


def _seal(key: Key, label: bytes, row: list[Any]) -> bytes:
    signed = bytes(msgpack.packb(row))
    return signed + _tag(key, label, signed)


def _tag(key: Key, label: bytes, signed: bytes) -> bytes:
    return hmac.digest(key.secret, label + signed, "sha256")[:TAG_BYTES]


def _open(datagram: bytes, head: int, length: int) -> tuple[list[Any], bytes, bytes]:
    signed, tag = datagram[:-TAG_BYTES], datagram[-TAG_BYTES:]
    if not signed or signed[0] != head:
        raise WireError("not a signed datagram")
    try:
        row = msgpack.unpackb(signed, strict_map_key=False)
    # msgpack raises a dozen unrelated types for foreign bytes; all mean the same here.
    except Exception:  # noqa: BLE001
        raise WireError("a signed datagram that cannot be read") from None
    if not isinstance(row, list) or len(row) != length:
        raise WireError("a signed datagram of another shape")
    return row, signed, tag


def _is_time(value: object) -> bool:
    return type(value) is int and 0 <= value <= _U64


def _is_nonce(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == NONCE_BYTES

"""Bodies that only holders of a topic's key can read, and only they can make: AES-256-GCM, end to end.

Publishers encrypt and subscribers decrypt; brokers, and the kernel's fast path, carry what they cannot read.
Headers travel in clear, for they say where a datagram goes. In place of the body stands

    version (1)   key (1)   session (12)   counter (6)   ciphertext   tag (16)

* Each topic has a key of its own, made from the *secret* in the key file and the topic's name; each *session*
  (one publisher, or one subscriber that replies, from its start to its end, on one topic) another one made
  from that, by HKDF's expansion with HMAC-SHA-256 (RFC 5869, 2.3). The counter, which is the nonce, is used
  once in a session. ``key`` tells secrets apart while they are changed: a byte of its hash.
* Authenticated beside the body: topic, flags, publisher, sequence and time of the header; of the envelope of
  requests and replies version, kind, code and token. Not so what is a broker's: epoch, delivery sequence, and
  the return address.
* A datagram is taken once (a window of :data:`WINDOW` for each session), and a session that is not known yet
  only if it was encrypted at most :data:`MAX_AGE` seconds ago by this machine's clock, either way. So who
  records a datagram cannot have it taken again, not even by a subscriber that has started since.

Nothing here does I/O; the clock is passed in. Needs the package ``cryptography`` (``pip install
'tempos[encryption]'``).
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tempos import _abi, names
from tempos.auth import read_secret_file
from tempos.errors import LocalError
from tempos.model import Framing, Topic
from tempos.requests import envelope
from tempos.session import forks
from tempos.wire import as_narrow

#: Bytes of a secret; and how many may be known for one topic, while they are changed.
SECRET_BYTES, MAX_SECRETS = 32, 8
#: Bytes that encryption adds to a body.
OVERHEAD = 1 + 1 + 12 + 6 + 16
#: How far behind the latest of its session a datagram may come.
WINDOW = 4096
#: Seconds.
MAX_AGE = 30.0

_VERSION = 1
_SESSION_AT, _COUNTER_AT, _TEXT_AT = 2, 14, 20
#: Unused sessions are looked for when so many are known, or twice as many as were left the last time.
_SWEEP = 1024
_HEADER = _abi.EVENT_HEADER_LEN
#: What somebody on the way may set.
_UNBOUND = _abi.FLAG_DUP | _abi.FLAG_TRACE
_TOPIC_LABEL, _SESSION_LABEL, _NUMBER_LABEL = b"tempos topic 1\0", b"tempos session 1\0", b"tempos key 1\0"

#: A secret, in hexadecimal or as bytes; or several, of which the first encrypts and all decrypt.
Secrets = str | bytes | Sequence[str | bytes]


class Undecryptable(Exception):
    """``reason``: what it is counted as; the message says it in words."""

    def __init__(self, reason: str, words: str) -> None:
        super().__init__(words)
        self.reason = reason


class TopicKeys:
    """The secrets of topics, by name or filter, in order: the first that matches encrypts, all decrypt.

    ``keys``: names and filters with what :data:`Secrets` says, each of 32 bytes or 64 hexadecimal digits. No
    secret shows in ``repr`` or an error. Raises :class:`LocalError` for what is none, and where the package
    ``cryptography`` is missing.
    """

    def __init__(self, keys: Mapping[str, Secrets]) -> None:
        rows: list[tuple[str, bytes]] = []
        for wanted, secrets in keys.items():
            several = [secrets] if isinstance(secrets, (str, bytes)) else secrets
            rows.extend((wanted, _secret(wanted, secret)) for secret in several)
        self._fill(rows)

    @classmethod
    def read(cls, path: str | Path) -> TopicKeys:
        """The keys in a file: in each line a name or filter, white space, and 64 hexadecimal digits.

        Empty lines mean nothing. A file that others can read or write is refused.
        """
        rows = []
        for number, line in enumerate(read_secret_file(path).splitlines(), start=1):
            words = line.rsplit(maxsplit=1)
            if not words:
                continue
            if len(words) != 2:
                raise LocalError(
                    f"{path}, line {number}: a name or filter and a secret of {2 * SECRET_BYTES} hexadecimal "
                    "digits are needed (openssl rand -hex 32)"
                )
            try:
                rows.append((words[0].strip(), _secret(words[0].strip(), words[1])))
            except LocalError as error:
                raise LocalError(f"{path}, line {number}: {error}") from None
        if not rows:
            raise LocalError(f"the key file {path} holds no key")
        keys = cls.__new__(cls)
        keys._fill(rows)
        return keys

    def _fill(self, rows: Sequence[tuple[str, bytes]]) -> None:
        _aead()
        self._rows = [(names.check_filter(wanted), secret) for wanted, secret in rows]
        for wanted, _ in self._rows:
            if (count := sum(wanted == other for other, _ in self._rows)) > MAX_SECRETS:
                raise LocalError(f"{wanted!r} has {count} secrets, {MAX_SECRETS} are allowed")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TopicKeys) and self._rows == other._rows

    def __hash__(self) -> int:
        return hash(tuple(self._rows))

    def __repr__(self) -> str:
        return f"TopicKeys({', '.join(sorted({wanted for wanted, _ in self._rows}))})"

    def of(self, topic: Topic) -> list[TopicKey]:
        """The keys of a topic, none where nothing matches it.

        Raises :class:`LocalError` for a topic that has some and is ``raw``.
        """
        keys = self.named(topic)
        if keys and topic.framing is not Framing.EVENT:
            raise LocalError(
                f"topic {topic.name!r} is raw, so its events cannot be encrypted: they have no header; "
                "leave it out of the keys, or give it the framing event"
            )
        return keys

    def named(self, topic: Topic) -> list[TopicKey]:
        """The keys that match its name, whether it can be encrypted or not."""
        secrets = [secret for wanted, secret in self._rows if names.matches(wanted, topic.name)]
        return [TopicKey(topic, secret) for secret in dict.fromkeys(secrets)]


class TopicKey:
    """One secret, for one topic."""

    __slots__ = ("_key", "is_raw", "number", "topic")

    def __init__(self, topic: Topic, secret: bytes) -> None:
        self.topic = topic.id
        self.is_raw = topic.framing is not Framing.EVENT
        self.number = hashlib.sha256(_NUMBER_LABEL + secret).digest()[0]
        self._key = _expand(secret, _TOPIC_LABEL + topic.name.encode())

    def session(self, session: bytes) -> Any:
        """The cipher of a session."""
        return _aead()(_expand(self._key, _SESSION_LABEL + session))


class Encryptor:
    """Encrypts what one publisher or replier sends of one topic."""

    def __init__(self, key: TopicKey, random: Callable[[int], bytes] = os.urandom) -> None:
        self._key = key
        self._random = random
        self._begin()
        forks.watch(self)

    def _begin(self) -> None:
        self._session = self._random(_COUNTER_AT - _SESSION_AT)
        self._head = bytes((_VERSION, self._key.number)) + self._session
        self._cipher = self._key.session(self._session)
        self._counter = 0

    def forked(self) -> None:
        """In a child: another session, for no counter may come twice."""
        self._begin()

    def encrypt(self, head: bytes, body: bytes) -> bytes:
        """The whole datagram. ``head``: its header, and the envelope if it has one."""
        counter = self._counter.to_bytes(_TEXT_AT - _COUNTER_AT, "big")
        self._counter += 1
        bound = _bound(self._key.topic, _narrow(head))
        return b"".join((head, self._head, counter, self._cipher.encrypt(_nonce(counter), body, bound)))

    def decrypt(self, datagram: bytes) -> bytes:
        """A datagram without an envelope that came from :meth:`encrypt`, as it was before."""
        at = _abi.WIDE_HEADER_LEN if datagram[0] == _abi.WIDE else _HEADER
        head, sealed = datagram[:at], datagram[at:]
        counter, text = sealed[_COUNTER_AT:_TEXT_AT], sealed[_TEXT_AT:]
        bound = _bound(self._key.topic, _narrow(head))
        return head + bytes(self._cipher.decrypt(_nonce(counter), text, bound))


class Decryptor:
    """Decrypts what comes of one topic, each datagram once."""

    def __init__(self, keys: Sequence[TopicKey]) -> None:
        from cryptography.exceptions import InvalidTag

        self._keys = keys
        self._invalid = InvalidTag
        self._sessions: dict[bytes, _Session] = {}
        self._sweep_at = _SWEEP

    def decrypt(self, datagram: bytes, now_ns: int) -> bytes:
        """The datagram with its body in clear. ``datagram``: laid out as a narrow one, header whole.

        ``now_ns``: this machine's wall clock, Unix time. Raises :class:`Undecryptable`.
        """
        if self._keys[0].is_raw:
            raise Undecryptable("not_encrypted", "the topic is raw, so nothing of it can be")
        enveloped = datagram[_abi.OFFSET_VERSION_FLAGS] & _abi.FLAG_ENVELOPE
        at = _HEADER + (envelope.LENGTH if enveloped else 0)
        if len(datagram) < at + OVERHEAD or datagram[at] != _VERSION:
            raise Undecryptable("not_encrypted", "it is not encrypted, or in a way of another version")
        head = datagram[:at]
        number = datagram[at + 1]
        session = datagram[at + _SESSION_AT : at + _COUNTER_AT]
        counter = datagram[at + _COUNTER_AT : at + _TEXT_AT]
        text, bound = datagram[at + _TEXT_AT :], _bound(self._keys[0].topic, head)
        sent_ns = int.from_bytes(head[_abi.OFFSET_SENT_NS : _abi.OFFSET_SENT_NS + 8], "big")
        known = self._sessions.get(session)
        if known is not None:
            count = int.from_bytes(counter, "big")
            if known.is_over(count):
                raise Undecryptable("replayed", "it has come before, or so late that nobody can tell")
            body = self._opened(known.cipher, counter, text, bound)
            if body is None:
                raise _forged()
            known.take(count, sent_ns)
            return head + body
        ciphers = [key.session(session) for key in self._keys if key.number == number]
        if not ciphers:
            raise Undecryptable(
                "unknown_key", f"it is encrypted with another key (number {datagram[at + 1]})"
            )
        for cipher in ciphers:
            body = self._opened(cipher, counter, text, bound)
            if body is not None:
                self._begin(session, cipher, int.from_bytes(counter, "big"), sent_ns, now_ns)
                return head + body
        raise _forged()

    def _opened(self, cipher: Any, counter: bytes, text: bytes, bound: bytes) -> bytes | None:
        try:
            body: bytes = cipher.decrypt(_nonce(counter), text, bound)
        except self._invalid:
            return None
        return body

    def _begin(self, session: bytes, cipher: Any, number: int, sent_ns: int, now_ns: int) -> None:
        age = (now_ns - sent_ns) / 1e9
        if abs(age) > MAX_AGE:
            raise Undecryptable(
                "stale",
                f"it was sent {age:.1f} s ago by its sender's clock, and nothing was known of that sender: "
                f"{MAX_AGE:g} s are allowed either way (is a clock wrong, or is an old datagram sent again?)",
            )
        if len(self._sessions) >= self._sweep_at:
            # What was sent so long ago cannot begin a session, so none that is forgotten can come again.
            old = now_ns - int(MAX_AGE * 1e9)
            self._sessions = {key: each for key, each in self._sessions.items() if each.latest_ns >= old}
            self._sweep_at = max(_SWEEP, 2 * len(self._sessions))
        self._sessions[session] = _Session(cipher, number, sent_ns)


class _Session:
    """What has come of one: bit n of ``_seen`` stands for the datagram n before the latest."""

    __slots__ = ("_latest", "_seen", "cipher", "latest_ns")

    def __init__(self, cipher: Any, number: int, sent_ns: int) -> None:
        self.cipher = cipher
        self._latest = number
        self._seen = 1
        self.latest_ns = sent_ns

    def is_over(self, number: int) -> bool:
        """Whether this one came before, or may have."""
        back = self._latest - number
        return back >= WINDOW or (back >= 0 and bool(self._seen >> back & 1))

    def take(self, number: int, sent_ns: int) -> None:
        """It has come."""
        ahead = number - self._latest
        if ahead <= 0:
            self._seen |= 1 << -ahead
        else:
            self._latest = number
            self._seen = 1 if ahead >= WINDOW else (self._seen << ahead | 1) & ((1 << WINDOW) - 1)
        self.latest_ns = max(self.latest_ns, sent_ns)


def _forged() -> Undecryptable:
    return Undecryptable("forged", "it was changed on its way, or made without the key")


def _bound(topic: int, head: bytes) -> bytes:
    """What is authenticated beside the body. ``head``: header, laid out as a narrow one, and envelope."""
    flags = head[_abi.OFFSET_VERSION_FLAGS] & ~_UNBOUND
    return b"".join(
        (
            topic.to_bytes(2, "big"),
            flags.to_bytes(1, "big"),
            head[_abi.OFFSET_PUBLISHER : _abi.OFFSET_DELIVERY_SEQUENCE],
            head[_abi.OFFSET_SENT_NS : _HEADER + _abi.ENVELOPE_PORT],
            head[_HEADER + _abi.ENVELOPE_TOKEN :],
        )
    )


def _narrow(head: bytes) -> bytes:
    return as_narrow(head) if head[0] == _abi.WIDE else head


def _nonce(counter: bytes) -> bytes:
    return bytes(6) + counter


def _expand(key: bytes, info: bytes) -> bytes:
    """One block of HKDF's expansion: as many bytes as SHA-256 gives, and AES-256 takes."""
    return hmac.digest(key, info + b"\1", "sha256")


def _secret(wanted: str, secret: str | bytes) -> bytes:
    if isinstance(secret, str):
        try:
            secret = bytes.fromhex(secret)
        except ValueError:
            raise LocalError(f"the secret of {wanted!r} is text, but not hexadecimal") from None
    if len(secret) != SECRET_BYTES:
        raise LocalError(
            f"the secret of {wanted!r} has {len(secret)} bytes, needed are {SECRET_BYTES}, random ones "
            "(openssl rand -hex 32)"
        )
    return bytes(secret)


def _aead() -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise LocalError(
            f"encrypted topics need the package 'cryptography' ({error}): pip install 'tempos[encryption]'"
        ) from None
    return AESGCM

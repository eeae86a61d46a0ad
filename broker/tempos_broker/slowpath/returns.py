"""Return addresses: where replies reach who asked, sealed by the broker that grants them.

A publisher asks for one over control, as a member asks to join: so it is its own address, and whoever may
publish has it. It puts it into its requests, those who answer put it into their replies, and the broker looks
at its seal: it keeps no list of who asked, and an address of one life is good in the next, whose key is the
same. Its time is the machine's since it started, which nobody sets.

Rules: what is not sealed with this key, or whose time is over, is not sent on; a reply that is sent on has no
seal any more, so none goes round between brokers; nothing here does I/O or reads a clock.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import struct
from typing import NamedTuple

from tempos import _abi

#: Bytes of a key, and seconds for which an address is good.
KEY_LEN = 32
LIFETIME = 3600
#: Addresses of which it is remembered where they lead.
REMEMBERED = 4096
_SEAL_LEN = _abi.ENVELOPE_TOKEN - _abi.ENVELOPE_SEAL
_WHAT = b"tempos return"
#: Port, address, via, until, data port.
_FIELDS = struct.Struct("!HIIIH")
assert _FIELDS.size == _abi.ENVELOPE_SEAL - _abi.ENVELOPE_PORT, (
    "what is sealed is all that stands before the seal"
)
_ANY = "0.0.0.0"  # noqa: S104 - stands for an address that is not known
_NO_SEAL = bytes(_SEAL_LEN)


class Destination(NamedTuple):
    """Where a reply is to go, and the address of ours that it has to leave from; None: any."""

    ip: str
    port: int
    via: str | None


class Returns:
    """Grants and opens addresses. ``key``: :data:`KEY_LEN` random bytes; ``data_port``: the broker's."""

    def __init__(self, key: bytes, data_port: int) -> None:
        self.key = key
        self.data_port = data_port
        #: What was opened, with the time until which it is good.
        self._opened: dict[bytes, tuple[Destination, int]] = {}

    def grant(self, ip: str, port: int, via: str | None, now: float) -> bytes:
        """An address for who is at ``ip``:``port`` and knows the broker at ``via``.

        ``now``: seconds since the machine started.
        """
        until = min(int(now) + LIFETIME, 0xFFFFFFFF)
        fields = _FIELDS.pack(port, _number(ip), _number(via or _ANY), until, self.data_port)
        return fields + self._seal(fields)

    def open(self, envelope: bytes, now: float) -> Destination | None:
        """Where a reply with this envelope goes; None: nowhere, its address is not ours or too old."""
        sealed = envelope[_abi.ENVELOPE_PORT : _abi.ENVELOPE_TOKEN]
        # Whoever asks, asks often; only what is ours is remembered.
        found = self._opened.get(sealed)
        if found is None:
            fields = sealed[: _FIELDS.size]
            if not hmac.compare_digest(self._seal(fields), sealed[_FIELDS.size :]):
                return None
            port, ip, via, until, _ = _FIELDS.unpack(fields)
            found = Destination(_text(ip), port, _text(via) if via else None), until
            if len(self._opened) >= REMEMBERED:
                self._opened.clear()
            self._opened[sealed] = found
        destination, until = found
        return destination if now <= until <= now + LIFETIME else None

    def _seal(self, fields: bytes) -> bytes:
        return hashlib.blake2b(fields, digest_size=_SEAL_LEN, key=self.key, person=_WHAT).digest()


def unsealed(datagram: bytes, at: int) -> bytes:
    """A reply, whose envelope begins at byte ``at``, as it is sent on."""
    return datagram[: at + _abi.ENVELOPE_SEAL] + _NO_SEAL + datagram[at + _abi.ENVELOPE_TOKEN :]


def _number(ip: str) -> int:
    return int(ipaddress.IPv4Address(ip))


def _text(number: int) -> str:
    return str(ipaddress.IPv4Address(number))

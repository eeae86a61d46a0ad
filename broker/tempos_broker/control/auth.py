"""Who asks, and may they: what the broker demands of a control datagram before it serves it.

    network? -> often? -> too large? -> signed? -> by a known key? -> for us? -> in time? -> never seen?
    -> the right?

Rules kept here:

* With no client configured, everybody of ``control.networks`` may ask. With any, or once one was made at run
  time, a request needs the signature of one, except from ``control.open_networks``.
* A signed datagram is taken once. Nonces are remembered for as long as the time inside them is taken; a
  full memory forgets the oldest and from then on takes nothing as old as that. Nothing signed before the
  broker started is taken either, so a restart opens no door to what was recorded before.
* Brokers of a fleet take what is signed for them by name, and nothing else: what one has taken no other does.
* The clock is asked about only after the signature is found good: nobody without a key learns or moves
  anything.
"""

from __future__ import annotations

import heapq
import ipaddress
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

from tempos import WireError, auth
from tempos.auth import Key, Signed
from tempos.control import MAX_DATAGRAM, Code
from tempos.names import is_filter
from tempos_broker.config.model import ClientConfig, ControlConfig, Origin
from tempos_broker.control.rate import RateLimit
from tempos_broker.membership import Refused

#: Nonces remembered for one key: those of the whole window at so many requests per second, but not more.
NONCES_PER_SECOND, MAX_NONCES = 200, 1 << 17
#: Addresses of which it is remembered in which networks they are.
_ADDRESSES = 4096


class Caller(NamedTuple):
    """Who asks. ``client`` None: somebody who may ask unsigned, and everything."""

    ip: str
    client: ClientConfig | None = None

    def __str__(self) -> str:
        return self.ip if self.client is None else f"{self.client.id} at {self.ip}"

    def require(self, topic: str, *rights: str) -> None:
        """Raise :class:`Refused` unless the caller has one of the rights on a topic, by its name.

        Of a filter, too: then on every topic that it can match, also of those that there are not yet.
        """
        if self.client is None:
            return
        for right in rights:
            if self.client.may(right, topic):
                return
        wanted = " or ".join(rights)
        topics = "topic" if not is_filter(topic) else "every topic that matches"
        raise Refused(
            Code.NOT_ALLOWED,
            f"client {self.client.id!r} has no right to {wanted} on {topics} {topic!r}",
            f"add it to {wanted} of {_where(self.client)}",
        )

    def require_any(self, right: str) -> None:
        """Raise :class:`Refused` unless the caller has the right on some topic."""
        if self.client is not None and not getattr(self.client, right):
            raise Refused(
                Code.NOT_ALLOWED,
                f"client {self.client.id!r} has no right to {right} on any topic",
                f"add one to {right} of {_where(self.client)}",
            )


class Denied(Exception):
    """A datagram that is not served.

    ``count`` is what it is counted under. ``code`` None: not answered, else answered with that code,
    text and hint; ``signed`` says with whose signature.
    """

    def __init__(
        self,
        count: str,
        text: str,
        *,
        code: str | None = None,
        hint: str = "",
        plain: bytes = b"",
        signed: Admitted | None = None,
        addressee: int = 0,
    ) -> None:
        super().__init__(text)
        self.count = count
        self.code = code
        self.hint = hint
        self.plain = plain
        self.signed = signed
        self.addressee = addressee


class Admitted(NamedTuple):
    """A datagram that may be served: the plain request inside, and how to sign the reply, if at all."""

    caller: Caller
    plain: bytes
    key: Key | None = None
    nonce: bytes = b""

    def seal(self, reply: bytes, wall: Callable[[], float]) -> bytes:
        """The reply as it goes out; ``wall`` gives Unix seconds."""
        if self.key is None:
            return reply
        return auth.sign_reply(self.key, reply, round(wall() * 1000), self.nonce)


class Nonces:
    """What one key has used. Bounded, and never forgets what it would still take."""

    def __init__(self, started_ms: int) -> None:
        self._window_ms = self._capacity = 0
        #: Nothing as old as this is taken any more.
        self.floor_ms = started_ms
        self._seen: set[tuple[int, bytes]] = set()
        self._oldest: list[tuple[int, bytes]] = []

    def __len__(self) -> int:
        return len(self._seen)

    def set_window(self, window_ms: int) -> None:
        """How far the time of a datagram may be from the clock, either way."""
        self._window_ms = window_ms
        self._capacity = min(MAX_NONCES, max(1, 2 * window_ms * NONCES_PER_SECOND // 1000))

    def is_timely(self, time_ms: int, now_ms: int) -> bool:
        """Whether a datagram of this time can be taken at all."""
        return abs(time_ms - now_ms) <= self._window_ms and time_ms > self.floor_ms

    def take(self, time_ms: int, nonce: bytes, now_ms: int) -> bool:
        """Remember a timely nonce; False if it was used before."""
        while self._oldest and self._oldest[0][0] < now_ms - self._window_ms:
            self._forget_oldest()
        entry = (time_ms, nonce)
        if entry in self._seen:
            return False
        self._seen.add(entry)
        heapq.heappush(self._oldest, entry)
        while len(self._oldest) > self._capacity:
            self._forget_oldest()
        return True

    def _forget_oldest(self) -> None:
        oldest = heapq.heappop(self._oldest)
        self._seen.discard(oldest)
        # The clock may be set back: what is forgotten stays too old whatever it shows then.
        self.floor_ms = max(self.floor_ms, oldest[0])


class Guard:
    """Decides which datagrams are served. ``wall``: Unix time in seconds, ``now``: a monotonic clock.

    ``addressee``: what signed requests have to name; 0: they name nobody.
    """

    def __init__(self, config: ControlConfig, wall: float, addressee: int = 0) -> None:
        self._addressee = addressee
        self._nonces: dict[str, Nonces] = {}
        self._rate = RateLimit(config.rate)
        #: Grows whenever somebody may do more or less than before.
        self.turns = 0
        self._configure(config, wall)

    def reconfigure(self, config: ControlConfig, wall: float) -> None:
        """Go by another configuration from now on; what keys that stay have used is remembered."""
        if config.rate != self._config.rate:
            self._rate = RateLimit(config.rate)
        self._configure(config, wall)

    def _configure(self, config: ControlConfig, wall: float) -> None:
        self._config = config
        self.turns += 1
        networks, open_networks = _networks(config.networks), _networks(config.open_networks)

        @lru_cache(_ADDRESSES)
        def places(ip: str) -> tuple[bool, bool]:
            address = ipaddress.IPv4Address(ip)
            return any(address in each for each in networks), any(address in each for each in open_networks)

        #: Whether an address is in a network that is served, and in one whose requests need not be signed.
        self._places = places
        self._clients = {client.id: (client, Key(client.id, client.key)) for client in config.clients}
        self._signed = config.signed
        now_ms = round(wall * 1000)
        kept = self._nonces
        self._nonces = {
            key_id: kept[key_id] if key_id in kept else Nonces(now_ms) for key_id in self._clients
        }
        for nonces in self._nonces.values():
            nonces.set_window(round(config.clock_window * 1000))

    def set_client(self, client_id: str, client: ClientConfig | None, wall: float) -> None:
        """Go by another key and other rights of one client, who is known from now on, or (None) no more."""
        self.turns += 1
        if client is None:
            del self._clients[client_id], self._nonces[client_id]
            # Who takes a key away does not let everybody in.
            self._signed = True
            return
        self._clients[client_id] = client, Key(client_id, client.key)
        if client_id not in self._nonces:
            self._nonces[client_id] = Nonces(round(wall * 1000))
            self._nonces[client_id].set_window(round(self._config.clock_window * 1000))

    def demand(self, *, signatures: bool) -> None:
        """Whether everybody has to sign though there is no client."""
        self._signed = signatures
        self.turns += 1

    def allows(self, ip: str, now: float) -> bool:
        """Whether this address, which was served before, may ask once more now; that is counted."""
        return self._rate.allows(ip, now)

    def admit(self, datagram: bytes, ip: str, wall: float, now: float) -> Admitted:
        """The request inside a datagram from ``ip``; raises :class:`Denied`."""
        known, may_be_unsigned = self._places(ip)
        if not known:
            raise Denied("foreign network", "its address is not in control.networks")
        if not self._rate.allows(ip, now):
            raise Denied("rate limit", "it asks more often than control.rate allows")
        if len(datagram) > MAX_DATAGRAM:
            raise Denied("too large", f"no request is larger than {MAX_DATAGRAM} bytes")
        if auth.is_signed(datagram):
            return self._admit_signed(datagram, ip, wall)
        if (self._clients or self._signed) and not may_be_unsigned:
            raise Denied(
                "unsigned",
                "requests must be signed",
                code=Code.NOT_ALLOWED,
                hint="give the client its key (auth=, --auth-file)",
                plain=datagram,
            )
        return Admitted(Caller(ip), datagram)

    def _admit_signed(self, datagram: bytes, ip: str, wall: float) -> Admitted:
        try:
            signed = auth.open_request(datagram)
        except WireError as error:
            raise Denied(Code.BAD_REQUEST, str(error)) from None
        client, key = self._clients.get(signed.key_id, (None, None))
        if client is None or key is None or not signed.is_from(key):
            # One answer for both, so that nobody can find out which ids exist.
            raise Denied(
                "wrong key",
                f"no client {signed.key_id!r} has the key that signed this",
                code=Code.NOT_ALLOWED,
                hint="check id and key of the client",
                plain=signed.plain,
            )
        return self._take_once(Admitted(Caller(ip, client), signed.plain, key, signed.nonce), signed, wall)

    def _take_once(self, admitted: Admitted, signed: Signed, wall: float) -> Admitted:
        if signed.to != self._addressee:
            who = "another broker" if signed.to else "no broker"
            ours = "brokers of a fleet have to be named" if self._addressee else "this one has no name"
            raise Denied(
                "wrong addressee",
                f"signed for {who}: {ours}",
                code=Code.ADDRESSEE,
                hint="clients of tempos 0.2 and before cannot name a broker" if self._addressee else "",
                plain=signed.plain,
                signed=admitted,
                addressee=self._addressee,
            )
        now_ms = round(wall * 1000)
        nonces = self._nonces[signed.key_id]
        if not nonces.is_timely(signed.time_ms, now_ms):
            off = f"{(signed.time_ms - now_ms) / 1000:+.3f} s from the broker's time"
            old = ", before it started or as long ago as it remembers"
            raise Denied(
                "wrong time",
                f"signed {off}{old if signed.time_ms <= nonces.floor_ms else ''}",
                code=Code.CLOCK,
                hint="set the clock of the client",
                plain=signed.plain,
                signed=admitted,
            )
        if not nonces.take(signed.time_ms, signed.nonce, now_ms):
            # Not answered: the first of the two was, and an answer to this one would stand against it.
            raise Denied("replay", f"replayed: client {signed.key_id} has sent this before")
        return admitted


def _where(client: ClientConfig) -> str:
    """Where its rights stand, for people."""
    if client.origin is Origin.RUN_TIME:
        return f"client {client.id}: tempos ctl client set"
    return f"[[client]] {client.id} in the broker's configuration"


def _networks(texts: Iterable[str]) -> list[ipaddress.IPv4Network]:
    return [ipaddress.IPv4Network(text) for text in texts]

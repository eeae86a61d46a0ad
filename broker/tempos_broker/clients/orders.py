"""Clients made, changed and removed by an order while the broker runs.

Rules: an order is carried out whole when it returns, or it raises and nothing has changed; what is ordered is
written down before it holds, so that a kill at any moment leaves either. What stands in the file is the
file's to change. No answer, no log and no fault tells a key.

A client that is removed is refused from then on, and joins nothing more by its filters; its memberships end
with their leases, which it cannot renew, as when a reload takes it out of the file.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from tempos.control import Code
from tempos_broker.account.changes import Changes, Kind
from tempos_broker.clients.catalogue import Clients
from tempos_broker.clients.former import DEMANDED, MADE
from tempos_broker.config.clients import BadClient, client_changes, document_of, read_client
from tempos_broker.config.model import ClientConfig, Origin
from tempos_broker.control.server import ControlServer
from tempos_broker.lives.continuity import Continuity
from tempos_broker.membership import Refused, Registry
from tempos_broker.tasks import whole
from tempos_broker.topics.locks import Gate
from tempos_broker.topics.orders import Conflict, NotKept

_T = TypeVar("_T")


class ClientOrders:
    """What an operator orders; raises :class:`Refused`, or :class:`BadClient` with every fault.

    ``gate``: orders pass it together, a reload alone.
    """

    def __init__(
        self,
        clients: Clients,
        gate: Gate,
        *,
        registry: Registry,
        control: ControlServer,
        past: Continuity,
        changes: Changes,
    ) -> None:
        self._clients = clients
        self._gate = gate
        self._registry = registry
        self._control = control
        self._past = past
        self._changes = changes

    @property
    def durable(self) -> bool:
        """Whether what is made at run time is there again in the next life."""
        return self._past.has_store

    async def add(self, document: Mapping[str, Any]) -> ClientConfig:
        """Make a client of these options, as they would stand in the file."""
        return await self._turn(lambda: self._add(read_client(dict(document))))

    async def set(self, name: str, changes: Mapping[str, Any]) -> ClientConfig:
        """Change key or rights of a client that was made at run time; null sets rights back to none."""
        return await self._turn(lambda: self._set(name, changes))

    async def remove(self, name: str) -> ClientConfig:
        """Remove a client that was made at run time; gives what it was."""
        return await self._turn(lambda: self._remove(name))

    async def demand(self, *, signatures: bool) -> None:
        """Demand signatures of everybody, even if nobody has a key, or take other requests, too."""
        await self._turn(lambda: self._demand(signatures=signatures))

    def check_removal(self, name: str) -> ClientConfig:
        """The client, if it can be removed."""
        return self._made(name, "take it out there, and reload")

    def _made(self, name: str, otherwise: str) -> ClientConfig:
        """The client of this id, if orders may change it."""
        client = self._clients.named(name)
        if client is None:
            raise Refused(Code.UNKNOWN_MEMBER, f"there is no client {name!r}", "tempos ctl client list")
        if client.origin is Origin.FILE:
            raise Conflict(f"client {name!r} stands in the configuration file", otherwise)
        return client

    # --- steps ------------------------------------------------------------------------------

    async def _turn(self, order: Callable[[], Awaitable[_T]]) -> _T:
        """One after the other, and each to its end: what is written holds."""
        done: list[_T] = []

        async def turn() -> None:
            async with self._gate.together(), self._clients.one:
                done.append(await order())

        await whole(turn())
        return done[0]

    async def _add(self, client: ClientConfig) -> ClientConfig:
        if (known := self._clients.named(client.id)) is not None:
            of = "the file has it" if known.origin is Origin.FILE else "made at run time"
            raise Conflict(f"there is a client {client.id!r} already: {of}",
                           "take another id, or change that one")  # fmt: skip
        self._check_key(client)
        if not (self.durable or self._clients.closed):
            raise Conflict(
                "this broker keeps no state: its next life would know no client, and take unsigned requests",
                "set state.file, or write the first client into its file",
            )
        await self._keep({client.id: document_of(client), DEMANDED: True})
        self._clients.demanded = True
        self._put(client)
        ends = "" if self.durable else "; it ends with this broker, which keeps no state"
        self._tell(f"client {client.id} made at run time{ends}")
        return client

    async def _set(self, name: str, changes: Mapping[str, Any]) -> ClientConfig:
        old = self._made(name, "change it there, and reload")
        new = read_client({**document_of(old), **changes})
        if new.id != name:
            raise BadClient(
                [f"client: id is {new.id!r}; allowed: {name!r}, as it is: remove it and add that"]
            )
        self._check_key(new)
        if words := list(client_changes(old, new)):
            await self._keep({name: document_of(new)})
            self._put(new)
            self._tell(f"client {name} changed: {'; '.join(words)}")
        return new

    async def _remove(self, name: str) -> ClientConfig:
        client = self.check_removal(name)
        await self._keep({name: None})
        self._clients.drop(client)
        self._registry.set_client(name, None)
        self._control.guard.set_client(name, None, self._control.wall())
        last = ": none is left, and everybody has to sign" if self._clients.shut else ""
        self._tell(f"client {name} removed{last}")
        return client

    async def _demand(self, *, signatures: bool) -> None:
        if not signatures and self._clients.shared:
            raise Conflict(
                "brokers that share the keys of their fleet always demand signatures",
                'take "keys" out of fleet.share in the file, and restart the broker',
            )
        if not signatures and (first := next(iter(self._clients), None)) is not None:
            raise Conflict(f"there are clients, such as {first.id!r}", "remove them first: they have to sign")
        if signatures != self._clients.demanded:
            await self._keep({DEMANDED: signatures or None})
            self._clients.demanded = signatures
            self._control.guard.demand(signatures=self._clients.closed)
            who = "everybody has to sign" if signatures else "nobody has to sign"
            self._tell(f"{who} what is asked of the broker: an operator's order")

    def _check_key(self, client: ClientConfig) -> None:
        known = self._clients.with_key(client.key)
        if known is not None and known.id != client.id:
            raise Conflict(f"the key is that of client {known.id!r}, too", "take one of its own")

    async def _keep(self, things: dict[str, Any]) -> None:
        if not await self._past.keeper.put(MADE, things, again=False):
            raise NotKept(
                f"that could not be written into {self._past.keeper.where}",
                "nothing was changed; ask again when it can be written",
            )

    def _put(self, client: ClientConfig) -> None:
        self._clients.put(client)
        self._registry.set_client(client.id, client)
        self._control.guard.set_client(client.id, client, self._control.wall())

    def _tell(self, words: str) -> None:
        self._changes.tell(Kind.CLIENT, words)

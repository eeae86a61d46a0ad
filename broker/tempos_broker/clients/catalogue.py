"""Which clients there are, from the file and made at run time, and whether everybody has to sign.

Values in, values out: no I/O. Rules: an id and a key are one client's at a time, whoever made it. A broker of
which clients were made stays closed to requests without a signature, also once the last of them is gone,
until somebody says otherwise: who takes a key away does not mean to let everybody in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import replace

from tempos import ConfigError
from tempos_broker.config.clients import client_changes
from tempos_broker.config.model import ClientConfig, ControlConfig, Origin


class Clients:
    """``demanded``: signatures are, even of nobody. ``shared``: a fleet has its keys together, so always."""

    def __init__(
        self, clients: Iterable[ClientConfig], *, demanded: bool = False, shared: bool = False
    ) -> None:
        self.demanded = demanded
        self.shared = shared
        #: Orders take turns.
        self.one = asyncio.Lock()
        self._by_id: dict[str, ClientConfig] = {}
        self._by_key: dict[bytes, ClientConfig] = {}
        self.replace(clients)

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[ClientConfig]:
        return iter(self._by_id.values())

    def named(self, client: str) -> ClientConfig | None:
        """The client of this id."""
        return self._by_id.get(client)

    def with_key(self, key: bytes) -> ClientConfig | None:
        """The client that has this key."""
        return self._by_key.get(key)

    def made(self) -> list[ClientConfig]:
        """The clients that were made at run time."""
        return [client for client in self if client.origin is Origin.RUN_TIME]

    @property
    def closed(self) -> bool:
        """Whether requests have to be signed."""
        return self.shared or self.demanded or bool(self._by_id)

    @property
    def shut(self) -> bool:
        """Whether they have to, and nobody can."""
        return self.closed and not self._by_id

    def put(self, client: ClientConfig) -> None:
        """A client that is new, or the same with another key or other rights."""
        if (was := self._by_id.get(client.id)) is not None:
            del self._by_key[was.key]
        self._by_id[client.id] = self._by_key[client.key] = client

    def drop(self, client: ClientConfig) -> None:
        """A client that is no more."""
        del self._by_id[client.id], self._by_key[client.key]

    def replace(self, clients: Iterable[ClientConfig]) -> None:
        """These, and no others."""
        self._by_id = {client.id: client for client in clients}
        self._by_key = {client.key: client for client in self}

    def whole(self, control: ControlConfig) -> ControlConfig:
        """What a file says of the control port, and what orders do."""
        return replace(control, clients=tuple(self), signed=self.shared or self.demanded)


def merged(of_file: Iterable[ClientConfig], made: Iterable[ClientConfig]) -> tuple[ClientConfig, ...]:
    """The clients of a file and those made at run time together; what stands in both is the file's.

    Raises :class:`ConfigError` with everything in which the two contradict each other.
    """
    of_file = tuple(of_file)
    by_id = {client.id: client for client in of_file}
    by_key = {client.key: client for client in of_file}
    more, problems = [], []
    for client in made:
        remove = f"`tempos ctl client remove {client.id}` while it runs without"
        named, keyed = by_id.get(client.id), by_key.get(client.key)
        if named is not None and named != client:
            problems.append(
                f"client {client.id!r} was made at run time, and stands in the file otherwise "
                f"({'; '.join(client_changes(client, named))}): write it there as it is, or take it out of "
                f"the file and remove it: {remove}"
            )
        elif named is None and keyed is not None:
            problems.append(
                f"client {keyed.id!r} of the file has the key of {client.id!r}, which was made at run time: "
                f"give it another, or remove that one: {remove}"
            )
        elif named is None:
            more.append(client)
    if problems:
        raise ConfigError(problems)
    return (*of_file, *more)

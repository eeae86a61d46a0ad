"""Whether brokers of a fleet answer: one datagram to each that is asked about, and a while for the answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
from types import TracebackType

from tempos._awaitables import in_time
from tempos._sockets import addresses_of
from tempos.auth import Signer
from tempos.control import Code
from tempos.errors import ControlRefused, LocalError, NoAnswer
from tempos.session.core import ControlSession
from tempos.session.events import SessionEvent
from tempos.session.link import ControlLink
from tempos.session.way import Way, find

#: Seconds for an answer, and looks in a row without one after which a broker counts as gone.
WITHIN, LOOKS = 0.25, 2


class Scout:
    """Asks at the control port ``port``. A context manager, for one task."""

    def __init__(self, port: int, signer: Signer | None) -> None:
        self._port = port
        self._signer = signer
        self._links: dict[str, ControlLink] = {}
        self._missed: dict[str, int] = {}
        self._leaving: set[str] = set()

    async def __aenter__(self) -> Scout:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for link in self._links.values():
            await link.close()

    async def is_ready(self, address: str) -> bool:
        """Whether the broker there answers, and has the members of its fleet in force, if it is in one."""
        return bool(await self._ask(address))

    def is_leaving(self, address: str) -> bool:
        """Whether the broker there has said, when it was asked last, that it is about to leave its fleet."""
        return address in self._leaving

    async def is_away(self, address: str) -> bool:
        """Whether the broker there has not answered several times."""
        if await self._ask(address) is not None:
            self._missed.pop(address, None)
            return False
        self._missed[address] = self._missed.get(address, 0) + 1
        if self._missed[address] < LOOKS:
            return False
        del self._missed[address]
        return True

    async def _ask(self, address: str) -> bool | None:
        """Whether it is ready; None: no answer."""
        try:
            if address not in self._links:
                client = int.from_bytes(os.urandom(8), "big")
                signer = None if self._signer is None else self._signer.another()
                session = ControlSession(client=client, broker=f"{address}:{self._port}", signer=signer)
                self._links[address] = await ControlLink.open(address, self._port, session, _ignore)
            answer = await in_time(self._links[address].ask("fleet"), WITHIN)
        except ControlRefused as error:
            return error.code != Code.STOPPING
        except (NoAnswer, LocalError, asyncio.TimeoutError):
            with contextlib.suppress(KeyError):
                await self._links.pop(address).close()
            return None
        (self._leaving.add if answer.fields.get("leaving") is True else self._leaving.discard)(address)
        return answer.fields.get("ready") is not False


async def choose(host: str, control_port: int, signer: Signer | None, port: int | None = None) -> Way:
    """The way to a broker's port, its control port if none is named.

    Of several brokers to that of the first that answers, else of the first.

    Raises :class:`NoWay`.
    """
    port = control_port if port is None else port
    if "," in host:
        async with Scout(control_port, signer) as scout:
            for address in await addresses_of(host):
                if await scout.is_ready(address):
                    return await find(address, port)
    return await find(host, port)


def _ignore(event: SessionEvent) -> None:
    """Nothing is asked for here that lasts."""

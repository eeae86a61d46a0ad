"""What is asked of each sort of part: the broker's topics, and what invokers and triggers do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from tempos_controller.parts.http import LONG, Away, Refused, Remote
from tempos_controller.plan.wanted import Calls, Signals

log = logging.getLogger("tempos.controller")

#: Seconds between two looks at what leaves.
LOOK = 0.02
#: Seconds that the removal of a topic waits for what its members confirm.
DRAIN = 5.0


class BrokerPart:
    """The broker. Raises as :class:`Remote` does."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote

    async def status(self) -> dict[str, Any]:
        """Who it is, and which paths it has."""
        return _table(self.remote, await self.remote.ask("GET", "/v1/status"))

    async def topics(self) -> dict[str, dict[str, Any]]:
        """The options of every topic, by name, with their ``origin``."""
        listed = await self.remote.ask("GET", "/v1/options")
        try:
            return {each["options"]["name"]: {**each["options"], "origin": each["origin"]} for each in listed}
        except (KeyError, TypeError) as error:
            raise Away(self.remote.what, f"its answer is not of this version: {error!r}") from error

    async def make(self, name: str, options: Mapping[str, Any]) -> None:
        """Make a topic; one that is there as it is wanted is made already."""
        await self.remote.ask("POST", "/v1/topics", {"name": name, **options}, wait=LONG)

    async def change(self, name: str, changes: Mapping[str, Any]) -> None:
        """Change options; None: back to the default."""
        await self.remote.ask("PATCH", f"/v1/topics/{quote(name, safe='')}", dict(changes), wait=LONG)

    async def remove(self, name: str) -> None:
        """Remove a topic, when its members have what is on its way; one that is gone already is removed."""
        path = f"/v1/topics/{quote(name, safe='')}?drain=true&patience_s={DRAIN}"
        try:
            await self.remote.ask("DELETE", path, wait=LONG)
        except Refused as error:
            if error.status != 404:
                raise


class _Deployed:
    """A daemon that holds one deployment."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote

    async def health(self) -> None:
        """Return if it answers."""
        await self.remote.ask("GET", "/v1/health")

    async def status(self) -> dict[str, Any]:
        """What it says of itself."""
        return _table(self.remote, await self.remote.ask("GET", "/v1/status"))

    async def document(self) -> dict[str, Any]:
        """What is in force, as it was given; empty if nothing is."""
        try:
            return _table(self.remote, await self.remote.ask("GET", "/v1/deployment"))
        except Refused as error:
            if error.status != 404:
                raise
            return {}

    async def put(self, document: Mapping[str, Any]) -> None:
        """Have it in force."""
        await self.remote.ask("PUT", "/v1/deployment", dict(document), wait=LONG)


class InvokerPart(_Deployed):
    """An invoker."""

    async def upload(self, sha256: str, code: bytes) -> None:
        """Give it code, which it keeps by its hash."""
        await self.remote.ask("PUT", f"/v1/code/{sha256}", content=code, wait=LONG)

    async def logs(self, function: str) -> dict[str, Any]:
        """The latest lines that a function wrote."""
        return _table(self.remote, await self.remote.ask("GET", f"/v1/logs/{quote(function, safe='')}"))

    async def emptied(self, patience: float) -> bool:
        """Wait until what left has come to its end, at most so long; whether it has."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while (await self.status()).get("leaving"):
            if loop.time() >= deadline:
                log.warning("%s: steps that left still have events after %g s", self.remote.what, patience)
                return False
            await asyncio.sleep(LOOK)
        return True


class TriggerPart(_Deployed):
    """A trigger."""


def calls_in(document: Mapping[str, Any]) -> Calls:
    """What an invoker does, by its document; nothing where that makes no sense."""
    try:
        return Calls(
            document["broker"],
            {each["name"]: each for each in document["function"]},
            {(each["workflow"], each["name"]): each for each in document["step"]},
        )
    except (KeyError, TypeError):
        return Calls()


def signals_in(document: Mapping[str, Any]) -> Signals:
    """What a trigger does, by its document; nothing where that makes no sense."""
    try:
        return Signals(document["broker"], {each["name"]: each for each in document["endpoint"]})
    except (KeyError, TypeError):
        return Signals()


def _table(remote: Remote, answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise Away(remote.what, "its answer is not of this version")
    return answer

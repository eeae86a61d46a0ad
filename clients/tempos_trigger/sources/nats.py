"""Endpoints of kind ``nats``: messages of a subject become events.

NATS hands a message to whoever is there, once, and keeps nothing; so what comes while the tempos broker is
away waits in the endpoint's buffer, and is counted if it cannot. With ``queue`` several triggers share them:
of all whose subjects a message matches one of each name has it, though they differ (nats-server 2.15.1).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoServersError, SlowConsumerError

from tempos._awaitables import in_time
from tempos_daemon import kinds
from tempos_daemon.schema import Faults, Key, Keys, Table
from tempos_trigger.kind import Sink
from tempos_trigger.model import EndpointSpec
from tempos_trigger.sources import remote, tls
from tempos_trigger.sources.reconnecting import Reconnecting

CONNECT = 2
#: Seconds between two questions whether the server is still there, and how many it may leave open.
PING, OPEN_PINGS = 5, 2
#: Seconds that what has arrived has to be taken when the endpoint is closed.
DRAIN = 1
SLOW = "slow_consumer"

KEYS: Keys = {
    **remote.server(4222),
    "subject": Key(
        kinds.matching(
            r"(?!.*>.)(?:[^\s*>.]+|\*|>)(?:\.(?:[^\s*>.]+|\*|>))*",
            "a subject of NATS: tokens, * and a last >",
        )
    ),
    "queue": Key(kinds.matching(r"|[^\s*>]{1,128}", 'the name of a queue group, "" for none'), ""),
    "token": Key(remote.PASSWORD, None),
    "body": remote.BODY,
}


class Nats:
    """The kind."""

    keys = KEYS

    def check(self, table: Table, faults: Faults) -> None:
        if table.get("token") is not None and table.get("username") is not None:
            faults.add(table.at("token"), "is there beside username; allowed: one of them")
        tls.check_client(table, faults)

    def claims(self, spec: EndpointSpec) -> Sequence[str]:
        return ()

    def make(self, spec: EndpointSpec, sink: Sink) -> _NatsSource:
        return _NatsSource(spec, sink)


class _NatsSource:
    def __init__(self, spec: EndpointSpec, sink: Sink) -> None:
        self._options = spec.options
        self._sink = sink
        what = f"the NATS server {self._options['server']}:{self._options['port']}"
        self._sessions = Reconnecting(what, self._session)
        self._connection: Client | None = None
        self._tls = tls.Tls(spec.options, listens=False)

    async def open(self) -> None:
        self._tls.load()

    async def start(self) -> None:
        self._sessions.start()

    def takes(self, spec: EndpointSpec) -> bool:
        return spec.options == self._options and self._tls.is_current(spec.options)

    def take(self, spec: EndpointSpec) -> None:
        """All that has changed is the endpoint's."""

    def status(self) -> dict[str, Any]:
        return self._sessions.status()

    async def close(self) -> None:
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(Exception):
                # It answers with what was on its way, and ends.
                await in_time(connection.drain(), DRAIN)
        await self._sessions.close()

    async def _session(self, up: Callable[[], None]) -> None:
        options = self._options
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        said = ""

        async def on_error(error: Exception) -> None:
            nonlocal said
            if isinstance(error, SlowConsumerError):
                self._sink.refuse(SLOW)
            elif str(error):
                said = str(error)

        async def on_closed() -> None:
            if not ended.done():
                ended.set_result(said or "it ended the connection")

        try:
            connection = await nats.connect(
                f"nats://{options['server']}:{options['port']}",
                name="tempos trigger",
                # Coming back is done here, for all kinds alike. By itself it tries a server that is not there
                # sixty times, two seconds apart, before it says so, whether it may come back or not.
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=CONNECT,
                ping_interval=PING,
                max_outstanding_pings=OPEN_PINGS,
                drain_timeout=DRAIN,
                error_cb=on_error,
                closed_cb=on_closed,
                tls=self._tls.context,
                user=options["username"],
                password=options["password"],
                token=options["token"],
            )
        except NoServersError:
            raise ConnectionError(said or "it is not there") from None
        try:
            await connection.subscribe(options["subject"], options["queue"], cb=self._take_in)
            # Refused subscriptions are told behind this.
            await connection.flush(CONNECT)
            self._connection = connection
            up()
            raise ConnectionError(await ended)
        finally:
            self._connection = None
            if not connection.is_closed:
                await connection.close()

    async def _take_in(self, message: Msg) -> None:
        body = message.data
        if self._options["body"] == "whole":
            body = remote.whole({"subject": message.subject, "reply": message.reply or ""}, body)
        self._sink.put(body)

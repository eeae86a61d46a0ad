"""Endpoints of kind ``mqtt``: messages of a server's topic filter become events (MQTT 5).

    qos = 1    a message is acknowledged once its event is published. What is not (the tempos broker is away,
               and it has waited too long, or the buffer is full) stays the server's, and is asked for again
               when the broker is back: by resuming the session. So each comes at least once, unless the
               server's own limits, ``session`` seconds, or the message's expiry interval end it.
    qos = 0    a message is there once, as the server sees it.

What can never be published, because no datagram holds it, is counted and acknowledged: it would come again
for ever. QoS 2 is not offered: the client library tells the server that it has a message before anybody could
publish it. The server never sends more unacknowledged messages than ``buffer``.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from tempos_daemon import kinds
from tempos_daemon.schema import Faults, Key, Keys, Kind, NotAllowed, Table
from tempos_trigger.account import NO_BROKER, NO_TOPIC, QUEUE_FULL, STOPPED, TOO_OLD
from tempos_trigger.kind import Sink
from tempos_trigger.model import EndpointSpec
from tempos_trigger.sources import remote, tls
from tempos_trigger.sources.reconnecting import EndedOnPurpose, Reconnecting

log = logging.getLogger("tempos.trigger")

#: Seconds to connect within, and between two looks at whether the server is to be asked again.
CONNECT, LOOK = 2.0, 0.25
#: Seconds that acknowledgements have before a connection is closed on purpose.
LAST_ACKS = 1.0
#: What the server keeps, since it was not published.
_KEPT = frozenset({TOO_OLD, QUEUE_FULL, NO_BROKER, NO_TOPIC, STOPPED})


def _filter(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value.encode("utf-8", "replace")) <= 65_535:
        raise NotAllowed
    if "\0" in value:
        raise NotAllowed("which has a zero byte in it")
    levels = value.split("/")
    if any(("+" in level or "#" in level) and len(level) > 1 for level in levels) or "#" in levels[:-1]:
        raise NotAllowed("where + is no whole level, or # not the last one")
    return value


KEYS: Keys = {
    **remote.server(1883),
    "filter": Key(Kind("a topic filter of MQTT", _filter)),
    "qos": Key(kinds.whole(0, 1), 1),
    "client_id": Key(remote.USER, None),
    "session": Key(kinds.whole(0, 0xFFFFFFFE), 300),
    "retained": Key(kinds.FLAG, False),
    "body": remote.BODY,
}


class Mqtt:
    """The kind."""

    keys = KEYS

    def check(self, table: Table, faults: Faults) -> None:
        tls.check_client(table, faults)

    def claims(self, spec: EndpointSpec) -> Sequence[str]:
        """A server knows a client by its id, and ends the older connection of two."""
        options = spec.options
        return [f"the client id {client_id(spec)!r} at {options['server']}:{options['port']}"]

    def make(self, spec: EndpointSpec, sink: Sink) -> _MqttSource:
        return _MqttSource(spec, sink)


def client_id(spec: EndpointSpec) -> str:
    """What the server knows the endpoint by, through restarts of this process."""
    return spec.options["client_id"] or f"tempos-{socket.gethostname()}-{spec.name}"


class _MqttSource:
    def __init__(self, spec: EndpointSpec, sink: Sink) -> None:
        self._spec = spec
        self._sink = sink
        options = spec.options
        what = f"the MQTT server {options['server']}:{options['port']}"
        self._sessions = Reconnecting(what, self._session)
        self._client: aiomqtt.Client | None = None
        self._consumer: asyncio.Task[None] | None = None
        self._stopping = False
        self._unacknowledged = 0
        self._owed = 0
        self._tls = tls.Tls(options, listens=False)

    async def open(self) -> None:
        self._tls.load()

    async def start(self) -> None:
        self._sessions.start()

    def takes(self, spec: EndpointSpec) -> bool:
        return spec.options == self._spec.options and self._tls.is_current(spec.options)

    def take(self, spec: EndpointSpec) -> None:
        self._spec = spec

    def status(self) -> dict[str, Any]:
        told = self._sessions.status()
        return {**told, "unacknowledged": self._unacknowledged, "left_to_server": self._owed}

    async def close(self) -> None:
        self._stopping = True
        if self._consumer is not None:
            # Nothing more is taken; what has been taken is acknowledged as long as the connection stands.
            self._consumer.cancel()
            end = asyncio.get_running_loop().time() + LAST_ACKS
            while self._unacknowledged and self._sink.why_not is None:
                if asyncio.get_running_loop().time() >= end:
                    break
                await asyncio.sleep(0.005)
        await self._sessions.close()

    async def _session(self, up: Callable[[], None]) -> None:
        options = self._spec.options
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = options["session"]
        properties.ReceiveMaximum = min(self._spec.buffer, 65_535)
        client = aiomqtt.Client(
            options["server"],
            options["port"],
            username=options["username"],
            password=options["password"],
            identifier=client_id(self._spec),
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=False,
            properties=properties,
            tls_context=self._tls.context,
            timeout=CONNECT,
            keepalive=10,
        )
        # aiomqtt acknowledges as it takes in; its paho client can leave that to us, and has no other name.
        paho = client._client
        paho.manual_ack_set(True)
        paho.connect_timeout = CONNECT
        async with client:
            # What comes of an earlier session's messages is nobody's to acknowledge any more.
            self._client, self._unacknowledged, self._owed = client, 0, 0
            wanted = SubscribeOptions(qos=options["qos"], retainHandling=1 if options["retained"] else 2)
            # The session's messages may come before the answer to this does.
            self._consumer = asyncio.create_task(self._consume(client), name="take MQTT messages")
            watch = asyncio.create_task(self._watch(), name="look at the broker")
            try:
                codes = await client.subscribe(options["filter"], options=wanted)
                if any(isinstance(code, ReasonCode) and code.is_failure for code in codes):
                    raise ConnectionRefusedError(
                        f"the server refuses the subscription to {options['filter']!r}: {codes[0]}"
                    )
                up()
                await asyncio.wait({self._consumer, watch}, return_when=asyncio.FIRST_COMPLETED)
                if self._stopping:
                    await asyncio.Event().wait()
                for task in (self._consumer, watch):
                    if task.done():
                        task.result()
            finally:
                self._client = None
                for task in (self._consumer, watch):
                    task.cancel()
                await asyncio.gather(self._consumer, watch, return_exceptions=True)

    async def _consume(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            self._take_in(client, message)

    def _take_in(self, client: aiomqtt.Client, message: aiomqtt.Message) -> None:
        body = message.payload
        if self._spec.options["body"] == "whole":
            known = {"topic": message.topic.value, "qos": message.qos, "retain": message.retain}
            body = remote.whole(known, body)
        if not message.qos:
            self._sink.put(body)
            return
        self._unacknowledged += 1

        def settled(verdict: str) -> None:
            if client is not self._client:
                return
            self._unacknowledged -= 1
            if verdict in _KEPT:
                self._owed += 1
            else:
                client._client.ack(message.mid, message.qos)

        if reason := self._sink.put(body, settled):
            settled(reason)

    async def _watch(self) -> None:
        """End the session when the server has something for us that can be published now."""
        while True:
            await asyncio.sleep(LOOK)
            if self._owed and not self._unacknowledged and self._sink.why_not is None:
                raise EndedOnPurpose(f"{self._owed} messages are asked for again")

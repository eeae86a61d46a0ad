"""Endpoints of kind ``opcua``: values of nodes become events when they change (subscriptions, OPC UA part 4).

The event's body is JSON: ``{"node", "value", "status", "source_time", "server_time"}``, or with
``body = "data"`` the value alone. The server looks at each node every ``sampling`` seconds, keeps ``queue``
values of it and sends them every ``interval`` seconds; where it says that it had to throw values away, that
is counted as ``overflow``, once for each time that it says so, for it does not say how many.

With ``security`` the connection is a secure channel with the one server whose certificate is known here
(:mod:`tempos_trigger.sources.opcua_security`), and user name and password go through it.

A connection that is lost is given up, client and all, and a new one made: an old one may hang. The first
values of a new subscription are the nodes' values at that moment; what they were in between is not known.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

from asyncua import ua
from asyncua.client.client import Client

from tempos._awaitables import in_time
from tempos_daemon import kinds
from tempos_daemon.schema import Faults, Key, Keys, Kind, NotAllowed, Table
from tempos_trigger.kind import Sink
from tempos_trigger.model import EndpointSpec
from tempos_trigger.sources import opcua_security, remote, values
from tempos_trigger.sources.reconnecting import Reconnecting

# What it has to say is said here, once, and in the status.
logging.getLogger("asyncua").setLevel(logging.CRITICAL)

#: Seconds that an answer may take, and between two questions whether the server is there.
ANSWER, LOOK = 2.0, 2.0
#: Seconds that a connection has to end in order.
LEAVE = 0.5
OVERFLOW = "overflow"
#: DataValue information, overflow (OPC UA part 4, 7.39.1).
_OVERFLOWED = 0x480


def _node(value: object) -> str:
    if not isinstance(value, str):
        raise NotAllowed
    try:
        ua.NodeId.from_string(value)
    except Exception as error:
        raise NotAllowed from error
    return value


KEYS: Keys = {
    "url": Key(
        kinds.matching(
            r"opc\.tcp://[A-Za-z0-9._-]+(:[0-9]{1,5})?(/[!-~]*)?",
            'the address of a server, such as "opc.tcp://10.0.0.9:4840/path"',
        )
    ),
    "nodes": Key(Kind('the id of a node, such as "ns=2;i=7"', _node), many=True, least=1, most=10_000),
    "interval": Key(kinds.seconds(0.01, 3600), 0.5),
    "sampling": Key(kinds.seconds(0.001, 3600), 0.1),
    "queue": Key(kinds.whole(1, 10_000), 10),
    "username": Key(remote.USER, None),
    "password": Key(remote.PASSWORD, None),
    **opcua_security.KEYS,
    "body": Key(kinds.choice("data", "whole"), "whole"),
}


class OpcUa:
    """The kind."""

    keys = KEYS

    def check(self, table: Table, faults: Faults) -> None:
        opcua_security.check(table, faults)

    def claims(self, spec: EndpointSpec) -> Sequence[str]:
        return ()

    def make(self, spec: EndpointSpec, sink: Sink) -> _OpcUaSource:
        return _OpcUaSource(spec, sink)


class _OpcUaSource:
    def __init__(self, spec: EndpointSpec, sink: Sink) -> None:
        self._options = spec.options
        self._sink = sink
        self._security = opcua_security.Security(spec.options)
        self._sessions = Reconnecting(f"the OPC UA server {spec.options['url']}", self._session)

    async def open(self) -> None:
        self._security.load()

    async def start(self) -> None:
        self._sessions.start()

    def takes(self, spec: EndpointSpec) -> bool:
        return spec.options == self._options and self._security.is_current()

    def take(self, spec: EndpointSpec) -> None:
        """All that has changed is the endpoint's."""

    def status(self) -> dict[str, Any]:
        return self._sessions.status()

    async def close(self) -> None:
        await self._sessions.close()

    async def _session(self, up: Callable[[], None]) -> None:
        options = self._options
        client = Client(options["url"], timeout=ANSWER)
        await self._security.secure(client)
        if options["username"] is not None:
            client.set_user(options["username"])
            client.set_password(options["password"] or "")
        lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        try:
            await remote.within(2 * ANSWER, "connect", client.connect())
            asked = client.create_subscription(options["interval"] * 1000, _Handler(self, lost))
            subscription = await remote.within(ANSWER, "subscribe", asked)
            nodes = [client.get_node(each) for each in options["nodes"]]
            wanted = subscription.subscribe_data_change(
                nodes, queuesize=options["queue"], sampling_interval=options["sampling"] * 1000
            )
            codes = await remote.within(2 * ANSWER, "watch nodes", wanted)
            bad = [
                f"{name} ({code.name})"
                for name, code in zip(options["nodes"], codes, strict=True)
                if isinstance(code, ua.StatusCode)
            ]
            if bad:
                raise ConnectionRefusedError(f"the server refuses {', '.join(bad[:10])}")
            up()
            while not lost.done():
                await asyncio.wait({lost}, timeout=LOOK)
                if not lost.done():
                    await remote.within(ANSWER, "are you there", client.nodes.server_state.read_value())
            raise ConnectionError(lost.result())
        finally:
            with contextlib.suppress(Exception):
                await in_time(client.disconnect(), LEAVE)

    def take_in(self, node: str, value: Any, held: ua.DataValue) -> None:
        """A value has changed."""
        code = held.StatusCode
        if code is not None and code.value & _OVERFLOWED == _OVERFLOWED:
            self._sink.refuse(OVERFLOW)
        if self._options["body"] == "data":
            self._sink.put(values.dumped(value))
            return
        whole = {
            "node": node,
            "value": value,
            "status": "Good" if code is None else code.name,
            "source_time": held.SourceTimestamp,
            "server_time": held.ServerTimestamp,
        }
        self._sink.put(values.dumped(whole))


class _Handler:
    """What the library calls."""

    def __init__(self, source: _OpcUaSource, lost: asyncio.Future[str]) -> None:
        self._source = source
        self._lost = lost

    def datachange_notification(self, node: Any, value: Any, data: Any) -> None:
        if not self._lost.done():
            self._source.take_in(node.nodeid.to_string(), value, data.monitored_item.Value)

    def status_change_notification(self, status: Any) -> None:
        if not self._lost.done():
            self._lost.set_result(f"the server ended the subscription: {status.Status.name}")

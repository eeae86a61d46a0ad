"""Endpoints of kind ``modbus``: registers of a device are read every so often and become events (Modbus).

The event's body is JSON: ``{"table", "unit", "address", "values"}``, or with ``body = "data"`` the list of
values alone. ``when = "changes"`` publishes values that differ from the last ones, across connections; "all"
every reading. A device that answers with an error, or with more or fewer values than it is asked for (which
pymodbus 3.16.1 takes for a reading), is asked again like one that is not there, and the status says what it
answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from pymodbus.client import AsyncModbusTcpClient

from tempos_daemon import kinds
from tempos_daemon.schema import Faults, Key, Keys, Table
from tempos_trigger.kind import Sink
from tempos_trigger.model import EndpointSpec
from tempos_trigger.sources import remote, values
from tempos_trigger.sources.reconnecting import Reconnecting

# What it has to say is said here, once, and in the status.
logging.getLogger("pymodbus").setLevel(logging.CRITICAL)

#: How many of each one request may ask for (Modbus application protocol 1.1b3, sections 6.1 to 6.4).
MOST = {"coils": 2000, "discrete": 2000, "holding": 125, "input": 125}
_READ = {
    "coils": "read_coils",
    "discrete": "read_discrete_inputs",
    "holding": "read_holding_registers",
    "input": "read_input_registers",
}
_BITS = ("coils", "discrete")
LAST = 0xFFFF

KEYS: Keys = {
    "server": Key(remote.HOST),
    "port": Key(kinds.PORT, 502),
    "unit": Key(kinds.whole(0, 255), 1),
    "table": Key(kinds.choice(*MOST), "holding"),
    "address": Key(kinds.whole(0, LAST)),
    "count": Key(kinds.whole(1, max(MOST.values())), 1),
    "every": Key(kinds.seconds(0.001, 86_400), 1.0),
    "timeout": Key(kinds.seconds(0.05, 60), 1.0),
    "when": Key(kinds.choice("changes", "all"), "changes"),
    "body": Key(kinds.choice("data", "whole"), "whole"),
}


class Modbus:
    """The kind."""

    keys = KEYS

    def check(self, table: Table, faults: Faults) -> None:
        """One request has to hold them all, and there is a last register."""
        count, most = table.get("count"), MOST[table.get("table")]
        if count > most:
            faults.refuse(table.at("count"), count, f"at most {most} of {table.get('table')}")
        elif table.get("address") + count - 1 > LAST:
            faults.refuse(
                table.at("count"), count, f"at most {LAST + 1 - table.get('address')} from there on"
            )

    def claims(self, spec: EndpointSpec) -> Sequence[str]:
        return ()

    def make(self, spec: EndpointSpec, sink: Sink) -> _ModbusSource:
        return _ModbusSource(spec, sink)


class _ModbusSource:
    def __init__(self, spec: EndpointSpec, sink: Sink) -> None:
        self._options = spec.options
        self._sink = sink
        self._last: list[Any] | None = None
        what = f"the Modbus device {spec.options['server']}:{spec.options['port']}"
        self._sessions = Reconnecting(what, self._session)
        self.readings = 0

    async def open(self) -> None:
        return

    async def start(self) -> None:
        self._sessions.start()

    def takes(self, spec: EndpointSpec) -> bool:
        return spec.options == self._options

    def take(self, spec: EndpointSpec) -> None:
        """All that has changed is the endpoint's."""

    def status(self) -> dict[str, Any]:
        return {**self._sessions.status(), "readings": self.readings}

    async def close(self) -> None:
        await self._sessions.close()

    async def _session(self, up: Callable[[], None]) -> None:
        options = self._options
        loop = asyncio.get_running_loop()
        # Coming back is done here, for all kinds alike.
        client = AsyncModbusTcpClient(
            options["server"],
            port=options["port"],
            timeout=options["timeout"],
            retries=0,
            reconnect_delay=0,
        )
        try:
            if not await client.connect():
                raise ConnectionError("it takes no connection")
            read = getattr(client, _READ[options["table"]])
            # Bits come in whole bytes.
            come = -(-options["count"] // 8) * 8 if options["table"] in _BITS else options["count"]
            due = loop.time()
            is_up = False
            while True:
                answer = await read(options["address"], count=options["count"], device_id=options["unit"])
                if answer.isError():
                    raise ConnectionError(f"it answers {answer}")
                found = answer.bits if options["table"] in _BITS else answer.registers
                if len(found) != come:
                    raise ConnectionError(f"it answers {len(found)} values where {come} should come")
                if not is_up:
                    is_up = True
                    up()
                self._take_in(found[: options["count"]])
                now = loop.time()
                # Without drift; what a slow device had no time for is not made up for.
                due = max(due + options["every"], now)
                await asyncio.sleep(due - now)
        finally:
            client.close()

    def _take_in(self, found: list[Any]) -> None:
        options = self._options
        self.readings += 1
        if options["when"] == "changes" and found == self._last:
            return
        self._last = found
        if options["body"] == "data":
            self._sink.put(values.dumped(found))
            return
        whole = {key: options[key] for key in ("table", "unit", "address")}
        self._sink.put(values.dumped({**whole, "values": found}))

"""Values of an OPC UA server and of a Modbus device become events; both go away and come back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from asyncua import Server, ua
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice
from support.ports import free_ports
from support.triggers import TOPIC, BrokerBeside, broker_beside, eventually, taking, trigger_here

from tempos import ConfigError
from tempos_trigger import layout
from tempos_trigger.sources.values import dumped
from tempos_trigger.trigger import Trigger


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerBeside]:
    with broker_beside(tmp_path_factory.mktemp("broker")) as started:
        yield started


def document(broker: BrokerBeside, *endpoints: dict[str, Any]) -> dict[str, Any]:
    return {"broker": broker.table, "endpoint": [{"topic": TOPIC, **each} for each in endpoints]}


def told(trigger: Trigger, name: str = "in") -> dict[str, Any]:
    status = trigger.endpoints[name].status()
    assert status["balanced"], status
    return status


@asynccontextmanager
async def opcua(port: int) -> AsyncIterator[list[Any]]:
    """A server with two variables."""
    server = Server()
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/plant")
    index = await server.register_namespace("plant")
    objects = await server.nodes.objects.add_object(ua.NodeId("plant", index), "plant")
    found = [
        await objects.add_variable(ua.NodeId(name, index), name, 0.0) for name in ("temperature", "pressure")
    ]
    async with server:
        yield found


@asynccontextmanager
async def modbus(port: int, register: list[int]) -> AsyncIterator[ModbusTcpServer]:
    """A device with ten holding registers from 100 on and coils."""
    data = SimData(100, values=register, datatype=DataType.REGISTERS)
    server = ModbusTcpServer(SimDevice(1, simdata=[data]), address=("127.0.0.1", port))
    task = asyncio.create_task(server.serve_forever())
    await eventually(lambda: server.is_active() or server.transport is not None)
    try:
        yield server
    finally:
        await server.shutdown()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_opcua(broker: BrokerBeside, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    nodes = ["ns=2;s=temperature", "ns=2;s=pressure"]
    url = f"opc.tcp://127.0.0.1:{port}/plant"
    endpoint = {"name": "in", "kind": "opcua", "url": url, "nodes": nodes, "interval": 0.05, "sampling": 0.01}
    async with taking(broker) as taken, trigger_here(tmp_path, document(broker, endpoint)) as trigger:
        # Nobody is there yet.
        await eventually(lambda: told(trigger)["source"]["state"] == "waiting")
        async with opcua(port) as variables:
            await taken.count(2)
            for number in range(1, 6):
                await variables[0].write_value(float(number))
            await taken.until(lambda: any(json.loads(body)["value"] == 5.0 for body in taken.bodies))
            seen = [json.loads(body) for body in taken.in_order]
            assert {each["node"] for each in seen} == set(nodes)
            assert all(each["status"] == "Good" and each["source_time"].endswith("Z") for each in seen)
            order = [each["value"] for each in seen if each["node"] == nodes[0]]
            assert order == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
            assert told(trigger)["source"]["state"] == "up"
        await eventually(lambda: told(trigger)["source"]["state"] == "waiting")
        before = told(trigger)["published"]
        async with opcua(port) as variables:
            await eventually(lambda: told(trigger)["published"] == before + 2)
            await variables[1].write_value(7.5)
            await taken.until(lambda: any(json.loads(body)["value"] == 7.5 for body in taken.bodies))
            assert told(trigger)["source"]["sessions"] == 2
            wrong = document(broker, {**endpoint, "nodes": [nodes[0], "ns=2;s=nothing"]})
            await trigger.apply(layout.parse(wrong, "d"), "test")
            await eventually(lambda: "s=nothing (BadNodeIdUnknown)" in told(trigger)["source"].get("why", ""))


async def test_modbus(broker: BrokerBeside, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    common = {"kind": "modbus", "server": "127.0.0.1", "port": port, "address": 100, "every": 0.02}
    changes = {**common, "name": "in", "count": 3}
    every = {**common, "name": "all", "when": "all", "body": "data", "count": 1, "address": 109}
    wrong = {**common, "name": "wrong", "address": 5000}
    async with (
        taking(broker) as taken,
        trigger_here(tmp_path, document(broker, changes, every, wrong)) as trigger,
    ):
        await eventually(lambda: told(trigger)["source"]["state"] == "waiting")
        async with modbus(port, list(range(10))) as server:
            await taken.until(lambda: taken.bodies[b"[9]"] >= 3)
            first = {"table": "holding", "unit": 1, "address": 100, "values": [0, 1, 2]}
            await eventually(lambda: told(trigger)["published"] == 1)
            await server.async_setValues(1, 16, 101, [77])
            await eventually(lambda: told(trigger)["published"] == 2)
            # What is published is on its way still, behind the readings of the other endpoint.
            await taken.until(lambda: sum(body.startswith(b"{") for body in taken.in_order) >= 2)
            seen = [json.loads(body) for body in taken.in_order if body.startswith(b"{")]
            assert seen == [first, {**first, "values": [0, 77, 2]}]
            # It waits from before the device was there, for as long as it then thought right.
            await eventually(lambda: "it answers" in told(trigger, "wrong")["source"].get("why", ""))
            assert told(trigger, "wrong")["received"] == 0
        await eventually(lambda: told(trigger)["source"]["state"] == "waiting")
        async with modbus(port, [0, 77, 2, 3, 4, 5, 6, 7, 8, 9]):
            await eventually(lambda: told(trigger)["source"]["state"] == "up")
            # It is as it was, so nothing is to be told.
            readings = told(trigger)["source"]["readings"]
            await eventually(lambda: told(trigger)["source"]["readings"] > readings + 2)
            assert told(trigger)["published"] == 2


@asynccontextmanager
async def answering(port: int, size: int) -> AsyncIterator[None]:
    """A device that answers whatever it is asked with so many bytes, 1, 2, 3 and so on."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while len(asked := await reader.read(12)) == 12:
            values = bytes(range(1, size + 1))
            writer.write(asked[:4] + bytes((0, 3 + size)) + asked[6:8] + bytes((size,)) + values)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()


@pytest.mark.parametrize(
    ("table", "count", "size", "words", "right", "first"),
    [
        ("holding", 2, 2, "1 values where 2 should come", 4, [0x0102, 0x0304]),
        ("input", 2, 6, "3 values where 2 should come", 4, [0x0102, 0x0304]),
        ("coils", 9, 1, "8 values where 16 should come", 2, [True, *[False] * 8]),
        ("discrete", 9, 3, "24 values where 16 should come", 2, [True, *[False] * 8]),
    ],
)
async def test_a_device_that_answers_more_or_less_than_it_is_asked_is_no_reading(
    table: str, count: int, size: int, words: str, right: int, first: list[Any],
    broker: BrokerBeside, tmp_path: Path,
) -> None:  # fmt: skip
    (port,) = free_ports(1)
    endpoint = {"name": "in", "kind": "modbus", "server": "127.0.0.1", "port": port, "address": 100,
                "table": table, "count": count, "every": 0.02, "body": "data"}  # fmt: skip
    async with taking(broker) as taken, trigger_here(tmp_path, document(broker, endpoint)) as trigger:
        async with answering(port, size):
            await eventually(lambda: words in told(trigger)["source"].get("why", ""))
        assert told(trigger)["received"] == 0
        async with answering(port, right):
            await taken.count(1)
            (body,) = taken.in_order
            assert json.loads(body) == first


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "opcua", "url": "http://x", "nodes": ["i=1"]}, "the address of a server"),
        ({"kind": "opcua", "url": "opc.tcp://x", "nodes": ["temperature"]}, "the id of a node"),
        ({"kind": "opcua", "url": "opc.tcp://x", "nodes": []}, "a list of 1 to 10000"),
        ({"kind": "modbus", "server": "x", "address": 0, "count": 126}, "at most 125 of holding"),
        ({"kind": "modbus", "server": "x", "address": 65535, "count": 2}, "at most 1 from there on"),
        ({"kind": "modbus", "server": "x", "address": 0, "table": "coil"}, '"coils"'),
    ],
)
def test_what_is_refused_at_once(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        layout.parse({"endpoint": [{"name": "x", "topic": "t", **options}]}, "d")


def test_any_value_is_some_json() -> None:
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    found = json.loads(
        dumped(
            [
                1.5,
                float("nan"),
                b"\xff",
                datetime(2025, 1, 2, tzinfo=timezone.utc),
                {1: ua.NodeId(7, 2)},
                deep,
            ]
        )
    )
    assert found[:4] == [1.5, "nan", "/w==", "2025-01-02T00:00:00Z"]

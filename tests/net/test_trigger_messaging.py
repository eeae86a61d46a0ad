"""Messages of real MQTT and NATS servers become events; servers and broker die in the middle."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import nats
import pytest
from support.counterparts import Mosquitto, NatsServer
from support.ports import free_ports
from support.triggers import TOPIC, BrokerBeside, broker_beside, eventually, taking, trigger_here
from support.waiting import LIMIT

from tempos import ConfigError
from tempos_trigger import layout
from tempos_trigger.trigger import Trigger


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerBeside]:
    with broker_beside(tmp_path_factory.mktemp("broker")) as started:
        yield started


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    server = Mosquitto(tmp_path)
    server.start()
    yield server
    server.end()


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path)
    server.start()
    yield server
    server.end()


def document(broker: BrokerBeside, *endpoints: dict[str, Any]) -> dict[str, Any]:
    return {"broker": broker.table, "endpoint": [{"topic": TOPIC, **each} for each in endpoints]}


def told(trigger: Trigger, name: str = "in") -> dict[str, Any]:
    status = trigger.endpoints[name].status()
    assert status["balanced"], status
    return status


def source(trigger: Trigger, name: str = "in") -> dict[str, Any]:
    found: dict[str, Any] = told(trigger, name)["source"]
    return found


async def send(port: int, *messages: tuple[str, bytes], qos: int = 1) -> None:
    async with aiomqtt.Client("127.0.0.1", port) as client:
        for topic, body in messages:
            await client.publish(topic, body, qos=qos)


async def test_mqtt(broker: BrokerBeside, mosquitto: Mosquitto, tmp_path: Path) -> None:
    mqtt: dict[str, Any] = {
        "name": "in",
        "kind": "mqtt",
        "server": "127.0.0.1",
        "port": mosquitto.port,
        "filter": "plant/+/t",
    }
    plain = {**mqtt, "name": "plain", "filter": "whole/#", "qos": 0, "body": "whole"}
    async with trigger_here(tmp_path, document(broker, {**mqtt, "max_age": 0.4}, plain)) as trigger:
        await eventually(lambda: source(trigger)["state"] == source(trigger, "plain")["state"] == "up")
        async with taking(broker) as taken:
            await send(mosquitto.port, ("plant/1/t", b"21"), ("plant/1/u", b"no"), ("whole/x", b"\xff"))
            await taken.count(2)
            assert taken.bodies[b"21"] == 1
            (wrapped,) = set(taken.bodies) - {b"21"}
            assert json.loads(wrapped) == {
                "topic": "whole/x",
                "qos": 0,
                "retain": False,
                "data_base64": "/w==",
            }
            # Too large for any datagram: counted, and acknowledged, or it would come again for ever.
            await send(mosquitto.port, ("plant/1/t", b"x" * 70_000))
            await eventually(lambda: told(trigger)["dropped"] == {"too_large": 1})
            assert source(trigger)["left_to_server"] == source(trigger)["unacknowledged"] == 0

        # The broker is away: what cannot be published is not acknowledged, and comes again.
        await asyncio.to_thread(broker.end)
        await send(mosquitto.port, *[("plant/2/t", b"away %d" % number) for number in range(30)])
        await eventually(lambda: told(trigger)["dropped"].get("too_old") == 30)
        assert source(trigger)["left_to_server"] == 30
        await asyncio.to_thread(broker.start)
        await eventually(lambda: told(trigger)["published"] == 31)
        # The session's messages may come before it is said to be there.
        await eventually(lambda: source(trigger)["sessions"] == 2)
        assert told(trigger)["received"] == 62
        # What the server has no acknowledgement of when it ends it would send again.
        await eventually(lambda: source(trigger)["unacknowledged"] == 0)

        # From here on nothing is to grow too old, however busy the machine is.
        mqtt["max_age"] = LIMIT
        await trigger.apply(layout.parse(document(broker, mqtt, plain), "d"), "test")
        await eventually(lambda: source(trigger)["state"] == "up")

        # The server is away; what comes while nobody is there waits in the session, which it keeps.
        await asyncio.to_thread(mosquitto.end)
        await eventually(lambda: source(trigger)["state"] == "waiting")
        assert "MQTT server" not in source(trigger)["why"]
        await asyncio.to_thread(mosquitto.start)
        async with taking(broker) as taken:
            await send(mosquitto.port, *[("plant/3/t", b"back %d" % number) for number in range(30)])
            await taken.until(lambda: sum(body.startswith(b"back") for body in taken.bodies) == 30)
            await eventually(lambda: source(trigger)["unacknowledged"] == 0)
        # Another filter for the same client: what was published is acknowledged, so nothing comes twice.
        before = told(trigger)["received"]
        other = document(broker, {**mqtt, "filter": "other/#"}, plain)
        assert await trigger.apply(layout.parse(other, "d"), "test") == ["changed 'in'"]
        await eventually(lambda: source(trigger)["state"] == "up")
        await send(mosquitto.port, ("other/1", b"other"))
        await eventually(lambda: told(trigger)["received"] > before)
        assert told(trigger)["received"] == before + 1


async def test_a_nats_server_that_is_not_there_is_told(broker: BrokerBeside, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    endpoint = {"kind": "nats", "name": "in", "server": "127.0.0.1", "port": port, "subject": "a"}
    async with trigger_here(tmp_path, document(broker, endpoint)) as trigger:
        await eventually(lambda: source(trigger)["state"] == "waiting")
        assert "Connect call failed" in source(trigger)["why"] or "refused" in source(trigger)["why"]
        assert told(trigger)["shut"].startswith(f"the NATS server 127.0.0.1:{port} is not there: ")


async def test_nats(broker: BrokerBeside, nats_server: NatsServer, tmp_path: Path) -> None:
    common = {"kind": "nats", "server": "127.0.0.1", "port": nats_server.port, "topic": TOPIC}
    # Two of a group share the messages, one more gets each.
    shared = [
        {**common, "name": name, "subject": "plant.>", "queue": "q", "max_age": 30} for name in ("a", "b")
    ]
    whole = {**common, "name": "in", "subject": "plant.*.t", "body": "whole"}
    async with trigger_here(tmp_path, document(broker, *shared, whole)) as trigger:

        async def all_are(state: str) -> None:
            await eventually(lambda: {source(trigger, name)["state"] for name in ("a", "b", "in")} == {state})

        async def publish(*bodies: bytes) -> None:
            client = await nats.connect(f"nats://127.0.0.1:{nats_server.port}")
            for body in bodies:
                await client.publish("plant.1.t", body)
            await client.drain()

        await all_are("up")
        async with taking(broker) as taken:
            await publish(*[b"%d" % number for number in range(50)])
            await taken.count(100)
            assert sum(taken.bodies[b"%d" % number] for number in range(50)) == 50
            wrapped = [json.loads(body) for body in taken.bodies if body.startswith(b"{")]
            assert sorted(int(each["data"]) for each in wrapped) == list(range(50))
            assert told(trigger, "a")["received"] + told(trigger, "b")["received"] == 50
            assert told(trigger, "a")["received"] * told(trigger, "b")["received"] > 0

        await asyncio.to_thread(nats_server.end, signal.SIGKILL)
        await all_are("waiting")
        await asyncio.to_thread(broker.end)
        await asyncio.to_thread(nats_server.start)
        await all_are("up")
        # They wait in the buffer, for the server has forgotten them.
        await publish(b"one", b"two")
        await eventually(lambda: told(trigger, "a")["waiting"] + told(trigger, "b")["waiting"] == 2)
        await asyncio.to_thread(broker.start)
        await eventually(lambda: told(trigger, "a")["published"] + told(trigger, "b")["published"] == 52)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "mqtt", "filter": "a+/b"}, "is no whole level"),
        ({"kind": "mqtt", "filter": "#/b"}, "not the last one"),
        ({"kind": "mqtt", "filter": "a", "qos": 2}, "an integer from 0 to 1"),
        ({"kind": "mqtt", "filter": "a", "password": "x" * 300}, "not shown: a secret"),
        ({"kind": "nats", "subject": "a..b"}, "a subject of NATS"),
        ({"kind": "nats", "subject": "a.>.b"}, "a subject of NATS"),
        ({"kind": "nats", "subject": "a b"}, "a subject of NATS"),
        ({"kind": "nats", "subject": "a", "token": "t", "username": "u"}, "one of them"),
        ({"kind": "nats", "subject": "a", "server": "nats://x"}, "the name or the IPv4 address"),
    ],
)
def test_what_is_refused_at_once(options: dict[str, Any], words: str) -> None:
    endpoint = {"name": "x", "topic": "t", "server": "localhost", **options}
    with pytest.raises(ConfigError, match=words):
        layout.parse({"endpoint": [endpoint]}, "d")

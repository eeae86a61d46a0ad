"""An invoker that was killed is the member that it was: no event goes to its former self."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from support import brokers
from support.invokers import CODE, LIMIT, Broker, Daemon, function, serving_broker, serving_invoker, step

EVENTS = 20


def members(broker: Broker) -> list[tuple[str, int]]:
    groups = brokers.get(broker.api, "/v1/topics/in")["groups"]
    return [(each["ip"], each["port"]) for group in groups for each in group["members"]]


def start_again(daemon: Daemon) -> None:
    daemon.end(signal.SIGKILL)
    assert daemon.start().startswith("ready")
    daemon.until(lambda now: now["ready"], "it is in force again")


def bind(sock: socket.socket, address: tuple[str, int]) -> None:
    """Take an address that a worker, which ends with its invoker, may have for a moment yet."""
    end = time.monotonic() + LIMIT
    while True:
        try:
            sock.bind(address)
        except OSError:
            assert time.monotonic() < end, f"{address} is not free"
            time.sleep(0.01)
        else:
            return


async def every_event_has_its_result(broker: Broker) -> None:
    got: set[bytes] = set()
    async with broker.subscriber("out") as results, broker.publisher() as publisher:
        for number in range(EVENTS):
            await publisher.publish("in", b"%d" % number)
        while len(got) < EVENTS:
            got.add((await asyncio.wait_for(results.__anext__(), LIMIT)).body)
    assert got == {b"%d" % number * 2 for number in range(EVENTS)}


def test_a_broker_that_is_silent_for_longer_than_a_lease_is_told_of(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    broker.file.write_text(broker.file.read_text() + "[control]\nlease = 1.0\nheartbeat = 0.25\n")
    with brokers.serving(broker.file, broker.log) as process, serving_invoker(tmp_path) as daemon:
        code = daemon.upload(CODE)
        document = {"broker": broker.table, "function": [function("twice", code=code)],
                    "step": [step(takes="twice", error="")]}  # fmt: skip
        assert daemon.ask("PUT", "/v1/deployment", document)[0] == 200
        assert daemon.ask("GET", "/v1/ready")[0] == 200
        process.send_signal(signal.SIGSTOP)
        try:
            told = daemon.until(lambda now: not now["ready"], "it says so")
            assert "has not answered for" in told["broker_fault"]
            (source,) = (each["source"] for each in told["steps"])
            assert (source["joined"], "has not answered" in source["reason"]) == (False, True)
            assert daemon.ask("GET", "/v1/ready")[0] == 503
            lines = daemon.send("GET", "/metrics")[1].decode().splitlines()
            assert {"tempos_invoker_ready 0.0", "tempos_invoker_broker_there 0.0"} <= set(lines)
        finally:
            process.send_signal(signal.SIGCONT)
        told = daemon.until(lambda now: now["ready"], "it is a member again")
        assert (told["broker_fault"], told["steps"][0]["source"]["reason"]) == ("", "")


@pytest.fixture
def deployed(tmp_path: Path) -> Any:
    with serving_broker(tmp_path) as broker, serving_invoker(tmp_path) as daemon:
        code = daemon.upload(CODE)
        document = {
            "broker": broker.table,
            "function": [function("twice", code=code)],
            "step": [step(takes="twice", error="")],
        }
        assert daemon.ask("PUT", "/v1/deployment", document)[0] == 200
        yield broker, daemon


async def test_it_comes_back_at_its_port_and_loses_nothing_from_then_on(deployed: Any) -> None:
    broker, daemon = deployed
    (before,) = members(broker)
    start_again(daemon)
    assert members(broker) == [before]
    await every_event_has_its_result(broker)


async def test_where_its_port_is_another_s_by_now_it_takes_any(deployed: Any) -> None:
    broker, daemon = deployed
    (before,) = members(broker)
    daemon.end(signal.SIGKILL)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        bind(other, before)
        assert daemon.start().startswith("ready")
        daemon.until(lambda now: now["ready"], "it is in force again")
        assert any(each != before for each in members(broker))


async def test_ports_that_cannot_be_read_are_not_known(deployed: Any) -> None:
    broker, daemon = deployed
    (daemon.state / "ports.json").write_text('{"a": "b"')
    start_again(daemon)
    assert "ports.json cannot be read" in daemon.log.read_text()
    assert len(members(broker)) == 2


async def test_what_waited_for_a_function_of_one_that_was_killed_goes_to_another(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    queue = 'name = "in"\njournal = 4096\nredeliver = true\n'
    text = broker.file.read_text().replace('name = "in"\n', queue)
    broker.file.write_text(text + "[control]\nlease = 1.0\nheartbeat = 0.25\n")
    with brokers.serving(broker.file, broker.log), serving_invoker(tmp_path) as daemon:
        code = daemon.upload(CODE)
        document = {"broker": broker.table, "function": [function("work", code=code)],
                    "step": [step(takes="work", error="")]}  # fmt: skip
        assert daemon.ask("PUT", "/v1/deployment", document)[0] == 200
        gate, events = tmp_path / "go on", 200
        async with broker.subscriber("out") as results, broker.publisher() as publisher:
            for number in range(events):
                body = {"n": number, "do": "until", "file": str(gate)}
                await publisher.publish("in", json.dumps(body).encode())
            await publisher.flush()

            def come(now: dict[str, Any]) -> bool:
                return bool(now["steps"][0]["source"]["events"] == events)

            told = await asyncio.to_thread(daemon.until, come, "all have come")
            given = told["steps"][0]["account"]["running"]
            await asyncio.to_thread(daemon.end, signal.SIGKILL)
            gate.touch()
            assert (await asyncio.to_thread(daemon.start)).startswith("ready")
            got: set[int] = set()
            while len(got) < events - given:
                result = await asyncio.wait_for(results.__anext__(), LIMIT)
                got.add(json.loads(result.body)["n"])
        assert given < events / 2

"""The trigger as a process: deployments over the API and in a file, restarts, signals."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.ports import free_ports
from support.triggers import LIMIT, TOPIC, BrokerBeside, Daemon, broker_beside, taking
from support.waiting import until


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path)
    yield made
    made.kill()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerBeside]:
    with broker_beside(tmp_path_factory.mktemp("broker")) as started:
        yield started


def hook(port: int, name: str = "in", **more: Any) -> dict[str, Any]:
    listen = f"127.0.0.1:{port}"
    return {"name": name, "kind": "http", "topic": TOPIC, "listen": listen, "path": f"/{name}", **more}


def call(port: int, path: str = "/in") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    try:
        connection.request("POST", path, b"x")
        return connection.getresponse().status
    finally:
        connection.close()


def test_what_was_kept_and_cannot_be_had_is_tried_again(broker: BrokerBeside, daemon: Daemon) -> None:
    one, two = free_ports(2)
    daemon.start()
    first = {"revision": "r1", "broker": broker.table, "endpoint": [hook(one), hook(two, "b")]}
    assert daemon.ask("PUT", "/v1/deployment", first)[0] == 200
    daemon.end(signal.SIGKILL)
    with socket.create_server(("127.0.0.1", two)):
        # It starts all the same: who else could be given another deployment?
        line = daemon.start()
        assert line.startswith("ready: no deployment yet (the deployment that was kept is not in force yet:")
        assert "'b'" in daemon.ask("GET", "/v1/status")[1]["fault"]
        assert daemon.ask("GET", "/v1/ready")[0] == 503
        with pytest.raises(ConnectionRefusedError):
            call(one)
    until(lambda: daemon.ask("GET", "/v1/deployment") == (200, first))
    assert call(two, "/b") == 202
    assert daemon.ask("GET", "/v1/status")[1]["fault"] == ""
    daemon.end(signal.SIGKILL)
    (daemon.folder / "trigger" / "deployment.json").write_text('{"endpoint": [{"kind": "gone"}]}')
    assert "cannot be used" in daemon.start()
    assert daemon.ask("PUT", "/v1/deployment", first)[0] == 200
    assert call(one) == 202


def test_a_deployment_is_put_whole_or_not_at_all_and_outlives_the_process(
    broker: BrokerBeside, daemon: Daemon
) -> None:
    one, two, taken = free_ports(3)
    assert daemon.start().startswith("ready: no deployment yet")
    assert daemon.ask("GET", "/v1/deployment")[0] == 404
    assert daemon.ask("GET", "/v1/ready") == (503, {"ready": False})
    first = {"revision": "r1", "broker": broker.table, "endpoint": [hook(one)]}
    code, answer = daemon.ask("PUT", "/v1/deployment", first)
    assert (code, answer) == (200, {"revision": "r1", "changes": ["added 'in'"]})
    # Nobody else has its state meanwhile.
    other = Daemon(daemon.folder, name="other")
    other.file.write_text(other.head.replace('/other"', '/trigger"'))
    assert other.start() == ""
    assert other.end()[0] == 1
    assert "another trigger has the state folder" in other.log.read_text()
    # In force means: the very next call is served.
    assert call(one) == 202
    assert daemon.ask("GET", "/v1/ready") == (200, {"ready": True})

    wrong = {"endpoint": [hook(one, kind="htp"), hook(two, topic=7)]}
    code, answer = daemon.ask("PUT", "/v1/deployment", wrong)
    assert (code, len(answer["problems"])) == (422, 3)
    with socket.create_server(("127.0.0.1", taken)):
        wanted = {
            **first,
            "revision": "r2",
            "endpoint": [hook(one, limit=1), hook(two, "b"), hook(taken, "c")],
        }
        code, answer = daemon.ask("PUT", "/v1/deployment", wanted)
    assert code == 409
    assert "'c'" in answer["problems"][0]
    assert daemon.ask("GET", "/v1/deployment")[1] == first
    assert call(one) == 202
    with pytest.raises(ConnectionRefusedError):
        call(two)

    # Many endpoints are a long document.
    many = {**first, "revision": "r3", "endpoint": [hook(one, f"n{number}") for number in range(1000)]}
    assert len(json.dumps(many)) > 1 << 16
    code, answer = daemon.ask("PUT", "/v1/deployment", many)
    assert code == 200, answer
    assert call(one, "/n999") == 202
    # A kill leaves what was in force.
    daemon.end(signal.SIGKILL)
    assert daemon.start().startswith("ready: http http://")
    assert daemon.ask("GET", "/v1/deployment")[1] == many
    assert call(one, "/n999") == 202
    told = daemon.endpoint("n999")
    assert (told["received"], told["published"], told["balanced"]) == (1, 1, True)
    text = daemon.ask("GET", "/metrics")[1]
    assert 'tempos_trigger_published_total{endpoint="n999",kind="http"} 1.0' in text.splitlines()
    code, took = daemon.end()
    assert code == 0
    assert took < 5


def test_a_file_is_read_again_and_is_the_only_one_to_say(broker: BrokerBeside, daemon: Daemon) -> None:
    (port,) = free_ports(1)

    def write(*endpoints: str) -> None:
        tables = "\n".join(
            f'[[endpoint]]\nname = "{name}"\nkind = "http"\ntopic = "{TOPIC}"\n'
            f'listen = "127.0.0.1:{port}"\npath = "/{name}"\n'
            for name in endpoints
        )
        ports = f"data_port = {broker.data}\ncontrol_port = {broker.control}"
        daemon.file.write_text(f"{daemon.head}[broker]\n{ports}\n{tables}")

    write("a")
    url = f"http://127.0.0.1:{port}/a"
    assert daemon.start() == f"ready: http {url} to {TOPIC}; api http://127.0.0.1:{daemon.port}\n"
    assert call(port, "/a") == 202
    assert daemon.process is not None
    write("a", "b")
    daemon.process.send_signal(signal.SIGHUP)
    assert daemon.line() == "reload: added 'b'\n"
    assert call(port, "/b") == 202
    write("a", "a")
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: "endpoint[1].name" in daemon.log.read_text())
    assert call(port, "/b") == 202
    write("a", "b")
    daemon.file.write_text(daemon.file.read_text().replace(f"{daemon.port}", "9", 1))
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: "trigger.api cannot change while it runs" in daemon.log.read_text())
    code, answer = daemon.ask("PUT", "/v1/deployment", {"endpoint": []})
    assert (code, "SIGHUP" in answer["detail"]) == (409, True)
    assert daemon.end()[0] == 0
    daemon.file.write_text(f"{daemon.head}nam = 1\n")
    assert daemon.start() == ""
    assert daemon.end()[0] == 2
    assert "trigger.nam is an unknown key" in daemon.log.read_text()


async def test_what_has_come_in_is_published_before_it_ends(broker: BrokerBeside, daemon: Daemon) -> None:
    (port,) = free_ports(1)
    endpoint = {"name": "u", "kind": "udp", "topic": TOPIC, "listen": f"127.0.0.1:{port}"}
    await asyncio.to_thread(daemon.start)
    document = {"broker": broker.table, "endpoint": [endpoint]}
    assert (await asyncio.to_thread(daemon.ask, "PUT", "/v1/deployment", document))[0] == 200
    async with taking(broker) as taken:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number in range(500):
                sender.sendto(b"%d" % number, ("127.0.0.1", port))
        code, took = await asyncio.to_thread(daemon.end)
        assert code == 0
        assert took < 5
        await taken.count(500)
        assert taken.in_order == [b"%d" % number for number in range(500)]


def test_it_starts_without_a_broker_and_says_so(daemon: Daemon) -> None:
    port, data, control = free_ports(3)
    daemon.start()
    document = {"broker": {"data_port": data, "control_port": control}, "endpoint": [hook(port)]}
    assert daemon.ask("PUT", "/v1/deployment", document)[0] == 200
    assert call(port) == 503
    status = daemon.ask("GET", "/v1/status")[1]
    assert not status["ready"]
    assert "no answer" in status["broker"]["why"]
    code, took = daemon.end()
    assert code == 0
    assert took < 5

"""The control API: what it answers, who may ask, and whatever else a client may send."""

from __future__ import annotations

import http.client
import json
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi import schemas as _read_before_any_thread  # noqa: F401
from schemathesis.specs.openapi.checks import response_schema_conformance
from support import forking
from support.waiting import LIMIT

from tempos.cli import main
from tempos_daemon.metrics import MEDIA_TYPE

from .test_broker import free_ports

TOKEN = "0123456789abcdef-token"


class Running:
    """A broker process whose API wants a token, and one member that is a bare socket."""

    def __init__(self, folder: Path, *flags: str) -> None:
        data, control, self.port = free_ports(3)
        self.file = folder / "broker.toml"
        self.token = folder / "token"
        self.token.write_text(TOKEN + "\n")
        self._head = (
            f'[broker]\nlisten = ["127.0.0.1"]\ndata_port = {data}\ncontrol_port = {control}\n'
            f'api = "127.0.0.1:{self.port}"\napi_token_file = "{self.token}"\n[fastpath]\nmode = "off"\n'
            '[state]\nfile = "off"\n'
        )
        self.configure('[[topic]]\nid = 1\nname = "events"\n[[topic.member]]\nip = "127.0.0.1"\nport = 9\n'
                       'group = "bare/one"\n[[topic]]\nid = 2\nname = "a b"\n')  # fmt: skip
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = forking.start(
                (sys.executable, *flags, "-m", "tempos_broker", "-c", str(self.file)),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("ready")

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(LIMIT) == 0
        assert self.process.stdout is not None
        self.process.stdout.close()

    def configure(self, topics: str) -> None:
        self.file.write_text(self._head + topics)

    def ask(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        try:
            sent = None if body is None else json.dumps(body)
            given = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"} | headers
            connection.request(method, path, sent, {k: v for k, v in given.items() if v})
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, told, json.loads(answer.read())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("api"))
    yield running
    running.close()


def test_who_asks_first_waits_for_no_code_to_be_read(tmp_path: Path) -> None:
    """Events would wait as well. What pages for Prometheus need is read beside the event loop."""
    broker = Running(tmp_path, "-X", "importtime")
    before = len(broker.log.read_text())
    for path in ("/v1/health", "/v1/status", "/v1/ledger", "/v1/topics", "/v1/routes", "/v1/nothing"):
        broker.ask("GET", path)
    broker.close()
    assert "import time: " in broker.log.read_text()[:before]
    assert "import time: " not in broker.log.read_text()[before:].partition("tempos.broker")[0]


def test_every_resource_is_there_and_described(broker: Running) -> None:
    for path, looks in (
        ("/v1/health", {"health": "ok"}),
        ("/v1/ready", {"ready": True}),
        ("/v1/routes", [{"topic": "events", "epoch": 1, "path": "slow",
                         "groups": [{"name": "bare/one", "members": ["127.0.0.1:9"]}]},
                        {"topic": "a b", "epoch": 1, "path": "slow", "groups": []}]),
        ("/v1/topics/a%20b/path", {"topic": "a b", "policy": "auto", "path": "slow",
                                   "reason": "the topic has no member"}),
        ("/v1/topics/events/groups/bare%2Fone/members",
         [{"ip": "127.0.0.1", "port": 9, "static": True, "from": "127.0.0.1", "lease_s": None,
           "left_out": "", "in_route": True, "unheard": 0, "ticketed": 0, "delivered": None, "dropped": None,
           "waiting": None, "queue": None, "overruns": None}]),
    ):  # fmt: skip
        status, _, answer = broker.ask("GET", path)
        assert (status, answer) == (200, looks)
    assert broker.ask("GET", "/v1/ledger")[2]["balanced"] is True
    described = broker.ask("GET", "/openapi.json")[2]
    assert set(described["paths"]) >= {"/v1/topics", "/v1/ledger", "/v1/reload", "/v1/topics/{topic}/path"}


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "words"),
    [
        ("GET", "/v1/health", None, {"Authorization": ""}, 401, "a token is needed"),
        ("GET", "/openapi.json", None, {"Authorization": "Bearer " + TOKEN[:-1]}, 401, "not the one"),
        ("GET", "/v1/health", None, {"Authorization": "Basic " + TOKEN}, 401, "a token is needed"),
        ("POST", "/v1/reload", None, {"Origin": "http://example.org"}, 403, "web pages"),
        ("POST", "/v1/reload", None, {"Content-Length": "99999999"}, 413, "at most"),
        ("GET", "/v1/topics/gamma", None, {}, 404, "known: a b, events"),
        ("GET", "/nowhere", None, {}, 404, "Not Found"),
        ("PUT", "/v1/topics", None, {}, 405, "Method Not Allowed"),
        ("POST", "/v1/topics/gamma/path", {"policy": "slow"}, {}, 404, "no topic is named 'gamma'"),
        ("POST", "/v1/topics/events/path", {"policy": "faster"}, {}, 422, "policy"),
        ("POST", "/v1/topics/events/path", [1], {}, 422, "body"),
        ("DELETE", "/v1/topics/events/groups/bare%2Fone/members/127.0.0.1:9", None, {}, 404, "static"),
        ("DELETE", "/v1/topics/events?drain=true", None, {}, 409, "stands in the configuration file"),
        ("DELETE", "/v1/topics/a%2Fb", None, {}, 404, "no topic is named 'a/b'"),
        ("PATCH", "/v1/topics/events", {"rate": 1}, {}, 409, "change it there, and reload"),
        ("POST", "/v1/topics", {"name": "events"}, {}, 409, "the file has it"),
        ("POST", "/v1/topics", {"name": "x", "rate": "1", "x": 2}, {}, 422, 'rate is "1"'),
        ("POST", "/v1/topics", {"id": 7}, {}, 422, "name is missing"),
        ("POST", "/v1/topics", [], {}, 422, "body"),
        ("GET", "/v1/options?origin=me", None, {}, 422, "origin"),
        ("POST", "/v1/clients", {"id": "x", "key": "ab" * 20}, {}, 409, "keeps no state"),
        ("POST", "/v1/clients", {"id": "x", "key": "ab"}, {}, 422, "key is not what it must be (not shown"),
        ("POST", "/v1/clients", {"id": "x", "x": 2}, {}, 422, "key is missing"),
        ("PATCH", "/v1/clients/x", {"publish": ["*"]}, {}, 404, "there is no client 'x'"),
        ("DELETE", "/v1/clients/x", None, {}, 404, "tempos ctl client list"),
        ("POST", "/v1/signing", {"signed": 1}, {}, 422, "signed"),
        ("DELETE", "/v1/topics/events/groups/g/members/localhost", None, {}, 422, "member"),
        ("POST", "/v1/topics/events/groups/g/members/1.2.3.4:5/drain", {"patience_s": 61}, {}, 422, "60"),
    ],
)  # fmt: skip
def test_refusals_are_problems_that_say_what_to_do(
    broker: Running, method: str, path: str, body: object, headers: dict[str, str], status: int, words: str
) -> None:
    got, told, problem = broker.ask(method, path, body, **headers)
    assert (got, told["content-type"]) == (status, "application/problem+json")
    assert (problem["status"], problem["type"]) == (status, "about:blank")
    assert words in problem["detail"]


def test_a_topic_is_a_resource_whatever_its_name(broker: Running) -> None:
    name, address = "plant/50 %/path", "/v1/topics/plant%2F50%20%25%2Fpath"
    status, headers, made = broker.ask("POST", "/v1/topics", {"name": name, "id": 200, "burst": None})
    assert (status, headers["location"], made["origin"], made["durable"]) == (201, address, "run-time", False)
    assert broker.ask("GET", address)[2] == made
    assert broker.ask("GET", f"{address}/path")[2]["topic"] == name
    options = {"id": 200, "name": name, "class": "BQ", "priority": 0, "framing": "event", "path": "auto",
               "fanout": "auto", "unheard": "auto"}  # fmt: skip
    assert broker.ask("GET", f"{address}/options")[2] == {"origin": "run-time", "options": options}
    changed = broker.ask("PATCH", address, {"rate": 10, "sources": ["10.0.0.0/8"]})
    assert (changed[0], changed[2]["rate"], changed[2]["sources"]) == (200, 10, ["10.0.0.0/8"])
    assert [each["options"]["name"] for each in broker.ask("GET", "/v1/options")[2]] == [
        "events",
        "a b",
        name,
    ]
    assert [each["options"]["rate"] for each in broker.ask("GET", "/v1/options?origin=run-time")[2]] == [10]
    status, _, gone = broker.ask("DELETE", address)
    assert (status, gone["removed"], gone["account"]["balanced"]) == (200, name, True)
    assert broker.ask("GET", address)[0] == 404


def test_who_is_turned_away_is_counted_and_named_in_the_log(broker: Running) -> None:
    before = broker.ask("GET", "/v1/status")[2]["control"]["api_refused"]
    for token in ("", "Bearer wrong", "Bearer wrong"):
        assert broker.ask("GET", "/v1/status", Authorization=token)[0] == 401
    after = broker.ask("GET", "/v1/status")[2]["control"]["api_refused"]
    assert after["no token"] == before.get("no token", 0) + 1
    assert after["wrong token"] == before.get("wrong token", 0) + 2
    assert "broker API request from 127.0.0.1 refused: wrong token" in broker.log.read_text()


def test_the_commands_of_an_operator(
    broker: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPOS_API", f"http://127.0.0.1:{broker.port}")
    monkeypatch.setenv("TEMPOS_TOKEN", TOKEN)

    def run(*arguments: str) -> tuple[int, str]:
        code = main(list(arguments))
        return code, "".join(capsys.readouterr())

    assert run("ctl", "topics")[1].splitlines()[0].split()[:4] == ["name", "id", "class", "path"]
    assert run("ctl", "route", "events") == (0, "epoch 1, slow path\n  group bare/one: 127.0.0.1:9\n")
    assert run("ctl", "path", "events", "slow") == (
        0,
        "events: slow path: the configuration says path = slow\n".replace("the configuration", "a command"),
    )
    code, text = run("ctl", "path", "events", "fast")
    assert (code, "switched off in the configuration" in text) == (1, True)
    assert run("ctl", "path", "events", "auto")[0] == 0
    code, text = run("ctl", "drain", "events", "bare/one", "127.0.0.1:9")
    assert (code, "is no member with a lease" in text) == (1, True)
    before = broker.file.read_text()
    broker.file.write_text(before.replace('name = "a b"', 'name = "a b"\npriority = 2'))
    assert run("reload") == (0, "topic a b: priority 0 -> 2\n")
    assert run("ctl", "reload") == (0, "nothing changed\n")
    broker.file.write_text(before.replace("127.0.0.1", "127.0.0.2"))
    code, text = run("reload")
    assert code == 1
    assert "not applied" in text
    assert "broker.listen" in text
    assert "restart it" in text
    broker.file.write_text("[[topic]]\nid = 0\n")
    assert "topic[0].id is 0" in run("reload")[1]
    broker.file.write_text(before)
    broker.process.send_signal(signal.SIGHUP)
    assert broker.process.stdout is not None
    assert broker.process.stdout.readline() == "reload: topic a b: priority 2 -> 0\n"
    # Where the API is can be said anywhere, and what has no such address is not what was asked for.
    api = f"http://127.0.0.1:{broker.port}"
    monkeypatch.setenv("TEMPOS_CONTROLLER_TOKEN", TOKEN)
    monkeypatch.setenv("TEMPOS_API", "http://127.0.0.1:1")
    for words in (("topics",), ("topic", "list"), ("kept-out",)):
        assert run("ctl", "--api", api, *words) == run("ctl", *words, "--api", api)
    assert run("ctl", "ready", "--api", api) == (0, "ready\n")
    monkeypatch.setenv("TEMPOS_API", api)
    for words, whose in ((("errors", "list"), "invoker"), (("workflow", "ls"), "Controller")):
        code, text = run(*words, "--api", api)
        assert (code, f"is the API of the broker, and not of the {whose}" in text) == (1, True), text
    assert run("status", "--api", "http://[::1") == (
        1, "tempos status: --api 'http://[::1' is no http URL: Invalid IPv6 URL\n"
    )  # fmt: skip
    monkeypatch.setenv("TEMPOS_TOKEN", "wrong")
    assert run("ctl", "topics") == (
        1,
        f"tempos ctl: the broker at {api} does not take the token in $TEMPOS_TOKEN: give that of "
        "broker.api_token of its configuration, by --token-file FILE or $TEMPOS_TOKEN\n",
    )


def test_the_shell_completes_what_the_broker_has(broker: Running) -> None:
    api = f"http://127.0.0.1:{broker.port}"
    asked = {
        "tempos led": ["ledger"], "tempos work": ["workflow"], "tempos ctl path events f": ["fast"],
        "tempos ctl route ": ["a\\ b", "events"], "tempos sub -t e": ["events"],
        "tempos ctl topic se": ["set"],
        "tempos request -t e": ["events"], f"tempos ledger --api {api} e": ["events"],
        "tempos ctl drain events ba": ["bare/one"], "tempos ctl drain events bare/one 1": ["127.0.0.1:9"],
        "tempos bench run topics-s": ["topics-scale"], "tempos ctl --api http://127.0.0.1:1 route ": [],
        "tempos completion ": ["bash", "zsh"], "tempos observe tcp-": ["tcp-latency"],
    }  # fmt: skip
    script = "".join((
        f"export TEMPOS_API={api} TEMPOS_TOKEN={TOKEN}\n",
        f"PATH={Path(sys.executable).parent}:$PATH\nsource <(tempos completion bash)\n",
        "complete_() { COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9 COMPREPLY=(); _python_argcomplete tempos\n",
        "  (IFS=,; echo \"${COMPREPLY[*]%% }\"); }\n",
        *(f"complete_ '{line}'\n" for line in asked),
    ))  # fmt: skip
    told = subprocess.run(("bash", "-c", script), capture_output=True, text=True, timeout=LIMIT, check=True)
    got = [sorted(filter(None, line.split(","))) for line in told.stdout.splitlines()]
    assert dict(zip(asked, got, strict=True)) == asked


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=str)
def test_no_request_makes_the_api_fail(broker: Running, mode: schemathesis.GenerationMode) -> None:
    """Generated from the OpenAPI document, valid and not: no 5xx, and every answer is as described."""
    token = {"Authorization": f"Bearer {TOKEN}"}
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{broker.port}/openapi.json", headers=token)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 15

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.sampled_from(operations).flatmap(lambda one: one.as_strategy(generation_mode=mode)))
    def check(case: Any) -> None:
        response = case.call(headers=token, timeout=LIMIT)
        assert response.status_code < 500
        (kind,) = response.headers["content-type"]
        told = MEDIA_TYPE if case.operation.path == "/metrics" else "application/json"
        assert kind == (told if response.status_code < 400 else "application/problem+json")
        if response.status_code != 405:
            case.validate_response(response, checks=[response_schema_conformance])

    check()
    assert broker.ask("GET", "/v1/health")[0] == 200


def test_bytes_that_are_no_http_do_no_harm(broker: Running) -> None:
    rng = random.Random(5)

    def send() -> None:
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", broker.port), timeout=5) as connection:
                connection.sendall(rng.randbytes(rng.randrange(200)))

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert broker.ask("GET", "/v1/health")[0] == 200

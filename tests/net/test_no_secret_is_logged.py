"""A run of daemons with keys and tokens, right and wrong ones, told at level debug: none is in any log."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.ports import free_ports
from support.waiting import LIMIT, until

from tempos.auth import Key
from tempos.blocking import Publisher, Subscriber
from tempos.errors import TemposError

KEYS = {"sensor-1": "9f86d081884c7d659a2feaa0c55ad015", "sensor-2": "60303ae22b998861bce3b28f33eec1be"}
MADE, REMADE = "1f40fc92da241694750979ee6cf582f2", "0a041b9462caa4a31bac3567e0b6e6fd"
WRONG, CHANGED = "00ff00ff00ff00ff00ff00ff00ff00ff", "fd61a03af4f77d870fc21e05e7e80678"
TOKEN, BAD_TOKEN = "the-token-of-the-operators", "somebody-guessed-this-one"
SECRETS = (*KEYS.values(), MADE, REMADE, WRONG, CHANGED, TOKEN, BAD_TOKEN)

BROKER = """
[broker]
listen = ["127.0.0.1"]
data_port = {data}
control_port = {control}
api = "127.0.0.1:{api}"
api_token = "{token}"
name = "silent-{data}"
[state]
file = "{folder}/state.db"
[fastpath]
mode = "off"
[quality]
worker_sq = true
[[topic]]
id = 2
name = "telemetry"
class = "SQ"
{clients}
"""
TRIGGER = """
[trigger]
api = "127.0.0.1:{trigger_api}"
api_token = "{token}"
state = "{folder}/trigger"
name = "silent-{data}"
[broker]
data_port = {data}
control_port = {control}
client = "sensor-1"
key = "{key}"
[[endpoint]]
name = "calls"
kind = "http"
topic = "telemetry"
listen = "127.0.0.1:{listen}"
path = "/calls"
token = "{token}"
"""


def clients(keys: dict[str, str]) -> str:
    return "\n".join(
        f'[[client]]\nid = "{name}"\nkey = "{key}"\npublish = ["*"]\nsubscribe = ["*"]\n'
        for name, key in keys.items()
    )


def ask(port: int, path: str, token: str, method: str = "GET", body: str | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {token}"})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_key_and_no_token_is_in_any_log(tmp_path: Path, form: str) -> None:
    data, control, api, trigger_api, listen = free_ports(5)
    names = {
        "data": data, "control": control, "api": api, "trigger_api": trigger_api, "listen": listen,
        "folder": tmp_path, "token": TOKEN, "key": KEYS["sensor-1"],
    }  # fmt: skip
    config, trigger = tmp_path / "broker.toml", tmp_path / "trigger.toml"
    config.write_text(BROKER.format(clients=clients(KEYS), **names))
    trigger.write_text(TRIGGER.format(**names))
    log = tmp_path / "all.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TEMPOS_")}
    running: list[subprocess.Popen[bytes]] = []
    with log.open("ab") as out:

        def start(daemon: str, file: Path) -> subprocess.Popen[bytes]:
            order = [sys.executable, "-m", "tempos", daemon, "-c", str(file), "--log-level", "debug"]
            process = subprocess.Popen(
                [*order, "--log-format", form], stdout=out, stderr=out, env=environment
            )
            running.append(process)
            until(lambda: log.read_text().count("ready: ") == len(running), log.read_text)
            return process

        try:
            broker = start("broker", config)
            caller = start("trigger", trigger)
            auth = Key("sensor-1", bytes.fromhex(KEYS["sensor-1"]))
            with Subscriber("127.0.0.1", "telemetry", control_port=control, auth=auth) as sub:
                with Publisher("127.0.0.1", control_port=control, data_port=data, auth=auth) as pub:
                    pub.publish("telemetry", b"x")
                assert next(iter(sub)).body == b"x"
                assert ask(listen, "/calls", TOKEN, "POST", "y") == 202
                assert next(iter(sub)).body == b"y"
            for stranger in (
                Key("sensor-1", bytes.fromhex(WRONG)),
                Key("nobody", bytes.fromhex(WRONG)),
                None,
            ):
                with (
                    pytest.raises(TemposError),
                    Subscriber("127.0.0.1", "telemetry", control_port=control, auth=stranger),
                ):
                    pass
            for port in (api, trigger_api):
                assert ask(port, "/v1/status", BAD_TOKEN) == 401
                assert ask(port, "/v1/status", TOKEN) == 200
            assert ask(listen, "/calls", BAD_TOKEN, "POST", "z") == 401
            # Orders about keys, right and wrong ones.
            made = json.dumps({"id": "made", "key": MADE})
            assert ask(api, "/v1/clients", TOKEN, "POST", made) == 201
            assert ask(api, "/v1/clients", TOKEN, "POST", made) == 409
            for body, status in (
                (json.dumps({"key": MADE + "xyz"}), 422),
                (f'{{"key": "{WRONG}', 422),
                (json.dumps({"key": KEYS["sensor-2"]}), 409),
                (json.dumps({"key": REMADE}), 200),
                (json.dumps({"id": "x"}), 422),
            ):
                assert ask(api, "/v1/clients/made", TOKEN, "PATCH", body) == status, body
            assert ask(api, "/v1/clients/made", TOKEN, "DELETE") == 200
            # A reload with other keys, and one with faults in the very places where secrets stand.
            config.write_text(BROKER.format(clients=clients({"sensor-1": CHANGED}), **names))
            assert ask(api, "/v1/reload", TOKEN, "POST") == 200
            faulty = BROKER.format(clients=clients({"sensor-1": CHANGED + "xyz"}), **names)
            config.write_text(faulty.replace(f'"{TOKEN}"', f'"{BAD_TOKEN} {TOKEN}"'))
            broker.send_signal(signal.SIGHUP)
            until(
                lambda: "api_token" in log.read_text() and "client[0].key" in log.read_text(), log.read_text
            )
            trigger.write_text(TRIGGER.format(**{**names, "key": WRONG + "xyz"}))
            caller.send_signal(signal.SIGHUP)
            until(lambda: "broker.key" in log.read_text(), log.read_text)
        finally:
            for process in reversed(running):
                process.send_signal(signal.SIGTERM)
                process.wait(LIMIT)
    text = log.read_text()
    assert len(text.splitlines()) > 10
    assert not [secret for secret in SECRETS if secret in text]
    if form == "json":
        lines = [line for line in text.splitlines() if not line.startswith("ready: ")]
        for line in lines:
            assert {"time", "level", "logger", "message"} <= json.loads(line).keys(), line

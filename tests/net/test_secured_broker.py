"""A broker that demands signatures and knows whose events it takes, through its commands, over loopback."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from support.beside import beside
from support.ports import free_ports
from support.waiting import LIMIT

ONE, TWO = "11" * 16, "22" * 16
CONFIG = """
[broker]
listen = ["127.0.0.1"]
data_port = {}
control_port = {}
api = "127.0.0.1:{}"

[fastpath]
mode = "off"

[state]
file = "off"

[[topic]]
id = 1
name = "alarms"
sources = ["127.0.0.2/32"]

[[topic]]
id = 2
name = "telemetry"

[[client]]
id = "one"
key = "{}"
publish = ["telemetry"]
subscribe = ["alarms", "telemetry"]
"""


class Node:
    """The broker's process and the files of its clients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data, self.control, self.api = free_ports(3)
        config = folder / "broker.toml"
        config.write_text(CONFIG.format(self.data, self.control, self.api, ONE))
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tempos", "broker", "-c", str(config)],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def key_file(self, key_id: str, secret: str) -> str:
        path = self.folder / f"{key_id}-{secret[:2]}"
        path.write_text(f"{key_id} {secret}\n")
        path.chmod(0o600)
        return str(path)

    def tempos(
        self, *arguments: str, auth: str | None = None
    ) -> AbstractContextManager[subprocess.Popen[str]]:
        environment = {key: value for key, value in os.environ.items() if key != "TEMPOS_AUTH"}
        if auth is not None:
            environment["TEMPOS_AUTH"] = auth
        return beside([sys.executable, "-m", "tempos", *arguments], env=environment)

    def status(self) -> dict[str, Any]:
        with self.tempos("status", "--json", "--api", f"http://127.0.0.1:{self.api}") as command:
            out, _ = command.communicate(timeout=LIMIT)
        return dict(json.loads(out))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    pytest.importorskip("fastapi")
    made = Node(tmp_path)
    with made.process, made.log:
        try:
            assert made.process.stdout is not None
            assert made.process.stdout.readline().startswith("ready: ")
            yield made
        finally:
            made.process.terminate()
            made.process.wait(LIMIT)


def test_with_its_key_a_client_does_what_it_may(node: Node) -> None:
    auth = node.key_file("one", ONE)
    control, data = ["--control-port", str(node.control)], ["--data-port", str(node.data)]
    with node.tempos("sub", *control, "--auth-file", auth, "-t", "telemetry", "--count", "1") as sub:
        assert sub.stderr is not None
        assert "subscribed to telemetry" in sub.stderr.readline()
        with node.tempos("pub", *control, *data, "-t", "telemetry", "-m", "21.5", auth=auth) as pub:
            assert pub.wait(LIMIT) == 0
        out, _ = sub.communicate(timeout=LIMIT)
        assert (out, sub.returncode) == ("21.5\n", 0)

    with node.tempos("sub", *control, "-t", "telemetry") as unsigned:
        _, error = unsigned.communicate(timeout=LIMIT)
        assert unsigned.returncode == 1
        assert "requests must be signed (not allowed); give the client its key" in error
    with node.tempos("sub", *control, "-t", "telemetry", auth=node.key_file("one", TWO)) as wrong:
        _, error = wrong.communicate(timeout=LIMIT)
        assert wrong.returncode == 1
        assert "An unsigned reply says: no client 'one' has the key that signed this" in error
    Path(auth).chmod(0o644)
    with node.tempos("sub", *control, "-t", "telemetry", auth=auth) as open_to_all:
        _, error = open_to_all.communicate(timeout=LIMIT)
        assert open_to_all.returncode == 1
        assert "chmod 600" in error
    refused = node.status()["control"]["refused"]
    assert refused["unsigned"] >= 1
    assert refused["wrong key"] >= 1
    log = Path(node.log.name).read_text()
    assert re.search(r"control request from 127\.0\.0\.1 refused: requests must be signed", log)


def test_events_of_a_foreign_source_are_refused_counted_and_named(node: Node) -> None:
    auth = node.key_file("one", ONE)
    with node.tempos(
        "sub", "--control-port", str(node.control), "-t", "alarms", "--count", "1", auth=auth
    ) as sub:
        assert sub.stderr is not None
        assert "subscribed to alarms" in sub.stderr.readline()
        for ip in ("127.0.0.1", "127.0.0.2"):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as publisher:
                publisher.bind((ip, 0))
                header = bytes((1, 0x10)) + bytes(22)
                publisher.sendto(header + ip.encode(), ("127.0.0.1", node.data))
        out, _ = sub.communicate(timeout=LIMIT)
        assert out == "127.0.0.2\n"
    (alarms,) = [topic for topic in node.status()["topics"] if topic["name"] == "alarms"]
    assert alarms["refused"] == {"foreign_source": 1}
    assert "topic 1 refused, the last from 127.0.0.1" in Path(node.log.name).read_text()


def test_what_the_broker_may_do_is_in_its_status(node: Node) -> None:
    privileges = node.status()["broker"]["privileges"]
    assert privileges["capabilities"] == []
    assert privileges["no_new_privs"] is True
    with node.tempos("status", "--api", f"http://127.0.0.1:{node.api}") as status:
        out, _ = status.communicate(timeout=LIMIT)
    assert "without any capability" in out

"""From 0.1.0 to this version: what a broker of then has left is taken over, or it is told that it is not.

The former versions come from the repository's own history; without one there is nothing to try.
"""

from __future__ import annotations

import io
import json
import os
import re
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support.archives import unpack
from support.brokers import get, serving
from support.ports import free_ports
from support.waiting import LIMIT, until

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("clients", "broker", "fastpath", "bench")
EVENTS = 5

CONFIG = """
[broker]
listen = ["127.0.0.1"]
data_port = {data}
control_port = {control}
api = "127.0.0.1:{api}"
name = "upgraded-{data}"
[state]
file = "{state}"
[fastpath]
mode = "off"
[control]
heartbeat = 0.2
[[topic]]
id = 2
name = "telemetry"
"""


def history(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("there is no history here")
    return done.stdout


def last_of_0_1_0() -> str:
    """The last commit whose version was 0.1.0."""
    changes = history("log", "--format=%H", '-Sversion = "0.1.0"', "--", "pyproject.toml").split()
    if history("show", "HEAD:pyproject.toml").count('version = "0.1.0"'):
        return "HEAD"
    if len(changes) < 2:
        pytest.skip("the history here does not go back to 0.1.0")
    return f"{changes[0]}^"


class Former:
    """A broker of a former version with its own clients, out of a folder of its sources alone."""

    def __init__(self, commit: str, folder: Path) -> None:
        packed = subprocess.run(
            ["git", "-C", str(ROOT), "archive", commit, *FOLDERS], capture_output=True, check=True
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            unpack(archive, folder)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TEMPOS_")}
        path = ":".join(str(folder / each) for each in FOLDERS)
        self._environment = {**kept, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *command], env=self._environment, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def run(self, *command: str) -> None:
        subprocess.run(
            [sys.executable, *command], env=self._environment, check=True, timeout=LIMIT, capture_output=True
        )


def test_a_broker_of_the_last_0_1_0_is_taken_over(tmp_path: Path) -> None:
    data, control, api = free_ports(3)
    file = tmp_path / "broker.toml"
    file.write_text(CONFIG.format(data=data, control=control, api=api, state=tmp_path / "state.db"))
    former = Former(last_of_0_1_0(), tmp_path / "former")
    broker = former.start("-m", "tempos_broker", "-c", str(file))
    ports = ("--control-port", str(control))
    client = ("-c", "import sys; from tempos.cli import main; sys.exit(main())")
    subscriber = None
    try:
        assert broker.stdout is not None
        assert broker.stdout.readline().startswith("ready")
        subscriber = former.start(*client, "sub", "-t", "telemetry", "-g", "g", *ports)
        assert subscriber.stdout is not None
        until(
            lambda: get(api, "/v1/status")["topics"][0]["groups"], lambda: json.dumps(get(api, "/v1/status"))
        )
        publish = (
            "pub",
            "-t",
            "telemetry",
            *ports,
            "--data-port",
            str(data),
            "--count",
            str(EVENTS),
            "-m",
            "x",
        )
        former.run(*client, *publish)
        assert [subscriber.stdout.readline() for _ in range(EVENTS)] == ["x\n"] * EVENTS

        def delivered() -> bool:
            (topic,) = get(api, "/v1/ledger")["topics"]
            return bool(topic["groups"] and topic["groups"][0]["delivered"] == EVENTS)

        until(delivered, lambda: json.dumps(get(api, "/v1/ledger")))
        epoch = get(api, "/v1/ledger")["topics"][0]["epoch"]
        broker.kill()
        broker.wait(LIMIT)
        with serving(file, tmp_path / "broker.log"):
            former.run(*client, *publish)
            # The subscriber of then goes on with the broker of now, and has noticed nothing.
            assert [subscriber.stdout.readline() for _ in range(EVENTS)] == ["x\n"] * EVENTS
            until(
                lambda: get(api, "/v1/ledger")["topics"][0]["groups"][0]["delivered"] == 2 * EVENTS,
                lambda: json.dumps(get(api, "/v1/ledger")),
            )
            ledger = get(api, "/v1/ledger")
            assert ledger["balanced"]
            assert ledger["topics"][0]["epoch"] == epoch, "the very route of then"
    finally:
        for process in (subscriber, broker):
            if process is not None:
                process.kill()
                process.communicate(timeout=LIMIT)


def test_the_state_of_a_version_that_is_not_known_is_kept_aside_and_told(tmp_path: Path) -> None:
    """As that of a later version is, for whoever goes back."""
    data, control, api = free_ports(3)
    file, state = tmp_path / "broker.toml", tmp_path / "state.db"
    file.write_text(CONFIG.format(data=data, control=control, api=api, state=state))
    with serving(file, tmp_path / "broker.log"):
        pass
    database = sqlite3.connect(state)
    database.execute("PRAGMA user_version = 999")
    database.close()
    with serving(file, tmp_path / "broker.log"):
        assert get(api, "/v1/ready")["ready"]
    assert re.search(
        r"its schema is version 999, this broker's is \d+", (tmp_path / "broker.log").read_text()
    )
    assert len(list(tmp_path.glob("state.db.broken-*"))) == 1

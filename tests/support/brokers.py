"""Brokers as processes of their own, on loopback."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import forking
from support.ports import free_ports
from support.waiting import LIMIT
from tempos import Publisher, Subscriber
from tempos._places import SYSTEM

_NAMED = f"beside-{os.getpid()}"
#: How the configuration of one begins that has no fast path; to be formatted with its ports.
ON_LOOPBACK = f"""\
[broker]
name = "{_NAMED}-{{data}}"
listen = ["127.0.0.1"]
data_port = {{data}}
control_port = {{control}}
api = "127.0.0.1:{{api}}"
[fastpath]
mode = "off"
"""


#: Who moves events: whether there is an SQ worker, and whether datagrams are moved without the helper.
WAYS = {"batches": (False, False), "worker": (True, False), "portable": (False, True)}


def forget() -> None:
    """What brokers of :data:`ON_LOOPBACK` have left to their next lives goes."""
    for folder in SYSTEM.glob(f"{_NAMED}-*"):
        shutil.rmtree(folder, ignore_errors=True)


class Node:
    """Where a broker is started, perhaps again and again, with one configuration, and who talks to it.

    ``more``: tables of the configuration, topics above all. ``token``: the file of the API's, if it has one.
    """

    def __init__(
        self, folder: Path, more: str, way: str = "batches", *, state: str = "off", token: Path | None = None
    ) -> None:
        self.data, self.control, self.api = free_ports(3)
        self.file, self.log = folder / "broker.toml", folder / "log"
        worker, self._portable = WAYS[way]
        head = ON_LOOPBACK.format(data=self.data, control=self.control, api=self.api)
        if token is not None:
            head = head.replace("[broker]\n", f"[broker]\napi_token_file = {json.dumps(str(token))}\n")
        quality = "[quality]\nworker_sq = true\n" if worker else ""
        self.file.write_text(f"{head}[state]\nfile = {json.dumps(state)}\n{quality}{more}")

    @contextmanager
    def broker(self, how: signal.Signals = signal.SIGTERM) -> Iterator[subprocess.Popen[str]]:
        """It runs; ``how`` it is ended."""
        try:
            with serving(
                self.file, self.log, *(["--portable"] if self._portable else []), how=how
            ) as process:
                yield process
        finally:
            # Who is killed leaves it to the next one, which there may not be.
            shutil.rmtree(SYSTEM / f"beside-{self.data}", ignore_errors=True)

    def subscriber(self, *topics: str, **options: Any) -> Subscriber:
        return Subscriber("127.0.0.1", *topics, control_port=self.control, **options)

    def publisher(self, **options: Any) -> Publisher:
        return Publisher("127.0.0.1", data_port=self.data, control_port=self.control, **options)


@contextmanager
def serving(
    file: Path, log: Path, *options: str, prefix: tuple[str, ...] = (), how: signal.Signals = signal.SIGTERM
) -> Iterator[subprocess.Popen[str]]:
    """One that goes by ``file`` and is ready, started by ``prefix``; ``how`` it is ended."""
    command = (*prefix, sys.executable, "-m", "tempos_broker", "-c", str(file), *options)
    with log.open("a") as errors:
        process = forking.start(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("ready"), log.read_text()
            yield process
        finally:
            process.send_signal(how)
            process.wait(LIMIT)


#: What is brought to every broker's API; one that demands a token in a test has this one.
TOKEN = "what-the-operators-of-these-tests-bring"
_BROUGHT = {"Authorization": f"Bearer {TOKEN}"}


def get(api: int, path: str) -> dict[str, Any]:
    """A document of the control API at this port."""
    connection = http.client.HTTPConnection("127.0.0.1", api, timeout=LIMIT)
    try:
        connection.request("GET", path, headers=_BROUGHT)
        document: dict[str, Any] = json.load(connection.getresponse())
        return document
    finally:
        connection.close()


def post(api: int, path: str, body: object = None) -> dict[str, Any]:
    """What the control API at this port answers to an order; fails where it refuses."""
    connection = http.client.HTTPConnection("127.0.0.1", api, timeout=LIMIT)
    try:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection.request("POST", path, json.dumps(body) if body is not None else None, headers | _BROUGHT)
        response = connection.getresponse()
        document: dict[str, Any] = json.load(response)
        assert response.status == 200, document
        return document
    finally:
        connection.close()
